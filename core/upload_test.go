package core

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// brokenReader ends as a body does whose sender went away.
type brokenReader struct{ r io.Reader }

func (b brokenReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// TestUploadThatBrokeOff: a sender that went away is not the end of the file.
func TestUploadThatBrokeOff(t *testing.T) {
	w := newWorld(t, 8<<20)
	u, err := w.fs.NewUpload(ctx, NewNode{Mode: 0o100644})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	n, err := u.ReadFrom(brokenReader{strings.NewReader("half of it")})
	if n != 10 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}
