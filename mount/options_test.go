package mount

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseFlags(t *testing.T) {
	f, err := ParseFlags("ro,noexec", "uid=1000,gid=7", "defaults,nofail,x-systemd.automount,_netdev", "suid, dev,noatime")
	if err != nil {
		t.Fatal(err)
	}
	if !f.ReadOnly || f.Owner == nil || *f.Owner != 1000 || f.Group == nil || *f.Group != 7 {
		t.Errorf("%+v", f)
	}
	if want := uintptr(unix.MS_NOEXEC | unix.MS_NOATIME); f.mount != want {
		t.Errorf("mount bits %#x, want %#x", f.mount, want)
	}
	if f, _ = ParseFlags(); f.mount != unix.MS_NOSUID|unix.MS_NODEV {
		t.Errorf("by default %#x: set-uid programs and devices must be off", f.mount)
	}
	if f, _ = ParseFlags("ro", "rw"); f.ReadOnly {
		t.Error("the last one of ro and rw must count")
	}
	for _, bad := range []struct{ text, says string }{
		{"nosiud", "not known"}, {"uid=", "number"}, {"uid=4294967295", "number"}, {"gid=root", "number"}, {"uid", "number"},
		{"acl", "not supported"}, {"umask=022", "not supported"}, {"ro,bogus=1", "bogus=1"},
	} {
		if _, err := ParseFlags(bad.text); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("-o %s: %v", bad.text, err)
		}
	}
}

func TestPrivileges(t *testing.T) {
	for mode, want := range map[uint32]uint32{0o644: 0o644, 0o4755: 0o755, 0o2755: 0o755, 0o6711: 0o711, 0o2644: 0o2644, 0o1777: 0o1777} {
		if got := withoutPrivileges(mode); got != want || privileged(mode) != (got != mode) {
			t.Errorf("%#o: %#o, privileged %v", mode, got, privileged(mode))
		}
	}
}
