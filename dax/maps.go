package dax

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/core/format"
)

// mapsPatience is how long one process's memory map may take to read: another
// file system's freeze may hold its lock.
const mapsPatience = 2 * time.Second

// vma is a shared mapping of the image by a process.
type vma struct {
	start, end uint64 // addresses
	offset     uint64 // bytes in the image
}

// show is what of a mapping the VMA shows: spans by its pieces.
func (v vma) show(mp *mapping) []span {
	var out []span
	first := format.Block(v.offset / format.BlockSize)
	last := first + format.Block((v.end-v.start)/pageBytes)
	for _, x := range mp.pieces {
		from, to := max(first, x.Block), min(last, x.Block+format.Block(x.Count))
		if from >= to {
			continue
		}
		out = append(out, span{addr: v.start + uint64(from-first)*pageBytes, pages: uint64(to - from),
			page: x.Page + format.Page(from-x.Block), m: mp})
	}
	return out
}

// imageVMAsWithin is imageVMAs that gives up after a while.
func imageVMAsWithin(pid int, img imageID, patience time.Duration) ([]vma, error) {
	type answer struct {
		list []vma
		err  error
	}
	ch := make(chan answer, 1)
	go func() { // stays behind if the read hangs, and ends with it
		list, err := imageVMAs(pid, img)
		ch <- answer{list, err}
	}()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case a := <-ch:
		return a.list, a.err
	case <-t.C:
		return nil, os.ErrDeadlineExceeded
	}
}

// imageVMAs lists the shared mappings of the image that a process has. A
// process that has ended has none.
func imageVMAs(pid int, img imageID) ([]vma, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil, nil
		}
		return nil, fmt.Errorf("memory map of process %d: %w", pid, err)
	}
	defer f.Close()
	return parseMaps(f, img)
}

// parseMaps reads lines such as
//
//	7f5e1c000000-7f5e1c021000 rw-s 00021000 00:1b 1048  /dev/shm/image
func parseMaps(r io.Reader, img imageID) ([]vma, error) {
	var out []vma
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 4096), 1<<20)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) < 5 || len(f[1]) < 4 || f[1][3] != 's' {
			continue
		}
		var v vma
		var major, minor uint32
		var ino uint64
		_, e1 := fmt.Sscanf(f[0], "%x-%x", &v.start, &v.end)
		_, e2 := fmt.Sscanf(f[2], "%x", &v.offset)
		_, e3 := fmt.Sscanf(f[3], "%x:%x", &major, &minor)
		_, e4 := fmt.Sscanf(f[4], "%d", &ino)
		if err := errors.Join(e1, e2, e3, e4); err != nil {
			return nil, fmt.Errorf("memory map line %q: %w", in.Text(), err)
		}
		if ino == img.Ino && unix.Mkdev(major, minor) == img.Dev {
			out = append(out, v)
		}
	}
	if err := in.Err(); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("memory map: %w", err)
	}
	return out, nil
}
