package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// Op is one operation of a workload, by its fields: "write /foo 100 4096". See
// verbs for what there is. Offsets and lengths are bytes.
type Op string

// Workload is a sequence of operations; its text form joins them by "; ".
type Workload []Op

// String is the text form.
func (w Workload) String() string {
	parts := make([]string, len(w))
	for i, op := range w {
		parts[i] = string(op)
	}
	return strings.Join(parts, "; ")
}

// ParseWorkload reads the text form. The operations are looked at when they run.
func ParseWorkload(s string) Workload {
	var w Workload
	for _, p := range strings.Split(s, ";") {
		if p = strings.TrimSpace(p); p != "" {
			w = append(w, Op(p))
		}
	}
	return w
}

var ctx = context.Background()

// errSkip: the operation does not apply, as a store to a file without pages.
var errSkip = errors.New("it does not apply")

// player runs operations on one mounted file system.
type player struct {
	fs     *core.FS
	store  func(off int64, p []byte)  // a program's store to the medium
	still  func(on bool)              // nothing may be stored meanwhile
	frozen func()                     // called while frozen
	maps   map[format.Ino]*mappedFile // writable mappings, until the end
	mapped map[string]format.Ino      // by the name they were mapped by
	held   []format.Ino               // inodes acquired, until the end
	temps  []temp                     // those of held that tmpfile made and linktmp has not named
	linked []byte                     // content of the one that linktmp named last
	n      int                        // operations so far: the content of what they write
}

func newPlayer(fs *core.FS, store func(off int64, p []byte)) *player {
	return &player{fs: fs, store: store, still: func(bool) {}, frozen: func() {}, maps: make(map[format.Ino]*mappedFile),
		mapped: make(map[string]format.Ino)}
}

// prime makes the first change after the mount, which two commits of the mounted
// tree precede (T5 of core/tree), so that they need not be explored in every
// workload.
func (p *player) prime() error {
	mode := uint32(0o755)
	if _, err := p.fs.SetAttr(ctx, format.RootIno, core.SetAttr{Mode: &mode}); err != nil {
		return err
	}
	_, err := p.fs.Sync(ctx)
	return err
}

// args are an operation's fields behind the verb.
type args []string

func (a args) path(i int) string { return a[i] }

func (a args) num(i int) int64 {
	n, err := strconv.ParseInt(a[i], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("crash: %q is not a number", a[i])) // a workload of ours
	}
	return n
}

// verbs are the operations: what fields they take, and what they do.
var verbs = map[string]struct {
	fields int
	run    func(p *player, a args) error
}{
	"create":   {1, func(p *player, a args) error { return p.at(a.path(0), p.create) }},
	"mkdir":    {1, func(p *player, a args) error { return p.at(a.path(0), p.mkdir) }},
	"symlink":  {2, func(p *player, a args) error { return p.symlink(a.path(0), a.num(1)) }},
	"link":     {2, func(p *player, a args) error { return p.link(a.path(0), a.path(1)) }},
	"unlink":   {1, func(p *player, a args) error { return p.at(a.path(0), p.unlink) }},
	"rmdir":    {1, func(p *player, a args) error { return p.at(a.path(0), p.rmdir) }},
	"rename":   {2, func(p *player, a args) error { return p.rename(a, core.RenameReplace) }},
	"move":     {2, func(p *player, a args) error { return p.rename(a, core.RenameNoReplace) }},
	"exchange": {2, func(p *player, a args) error { return p.rename(a, core.RenameExchange) }},
	"write":    {3, func(p *player, a args) error { return p.write(a.path(0), a.num(1), a.num(2)) }},
	"append":   {2, func(p *player, a args) error { return p.append(a.path(0), a.num(1)) }},
	"store":    {2, func(p *player, a args) error { return p.storeMapped(a.path(0), format.Page(a.num(1))) }},
	"unmap":    {1, func(p *player, a args) error { return p.unmap(a.path(0)) }},
	"truncate": {2, func(p *player, a args) error {
		return p.on(a.path(0), func(i format.Ino) error { return p.fs.Truncate(ctx, i, a.num(1)) })
	}},
	"falloc":     {3, func(p *player, a args) error { return p.falloc(a, core.FallocAllocate) }},
	"fallockeep": {3, func(p *player, a args) error { return p.falloc(a, core.FallocKeepSize) }},
	"punch":      {3, func(p *player, a args) error { return p.falloc(a, core.FallocPunchHole) }},
	"zero":       {3, func(p *player, a args) error { return p.falloc(a, core.FallocZeroRange) }},
	"zerokeep":   {3, func(p *player, a args) error { return p.falloc(a, core.FallocZeroRangeKeepSize) }},
	"setxattr":   {3, func(p *player, a args) error { return p.setxattr(a.path(0), a.path(1), a.num(2)) }},
	"rmxattr": {2, func(p *player, a args) error {
		return p.on(a.path(0), func(i format.Ino) error { return p.fs.RemoveXattr(ctx, i, a.path(1)) })
	}},
	"chmod": {2, func(p *player, a args) error { return p.chmod(a.path(0), uint32(a.num(1))) }},
	"put":   {2, func(p *player, a args) error { return p.put(a.path(0), a.num(1)) }},
	"tmpfile": {2, func(p *player, a args) error {
		return p.on(a.path(0), func(dir format.Ino) error { return p.tmpfile(dir, a.num(1)) })
	}},
	"linktmp": {1, func(p *player, a args) error { return p.at(a.path(0), p.linktmp) }},
	"hold":    {1, func(p *player, a args) error { return p.hold(a.path(0)) }},
	"fsync":   {1, func(p *player, a args) error { return p.on(a.path(0), p.fsync) }},
	"sync":    {0, func(p *player, _ args) error { _, err := p.fs.Sync(ctx); return err }},
	// commit is what the timer does: metadata only.
	"commit": {0, func(p *player, _ args) error { _, err := p.fs.WaitDurable(ctx); return err }},
	"freeze": {0, func(p *player, _ args) error { return p.freeze() }},
}

// run does one operation. An error is the file system's answer.
func (p *player) run(op Op) error {
	f := strings.Fields(string(op))
	if len(f) == 0 {
		return nil
	}
	v, ok := verbs[f[0]]
	if !ok || len(f)-1 != v.fields {
		return fmt.Errorf("crash: no such operation: %q", op)
	}
	p.n++
	return v.run(p, f[1:])
}

// fill is n bytes that tell which operation wrote them, and where.
func (p *player) fill(n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(p.n*41 + i/64 + 1)
		if b[i] == 0 {
			b[i] = 0xee // zeros mean something else
		}
	}
	return b
}

// on runs fn on an existing inode.
func (p *player) on(path string, fn func(format.Ino) error) error {
	a, err := p.fs.Resolve(ctx, path)
	if err != nil {
		return err
	}
	return fn(a.Ino)
}

// at runs fn on a name of an existing directory.
func (p *player) at(path string, fn func(dir format.Ino, name string) error) error {
	d, name, err := p.fs.ResolveParent(ctx, path)
	if err != nil {
		return err
	}
	return fn(d.Ino, name)
}

func (p *player) create(dir format.Ino, name string) error {
	_, err := p.fs.Create(ctx, dir, name, core.NewNode{Mode: format.TypeRegular | 0o644})
	return err
}

func (p *player) mkdir(dir format.Ino, name string) error {
	_, err := p.fs.Mkdir(ctx, dir, name, core.NewNode{Mode: 0o755})
	return err
}

func (p *player) unlink(dir format.Ino, name string) error { return p.fs.Unlink(ctx, dir, name) }
func (p *player) rmdir(dir format.Ino, name string) error  { return p.fs.Rmdir(ctx, dir, name) }

func (p *player) symlink(path string, n int64) error {
	return p.at(path, func(dir format.Ino, name string) error {
		_, err := p.fs.Symlink(ctx, dir, name, core.NewNode{Target: strings.Repeat("t", int(n))})
		return err
	})
}

func (p *player) link(old, path string) error {
	return p.on(old, func(ino format.Ino) error {
		return p.at(path, func(dir format.Ino, name string) error {
			_, err := p.fs.Link(ctx, ino, dir, name)
			return err
		})
	})
}

func (p *player) rename(a args, mode core.RenameMode) error {
	return p.at(a.path(0), func(od format.Ino, on string) error {
		return p.at(a.path(1), func(nd format.Ino, nn string) error { return p.fs.Rename(ctx, od, on, nd, nn, mode) })
	})
}

func (p *player) write(path string, off, n int64) error {
	return p.on(path, func(ino format.Ino) error {
		_, err := p.fs.WriteAt(ctx, ino, p.fill(n), off)
		return err
	})
}

func (p *player) append(path string, n int64) error {
	return p.on(path, func(ino format.Ino) error {
		_, err := p.fs.Append(ctx, ino, p.fill(n))
		return err
	})
}

func (p *player) falloc(a args, mode core.FallocMode) error {
	return p.on(a.path(0), func(ino format.Ino) error { return p.fs.Fallocate(ctx, ino, mode, a.num(1), a.num(2)) })
}

func (p *player) setxattr(path, name string, n int64) error {
	return p.on(path, func(ino format.Ino) error { return p.fs.SetXattr(ctx, ino, name, p.fill(n), false, false) })
}

func (p *player) chmod(path string, mode uint32) error {
	return p.on(path, func(ino format.Ino) error {
		_, err := p.fs.SetAttr(ctx, ino, core.SetAttr{Mode: &mode})
		return err
	})
}

// put replaces a file at once, as PUT /files does.
func (p *player) put(path string, n int64) error {
	return p.at(path, func(dir format.Ino, name string) (err error) {
		u, err := p.fs.NewUpload(ctx, core.NewNode{Mode: 0o644})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, u.Close()) }()
		if _, err := u.ReadFrom(bytes.NewReader(p.fill(n))); err != nil {
			return err
		}
		_, _, err = u.Commit(ctx, dir, name, nil)
		return err
	})
}

// temp is a file without a name that its maker has open.
type temp struct {
	ino  format.Ino
	data []byte
}

// tmpfile makes one, as a program with O_TMPFILE does.
func (p *player) tmpfile(dir format.Ino, n int64) error {
	a, err := p.fs.Tmpfile(ctx, dir, core.NewNode{Mode: 0o600})
	if err != nil {
		return err
	}
	p.held = append(p.held, a.Ino)
	data := p.fill(n)
	if _, err := p.fs.WriteAt(ctx, a.Ino, data, 0); err != nil {
		return err
	}
	p.temps = append(p.temps, temp{a.Ino, data})
	return nil
}

// linktmp gives the newest of them its name.
func (p *player) linktmp(dir format.Ino, name string) error {
	last := len(p.temps) - 1
	if last < 0 {
		return errSkip
	}
	if _, err := p.fs.Link(ctx, p.temps[last].ino, dir, name); err != nil {
		return err
	}
	p.linked = p.temps[last].data
	p.temps = p.temps[:last]
	return nil
}

// hold keeps an inode in use, so that it outlives its name.
func (p *player) hold(path string) error {
	return p.on(path, func(ino format.Ino) error {
		if err := p.fs.Acquire(ino); err != nil {
			return err
		}
		p.held = append(p.held, ino)
		return nil
	})
}

func (p *player) fsync(ino format.Ino) error {
	_, err := p.fs.Fsync(ctx, ino, 0, 0)
	return err
}

// freeze freezes, reads everything, and thaws.
func (p *player) freeze() error {
	_, hold, err := p.fs.Freeze(ctx, freeze.Request{Holder: "crash", Lease: time.Hour, Patience: time.Minute})
	if err != nil {
		return err
	}
	p.still(true)
	_, err = lookAt(p.fs)
	p.frozen()
	p.still(false)
	_, terr := p.fs.Thaw(ctx, freeze.ThawRequest{Hold: hold.ID})
	return errors.Join(err, terr)
}

// end gives back what operations have kept.
func (p *player) end() error {
	var errs []error
	for _, m := range p.maps {
		errs = append(errs, m.core.Unmap(ctx))
	}
	clear(p.maps)
	for _, ino := range p.held {
		p.fs.Release(ino)
	}
	p.held = nil
	return errors.Join(errs...)
}
