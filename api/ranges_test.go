package api

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"testing"
)

// TestRanges holds every odd form of Range against RFC 9110, on a file and on
// an image.
func TestRanges(t *testing.T) {
	r := newRig(t, rigOptions{})
	want := map[string][]byte{"/files/f": randomBytes(1000)}
	r.call("PUT", "/files/f", want["/files/f"]).want(201)
	r.call("PUT", "/files/empty", "").want(201)
	f := r.frozen("holder=h")
	image := make([]byte, r.medium.Size())
	_ = must(r.medium.ReadAt(image, 0))(t)
	want[fmt.Sprintf("/freezes/%v/image", f["id"])] = image
	huge := "99999999999999999999999999"
	for path, all := range want {
		n := len(all)
		for _, c := range []struct {
			header      string
			status      int
			first, last int // of the body, if 206
		}{
			{"bytes=0-", 206, 0, n - 1},
			{"bytes=0-0", 206, 0, 0},
			{"bytes=-1", 206, n - 1, n - 1},
			{fmt.Sprint("bytes=-", n+5), 206, 0, n - 1},
			{"bytes=-" + huge, 206, 0, n - 1},
			{"bytes=10-" + huge, 206, 10, n - 1},
			{fmt.Sprint("bytes=", n-1, "-", n), 206, n - 1, n - 1},
			{"BYTES=3-4", 206, 3, 4},
			{"bytes= 3-4", 206, 3, 4},
			{"bytes=3-4 ,", 206, 3, 4},
			{"bytes=\t, 3-4", 206, 3, 4},
			{"bytes=3-4,-0", 206, 3, 4},
			{"bytes=3-4," + huge + "-", 206, 3, 4},
			{"bytes=003-004", 206, 3, 4},
			{"bytes=-0", 416, 0, 0},
			{"bytes=-00", 416, 0, 0},
			{"bytes=-0,-0", 416, 0, 0},
			{fmt.Sprint("bytes=", n, "-"), 416, 0, 0},
			{"bytes=" + huge + "-", 416, 0, 0},
			{"bytes=" + huge + "-" + huge, 416, 0, 0},
			{"bytes=5-4", 416, 0, 0},
			{"bytes=0-3,5-4", 416, 0, 0},
			{"bytes=", 416, 0, 0},
			{"bytes=-", 416, 0, 0},
			{"bytes=--5", 416, 0, 0},
			{"bytes=a-b", 416, 0, 0},
			{"bytes=+1-2", 416, 0, 0},
			{"bytes=1 - 2", 416, 0, 0},
			{"bytes=0x1-2", 416, 0, 0},
			{"bytes=7", 416, 0, 0},
			{"lines=1-2", 200, 0, 0},
			{"bytes", 416, 0, 0},
			{"none", 200, 0, 0},
			{"bytes=0-,0-,0-", 200, 0, 0},
		} {
			got := r.call("GET", path, nil, "Range: "+c.header)
			at := fmt.Sprintf("%s, Range: %s", path, c.header)
			if got.status != c.status {
				t.Errorf("%s: status %d, want %d", at, got.status, c.status)
				continue
			}
			cr := got.header.Get("Content-Range")
			switch c.status {
			case 200:
				if !bytes.Equal(got.body, all) || cr != "" {
					t.Errorf("%s: not the whole: %d bytes, Content-Range %q", at, len(got.body), cr)
				}
			case 206:
				if wanted := fmt.Sprintf("bytes %d-%d/%d", c.first, c.last, n); cr != wanted || !bytes.Equal(got.body, all[c.first:c.last+1]) {
					t.Errorf("%s: %d bytes, Content-Range %q, want %q", at, len(got.body), cr, wanted)
				}
			case 416:
				got.problem(416, "range-not-satisfiable")
				if wanted := fmt.Sprintf("bytes */%d", n); cr != wanted {
					t.Errorf("%s: Content-Range %q, want %q", at, cr, wanted)
				}
			}
		}
		if got := r.call("HEAD", path, nil, "Range: bytes=0-4").want(200); got.header.Get("Content-Length") != fmt.Sprint(n) {
			t.Errorf("HEAD %s with a range: Content-Length %q", path, got.header.Get("Content-Length"))
		}
		// A condition that fails comes before the range: the whole is sent.
		r.call("GET", path, nil, "Range: bytes=-0", `If-Range: "another"`).want(200)
		tag := r.call("HEAD", path, nil).want(200).header.Get("ETag")
		r.call("GET", path, nil, "Range: bytes=5-4", "If-None-Match: "+tag).want(304)
		r.call("GET", path, nil, "Range: bytes=-0", "If-Range: "+tag).want(416)
		testManyRanges(t, r, path, all)
	}
	for _, header := range []string{"bytes=0-", "bytes=-5", "bytes=-0", "bytes=7-9"} {
		if got := r.call("GET", "/files/empty", nil, "Range: "+header).want(200); len(got.body) != 0 || got.header.Get("Content-Range") != "" {
			t.Errorf("%s of an empty file: %d bytes, %v", header, len(got.body), got.header)
		}
	}
	r.thawed("holder=h")
}

// testManyRanges asks for ranges out of order, one of them outside.
func testManyRanges(t *testing.T, r *rig, path string, all []byte) {
	t.Helper()
	got := r.call("GET", path, nil, fmt.Sprintf("Range: bytes=500-509, 0-4, %d-,-3", len(all))).want(206)
	_, params, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(bytes.NewReader(got.body), params["boundary"])
	for _, want := range [][2]int{{500, 509}, {0, 4}, {len(all) - 3, len(all) - 1}} {
		p, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		body := must(io.ReadAll(p))(t)
		if cr := p.Header.Get("Content-Range"); cr != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1], len(all)) || !bytes.Equal(body, all[want[0]:want[1]+1]) {
			t.Errorf("%s: part %q with %d bytes, want %v", path, cr, len(body), want)
		}
	}
	if _, err := mr.NextPart(); err != io.EOF {
		t.Errorf("%s: a part too many: %v", path, err)
	}
}
