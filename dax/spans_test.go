package dax

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"permafrost/core"
	"permafrost/core/format"
)

// TestSpanTable holds the table against a map from page to what lies there.
func TestSpanTable(t *testing.T) {
	ms := []*mapping{{id: 1}, {id: 2}}
	type cell struct {
		m    *mapping
		page format.Page
	}
	rapid.Check(t, func(t *rapid.T) {
		var tab spanTable
		model := make(map[uint64]cell)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at := rapid.Uint64Range(1, 40).Draw(t, "at")
			n := rapid.Uint64Range(1, 8).Draw(t, "pages")
			if rapid.Bool().Draw(t, "add") {
				m := rapid.SampledFrom(ms).Draw(t, "mapping")
				page := format.Page(rapid.Uint64Range(0, 20).Draw(t, "page"))
				tab.add(span{addr: at * pageBytes, pages: n, page: page, m: m})
				for i := range n {
					model[at+i] = cell{m, page + format.Page(i)}
				}
			} else {
				var want int
				for i := range n {
					if _, ok := model[at+i]; ok {
						want++
						delete(model, at+i)
					}
				}
				got := uint64(0)
				for _, s := range tab.remove(at*pageBytes, (at+n)*pageBytes) {
					got += s.pages
				}
				if got != uint64(want) {
					t.Fatalf("removed %d pages, want %d", got, want)
				}
			}
			total := uint64(0)
			for i, s := range tab.list {
				total += s.pages
				if s.pages == 0 || i > 0 && tab.list[i-1].end() > s.addr {
					t.Fatalf("table out of order: %+v", tab.list)
				}
			}
			if total != uint64(len(model)) {
				t.Fatalf("%d pages in the table, %d in the model", total, len(model))
			}
			for p := uint64(0); p < 60; p++ {
				s, ok := tab.find(p*pageBytes + 123)
				c, want := model[p]
				if ok != want || ok && (s.m != c.m || s.pageAt(p*pageBytes) != c.page || s.addrOf(c.page) != p*pageBytes) {
					t.Fatalf("page %d: found %v %+v, want %v %+v", p, ok, s, want, c)
				}
			}
		}
	})
}

func TestUnionRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []core.PageRun
		want := make(map[format.Page]bool)
		for range rapid.IntRange(0, 12).Draw(t, "runs") {
			r := core.PageRun{First: format.Page(rapid.IntRange(0, 50).Draw(t, "first")), Count: uint64(rapid.IntRange(1, 9).Draw(t, "count"))}
			in = append(in, r)
			for i := range r.Count {
				want[r.First+format.Page(i)] = true
			}
		}
		out := unionRuns(in)
		got := 0
		for i, r := range out {
			if i > 0 && out[i-1].First+format.Page(out[i-1].Count) >= r.First {
				t.Fatalf("runs touch: %+v", out)
			}
			for k := range r.Count {
				got++
				if !want[r.First+format.Page(k)] {
					t.Fatalf("page %d was not in %+v", r.First+format.Page(k), in)
				}
			}
		}
		if got != len(want) {
			t.Fatalf("%d pages, want %d", got, len(want))
		}
	})
}

func TestParseMaps(t *testing.T) {
	const text = `7f0000000000-7f0000004000 rw-s 00021000 00:1b 1048                       /dev/shm/image (deleted)
7f0000004000-7f0000005000 ---p 00000000 00:00 0
7f0000005000-7f0000006000 rw-p 00021000 00:1b 1048                       /dev/shm/image
7f0000006000-7f0000007000 r--s 00030000 00:1b 1048                       /dev/shm/image
7f0000007000-7f0000008000 rw-s 00030000 00:1b 1049                       /dev/shm/other
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
`
	got, err := parseMaps(strings.NewReader(text), imageID{Dev: 0x1b, Ino: 1048})
	want := "[{139637976727552 139637976743936 135168} {139637976752128 139637976756224 196608}]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v %v, want %s", got, err, want)
	}
	if _, err := parseMaps(strings.NewReader("7f00-zz rw-s 0 00:1b 1048 x\n"), imageID{}); err == nil {
		t.Error("a bad line was taken")
	}
}

func TestShowAndSameExtents(t *testing.T) {
	mp := &mapping{pieces: []core.Extent{{Page: 0, Block: 100, Count: 4}, {Page: 4, Block: 200, Count: 4}}}
	v := vma{start: 0x10000, end: 0x10000 + 6*pageBytes, offset: 102 * format.BlockSize}
	got := v.show(mp)
	if len(got) != 1 || got[0].addr != 0x10000 || got[0].pages != 2 || got[0].page != 2 {
		t.Errorf("%+v", got)
	}
	whole := []core.Extent{{Page: 0, Block: 10, Count: 8}}
	for _, c := range []struct {
		other []core.Extent
		same  bool
	}{
		{[]core.Extent{{Page: 0, Block: 10, Count: 3}, {Page: 3, Block: 13, Count: 5}}, true},
		{[]core.Extent{{Page: 0, Block: 10, Count: 7}}, false},
		{[]core.Extent{{Page: 0, Block: 10, Count: 3}, {Page: 3, Block: 14, Count: 5}}, false},
		{[]core.Extent{{Page: 0, Block: 10, Count: 3}, {Page: 4, Block: 14, Count: 4}}, false},
		{nil, false},
	} {
		if got := sameExtents(whole, c.other); got != c.same {
			t.Errorf("%+v: %v", c.other, got)
		}
	}
}
