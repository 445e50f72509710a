package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"permafrost/core/format"
	"permafrost/core/tree"
)

// metric is the value of a metric without labels, "" if there is none.
func (r *rig) metric(name string) string {
	r.t.Helper()
	for _, line := range strings.Split(string(r.call("GET", "/metrics", nil).want(200).body), "\n") {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return v
		}
	}
	return ""
}

// firstNode is the lowest block of a node of the durable tree.
func (r *rig) firstNode() format.Block {
	r.t.Helper()
	sv := must(tree.OpenSalvage(r.medium))(r.t)
	check(r.t, sv.Choose(0))
	first := format.Block(format.MaxImage)
	sv.Walk(tree.Key{}, format.MaxKey, tree.Visit{Node: func(p format.Ptr, _ int, _ *format.Node) bool {
		first = min(first, p.Block)
		return true
	}})
	return first
}

// A pmem file that is cut under the running appliance. What is lost of a file's
// data is EIO with its block to who needs it, and stands on the list with the
// file's path; everything else goes on. What is lost of the metadata makes the
// file system read-only, and status, readyz and metrics say so.
func TestDamage(t *testing.T) {
	path := filepath.Join(shmDir(t), "image")
	r := newRig(t, rigOptions{image: path})
	r.broken = true // no check at the end
	content := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	r.call("PUT", "/files/old", bytes.Repeat([]byte("old"), 5<<20)).want(201)
	check(t, r.fs.Grow(context.Background(), 48<<20)) // nodes stay below, new data goes above
	r.call("PUT", "/files/dir/a%20b?parents=true", content).want(201)
	a := must(r.fs.Resolve(context.Background(), "/dir/a b"))(t)
	exts := must(r.fs.Extents(context.Background(), a.Ino, 1500, 1))(t)
	cut := exts[0].Block
	check(t, os.Truncate(path, int64(cut)*format.BlockSize))

	lost := fmt.Sprintf("bytes=%d-", 1500*format.PageSize)
	p := r.call("GET", "/files/dir/a%20b", nil, "Range: "+lost).problem(500, "io-error")
	if p["block"] != float64(cut) || !strings.Contains(fmt.Sprint(p["detail"]), fmt.Sprintf("block %d", cut)) {
		t.Errorf("the block is %d: %v", cut, p)
	}
	if _, err := r.try(context.Background(), http.DefaultClient, "GET", r.base+"/files/dir/a%20b", nil); err == nil {
		t.Error("a read that meets the bad block in the middle ended well")
	}
	part := r.call("GET", "/files/dir/a%20b", nil, fmt.Sprintf("Range: bytes=0-%d", 1500*format.PageSize-1)).want(206)
	if !bytes.Equal(part.body, content[:1500*format.PageSize]) {
		t.Error("what is left of the file reads wrong")
	}
	r.call("PATCH", fmt.Sprintf("/files/dir/a%%20b?offset=%d", 1600*format.PageSize), "x", "Content-Type: application/octet-stream").problem(500, "io-error")

	until(t, "both blocks are listed", func() bool {
		return len(r.call("GET", "/badblocks", nil).want(200).json()["items"].([]any)) >= 2 && r.metric("permafrost_bad_blocks_pending") == "0"
	})
	var seen []float64
	for cursor := ""; ; {
		v := r.call("GET", "/badblocks?limit=1"+cursor, nil).want(200).json()
		for _, x := range v["items"].([]any) {
			b := x.(map[string]any)
			seen = append(seen, b["block"].(float64))
			if b["state"] != "in_file" || b["path"] != "/dir/a b" || b["href"] != "/files/dir/a%20b" || b["ino"] != float64(a.Ino) ||
				b["offset_bytes"] != b["block"].(float64)*format.BlockSize || b["page"].(float64) < 1500 {
				t.Errorf("%v", b)
			}
		}
		if v["next_cursor"] == nil {
			break
		}
		cursor = fmt.Sprint("&cursor=", v["next_cursor"])
	}
	st := r.call("GET", "/status", nil).want(200).json()
	if n := float64(len(seen)); n < 2 || seen[0] != float64(cut) || st["bad_blocks_total"] != n || st["bad_blocks_pending_total"] != 0.0 ||
		st["error"] != "" || st["metadata_errors_total"] != 0.0 || st["data_errors_total"].(float64) < n || r.metric("permafrost_bad_blocks") != fmt.Sprint(n) {
		t.Errorf("%v; status %v", seen, st)
	}
	r.call("GET", "/readyz", nil).want(200)
	r.call("DELETE", "/files/old", nil).want(204)
	for i := range 4 { // until what it had may be used again
		r.call("PATCH", "/files/dir/a%20b?offset=0", fmt.Sprint(i), "Content-Type: application/octet-stream").want(204)
	}
	r.call("PUT", "/files/new", "goes on").want(201) // although the next free blocks are bad
	r.frozen("holder=h&lease=60s")
	r.call("POST", "/thaw?holder=h", nil).want(200)

	if v := r.call("POST", "/scrub", nil).want(200).json(); v["state"] != "running" || v["started_at"] == nil {
		t.Errorf("scrub begun: %v", v)
	}
	until(t, "the scrub ends", func() bool { return r.call("GET", "/scrub", nil).want(200).json()["passes_total"] == 1.0 })
	v := r.call("GET", "/scrub", nil).want(200).json()
	if v["state"] != "idle" || v["nodes"] != v["nodes_total"] || v["damaged_total"] != 0.0 || len(v["damages"].([]any)) != 0 || v["ended_at"] == nil ||
		r.metric("permafrost_scrub_progress_ratio") != "1" || r.metric("permafrost_scrub_running") != "0" {
		t.Errorf("%v", v)
	}

	// The metadata.
	first := r.firstNode()
	check(t, os.Truncate(path, int64(first)*format.BlockSize))
	r.call("POST", "/scrub", nil).want(200)
	until(t, "the scrub finds it", func() bool { return r.call("GET", "/scrub", nil).want(200).json()["damaged_total"] != 0.0 })
	p = r.call("GET", "/files/new", nil).problem(500, "io-error")
	block, _ := p["block"].(float64)
	if block < float64(first) {
		t.Errorf("%v", p)
	}
	st = r.call("GET", "/status", nil).want(200).json()
	if n := st["metadata_errors_total"].(float64); n == 0 || st["error"] == "" || r.metric("permafrost_read_only") != "1" || r.metric("permafrost_metadata_errors_total") != fmt.Sprint(n) {
		t.Errorf("status %v", st)
	}
	damages := r.call("GET", "/scrub", nil).want(200).json()["damages"].([]any)
	if d := damages[0].(map[string]any); d["block"].(float64) < float64(first) || d["since"] == nil || d["detail"] == "" {
		t.Errorf("%v", damages)
	}
	if reasons := fmt.Sprint(r.call("GET", "/readyz", nil).problem(503, "not-ready")["reasons"]); !strings.Contains(reasons, "read-only") {
		t.Error(reasons)
	}
	r.call("POST", "/freeze?holder=h", nil).problem(503, "read-only")
	r.call("POST", "/fsync", nil).want(200)                    // nothing has changed since
	r.call("PUT", "/files/new2", "x").problem(500, "io-error") // its directory cannot be read
	r.call("GET", "/livez", nil).want(200)
}
