package web

import (
	"strings"
	"testing"

	"permafrost/core"
	"permafrost/core/format"
)

// TestMountOnPages: each page that shows the mount says what is so, and none
// says anything of a mount that there is not.
func TestMountOnPages(t *testing.T) {
	fs, l := fullFS(epoch)
	page := func(path string) document {
		t.Helper()
		return parse(t, get(newUI(t, fs, l, fixed(epoch)), path).Body.Bytes())
	}
	says(t, page("/ui/"), "Mount/mnt/permafrost 47 files open, 12 of them may be mapped")
	says(t, page("/ui/"), "counted once they are written back")
	says(t, page("/ui/mappings"), "By attached programs", "Through the mount", "noatime", "12 files are open for reading and writing", "/db/orders.tbl",
		"postgres (pid 5202, uid 106)", "the kernel does not tell which", "Latency of the mount", "fsync12,044870 µs1.05 ms8.39 ms",
		"write761,013154 µs32.8 µs262 µs")
	says(t, page("/ui/inodes/13"), "Open through the mount", "postgres (pid 5201, uid 106)", "orderd (pid 4100, uid 1000)", "the kernel does not tell which")
	// A file that nobody but the mount has: clean here does not mean durable.
	clean := page("/ui/inodes/16")
	if strings.Contains(clean.text, "through the mount") || !strings.Contains(clean.text, "No program maps it") {
		t.Error("a file that is not open is shown as if it were")
	}
	fs.mount.open[0].Ino = 16
	says(t, page("/ui/inodes/16"), "Open through the mount", "may be in the kernel's page cache still")

	freezeNow(fs, epoch)
	says(t, page("/ui/"), "2 requests are held", "store/db/orders.wal page 33postgres (pid 5200, uid 106)mountwrite")
	says(t, page("/ui/freezes/41"), "Mountcollect the kernel wrote back what was stored; stores are held in program order", "Attached programsprotect",
		"the mount's page cache is written back")
	says(t, page("/ui/freezes/39"), "Mountnotify", "stores through mappings of the mount may be missing in it that were made before others it has")

	fs.mount.change(func(m *core.MountStatus) { m.Ended = true })
	says(t, page("/ui/"), "The mount at /mnt/permafrost has ended")
	says(t, page("/ui/mappings"), "The mount has ended", "By attached programs")

	fs.mount = nil
	for _, path := range []string{"/ui/", "/ui/mappings", "/ui/inodes/13", "/ui/inodes/16"} {
		text := page(path).text
		if strings.Contains(text, "/mnt/permafrost") || strings.Contains(text, "Through the mount") || strings.Contains(text, "Open through") || strings.Contains(text, "the mount") {
			t.Errorf("%s speaks of a mount that there is not", path)
		}
	}
}

// TestMountViewIsBounded: a listing that is cut says so, and counts all the same.
func TestMountViewIsBounded(t *testing.T) {
	fs, l := fullFS(epoch)
	for len(fs.mount.open) < mappingsListed+7 {
		fs.mount.open = append(fs.mount.open, core.MappingInfo{ID: uint64(100 + len(fs.mount.open)), Ino: format.Ino(13)})
	}
	u := newUI(t, fs, l, fixed(epoch))
	v := mountViewOf(u.mayBeMapped(0), u.snap())
	if len(v.Rows) != mappingsListed || !strings.HasPrefix(v.Summary, "507 files are open for reading and writing; the first 500 are listed. ") {
		t.Errorf("%d rows under %q", len(v.Rows), v.Summary)
	}
}
