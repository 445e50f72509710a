package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// ill is one way for a file system to contradict itself, with every checksum
// right.
type ill struct {
	name string
	// harm does it.
	harm func(p *patient, s *tree.Store, tx *tree.Tx)
	// told is the path and the kind of a problem that the repair must report.
	told, kind string
	// but is the paths that are not as they were afterwards.
	but []string
}

func (p *patient) put(tx *tree.Tx, k tree.Key, v []byte) {
	p.t.Helper()
	p.ok(tx.Put(k, v))
}

func (p *patient) del(tx *tree.Tx, k tree.Key) {
	p.t.Helper()
	if found, err := tx.Delete(k); err != nil || !found {
		p.t.Fatal("delete", k, found, err)
	}
}

// entry is the key of a path's dirent.
func (p *patient) entry(s *tree.Store, path string) tree.Key {
	p.t.Helper()
	_, a := p.inodeOf(s, path)
	return key(a.Parent, format.KindDirent, a.Cookie)
}

// change changes a path's inode record.
func (p *patient) change(s *tree.Store, tx *tree.Tx, path string, fn func(a *format.Inode)) {
	p.t.Helper()
	ino, a := p.inodeOf(s, path)
	fn(&a)
	putRaw(p.t, tx, ino, &a)
}

// cookie is where a name belongs.
func cookie(s *tree.Store, text string) uint64 {
	seed := format.HashSeed(s.Info().HashSeed)
	return format.CookieBase(seed.SumString(text))
}

func extentRecord(b format.Block, n uint64) []byte {
	v := make([]byte, format.ExtentSize)
	format.Extent{Block: b, Count: n}.Encode(v)
	return v
}

func badRecord(ino format.Ino, p format.Page) []byte {
	v := make([]byte, format.BadDataSize)
	format.BadData{Ino: ino, Page: p}.Encode(v)
	return v
}

var ills = []ill{
	{name: "dangling name", told: "/dir-1/ghost", kind: ProblemNoInode, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(p.before["/dir-1"].ino, format.KindDirent, cookie(s, "ghost")), format.AppendDirent(nil, 777777, format.TypeRegular, "ghost"))
	}},
	{name: "link count", told: "/dir-1/file-1-8", kind: ProblemLinks, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-1/file-1-8", func(a *format.Inode) { a.Nlink = 7 })
	}},
	{name: "link count of a directory", told: "/dir-1", kind: ProblemDir, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-1", func(a *format.Inode) { a.Nlink = 9 })
	}},
	{name: "size of a directory", told: "/dir-2/sub", kind: ProblemDir, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-2/sub", func(a *format.Inode) { a.Size = 1 })
	}},
	{name: "back-pointer missing", told: "/dir-2/file-2-21", kind: ProblemLinks, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, p.first("/dir-2/file-2-21", format.KindLink))
	}},
	{name: "back-pointer wrong", told: "/dir-2/file-2-22", kind: ProblemLinks, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-2/file-2-22", func(a *format.Inode) { a.Parent, a.Cookie = p.before["/dir-3"].ino, 256 })
	}},
	{name: "block count", told: "/dir-3/file-3-8", kind: ProblemLost, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.change(s, tx, "/dir-3/file-3-8", func(a *format.Inode) { a.Blocks += 5 })
	}},
	{name: "blocks with two owners", told: "/dir-3/file-3-24", kind: ProblemExtents, but: []string{"/dir-3/file-3-16", "/dir-3/file-3-24"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		v, err := s.Get(p.first("/dir-3/file-3-24", format.KindExtent), nil)
		p.ok(err)
		p.put(tx, p.first("/dir-3/file-3-16", format.KindExtent), v)
	}},
	{name: "blocks of a node", told: "/dir-3/file-3-32", kind: ProblemExtents, but: []string{"/dir-3/file-3-32"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, p.first("/dir-3/file-3-32", format.KindExtent), extentRecord(p.nodes(0)[0], 1))
	}},
	{name: "extent outside the image", told: "/dir-4/file-4-8", kind: ProblemExtents, but: []string{"/dir-4/file-4-8"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, p.first("/dir-4/file-4-8", format.KindExtent), extentRecord(8190, 10))
	}},
	{name: "pages in two extents", told: "/dir-4/sub/big", kind: ProblemExtents, but: []string{"/dir-4/sub/big"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		k := p.first("/dir-4/sub/big", format.KindExtent)
		v, err := s.Get(k, nil)
		p.ok(err)
		var e format.Extent
		p.ok(e.Decode(v))
		b, _, err := tx.AllocData(0, 3)
		p.ok(err)
		p.put(tx, key(k.Ino, format.KindExtent, k.Off+1), extentRecord(b, 1))
		e.Count += 8 // over its neighbour's pages and blocks
		p.put(tx, k, extentRecord(e.Block, e.Count))
	}},
	{name: "piece where another extent begins", told: "/dir-4/file-4-16", kind: ProblemExtents, but: []string{"/dir-4/file-4-16", "/dir-4/file-4-0"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		// Of six blocks one belongs to another, and the last page has a second extent.
		k := p.first("/dir-4/file-4-16", format.KindExtent)
		var b format.Block
		for n := uint64(0); n < 6; {
			var err error
			b, n, err = tx.AllocData(b, 6)
			p.ok(err)
		}
		p.put(tx, k, extentRecord(b, 6))
		p.put(tx, key(k.Ino, k.Kind, k.Off+3), extentRecord(b+1, 1))
		p.put(tx, p.first("/dir-4/file-4-0", format.KindExtent), extentRecord(b+2, 1))
	}},
	{name: "number of the future", told: "/dir-0/early", kind: ProblemTree, but: []string{"/dir-0/early"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		dir := p.before["/dir-0"].ino
		l := format.Link{Parent: dir, Cookie: cookie(s, "early")}
		p.put(tx, key(dir, format.KindDirent, l.Cookie), format.AppendDirent(nil, 666666, format.TypeRegular, "early"))
		putRaw(p.t, tx, 666666, &format.Inode{Mode: format.TypeRegular | 0o600, Nlink: 1, Parent: l.Parent, Cookie: l.Cookie})
		p.change(s, tx, "/dir-0", func(a *format.Inode) { a.Size++ })
		tx.AddInodes(1)
	}},
	{name: "orphan with a name", told: "/dir-5/file-5-3", kind: ProblemOrphan, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(format.OrphanIno, format.KindOrphan, uint64(p.before["/dir-5/file-5-3"].ino)), nil)
	}},
	{name: "orphan that is not there", kind: ProblemOrphan, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(format.OrphanIno, format.KindOrphan, 888888), nil)
	}},
	{name: "type in a name", told: "/dir-5/file-5-4", kind: ProblemType, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, p.entry(s, "/dir-5/file-5-4"), format.AppendDirent(nil, p.before["/dir-5/file-5-4"].ino, format.TypeDir, "file-5-4"))
	}},
	{name: "misplaced name", told: "/dir-5/file-5-5", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		k := p.entry(s, "/dir-5/file-5-5")
		p.del(tx, k)
		k.Off ^= 1 << 40
		p.put(tx, k, format.AppendDirent(nil, p.before["/dir-5/file-5-5"].ino, format.TypeRegular, "file-5-5"))
	}},
	{name: "name twice", told: "/dir-5", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		k := p.entry(s, "/dir-5/file-5-6")
		k.Off++
		p.put(tx, k, format.AppendDirent(nil, p.before["/dir-5/file-5-6"].ino, format.TypeRegular, "file-5-6"))
	}},
	{name: "bad block of a page that has none", told: "/dir-6/file-6-3", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(0, format.KindBadData, 8000), badRecord(p.before["/dir-6/file-6-3"].ino, 0))
	}},
	{name: "bad block of another file", told: "/dir-6/file-6-4", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		v, err := s.Get(p.first("/dir-6/file-6-8", format.KindExtent), nil)
		p.ok(err)
		var e format.Extent
		p.ok(e.Decode(v))
		p.put(tx, key(0, format.KindBadData, uint64(e.Block)), badRecord(p.before["/dir-6/file-6-4"].ino, 7))
	}},
	{name: "bad block's record", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(0, format.KindBadData, 8001), []byte("short"))
	}},
	{name: "unknown kind", told: "/dir-6/file-6-1", kind: ProblemRecord, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(p.before["/dir-6/file-6-1"].ino, 99, 5), []byte("what"))
	}},
	{name: "inode record", told: "/dir-6/file-6-8", kind: ProblemLost, but: []string{"/dir-6/file-6-8"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(p.before["/dir-6/file-6-8"].ino, format.KindInode, 0), make([]byte, format.InodeSize))
	}},
	{name: "inode record of a directory", told: "/dir-6/sub", kind: ProblemLost, but: []string{"/dir-6/sub"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, key(p.before["/dir-6/sub"].ino, format.KindInode, 0))
	}},
	{name: "inode record of an empty file", told: "/dir-6/file-6-3", kind: ProblemNoInode, but: []string{"/dir-6/file-6-3"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, key(p.before["/dir-6/file-6-3"].ino, format.KindInode, 0))
	}},
	{name: "attribute", told: "/dir-7/sub/big", kind: ProblemXattr, but: []string{"/dir-7/sub/big"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		k := p.first("/dir-7/sub/big", format.KindXattr)
		k.Off += 2
		p.del(tx, k)
	}},
	{name: "target cut short", told: "/dir-7/sub/sym", kind: ProblemLost, but: []string{"/dir-7/sub/sym"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		k := p.first("/dir-7/sub/sym", format.KindSymlink)
		k.Off += 2
		p.del(tx, k)
	}},
	{name: "target lost", told: "/dir-0/sub/sym", kind: ProblemLost, but: []string{"/dir-0/sub/sym"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, p.first("/dir-0/sub/sym", format.KindSymlink))
	}},
	{name: "inode counter", kind: ProblemTree, harm: func(p *patient, s *tree.Store, tx *tree.Tx) { tx.AddInodes(5) }},
	{name: "root record", told: "/", kind: ProblemLost, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, key(format.RootIno, format.KindInode, 0))
	}},
	{name: "lost file", told: "/lost+found/%d:/dir-0/file-0-7", kind: ProblemFound, but: []string{"/dir-0/file-0-7", "/lost+found"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, p.entry(s, "/dir-0/file-0-7"))
	}},
	{name: "lost directory", told: "/lost+found/%d:/dir-1/sub", kind: ProblemFound, but: []string{"/dir-1/sub", "/dir-1", "/lost+found"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, p.entry(s, "/dir-1/sub"))
	}},
	{name: "directories in a circle", told: "/lost+found/%d:/dir-2", kind: ProblemFound, but: []string{"/dir-2", "/lost+found"}, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.del(tx, p.entry(s, "/dir-2"))
		sub := p.before["/dir-2/sub"].ino
		p.put(tx, key(sub, format.KindDirent, cookie(s, "up")), format.AppendDirent(nil, p.before["/dir-2"].ino, format.TypeDir, "up"))
		p.change(s, tx, "/dir-2", func(a *format.Inode) { a.Parent, a.Cookie = sub, cookie(s, "up") })
	}},
	{name: "directory with two names", told: "/dir-0/twin", kind: ProblemDir, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(p.before["/dir-0"].ino, format.KindDirent, cookie(s, "twin")), format.AppendDirent(nil, p.before["/dir-7"].ino, format.TypeDir, "twin"))
	}},
	{name: "name of the root", told: "/dir-0/rootlet", kind: ProblemDir, harm: func(p *patient, s *tree.Store, tx *tree.Tx) {
		p.put(tx, key(p.before["/dir-0"].ino, format.KindDirent, cookie(s, "rootlet")), format.AppendDirent(nil, format.RootIno, format.TypeDir, "rootlet"))
	}},
}

// path is told with the number of the inode that is linked under /lost+found.
func (i *ill) path(p *patient) string {
	where, who, numbered := strings.Cut(i.told, ":")
	if numbered {
		return fmt.Sprintf(where, p.before[who].ino)
	}
	return where
}

// prune takes what stands below directories that moved out of both maps.
func prune(all map[string]found, dirs []string) {
	for path := range all {
		for _, d := range dirs {
			if strings.HasPrefix(path, d+"/") {
				delete(all, path)
			}
		}
	}
}

func TestRepairLogic(t *testing.T) {
	for _, i := range ills {
		t.Run(i.name, func(t *testing.T) {
			p := newSmallPatient(t)
			p.raw(func(s *tree.Store, tx *tree.Tx) { i.harm(p, s, tx) })
			p.mentions(p.sick(), "anything", func(Problem) bool { return true })
			r, after := p.repair(RepairOptions{})
			want := i.path(p)
			p.mentions(r, fmt.Sprintf("%s of %q", i.kind, want), func(x Problem) bool { return x.Kind == i.kind && x.Path == want })
			if r.Repaired == nil || r.Repaired.Edits == 0 && i.kind != ProblemTree {
				t.Errorf("%+v", r.Repaired)
			}
			if i.kind == ProblemFound {
				_, who, _ := strings.Cut(i.told, ":")
				moved := []string{want, who, "/lost+found"}
				for path, b := range p.before { // what stood below it is there, below its new place
					if rest, below := strings.CutPrefix(path, who+"/"); below && after[want+"/"+rest] != b {
						t.Errorf("%s is not below %s", path, want)
					}
				}
				prune(after, moved)
				p.before = maps.Clone(p.before)
				prune(p.before, moved)
				i.but = append(slices.Clone(i.but), want)
			}
			p.same(after, i.but...)
		})
	}
}

// Everything at once.
func TestRepairLogicTogether(t *testing.T) {
	p := newSmallPatient(t)
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		for _, i := range ills {
			if i.name != "root record" && i.name != "blocks of a node" { // of which the others make a copy
				i.harm(p, s, tx)
			}
		}
	})
	p.sick()
	r, _ := p.repair(RepairOptions{})
	for _, i := range ills {
		if i.name == "root record" || i.name == "blocks of a node" || i.kind == ProblemTree {
			continue
		}
		_, who, found := strings.Cut(i.told, ":")
		want := i.path(p)
		p.mentions(r, fmt.Sprintf("%s: %s of %q", i.name, i.kind, want), func(x Problem) bool {
			// What others of them moved has another path.
			return x.Kind == i.kind && (x.Path == want || x.Ino == p.before[i.told].ino || found && x.Ino == p.before[who].ino || x.Path != "" && strings.HasSuffix(x.Path, want[strings.LastIndexByte(want, '/')+1:]))
		})
	}
}

// A file stands where /lost+found belongs.
func TestRepairLostFoundTaken(t *testing.T) {
	p := newSmallPatient(t)
	p.mounted(func(w *world) { w.file(format.RootIno, "lost+found") })
	p.before = p.contents()
	p.raw(func(s *tree.Store, tx *tree.Tx) { p.del(tx, p.entry(s, "/dir-0/file-0-7")) })
	r, after := p.repair(RepairOptions{})
	want := fmt.Sprintf("/lost+found-1/%d", p.before["/dir-0/file-0-7"].ino)
	p.mentions(r, want, func(x Problem) bool { return x.Path == want })
	p.same(after, "/dir-0/file-0-7", want, "/lost+found-1")
	// The next one goes to the same place.
	p.before = after
	p.raw(func(s *tree.Store, tx *tree.Tx) { p.del(tx, p.entry(s, "/dir-0/file-0-9")) })
	_, after = p.repair(RepairOptions{})
	p.same(after, "/dir-0/file-0-9", fmt.Sprintf("/lost+found-1/%d", p.before["/dir-0/file-0-9"].ino))
}

// An unlinked inode that was still open stays unlinked; one that was being freed
// is as consistent.
func TestRepairOrphan(t *testing.T) {
	p := newSmallPatient(t)
	var used uint64
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		used = s.Counters().Data
		path := "/dir-0/file-0-8"
		p.del(tx, p.entry(s, path))
		p.change(s, tx, path, func(a *format.Inode) { a.Nlink, a.Parent, a.Cookie = 0, 0, 0 })
		p.change(s, tx, "/dir-0", func(a *format.Inode) { a.Size-- })
		p.put(tx, key(format.OrphanIno, format.KindOrphan, uint64(p.before[path].ino)), nil)
		p.put(tx, key(p.before[path].ino, format.KindXattr, 3), pattern(1, format.ChunkSize)) // of an attribute that is half gone
		p.change(s, tx, "/dir-0/file-0-1", func(a *format.Inode) { a.Nlink = 7 })             // something to repair
	})
	orphan := p.before["/dir-0/file-0-8"].ino
	p.before = maps.Clone(p.before)
	delete(p.before, "/dir-0/file-0-8")
	r, after := p.repair(RepairOptions{})
	for _, x := range r.Problems {
		if x.Ino == orphan {
			t.Errorf("the orphan is found at fault: %v", x)
		}
	}
	p.same(after)
	p.mounted(func(w *world) { // the reaper frees it
		for end := time.Now().Add(10 * time.Second); w.fs.Status().PendingOrphans > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the orphan is not freed")
			}
		}
	})
	p.raw(func(s *tree.Store, tx *tree.Tx) {
		if now := s.Counters().Data; now >= used {
			t.Errorf("%d data blocks, %d before: the mount did not free the orphan", now, used)
		}
	})
}
