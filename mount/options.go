package mount

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags is what -o says. The zero value is what a mount has by default.
type Flags struct {
	ReadOnly     bool
	Private      bool    // only for the user who mounted
	Owner, Group *uint32 // all files appear as theirs
	mount        uintptr // MS_* bits
	text         []string
}

// plainFlags are the options that are a bit of mount(2), set or cleared.
var plainFlags = map[string]struct { // immutable
	bit uintptr
	on  bool
}{
	"suid": {unix.MS_NOSUID, false}, "nosuid": {unix.MS_NOSUID, true},
	"dev": {unix.MS_NODEV, false}, "nodev": {unix.MS_NODEV, true},
	"exec": {unix.MS_NOEXEC, false}, "noexec": {unix.MS_NOEXEC, true},
	"sync": {unix.MS_SYNCHRONOUS, true}, "async": {unix.MS_SYNCHRONOUS, false},
	"dirsync": {unix.MS_DIRSYNC, true},
	"atime":   {unix.MS_NOATIME, false}, "noatime": {unix.MS_NOATIME, true},
	"relatime": {unix.MS_RELATIME, true}, "nodiratime": {unix.MS_NODIRATIME, true},
}

// forOthers are options of /etc/fstab that concern mount(8) and systemd, not us.
var forOthers = []string{"auto", "noauto", "user", "nouser", "users", "owner", "nofail", "_netdev", "defaults"} // immutable

// ParseFlags reads the text of -o: options separated by commas, repeated or not.
// Set-uid programs and devices are off unless "suid" and "dev" are given, as
// on every FUSE mount.
//
// Errors name the option, and what is meant by it.
func ParseFlags(list ...string) (Flags, error) {
	f := Flags{mount: unix.MS_NOSUID | unix.MS_NODEV, Private: os.Geteuid() != 0}
	for _, text := range list {
		for _, o := range strings.Split(text, ",") {
			if o = strings.TrimSpace(o); o == "" {
				continue
			}
			if err := f.add(o); err != nil {
				return f, err
			}
			f.text = append(f.text, o)
		}
	}
	return f, nil
}

func (f *Flags) add(o string) error {
	if p, ok := plainFlags[o]; ok {
		f.mount &^= p.bit
		if p.on {
			f.mount |= p.bit
		}
		return nil
	}
	name, value, has := strings.Cut(o, "=")
	for _, other := range forOthers {
		if name == other {
			return nil
		}
	}
	if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || name == "comment" {
		return nil // for systemd and mount(8)
	}
	switch name {
	case "ro", "rw":
		f.ReadOnly = name == "ro"
	case "allow_other":
		f.Private = false
	case "private":
		f.Private = true
	case "default_permissions": // always so
	case "uid", "gid":
		n, err := strconv.ParseUint(value, 10, 32)
		if !has || err != nil || n == 1<<32-1 {
			return fmt.Errorf("mount option %s=%q: give a number, such as %s=1000", name, value, name)
		}
		id := uint32(n)
		if name == "uid" {
			f.Owner = &id
		} else {
			f.Group = &id
		}
	case "acl", "allow_root", "umask", "fmask", "dmask":
		return fmt.Errorf("mount option %q is not supported: access is by owner, group and mode of each file, for everybody (allow_other) or for the mounting user (private)", o)
	default:
		return fmt.Errorf("mount option %q is not known; known are ro, rw, allow_other, private, uid=, gid=, [no]suid, [no]dev, [no]exec, [no]atime, relatime, nodiratime, sync, dirsync", o)
	}
	return nil
}

// String is the options as they were given.
func (f Flags) String() string { return strings.Join(f.text, ",") }
