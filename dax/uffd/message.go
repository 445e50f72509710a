package uffd

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// struct uffd_msg, 32 bytes in the machine's byte order:
//
//	offset size
//	0      1    event
//	8      8    fault: flags   fork: descriptor (4 bytes)   remap: from   remove, unmap: start
//	16     8    fault: address                              remap: to     remove, unmap: end
//	24     8    fault: thread id (4 bytes)                  remap: length
const (
	messageSize = 32
	readBatch   = 16 // messages a read takes at most
)

// Event is the kind of a Message, numbered as the kernel does.
type Event uint8

// The events of the handshake's features.
const (
	EventFault  Event = 0x12
	EventFork   Event = 0x13
	EventRemap  Event = 0x14
	EventRemove Event = 0x15 // madvise dropped or punched a range: protection stays
	EventUnmap  Event = 0x16
)

// Flags of a fault.
const (
	FaultWrite = 1 << 0
	FaultWP    = 1 << 1 // the page is write-protected
)

// Message is one thing read from a descriptor.
type Message struct {
	Event  Event
	Flags  uint64 // fault
	Addr   uint64 // fault: exact address; remap: from; remove, unmap: start
	To     uint64 // remap: to; remove, unmap: end
	Length uint64 // remap: the old length in bytes
	Thread int    // fault: thread id in our pid namespace, 0 if it is not visible there
	FD     int    // fork: the child's descriptor, owned by the reader of the message
}

// Read takes what is pending, up to len(out) messages, without waiting. more is
// true if it stopped because out was full. ESRCH and others as errno.
func (f *FD) Read(out []Message) (n int, more bool, errno unix.Errno) {
	want := min(len(out), readBatch)
	for {
		got, _, e := syscall.Syscall(syscall.SYS_READ, f.fd, uintptr(unsafe.Pointer(&f.buf)), uintptr(want*messageSize))
		if e == unix.EINTR {
			continue
		}
		if e == unix.EAGAIN {
			return 0, false, 0
		}
		if e != 0 {
			return 0, false, e
		}
		n = int(got) / messageSize
		break
	}
	for i := range n {
		out[i] = parse(f.buf[i*messageSize : (i+1)*messageSize])
	}
	// A short read means that the kernel found nothing more.
	return n, n == want, 0
}

func parse(b []byte) Message {
	e := binary.NativeEndian
	m := Message{Event: Event(b[0])}
	switch m.Event {
	case EventFault:
		m.Flags, m.Addr = e.Uint64(b[8:]), e.Uint64(b[16:])
		m.Thread = int(e.Uint32(b[24:]))
	case EventFork:
		m.FD = int(e.Uint32(b[8:]))
	case EventRemap:
		m.Addr, m.To, m.Length = e.Uint64(b[8:]), e.Uint64(b[16:]), e.Uint64(b[24:])
	case EventRemove, EventUnmap:
		m.Addr, m.To = e.Uint64(b[8:]), e.Uint64(b[16:])
	}
	return m
}
