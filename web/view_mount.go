package web

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
)

// modeNotify is the mode of a freeze whose mount fell back.
const modeNotify = "notify"

// notifyText is what the fall-back of the mount means for a copy.
const notifyText = "The kernel did not finish writing back the mount's mapped files in time. The image is still and consistent, but stores through mappings of the mount may be missing in it that were made before others it has."

// mountAlerts are what is not fine about the mount.
func mountAlerts(s snapshot) (out []alert) {
	if f := s.Status.Freeze; f != nil && f.State == freeze.StateFrozen && f.Modes["mount"] == modeNotify {
		out = append(out, alert{"warn", "This freeze does not keep the order of mapped stores on the mount",
			notifyText + " A program that relies on their order may not recover from a copy: thaw and freeze again, with more patience.", ""})
	}
	if s.Mount != nil && s.Mount.Ended {
		out = append(out, alert{"warn", "The mount at " + listPath(s.Mount.Dir, 0) + " has ended",
			"Somebody has unmounted it, or its connection to the kernel was cut. REST and attached programs go on; nothing is served there until the appliance is started again.", ""})
	}
	if s.Mount != nil && s.Mount.Refused > 0 {
		out = append(out, alert{"warn", plural(s.Mount.Refused, "request of the mount was refused", "requests of the mount were refused"),
			"More requests waited for a thaw than are held at once. Programs got EAGAIN, \"Resource temporarily unavailable\".", ""})
	}
	return out
}

// mountNote says in a line what goes on in the mount.
func mountNote(m *core.MountStatus) string {
	note := plural(m.Open, "file", "files") + " open"
	if m.Writable > 0 {
		note += ", " + count(m.Writable) + " of them may be mapped"
	}
	if m.Held > 0 {
		note += "; " + plural(m.Held, "request is", "requests are") + " held"
	}
	return note
}

// mayBeMapped is what is known of a file that is open for reading and writing.
const mayBeMapped = "They may be mapped: the kernel does not tell which are. A freeze stops their mapped stores all the same."

// mountView is the mount on the page of mappings.
type mountView struct {
	Facts   []fact
	Summary string
	Rows    []openRow
	Ops     []opRow
}

// openRow is a file that is open through the mount so that it may be mapped.
type openRow struct {
	Path, Href, Who string
	Since           moment
}

// opRow is the latency of one kind of request.
type opRow struct{ Op, Count, Mean, Median, P99 string }

func mountViewOf(open []core.MappingInfo, s snapshot) *mountView {
	m := s.Mount
	if m == nil || m.Ended {
		return nil
	}
	v := &mountView{Facts: []fact{
		said("Mounted at", listPath(m.Dir, 0), m.Options),
		{Name: "Since", At: momentOf(m.Since, s.Now)},
		said("Open files", count(m.Open), count(m.Writable)+" of them may be mapped writably"),
		said("Held requests", count(m.Held), "wait for a thaw"),
	}}
	v.Summary = plural(len(open), "file is", "files are") + " open for reading and writing"
	if len(open) > mappingsListed {
		v.Summary += fmt.Sprintf("; the first %d are listed", mappingsListed)
		open = open[:mappingsListed]
	}
	v.Summary += ". " + mayBeMapped
	for _, o := range open {
		v.Rows = append(v.Rows, openRowOf(o, s))
	}
	for i := range m.Ops {
		o := &m.Ops[i]
		v.Ops = append(v.Ops, opRow{o.Op, count(o.Count()), latencyText(o.Mean()), latencyText(o.Below(0.5)), latencyText(o.Below(0.99))})
	}
	return v
}

func openRowOf(m core.MappingInfo, s snapshot) openRow {
	return openRow{Path: listPath(m.Path, m.Ino), Href: inodeHref(uint64(m.Ino)), Who: processText(m.Process), Since: momentOf(m.Since, s.Now)}
}

func latencyText(d time.Duration) string { return microsText(micros(d)) }

// mayBeMapped are the files that may be mapped through the mount, the longest open
// first: of one inode, or all for 0.
func (u *UI) mayBeMapped(ino format.Ino) []core.MappingInfo {
	if u.o.Mount == nil {
		return nil
	}
	list := u.o.Mount.Mappings(ino)
	slices.SortFunc(list, func(a, b core.MappingInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
