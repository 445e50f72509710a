package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"permafrost/core"
	"permafrost/core/format"
)

func inodesPage(q url.Values) page {
	yes := true
	f := core.InodeFilter{PathPrefix: q.Get("path_prefix"), Cursor: q.Get("cursor"), Limit: listLimit}
	v := inodesView{Prefix: f.PathPrefix}
	var dirty, mapped string
	if q.Get("dirty") == "true" {
		f.Dirty, v.Dirty, dirty = &yes, true, "true"
	}
	if q.Get("mapped") == "true" {
		f.Mapped, v.Mapped, mapped = &yes, true, "true"
	}
	v.Filtered = v.Dirty || v.Mapped || v.Prefix != "" || f.Cursor != ""
	if f.Cursor != "" {
		v.First = withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped)
	}
	key := withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped, "cursor", f.Cursor)
	return page{Key: key, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		v := v
		items, next, err := u.o.FS.Inodes(ctx, f)
		if err != nil {
			return view{}, listError(err)
		}
		for _, i := range items {
			v.Rows = append(v.Rows, inodeRowOf(i, s))
		}
		if next != "" {
			v.Next = withQuery("/ui/inodes", "path_prefix", f.PathPrefix, "dirty", dirty, "mapped", mapped, "cursor", next)
		}
		v.Total = plural(s.Status.InodesTotal, "inode", "inodes")
		v.DirtyTotal = plural(s.Status.InodesDirty, "dirty inode", "dirty inodes") + ", " +
			plural(s.Status.DirtyPages, "dirty page", "dirty pages")
		return view{Title: "Inodes", Nav: "inodes", Regions: []region{
			{ID: "filter", Class: "filterbox", Body: inodesFilter(v)},
			{ID: "inodes", Class: "panel full", Body: inodesBody(v, s.Server)},
		}}, nil
	}}
}

func listError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &pageError{http.StatusServiceUnavailable, "The search took too long",
			fmt.Sprintf("It was given up after %s. Give a longer path, or fewer conditions.", spanText(loadTimeout))}
	}
	if errors.Is(err, core.ErrInvalid) {
		return &pageError{http.StatusBadRequest, "No such page of the list", err.Error() + ". Start from the first page."}
	}
	return err
}

const historyLimit = 100

func inodePage(ino format.Ino) page {
	key := inodeHref(uint64(ino))
	return page{Key: key, load: func(ctx context.Context, u *UI, s snapshot) (view, error) {
		info, extents, maps, err := u.o.FS.InodeDetail(ctx, ino)
		if errors.Is(err, core.ErrNotFound) || errors.Is(err, core.ErrStale) {
			return view{}, noSuch("No such inode", fmt.Sprintf("Inode %d does not exist (any more): numbers are never used twice.", ino))
		}
		if err != nil {
			return view{}, err
		}
		hist, ledgerErr := u.ledger().InodeHistory(ctx, int64(ino), 0, historyLimit)
		v := inodeViewOf(info, extents, maps, hist, s)
		for _, o := range u.mayBeMapped(ino) {
			v.Open = append(v.Open, openRowOf(o, s))
		}
		return view{Title: v.Row.Path, Nav: "inodes", Crumb: &crumb{"Inodes", "/ui/inodes"}, Regions: []region{
			{ID: "alerts", Class: "alerts", Body: alertsBody(ledgerAlert(ledgerErr))},
			{ID: "attributes", Class: "full", Heading: "Attributes", Body: inodeFacts(v)},
			{ID: "pages", Class: "full", Heading: "Pages", Body: inodeStrips(v)},
			{ID: "maps", Class: "full", Heading: "Mappings", Body: inodeMappings(v)},
			{ID: "history", Class: "full", Heading: "History", Body: inodeHistory(v)},
		}}, nil
	}}
}

// mappingsView is the list of mappings.
type mappingsView struct {
	Rows                           []mappingRow
	Summary, Attach, Hint, Command string
}

// mappingsListed bounds the list; what it leaves out is said.
const mappingsListed = 500

func loadMappings(ctx context.Context, u *UI, s snapshot) (view, error) {
	v := view{Title: "Mappings", Nav: "mappings"}
	attached := region{ID: "mappings", Class: "panel full", Body: mappingsBody(mappingsViewOf(u.o.FS.Mappings(), s))}
	if s.Mount == nil {
		v.Regions = []region{attached}
		return v, nil
	}
	attached.Class, attached.Heading = "full", "By attached programs"
	m := mountViewOf(u.mayBeMapped(0), s)
	v.Regions = []region{attached,
		{ID: "mount", Class: "full", Heading: "Through the mount", Body: mountBody(m)},
		{ID: "latency", Class: "full", Heading: "Latency of the mount", Body: latencyBody(m)}}
	return v, nil
}

func mappingsViewOf(maps []core.MappingInfo, s snapshot) mappingsView {
	v := mappingsView{
		Hint:    "A mapping is a program's direct view of a file's own pages. This command makes some, stores through them and shows that a freeze holds them:",
		Command: "permafrost prove",
		Summary: plural(len(maps), "mapping", "mappings") + ": a freeze write-protects the writable ones",
	}
	if len(maps) > mappingsListed {
		v.Summary += fmt.Sprintf("; the first %d are listed", mappingsListed)
		maps = maps[:mappingsListed]
	}
	for _, m := range maps {
		v.Rows = append(v.Rows, mappingRowOf(m, s))
	}
	switch {
	case s.Attach == nil:
		v.Attach = "This appliance offers no attach socket."
	case s.Attach.Refused != "":
		v.Attach = "Attach is refused: " + s.Attach.Refused
		v.Hint, v.Command = "Programs cannot map this image: "+s.Attach.Refused, ""
	default:
		v.Attach = plural(s.Attach.Clients, "program is", "programs are") + " attached at " + s.Attach.Socket
	}
	return v
}
