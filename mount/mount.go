package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"permafrost/core"
	"permafrost/core/format"
)

// wayIn is the mount's name among the ways in.
const wayIn = "mount"

const (
	// DefaultMaxWrite is the largest READ and WRITE. A held request pins a buffer
	// of that size, so more of it is not better.
	DefaultMaxWrite = 128 << 10
	// DefaultReadAhead is how far the kernel reads ahead.
	DefaultReadAhead = 2 << 20
	// DefaultMaxHeld bounds what held requests pin to about 200 MiB.
	DefaultMaxHeld = 1536
	// maxBackground is how many write-backs and reads ahead the kernel may have
	// asked at once: held write-backs count, and reads must still get through.
	maxBackground = 16 << 10

	unmountTime = 100 * time.Millisecond // for the mount to fall idle
	endTime     = 5 * time.Second        // for requests to end after the unmount, before it is aborted
	childTime   = 5 * time.Second        // for the child to open the mount
)

// Options make a Mount.
type Options struct {
	FS        *core.FS // required
	Dir       string   // required: as Prepare gave it
	Flags     Flags
	Child     func(dir string) (Syncer, error) // required: starts a process that calls RunSyncer
	MaxWrite  int                              // 0: DefaultMaxWrite
	ReadAhead int                              // bytes; 0: DefaultReadAhead
	MaxHeld   int                              // modifying requests that a freeze holds at once; 0: DefaultMaxHeld
	Log       *slog.Logger                     // nil: slog.Default
}

// Mount is one mount of a file system.
type Mount struct {
	fs    *core.FS     // immutable
	opt   Options      // immutable
	log   *slog.Logger // immutable
	since time.Time    // immutable
	srv   *fuse.Server // immutable once mounted

	handles   handles
	remains   remains
	commands  commands
	collect   collector
	notices   notices
	uncounted sync.Once // that kernelKeeps cannot know was logged
	ops       opStats
	held      atomic.Int64  // modifying requests that wait now
	refused   atomic.Uint64 // and those that were refused, because too many did
	syncer    *syncer       // immutable once mounted

	inPlace bool   // immutable: READs are answered out of the image; see Read
	minor   uint32 // immutable once mounted: the FUSE connection's number
	waiting string // immutable once mounted: the file with the kernel's count of unanswered requests; "": none
	device  int    // immutable once mounted: our own descriptor of the connection; -1: none

	life    context.Context // immutable: ends with the mount
	ended   <-chan struct{} // immutable: life's
	cancel  context.CancelCauseFunc
	served  chan struct{} // closed when no request comes any more
	remove  func()        // immutable once mounted: takes us out of core's caches
	unwatch func()        // immutable once mounted: ends the notices
	once    sync.Once
}

// requests is what go-fuse calls: a Mount without its exported methods.
type requests struct {
	fuse.RawFileSystem // what we have not, which it answers ENOSYS
	*Mount
}

// String is the name in the kernel's list of mounts.
func (m *requests) String() string { return fsName }

// New mounts a file system. It serves until Close, or until somebody unmounts it:
// Ended tells.
//
// Errors: ErrForbidden, core.ErrExists if it is mounted already, those of mount(2);
// each says what to do.
func New(ctx context.Context, o Options) (*Mount, error) {
	if o.MaxWrite == 0 {
		o.MaxWrite = DefaultMaxWrite
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = DefaultReadAhead
	}
	if o.MaxHeld == 0 {
		o.MaxHeld = DefaultMaxHeld
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m := &Mount{fs: o.FS, opt: o, log: o.Log, since: time.Now(), served: make(chan struct{}), device: -1,
		remains: remains{pinned: make(map[format.Ino]struct{})}}
	domain := o.FS.Status().Medium.Domain
	m.inPlace = domain == "volatile" || domain == "page-cache"
	m.life, m.cancel = context.WithCancelCause(context.Background())
	m.ended = m.life.Done()
	remove, err := o.FS.AddCache(m)
	if err != nil {
		return nil, fmt.Errorf("this file system has a mount already, and can have one: %w", err)
	}
	m.remove = remove
	if err := m.start(ctx); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Mount) start(ctx context.Context) error {
	fo := &fuse.MountOptions{
		FsName: cmp.Or(m.opt.FS.Status().Medium.Path, fsName), Name: fsName, // the kernel wants a source
		MaxWrite: m.opt.MaxWrite, MaxReadAhead: m.opt.ReadAhead, MaxBackground: maxBackground,
		AllowOther: !m.opt.Flags.Private, Options: []string{"default_permissions"},
		ExplicitDataCacheControl: true, EnableSymlinkCaching: true, DisableSplice: true,
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO,
		Logger:            log.New(logWriter{m.log}, "", 0),
	}
	if m.opt.Flags.ReadOnly {
		fo.Options = append(fo.Options, "ro")
	}
	at := m.opt.Dir
	if os.Geteuid() == 0 {
		fd, err := m.mountDirect(fo)
		if err != nil {
			return err
		}
		if m.device, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return err
		}
		at = fmt.Sprintf("/dev/fd/%d", fd)
	} else if _, err := fusermountPath(); err != nil {
		return err
	} else {
		for _, o := range m.opt.Flags.text {
			if _, plain := plainFlags[o]; plain {
				fo.Options = append(fo.Options, o)
			}
		}
	}
	srv, err := fuse.NewServer(&requests{RawFileSystem: fuse.NewDefaultRawFileSystem(), Mount: m}, at, fo)
	if err != nil {
		if os.Geteuid() != 0 {
			return fmt.Errorf("%w at %s as user %d: %w: is user_allow_other in /etc/fuse.conf, if allow_other is given, and is the directory yours?", ErrForbidden, m.opt.Dir, os.Geteuid(), err)
		}
		return fmt.Errorf("mount at %s: %w", m.opt.Dir, err)
	}
	m.srv = srv
	m.unwatch = m.notices.start(m)
	go m.serve()
	if err := m.tune(); err != nil {
		return err
	}
	child, err := m.opt.Child(m.opt.Dir)
	if err != nil {
		return fmt.Errorf("start the child that has the mount written back: %w", err)
	}
	m.syncer = newSyncer(child)
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	return m.syncer.ready(ctx)
}

// serve answers requests until the mount has ended.
func (m *Mount) serve() {
	m.srv.Serve()
	m.cancel(errEnded)
	close(m.served)
}

var errEnded = errors.New("the mount has ended")

// Ended is closed when the mount has ended, whoever ended it.
func (m *Mount) Ended() <-chan struct{} { return m.served }

// over says whether the connection to the kernel has ended, though requests of it
// are still being answered.
func (m *Mount) over() bool {
	if m.life.Err() != nil {
		return true
	}
	if m.device < 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(m.device)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&unix.POLLERR != 0
}

// frozen says whether modifications are held now.
func (m *Mount) frozen() bool { return m.fs.Freezer().StartWrite().Closed() }

// Close unmounts, ends the child and gives back what was open. Programs that still have
// files open get errors from here on.
func (m *Mount) Close() (err error) {
	m.once.Do(func() { err = m.end() })
	return err
}

func (m *Mount) end() error {
	if m.syncer != nil {
		// What mappings stored is in the page cache, and would be lost with a
		// connection that ends while somebody uses it.
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		if err := m.syncer.sync(ctx); err != nil && !m.over() {
			// Somebody may have detached it: then there is no path to it.
			m.log.Warn("the mount's write-back before the unmount: its files are written back one by one", "error", err)
			drop, cancel := context.WithTimeout(context.Background(), endTime)
			if err := m.dropPages(drop); err != nil {
				m.log.Error("what programs stored through mappings may be lost", "error", err)
			}
			cancel()
		}
		cancel()
		m.syncer.close()
	}
	var err error
	if m.srv != nil {
		err = m.unmount()
		m.cancel(errEnded) // whoever is held goes
		select {
		case <-m.served:
		case <-time.After(endTime):
			m.log.Warn("the mount is detached, but requests of it do not end: it is aborted", "dir", m.opt.Dir)
			if aerr := m.abort(); aerr != nil {
				err = errors.Join(err, fmt.Errorf("abort the mount: %w", aerr))
			}
			select {
			case <-m.served:
			case <-time.After(endTime):
				err = errors.Join(err, errors.New("requests of the mount do not end"))
			}
		}
	} else if m.device >= 0 {
		err = detach(m.opt.Dir)
	}
	m.cancel(errEnded)
	if m.unwatch != nil {
		m.unwatch()
	}
	m.remove()
	m.handles.closeAll(m)
	m.remains.forgetAll(m.fs)
	if m.device >= 0 {
		unix.Close(m.device)
	}
	return err
}

// mountDirect is mount(2), which root may call, and gives the connection.
func (m *Mount) mountDirect(o *fuse.MountOptions) (fd int, err error) {
	fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: open /dev/fuse: %w; in a container give it the device, such as --device /dev/fuse", ErrNoFUSE, err)
	}
	data := []string{"fd=" + strconv.Itoa(fd), "rootmode=40000", fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()), fmt.Sprintf("max_read=%d", o.MaxWrite), "default_permissions"}
	if o.AllowOther {
		data = append(data, "allow_other")
	}
	flags := m.opt.Flags.mount
	if m.opt.Flags.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	err = unix.Mount(o.FsName, m.opt.Dir, FSType, flags, strings.Join(data, ","))
	if err != nil {
		unix.Close(fd)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("%w at %s: %w: it takes CAP_SYS_ADMIN; in a container give it --cap-add SYS_ADMIN", ErrForbidden, m.opt.Dir, err)
	case err != nil:
		return -1, fmt.Errorf("mount at %s: %w", m.opt.Dir, err)
	}
	return fd, nil
}

// fusermountPath is the helper that mounts and unmounts for who is not root.
func fusermountPath() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
		if path := filepath.Join("/bin", name); fileThere(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w without fusermount3, for who is not root: install it with \"apt install fuse3\"", ErrForbidden)
}

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func fusermount(args ...string) error {
	path, err := fusermountPath()
	if err != nil {
		return err
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not found in") || strings.Contains(string(out), "not mounted") {
			return syscall.EINVAL
		}
		return fmt.Errorf("fusermount3: %s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

// logWriter is where go-fuse logs.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("fuse: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
