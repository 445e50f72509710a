package mount

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// counter counts, in the child, the pages of files that are under write-back, by
// cachestat(2). It opens files by their inode number: no name is looked up, and those
// without one are found too.
type counter struct {
	dir   string
	dev   uint64
	files map[uint64]int // what askOpen opened, by inode
}

// open opens inodes, as many as it may have open, several at a time: each is a request
// to the server. One that is gone is left out.
func (c *counter) open(inodes []uint64) error {
	d, err := openMount(c.dir, c.dev)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	return c.openAt(d, inodes)
}

func (c *counter) openAt(mountFD int, inodes []uint64) error {
	if c.files == nil {
		c.files = make(map[uint64]int)
	}
	var missing []uint64
	for _, ino := range inodes {
		if _, have := c.files[ino]; !have && len(c.files)+len(missing) < maxOpened {
			missing = append(missing, ino)
		}
	}
	fds, errs := make([]int, len(missing)), make([]error, len(missing))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(openers, len(missing)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(missing)); i = next.Add(1) - 1 {
				fds[i], errs[i] = openInode(mountFD, missing[i])
			}
		})
	}
	wg.Wait()
	var failed error
	for i, ino := range missing {
		switch {
		case errs[i] == nil:
			c.files[ino] = fds[i]
		case !errors.Is(errs[i], unix.ESTALE) && !errors.Is(errs[i], unix.EMFILE):
			failed = errs[i]
		}
	}
	return failed
}

const (
	maxOpened = 512 // of the 1,024 that a process may have at least
	openers   = 8
)

// count is the number of pages under write-back, of each of the inodes. One that is
// gone has none.
func (c *counter) count(inodes []uint64) ([]uint64, error) {
	d, err := openMount(c.dir, c.dev)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	if err := c.openAt(d, inodes); err != nil {
		return nil, err
	}
	counts := make([]uint64, len(inodes))
	for i, ino := range inodes {
		if fd, have := c.files[ino]; have {
			counts[i], err = underWriteback(fd)
		} else if fd, err = openInode(d, ino); err == nil {
			counts[i], err = underWriteback(fd)
			unix.Close(fd)
		}
		if err != nil && !errors.Is(err, unix.ESTALE) {
			return nil, err
		}
	}
	return counts, nil
}

func underWriteback(fd int) (pages uint64, err error) {
	var st unix.Cachestat_t
	err = unix.Cachestat(uint(fd), &unix.CachestatRange{}, &st, 0)
	return st.Writeback, err
}

func (c *counter) close() {
	for ino, fd := range c.files {
		unix.Close(fd)
		delete(c.files, ino)
	}
}

// fileidIno64Gen is FUSE's own kind of file handle, FILEID_INO64_GEN of
// include/linux/exportfs.h: the number of a node in two halves, and its generation,
// which is 0 on our mounts (fs/fuse/inode.c: fuse_encode_fh).
const fileidIno64Gen = 0x81

// openInode opens an inode that the kernel has cached, and ESTALE means that it
// has not. It takes CAP_DAC_READ_SEARCH.
func openInode(mountFD int, ino uint64) (int, error) {
	b := make([]byte, 12)
	binary.NativeEndian.PutUint32(b[0:], uint32(ino>>32))
	binary.NativeEndian.PutUint32(b[4:], uint32(ino))
	return unix.OpenByHandleAt(mountFD, unix.NewFileHandle(fileidIno64Gen, b), unix.O_RDONLY|unix.O_CLOEXEC)
}
