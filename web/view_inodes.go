package web

import (
	"fmt"
	"math"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/store"
)

// inodeRow is one inode in a list.
type inodeRow struct {
	Ino                   uint64
	Href, Path, Kind      string
	Mode, Size, Allocated string
	Dirty                 bool
	DirtyPages            string
	DirtySince            moment
	Mappings              string
	Changed               moment
}

func inodeRowOf(i core.InodeInfo, s snapshot) inodeRow {
	r := inodeRow{
		Ino: uint64(i.Ino), Href: inodeHref(uint64(i.Ino)), Path: listPath(firstPath(i.Paths), i.Ino),
		Kind: kindText(i.Mode), Mode: modeText(i.Mode), Size: sizeText(i.Size),
		Allocated: sizeText(i.Blocks * format.BlockSize), Dirty: i.Dirty, DirtyPages: dash,
		DirtySince: momentOf(i.DirtySince, s.Now), Mappings: dash, Changed: momentOf(i.Mtime, s.Now),
	}
	if i.Dirty {
		r.DirtyPages = count(i.DirtyPages)
	}
	if i.Mappings > 0 {
		r.Mappings = count(i.Mappings)
	}
	return r
}

func firstPath(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	return paths[0]
}

// inodesView is the listing with its search.
type inodesView struct {
	Prefix        string
	Dirty, Mapped bool
	Rows          []inodeRow
	Total         string // of the file system
	DirtyTotal    string
	Next, First   string
	Filtered      bool
}

// inodeView is the page of one inode.
type inodeView struct {
	Row      inodeRow
	Paths    []string
	Facts    []fact
	Times    []namedMoment
	Pages    uint64 // of the file, at least what is mapped or allocated
	Strips   []lane
	X        []string // page numbers at the ends and the middle
	Extents  []extentRow
	ExtMore  int
	Runs     string // dirty pages in words
	Mappings []mappingRow
	Open     []openRow // through the mount: it may be mapped
	History  []historyRow
}

type namedMoment struct {
	Name string
	At   moment
}

type extentRow struct{ Pages, Blocks, Count, Bytes string }

type historyRow struct {
	Found, Dirty moment
	By, Href     string
	Pages, Bytes string
	Window       bool
}

// extentsListed bounds the table; the drawing shows all of them.
const extentsListed = 200

func inodeViewOf(i core.InodeInfo, extents []core.Extent, maps []core.MappingInfo, hist []store.InodeHistory, s snapshot) inodeView {
	v := inodeView{Row: inodeRowOf(i, s), Paths: i.Paths, Pages: filePages(i, extents, maps)}
	v.Facts = []fact{
		said("Inode", count(i.Ino), kindText(i.Mode)),
		said("Mode", modeText(i.Mode), fmt.Sprintf("uid %d, gid %d", i.UID, i.GID)),
		said("Size", sizeText(i.Size), count(i.Size)+" bytes"),
		said("Allocated", sizeText(i.Blocks*format.BlockSize), plural(i.Blocks, "block", "blocks")),
		said("Links", count(i.Nlink), ""),
		said("Generation", count(i.Generation), "last changed in"),
	}
	v.Times = []namedMoment{
		{"Modified", momentOf(i.Mtime, s.Now)}, {"Changed", momentOf(i.Ctime, s.Now)},
		{"Read", momentOf(i.Atime, s.Now)}, {"Made", momentOf(i.Btime, s.Now)},
	}
	if i.Dirty {
		v.Times = append(v.Times, namedMoment{"Dirty since", momentOf(i.DirtySince, s.Now)})
	}
	v.draw(i, extents, maps)
	for n, e := range extents {
		if n == extentsListed {
			v.ExtMore = len(extents) - n
			break
		}
		v.Extents = append(v.Extents, extentRow{
			Pages:  fmt.Sprintf("%d–%d", e.Page, uint64(e.Page)+e.Count-1),
			Blocks: fmt.Sprintf("%d–%d", e.Block, uint64(e.Block)+e.Count-1),
			Count:  count(e.Count), Bytes: sizeText(e.Count * format.BlockSize),
		})
	}
	for _, m := range maps {
		v.Mappings = append(v.Mappings, mappingRowOf(m, s))
	}
	for _, h := range hist {
		v.History = append(v.History, historyRowOf(h, s))
	}
	return v
}

// filePages is the length of the drawing: the file, or more if allocation or a
// mapping reaches past its end.
func filePages(i core.InodeInfo, extents []core.Extent, maps []core.MappingInfo) uint64 {
	n := (uint64(i.Size) + format.PageSize - 1) / format.PageSize
	for _, e := range extents {
		n = max(n, uint64(e.Page)+e.Count)
	}
	for _, m := range maps {
		for _, r := range m.Ranges {
			n = max(n, uint64(r.First)+r.Count)
		}
	}
	return n
}

// draw makes the strips: extents, dirty pages, one for each mapping.
func (v *inodeView) draw(i core.InodeInfo, extents []core.Extent, maps []core.MappingInfo) {
	if v.Pages == 0 {
		return
	}
	v.X = []string{"page 0", count(v.Pages / 2), count(v.Pages)}
	v.Strips = append(v.Strips, lane{Label: "extents", Value: plural(len(extents), "extent", "extents"),
		Rects: extentRects(extents, v.Pages)})
	v.Strips = append(v.Strips, lane{Label: "dirty", Value: plural(i.DirtyPages, "page", "pages"),
		Rects: packRuns(i.DirtyRuns, v.Pages, "dirty")})
	for n, m := range maps {
		if n == lanesShown {
			break
		}
		class := "map-read"
		if m.Writable {
			class = "map-write"
		}
		v.Strips = append(v.Strips, lane{Label: fmt.Sprintf("mapping %d", m.ID), Href: "/ui/mappings",
			Value: m.Process.Comm, Rects: packRuns(m.Ranges, v.Pages, class)})
	}
	v.Runs = runText(i.DirtyRuns, 24)
}

// extentRects draws extents in two alternating shades, so that a cut between
// neighbours shows; those narrower than a unit are merged.
func extentRects(extents []core.Extent, total uint64) []rect {
	var out []rect
	for n, e := range extents {
		x, w := boxW*float64(e.Page)/float64(total), boxW*float64(e.Count)/float64(total)
		class := "extent"
		if n%2 == 1 {
			class = "extent odd"
		}
		if w < 1 {
			class = "extent"
		}
		x = math.Min(x, boxW-1)
		out = append(out, rect{X: x, W: math.Min(math.Max(1, w), boxW-x), Class: class,
			Title: fmt.Sprintf("pages %d–%d in blocks %d–%d", e.Page, uint64(e.Page)+e.Count-1, e.Block, uint64(e.Block)+e.Count-1)})
	}
	return mergeRects(out)
}

func historyRowOf(h store.InodeHistory, s snapshot) historyRow {
	r := historyRow{Found: momentOf(h.FoundAt, s.Now), Dirty: momentOf(h.DirtySince, s.Now), By: "sync",
		Pages: count(h.Pages), Bytes: sizeText(h.Bytes), Window: h.Window}
	if h.FreezeID != 0 {
		r.By, r.Href = fmt.Sprintf("freeze %d", h.FreezeID), fmt.Sprintf("/ui/freezes/%d", h.FreezeID)
	}
	return r
}

// mappingRow is one program's mapping.
type mappingRow struct {
	ID                             uint64
	Path, Href, Who, WayIn         string
	Ranges, Pages, Writable, Dirty string
	IsWritable                     bool
	Since                          moment
}

func mappingRowOf(m core.MappingInfo, s snapshot) mappingRow {
	r := mappingRow{
		ID: m.ID, Path: listPath(m.Path, m.Ino), Href: inodeHref(uint64(m.Ino)), Who: processText(m.Process),
		WayIn: m.WayIn, Ranges: runText(m.Ranges, 4), Pages: pagesText(runPages(m.Ranges)), Writable: "read only",
		Dirty: count(m.DirtyPages), IsWritable: m.Writable, Since: momentOf(m.Since, s.Now),
	}
	if m.Writable {
		r.Writable = plural(m.WritablePages, "page", "pages")
	}
	return r
}
