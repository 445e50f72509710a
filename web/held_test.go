package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/format"
	"permafrost/core/freeze"
	"permafrost/pmem"
)

// The dashboard stays usable on a real file system that holds a hundred callers:
// every page answers, soon, and says who is held.
func TestPagesWhileAHundredAreHeld(t *testing.T) {
	const held = 100
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	region, err := pmem.CreateMemfd("web-test", 8<<20, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if err := core.Mkfs(region, core.MkfsOptions{}); err != nil {
		t.Fatal(err)
	}
	fs, err := core.Mount(region, core.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Unmount(context.Background())
	file, err := fs.Create(ctx, format.RootIno, "busy", core.NewNode{Mode: 0o100644})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := fs.Freeze(ctx, freeze.Request{Holder: "nightly", Lease: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	errs := make(chan error, held)
	for i := range held {
		who := core.WithCaller(ctx, freeze.Waiter{WayIn: "rest", Remote: fmt.Sprintf("192.0.2.%d:1", i)})
		writers.Go(func() {
			_, err := fs.WriteAt(who, file.Ino, []byte{1}, int64(i))
			errs <- err
		})
	}
	for fs.Freezer().BlockedCount() < held {
		if ctx.Err() != nil {
			t.Fatalf("only %d are held", fs.Freezer().BlockedCount())
		}
		time.Sleep(time.Millisecond)
	}
	u := newUI(t, fs, nil, time.Now)
	for _, path := range []string{"/ui/", "/ui/freezes", "/ui/freezes/1", "/ui/inodes", fmt.Sprintf("/ui/inodes/%d", file.Ino)} {
		begun := time.Now()
		w := get(u, path)
		if took := time.Since(begun); w.Code != http.StatusOK || took > 5*time.Second {
			t.Errorf("%s: %d after %v", path, w.Code, took)
		}
		if path == "/ui/" && (!strings.Contains(w.Body.String(), "nightly") || !strings.Contains(w.Body.String(), "100")) {
			t.Errorf("the overview tells neither the holder nor how many are held:\n%s", w.Body)
		}
	}
	if n := fs.Freezer().BlockedCount(); n != held {
		t.Errorf("%d are held after the pages were read, want %d", n, held)
	}
	if _, err := fs.Thaw(ctx, freeze.ThawRequest{Holder: "nightly"}); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	for range held {
		if err := <-errs; err != nil {
			t.Errorf("a held write: %v", err)
		}
	}
}
