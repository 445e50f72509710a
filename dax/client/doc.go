// Package client attaches a Go program to a Permafrost server on the same
// machine: it maps files of the image into this process, zero-copy, and the
// server tracks and holds the stores.
//
//	c, err := client.Dial(ctx, "/run/permafrost/attach.sock")
//	m, err := c.Map(ctx, client.MapOptions{Path: "/db", Length: 1 << 20, Write: true, Create: true, Grow: true})
//	copy(m.Bytes(), data)      // waits here while the file system is frozen
//	_, err = m.Sync(ctx, 0, 0) // durable
//	err = m.Unmap(ctx)
//
// While the file system is frozen, a store to a page waits in the kernel, with
// the thread it runs on. That has a price in Go:
//
// BUG: the garbage collector stops all goroutines now and then, and a goroutine
// that waits in a store cannot be stopped. So a program whose store is held
// stalls whole at its next collection, until the thaw; so do all its other
// goroutines. Programs that must go on meanwhile keep their stores in a process
// of their own, or turn the collector off around them (debug.SetGCPercent(-1)).
// Reads of mapped memory never wait.
//
// A process must not attach to a server inside itself: the server would have to
// run to let its own stores go on.
//
// Should the server end, stores to clean pages wait for a new one; it takes the
// mappings back by itself, and the client finds it again at its next call. A
// store to storage that fails, or past the part of the image that was given,
// ends in SIGBUS.
package client
