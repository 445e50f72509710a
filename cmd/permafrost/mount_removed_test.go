package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMountRemoved: who found a name before it was removed, or before another
// file was renamed onto it, can look at what it meant and open it, as on any file
// system; and what nobody means any more is freed.
func TestMountRemoved(t *testing.T) {
	m := newMountFixture(t, "64MiB")
	at := func(name string) string { return filepath.Join(m.mnt, name) }
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(m.mnt, &st); err != nil {
			t.Fatal(err)
		}
		return st.Files - st.Ffree
	}
	before := used()
	for name, remove := range map[string]func(path string) error{
		"unlink": os.Remove,
		"rename": func(path string) error {
			if err := os.WriteFile(at("other"), []byte("other"), 0o600); err != nil {
				return err
			}
			return os.Rename(at("other"), path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := at(name)
			if err := os.WriteFile(path, []byte("what it meant"), 0o600); err != nil {
				t.Fatal(err)
			}
			// It makes the kernel know the name, and asks nothing of the server.
			found, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(found)
			if err := remove(path); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(found, &st); err != nil || st.Nlink != 0 {
				t.Errorf("it has %d links, %v", st.Nlink, err)
			}
			if got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", found)); err != nil || string(got) != "what it meant" {
				t.Errorf("it is read as %q, %v", got, err)
			}
			_ = os.Remove(path) // of the rename
		})
	}
	t.Run("rmdir", func(t *testing.T) {
		if err := os.Mkdir(at("dir"), 0o700); err != nil {
			t.Fatal(err)
		}
		found, err := unix.Open(at("dir"), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(found)
		if err := os.Remove(at("dir")); err != nil {
			t.Fatal(err)
		}
		d, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found))
		if err != nil {
			t.Errorf("it is opened: %v", err)
		}
		d.Close()
		if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/new", found), nil, 0o600); err == nil {
			t.Error("a removed directory takes a new file")
		}
	})
	for i := range 500 {
		path := at(fmt.Sprint("many-", i%7))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); used() != before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d inodes are used, %d before", used(), before)
		}
	}
}

// TestMountRemovedSpace: who removes a file to make room for another finds the room
// at once, though the kernel says only afterwards that it has forgotten the file.
func TestMountRemovedSpace(t *testing.T) {
	m := newMountFixture(t, "64MiB")
	buf := make([]byte, 1<<20)
	for round := range 40 {
		path := filepath.Join(m.mnt, fmt.Sprint("fill-", round%2))
		f, err := os.Create(path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wrote := 0
		for err == nil {
			var n int
			n, err = f.Write(buf)
			wrote += n
		}
		if !errors.Is(err, unix.ENOSPC) || wrote < 40<<20 {
			t.Fatalf("round %d: %d bytes found room, then %v", round, wrote, err)
		}
		if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
			t.Fatal(err)
		}
	}
}
