package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"permafrost/core"
	"permafrost/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// protector stands for a way in: it says yes. What protection does to real
// processes is tested where it is made.
type protector struct{}

func (protector) Protect(context.Context, []core.PageRun) error { return nil }

// TestMapped: a file that a program maps and has stored to, on every call that
// shows or minds it.
func TestMapped(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.call("PUT", "/files/m", make([]byte, 64<<10)).want(201)
	a := must(r.fs.Resolve(context.Background(), "/m"))(t)
	m, _, err := r.fs.Map(context.Background(), a.Ino, core.MapRequest{Length: 64 << 10, Writable: true, WayIn: "attach",
		Process: core.Process{PID: 4242, UID: 7, Comm: "db"}, Protector: protector{}})
	check(t, err)
	grant := func(core.PageRun) error { return nil }
	check(t, m.Mkwrite(2, 1, grant))
	check(t, m.Mkwrite(5, 1, grant))

	list := r.call("GET", "/mappings", nil).want(200).json()["items"].([]any)
	if len(list) != 1 {
		t.Fatalf("mappings %v", list)
	}
	if v := list[0].(map[string]any); v["pid"] != 4242.0 || v["command"] != "db" || v["uid"] != 7.0 || v["path"] != "/m" || v["href"] != "/files/m" ||
		v["writable"] != true || v["dirty_pages_total"] != 2.0 || v["way_in"] != "attach" {
		t.Errorf("mapping %v", v)
	}
	dirty := r.call("GET", "/inodes?dirty=true", nil).want(200).json()["items"].([]any)
	if len(dirty) != 1 || dirty[0].(map[string]any)["dirty_pages_total"] != 2.0 {
		t.Errorf("dirty inodes %v", dirty)
	}
	one := r.call("GET", fmt.Sprintf("/inodes/%d", a.Ino), nil).want(200).json()
	if fmt.Sprint(one["dirty_ranges"]) != "[map[count:1 first:2] map[count:1 first:5]]" || len(one["mappings"].([]any)) != 1 {
		t.Errorf("inode %v", one)
	}
	// Its content may change without a trace: no strong tag, no If-Match.
	tag := r.call("HEAD", "/files/m", nil).want(200).header.Get("ETag")
	if !strings.HasPrefix(tag, "W/") {
		t.Errorf("ETag %q of a file under stores", tag)
	}
	r.call("PATCH", "/files/m?offset=0", "x", "If-Match: "+tag).problem(412, "precondition-failed")
	r.call("PATCH", "/files/m?truncate=0", nil).problem(409, "mapped")

	f := r.frozen("holder=h")
	if fl := f["flushed"].(map[string]any); fl["inodes"] != 1.0 || fl["pages"] != 2.0 {
		t.Errorf("flushed %v", fl)
	}
	r.thawed("holder=h")
	r.flush()
	found := r.call("GET", fmt.Sprintf("/freezes/%v/inodes", f["id"]), nil).want(200).json()["items"].([]any)
	if len(found) != 1 || found[0].(map[string]any)["path"] != "/m" || found[0].(map[string]any)["pages"] != 2.0 {
		t.Errorf("found %v", found)
	}
	history := r.call("GET", fmt.Sprintf("/inodes/%d/history", a.Ino), nil).want(200).json()["items"].([]any)
	if len(history) != 1 || history[0].(map[string]any)["freeze_id"] != f["id"] {
		t.Errorf("history %v", history)
	}
	check(t, m.Mkwrite(3, 1, grant))
	if v := r.call("POST", "/fsync?path=/m", nil).want(200).json(); v["pages"] != 1.0 || v["bytes"] != 4096.0 {
		t.Errorf("fsync %v", v)
	}
	// Its blocks and the mapping outlive its name.
	r.call("PUT", "/files/m", "new").want(204)
	if n := len(r.call("GET", "/mappings", nil).json()["items"].([]any)); n != 1 {
		t.Errorf("%d mappings after the name went to another file", n)
	}
	check(t, m.Unmap(context.Background()))
}

// TestSlowEventReader: a client that does not read for a while is cut from the
// live stream, and is given from the ledger what it missed: nothing lost,
// nothing twice.
func TestSlowEventReader(t *testing.T) {
	const events = 600
	r := newRig(t, rigOptions{})
	e := r.events("")
	pad := strings.Repeat("x", 32<<10)
	stall := make(chan struct{})
	var ids []int64
	done := make(chan struct{})
	go func() { // the lines channel of e fills and its reader stands
		defer close(done)
		<-stall
		for range events {
			id, _ := e.next()
			ids = append(ids, id)
		}
	}()
	for i := range events {
		check(t, r.ledger.RecordEvent(store.LedgerEvent{At: time.Now(), Kind: "test", Data: []byte(`"` + pad + `"`)}))
		if i%50 == 49 {
			r.flush()
		}
	}
	if cut := r.ledger.Stats().Cut; cut == 0 {
		t.Log("the reader was never cut: socket buffers took all")
	}
	close(stall)
	<-done
	for i, id := range ids {
		if id != int64(i+1) {
			t.Fatalf("event %d of the stream has id %d", i+1, id)
		}
	}
}
