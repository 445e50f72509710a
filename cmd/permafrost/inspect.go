package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

type statusCmd struct{ remote }

func (s *statusCmd) Run(c *console) error {
	api, err := s.client()
	if err != nil {
		return err
	}
	var st wireStatus
	raw, err := api.call(context.Background(), "GET", "/status", nil, &st)
	if err != nil {
		return err
	}
	if s.JSON {
		return c.printJSON(raw)
	}
	printStatus(c, &st)
	return nil
}

func printStatus(c *console, st *wireStatus) {
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "state\t%s since %s\n", st.State, st.Since.Local().Format(time.DateTime))
	if f := st.Freeze; f != nil {
		for _, h := range f.Holds {
			if h.EndedAt == nil {
				fmt.Fprintf(w, "held by\t%s (hold %s), lease ends in %s\n", h.Holder, h.Hold, time.Until(h.ExpiresAt).Round(time.Second))
			}
		}
		fmt.Fprintf(w, "freeze\t%d, generation %d, window %s\n", f.ID, f.Generation, micros(f.WindowUS))
	} else if f := st.LastFreeze; f != nil {
		fmt.Fprintf(w, "last freeze\t%d, %s, window %s\n", f.ID, f.State, micros(f.WindowUS))
	}
	if st.Error != "" {
		fmt.Fprintf(w, "READ-ONLY\t%s\n", st.Error)
	}
	if n := st.BadBlocksTotal + st.BadPendingTotal; n > 0 {
		fmt.Fprintf(w, "bad blocks\t%d: permafrost badblocks\n", n)
	}
	fmt.Fprintf(w, "dirty\t%d inodes, %d pages\n", st.Inodes.Dirty, st.DirtyPagesTotal)
	fmt.Fprintf(w, "mappings\t%d\n", st.MappingsTotal)
	fmt.Fprintf(w, "held callers\t%d\n", st.BlockedTotal)
	fmt.Fprintf(w, "inodes\t%d, %d cached\n", st.Inodes.Total, st.Inodes.Cached)
	fmt.Fprintf(w, "space\t%s of %s free\n", bytesOf(int64(st.Space.FreeBytes)), bytesOf(int64(st.Space.TotalBytes)))
	survives := "survives a power loss"
	if !st.Pmem.SurvivesPowerLoss {
		survives = "does NOT survive a power loss"
	}
	fmt.Fprintf(w, "image\t%s (%s, %s; %s)\n", st.Pmem.Path, bytesOf(st.Pmem.SizeBytes), st.Pmem.Domain, survives)
	fmt.Fprintf(w, "ledger\t%s, %s\n", st.Ledger.State, st.Ledger.Path)
	if st.Attach != nil {
		fmt.Fprintf(w, "attach\t%s, %d clients\n", st.Attach.Socket, st.Attach.Clients)
	} else {
		fmt.Fprintf(w, "attach\tprograms cannot map files here: %s\n", st.AttachRefused)
	}
	if m := st.Mount; m != nil {
		fmt.Fprintf(w, "mount\t%s: %d files open, %d of them may be mapped, %d requests held\n", mountText(m.Dir, m.Options), m.OpenTotal, m.WritableTotal, m.HeldTotal)
	} else if st.MountEnded != "" {
		fmt.Fprintf(w, "mount\tENDED: nothing is served at %s until the appliance is started again\n", st.MountEnded)
	}
	fmt.Fprintf(w, "appliance\t%s, up %s\n", st.Version, (time.Duration(st.UptimeS) * time.Second).String())
}

// listCmd is what the listing verbs share.
type listCmd struct {
	remote
	Limit int `help:"At most so many (1000 at most)." default:"100"`
}

// list fetches one page and prints it by row, as a table with the given head.
func list[T any](c *console, l *listCmd, path string, q url.Values, empty, head string, row func(T) string) error {
	api, err := l.client()
	if err != nil {
		return err
	}
	if l.Limit > 0 && q != nil {
		q.Set("limit", strconv.Itoa(l.Limit))
	}
	var page wireList[T]
	raw, err := api.call(context.Background(), "GET", path, q, &page)
	if err != nil {
		return err
	}
	if l.JSON {
		return c.printJSON(raw)
	}
	if len(page.Items) == 0 {
		c.printf("%s\n", empty)
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for _, it := range page.Items {
		fmt.Fprintln(w, row(it))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if page.NextCursor != "" {
		c.notef("there are more: --limit, or %s?cursor=%s\n", path, page.NextCursor)
	}
	return nil
}

type freezesCmd struct {
	listCmd
	State  string `env:"PERMAFROST_FREEZES_STATE" help:"Only these: frozen, thawed, expired, forced, interrupted, rolled_back." placeholder:"STATE"`
	Holder string `env:"PERMAFROST_FREEZES_HOLDER" help:"Only this holder's." placeholder:"NAME"`
	ID     uint64 `arg:"" optional:"" help:"One freeze, with its phases."`
}

func (f *freezesCmd) Run(c *console) error {
	if f.ID == 0 {
		return list(c, &f.listCmd, "/freezes", params("state", f.State, "holder", f.Holder), "no freezes yet: permafrost freeze",
			"ID\tSTATE\tREQUESTED\tHOLDER\tWINDOW\tWHOLE\tPAGES\tHELD CALLERS", func(fr wireFreeze) string {
				holder := ""
				if len(fr.Holds) > 0 {
					holder = fr.Holds[0].Holder
				}
				return fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d", fr.ID, fr.State, fr.RequestedAt.Local().Format(time.DateTime), holder,
					micros(fr.WindowUS), micros(fr.TotalUS), fr.Flushed.Pages, fr.BlockedTotal)
			})
	}
	api, err := f.client()
	if err != nil {
		return err
	}
	var fr wireFreeze
	raw, err := api.call(context.Background(), "GET", fmt.Sprintf("/freezes/%d", f.ID), nil, &fr)
	if err != nil {
		return err
	}
	if f.JSON {
		return c.printJSON(raw)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "freeze\t%d, %s, generation %d\n", fr.ID, fr.State, fr.Generation)
	fmt.Fprintf(w, "requested\t%s\n", fr.RequestedAt.Local().Format(time.RFC3339Nano))
	for _, h := range fr.Holds {
		end := "stands until " + h.ExpiresAt.Local().Format(time.DateTime)
		if h.EndedAt != nil {
			end = h.End + " " + h.EndedAt.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "hold %s\t%s: %s\n", h.Hold, h.Holder, end)
	}
	for _, p := range fr.Phases {
		fmt.Fprintf(w, "  %s\t%s\n", p.Name, micros(p.DurationUS))
	}
	fmt.Fprintf(w, "window\t%s of %s\n", micros(fr.WindowUS), micros(fr.TotalUS))
	fmt.Fprintf(w, "flushed\t%d pages of %d inodes; in the window %d\n", fr.Flushed.Pages, fr.Flushed.Inodes, fr.WindowFlushed.Pages)
	for _, way := range []string{"attach", "mount"} {
		if mode := fr.Modes[way]; mode != "" && mode != "none" {
			fmt.Fprintf(w, "%s\t%s\n", way, mode)
		}
	}
	fmt.Fprintf(w, "held\t%d callers, at most %s\n", fr.BlockedTotal, micros(fr.LongestWaitUS))
	if err := w.Flush(); err != nil {
		return err
	}
	fr.noteNotify(c)
	return nil
}

type inodesCmd struct {
	listCmd
	Dirty  bool   `help:"Only dirty ones."`
	Mapped bool   `help:"Only mapped ones."`
	Prefix string `help:"Only below this path." placeholder:"PATH"`
	Ino    uint64 `arg:"" optional:"" help:"One inode, as JSON."`
}

func (i *inodesCmd) Run(c *console) error {
	if i.Ino != 0 {
		api, err := i.client()
		if err != nil {
			return err
		}
		raw, err := api.call(context.Background(), "GET", fmt.Sprintf("/inodes/%d", i.Ino), nil, nil)
		if err != nil {
			return err
		}
		return c.printJSON(raw)
	}
	return list(c, &i.listCmd, "/inodes", params("dirty", flag(i.Dirty), "mapped", flag(i.Mapped), "path_prefix", i.Prefix), "no such inodes",
		"INO\tTYPE\tSIZE\tDIRTY PAGES\tMAPPINGS\tMODIFIED\tPATH", func(in wireInode) string {
			return fmt.Sprintf("%d\t%s\t%s\t%d\t%d\t%s\t%s", in.Ino, in.Type, bytesOf(in.SizeBytes), in.DirtyPages, in.Mappings,
				in.Mtime.Local().Format(time.DateTime), strings.Join(in.Paths, " "))
		})
}

type mappingsCmd struct{ listCmd }

func (m *mappingsCmd) Run(c *console) error {
	return list(c, &m.listCmd, "/mappings", params(), "nothing is mapped", "ID\tWAY IN\tPID\tCOMMAND\tUID\tINO\tWRITABLE\tDIRTY\tPATH", func(m wireMapping) string {
		writable, dirty := strconv.FormatUint(m.WritablePages, 10), strconv.FormatUint(m.DirtyPages, 10)
		if m.WayIn == "mount" { // open, and perhaps mapped: the kernel does not tell
			writable, dirty = "perhaps", "-"
		}
		return fmt.Sprintf("%d\t%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s", m.ID, m.WayIn, m.PID, m.Command, m.UID, m.Ino, writable, dirty, m.Path)
	})
}

type blockedCmd struct{ listCmd }

func (b *blockedCmd) Run(c *console) error {
	return list(c, &b.listCmd, "/blocked", params(), "nobody is held", "OPERATION\tWAY IN\tPID\tCOMMAND\tHELD FOR\tINO\tPATH", func(w wireBlocked) string {
		who := w.Command
		if who == "" {
			who = w.Remote
		}
		return fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%d\t%s", w.Op, w.WayIn, w.PID, who, time.Since(w.Since).Round(time.Millisecond), w.Ino, w.Path)
	})
}

type fsyncCmd struct {
	remote
	Path   string `arg:"" optional:"" help:"A file; without it, everything."`
	Ino    uint64 `help:"A file by inode number." placeholder:"N"`
	Offset *size  `help:"From this byte on." placeholder:"BYTES"`
	Length *size  `help:"So many bytes." placeholder:"BYTES"`
}

func (f *fsyncCmd) Run(c *console) error {
	api, err := f.client()
	if err != nil {
		return err
	}
	q := params("path", f.Path)
	if f.Ino != 0 {
		q.Set("ino", strconv.FormatUint(f.Ino, 10))
	}
	if f.Offset != nil {
		q.Set("offset", strconv.FormatInt(int64(*f.Offset), 10))
	}
	if f.Length != nil {
		q.Set("length", strconv.FormatInt(int64(*f.Length), 10))
	}
	var r struct {
		wireFlushed
		Generation uint64  `json:"generation"`
		DurationUS float64 `json:"duration_us"`
	}
	raw, err := api.call(context.Background(), "POST", "/fsync", q, &r)
	if err != nil {
		return err
	}
	if f.JSON {
		return c.printJSON(raw)
	}
	c.printf("durable: generation %d, %d pages of %d inodes in %s\n", r.Generation, r.Pages, r.Inodes, micros(r.DurationUS))
	return nil
}

type eventsCmd struct {
	remote
	Follow bool  `help:"Go on until interrupted." short:"f"`
	After  int64 `help:"Only events after this one." placeholder:"ID" default:"0"`
}

// Run prints the event stream. Without --follow it stops at the end of what
// is there. The server sends one comment when the stream opens and the next when
// it has replayed what it keeps.
func (e *eventsCmd) Run(c *console) error {
	api, err := e.client()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	q := params()
	q.Set("after", strconv.FormatInt(e.After, 10))
	resp, err := api.do(ctx, "GET", "/events", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 1<<20)
	var id, kind string
	comments := 0
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "": // a comment, or the blank line that ends an event
			if strings.HasPrefix(in.Text(), ":") {
				comments++
			}
			if comments == 2 && !e.Follow {
				return nil
			}
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			if e.JSON {
				c.printf("%s\n", value)
			} else {
				c.printf("%s\t%s\t%s\n", id, kind, value)
			}
		}
	}
	if err := in.Err(); err != nil && err != io.EOF && ctx.Err() == nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}
