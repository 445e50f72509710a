package main

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestMountPosix runs go-fuse's own tests of POSIX semantics, all of them but
// one that expects two descriptors of one process to refuse each other a record
// lock: on no file system do they, and go-fuse leaves it out too.
func TestMountPosix(t *testing.T) {
	m := newMountFixture(t, "256MiB")
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, m.sub(t, name)) })
	}
}
