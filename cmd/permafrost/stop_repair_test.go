package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"permafrost/core/crash"
	"permafrost/core/format"
	"permafrost/pmem"
)

// TestEndDuringRepair ends `check --repair` at random moments, by SIGTERM and by
// SIGKILL: the image is as damaged as it was, or repaired, never between.
func TestEndDuringRepair(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	image := populatedImage(t)
	block := leafOfInode(t, image, 150)
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Clone(m.Bytes(int64(block)*format.BlockSize, format.BlockSize))
	page[4000] ^= 1
	storeBlock(t, m, int(block), page)
	m.Close()
	damaged, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	problems := func() (doc wireReport) {
		out, _ := program(t, time.Minute, "check", image, "--json")
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		slices.SortFunc(doc.Problems, func(a, b wireProblem) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) // in no order
		return doc
	}
	want := problems()
	if want.Clean {
		t.Fatal("the check finds nothing")
	}
	began := time.Now()
	if out, err := program(t, time.Minute, "check", "--repair", image); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The moments close in on the one at which the image changes: one that came
	// after it makes the next ones earlier, one before it later. A machine whose
	// load changes meanwhile is followed.
	middle := time.Since(began)
	rounds, repaired, same := 40, 0, 0
	for round := range rounds {
		if err := os.WriteFile(image, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		sig := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[round%2]
		after := middle/2 + time.Duration(rng.Int64N(int64(middle)))
		out, err := endAfter(t, sig, after, "check", "--repair", image)
		doc := problems()
		switch {
		case doc.Clean:
			repaired++
			middle -= middle / 4
		case !reflect.DeepEqual(doc.Problems, want.Problems) || doc.Generation != want.Generation:
			t.Fatalf("round %d, %v after %v: neither as before nor repaired: %+v\nbefore: %+v", round, sig, after, doc, want)
		case strings.Contains(out, "as it was") && changedInUse(t, image, damaged) != 0:
			t.Fatalf("round %d, %v after %v: it says that the file system is as it was, and block %d is not:\n%s",
				round, sig, after, changedInUse(t, image, damaged), out)
		default:
			same++
			middle += middle / 3
		}
		if code := exitCode(err); code == exitOK && !doc.Clean || code > exitFailed {
			t.Fatalf("round %d, %v after %v: status %v, and the image is clean: %v\n%s", round, sig, after, err, doc.Clean, out)
		}
	}
	t.Logf("of %d repairs that were ended, %d had repaired the image and %d had not", rounds, repaired, same)
	if repaired == 0 || same == 0 {
		t.Errorf("ended at the wrong moments: %d repaired, %d not", repaired, same)
	}
}

// changedInUse is the first block that a commit of the image leads to and that
// is not as it was; 0 if there is none. A repair that was stopped may have
// written to free blocks.
func changedInUse(t *testing.T, image string, was []byte) format.Block {
	t.Helper()
	m, err := pmem.Open(image, pmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	inUse, err := crash.Reached(m)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < int64(len(was)); at += format.BlockSize {
		b := format.Block(at / format.BlockSize)
		if inUse.Has(b) && !bytes.Equal(m.Bytes(at, format.BlockSize), was[at:at+format.BlockSize]) {
			return b
		}
	}
	return 0
}

// endAfter runs permafrost and sends it a signal after a time.
func endAfter(t *testing.T, sig syscall.Signal, after time.Duration, args ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(sig) }) // it may have ended
	defer timer.Stop()
	err = cmd.Wait()
	return out.String(), err
}
