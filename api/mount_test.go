package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"permafrost/core"
	"permafrost/core/format"
)

// standingMount stands for a mount: what a test puts in is what is shown. A
// real one is looked at through a server of its own, in cmd/permafrost.
type standingMount struct {
	status   atomic.Pointer[core.MountStatus]
	mappings []core.MappingInfo // immutable once served
}

func (m *standingMount) Status() core.MountStatus { return *m.status.Load() }

func (m *standingMount) Mappings(ino format.Ino) (out []core.MappingInfo) {
	for _, i := range m.mappings {
		if ino == 0 || i.Ino == ino {
			out = append(out, i)
		}
	}
	return out
}

func newMountRig(t *testing.T) (*rig, *standingMount) {
	m := &standingMount{}
	st := core.MountStatus{Dir: "/mnt/p", Options: "noatime,uid=7", Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Open: 9, Writable: 4, Inside: 3, Held: 2, Refused: 1}
	var write core.Latency
	for _, d := range []time.Duration{900 * time.Nanosecond, 3 * time.Microsecond, 3 * time.Microsecond, time.Minute} {
		write.Sum += d
		write.Buckets[core.LatencyBucket(d)]++
	}
	st.Ops = []core.MountOp{{Op: "write", Latency: write}}
	m.status.Store(&st)
	return newRig(t, rigOptions{change: func(o *Options) { o.Mount = m }}), m
}

// TestMountShown: a mount in /status and in the metrics, while it serves and once
// it has ended.
func TestMountShown(t *testing.T) {
	r, m := newMountRig(t)
	schemas := r.document()["components"].(map[string]any)["schemas"].(map[string]any)
	st := r.call("GET", "/status", nil).want(200).json()
	matches(t, schemas, "/status", "StatusView", st)
	want := map[string]any{"dir": "/mnt/p", "options": "noatime,uid=7", "since": "2026-01-02T03:04:05.000000006Z", "open_total": 9.0, "writable_total": 4.0,
		"requests_inside_total": 3.0, "held_total": 2.0, "refused_total": 1.0, "operations": []any{map[string]any{"op": "write", "count_total": 4.0,
			"mean_us": 15000001.725, "median_us": 4.096, "p99_us": 68719476.736}}}
	if got := jsonText(t, st["mount"]); got != jsonText(t, want) || st["mount_ended"] != "" {
		t.Errorf("mount %s, want %s; mount_ended %q", got, jsonText(t, want), st["mount_ended"])
	}
	text := string(r.call("GET", "/metrics", nil).want(200).body)
	for _, line := range []string{"permafrost_mount_up 1", "permafrost_mount_open_files 9", "permafrost_mount_writable_files 4",
		"permafrost_mount_requests_inside 3", "permafrost_mount_requests_held 2", "permafrost_mount_requests_refused_total 1",
		`permafrost_mount_request_duration_seconds_bucket{op="write",le="1.024e-06"} 1`,
		`permafrost_mount_request_duration_seconds_bucket{op="write",le="4.096e-06"} 3`,
		`permafrost_mount_request_duration_seconds_bucket{op="write",le="17.179869184"} 3`,
		`permafrost_mount_request_duration_seconds_bucket{op="write",le="+Inf"} 4`,
		`permafrost_mount_request_duration_seconds_count{op="write"} 4`,
		`permafrost_mount_request_duration_seconds_sum{op="write"} 60.0000069`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the metrics lack %q", line)
		}
	}
	ended := m.Status()
	ended.Ended = true
	m.status.Store(&ended)
	st = r.call("GET", "/status", nil).want(200).json()
	matches(t, schemas, "/status", "StatusView", st)
	if st["mount"] != nil || st["mount_ended"] != "/mnt/p" {
		t.Errorf("ended: mount %v, mount_ended %v", st["mount"], st["mount_ended"])
	}
	text = string(r.call("GET", "/metrics", nil).want(200).body)
	if !strings.Contains(text, "\npermafrost_mount_up 0\n") || strings.Contains(text, "permafrost_mount_open") {
		t.Error("the metrics show an ended mount as if it served")
	}
}

// TestMountMappings: what may be mapped through the mount stands among the
// mappings of attached programs, in order of number whatever the way in, and can
// be paged and filtered.
func TestMountMappings(t *testing.T) {
	r, m := newMountRig(t)
	r.call("PUT", "/files/m", make([]byte, 64<<10)).want(201)
	a := must(r.fs.Resolve(context.Background(), "/m"))(t)
	var want []uint64
	attached := map[uint64]bool{}
	for i := range 9 { // 1 and 2 by the mount, 3 by attach, and so on, listed backwards
		if i%3 < 2 {
			info := core.MappingInfo{ID: r.fs.NewMappingID(), Ino: a.Ino, Path: "/m", WayIn: "mount", Writable: true, Since: time.Now(),
				Process: core.Process{PID: 100 + i, UID: 7, Comm: "db"}}
			if i == 4 {
				info.Ino, info.Path = format.RootIno, "/"
			}
			m.mappings = slices.Insert(m.mappings, 0, info)
			want = append(want, info.ID)
			continue
		}
		mapped, _, err := r.fs.Map(context.Background(), a.Ino, core.MapRequest{Length: 4096, Writable: true, WayIn: "attach", Protector: protector{}})
		check(t, err)
		defer mapped.Unmap(context.Background())
		attached[mapped.ID()] = true
		want = append(want, mapped.ID())
	}
	slices.Sort(want)
	list := func(query string) (ids []uint64) {
		for cursor := ""; ; {
			v := r.call("GET", "/mappings?limit=2"+query+cursor, nil).want(200).json()
			for _, it := range v["items"].([]any) {
				it := it.(map[string]any)
				id := uint64(it["id"].(float64))
				ids = append(ids, id)
				if way := it["way_in"]; (way == "attach") != attached[id] {
					t.Errorf("mapping %d came in by %v", id, way)
				} else if way == "mount" && (it["command"] != "db" || it["uid"] != 7.0 || it["writable"] != true || len(it["ranges"].([]any)) != 0) {
					t.Errorf("mapping %v", it)
				}
			}
			if v["next_cursor"] == nil {
				return ids
			}
			cursor = "&cursor=" + v["next_cursor"].(string)
		}
	}
	if got := list(""); !slices.Equal(got, want) {
		t.Errorf("pages of /mappings have %v, want %v", got, want)
	}
	for way, is := range map[string]bool{"attach": true, "mount": false} {
		some := slices.DeleteFunc(slices.Clone(want), func(id uint64) bool { return attached[id] != is })
		if got := list("&way_in=" + way); !slices.Equal(got, some) {
			t.Errorf("way_in=%s: %v, want %v", way, got, some)
		}
	}
	r.call("GET", "/mappings?way_in=rest", nil).problem(422, "bad-parameter")
	one := r.call("GET", fmt.Sprintf("/inodes/%d", a.Ino), nil).want(200).json()
	if n := len(one["mappings"].([]any)); n != 8 || one["mappings_total"] != 3.0 {
		t.Errorf("inode %d has %d mappings, mappings_total %v", a.Ino, n, one["mappings_total"])
	}
	if st := r.call("GET", "/status", nil).json(); st["mappings_total"] != 3.0 {
		t.Errorf("status counts %v mappings", st["mappings_total"])
	}
	root := r.call("GET", "/inodes/1", nil).want(200).json()
	if n := len(root["mappings"].([]any)); n != 1 {
		t.Errorf("the root has %d", n)
	}
}
