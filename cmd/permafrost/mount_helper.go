package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"permafrost/mount"
)

// helperName is this program's name where mount(8) looks for it: a symbolic link
// in /sbin makes "mount -t permafrost" and lines of /etc/fstab work.
const helperName = "mount.permafrost"

// Exit statuses of mount(8).
const (
	exitMountUsage  = 1
	exitMountFailed = 32
)

// runAs is run under the name that the program was called by.
func runAs(name string, args []string, stdout, stderr io.Writer) int {
	if filepath.Base(name) == helperName {
		return runHelper(args, stdout, stderr)
	}
	return run(args, stdout, stderr)
}

// helperCall is what mount(8) asks: SPEC DIR [-sfnv] [-N namespace] [-o options] [-t type].
type helperCall struct {
	spec, dir           string
	options             []string
	sloppy, fake, verbo bool
}

// parseHelper reads the arguments that mount(8) gives: options may stand together, and
// behind SPEC and DIR.
func parseHelper(args []string) (h helperCall, err error) {
	var where []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			where = append(where, a)
			continue
		}
		for at, letter := range a[1:] {
			switch letter {
			case 's':
				h.sloppy = true
			case 'f':
				h.fake = true
			case 'v':
				h.verbo = true
			case 'n': // there is no mtab
			case 'r':
				h.options = append(h.options, "ro")
			case 'w':
				h.options = append(h.options, "rw")
			case 'o', 't', 'N':
				value := a[at+2:]
				if value == "" {
					if i++; i == len(args) {
						return h, fmt.Errorf("-%c takes a value", letter)
					}
					value = args[i]
				}
				if letter == 'N' {
					return h, fmt.Errorf("-N is not supported: enter the namespace with nsenter(1) first")
				}
				if letter == 'o' {
					h.options = append(h.options, value)
				}
			default:
				return h, fmt.Errorf("-%c is not known", letter)
			}
			if letter == 'o' || letter == 't' {
				break
			}
		}
	}
	if len(where) != 2 {
		return h, fmt.Errorf("usage: %s IMAGE DIR [-sfnvrw] [-o OPTIONS] [-t TYPE]", helperName)
	}
	h.spec, h.dir = where[0], where[1]
	return h, nil
}

// runHelper is mount.permafrost.
func runHelper(args []string, stdout, stderr io.Writer) int {
	say := func(code int, err error) int {
		fmt.Fprintf(stderr, "%s: %v\n", helperName, err)
		return code
	}
	h, err := parseHelper(args)
	if err != nil {
		return say(exitMountUsage, err)
	}
	if h.sloppy {
		h.options = knownOptions(h.options)
	}
	p, err := planMount(h.spec, h.dir, h.options)
	if err != nil {
		return say(exitMountUsage, err)
	}
	if h.fake {
		return exitOK
	}
	d, err := p.background()
	if err != nil {
		return say(exitMountFailed, err)
	}
	if h.verbo {
		fmt.Fprintf(stdout, "%s: %s mounted on %s by process %d; its log is %s\n", helperName, p.image, p.dir, d.pid, p.log)
	}
	return exitOK
}

// knownOptions leaves out what neither the server nor the mount knows.
func knownOptions(list []string) (out []string) {
	for _, o := range strings.Split(strings.Join(list, ","), ",") {
		_, rest, err := splitOptions([]string{o})
		if err == nil {
			_, err = mount.ParseFlags(rest...)
		}
		if err == nil {
			out = append(out, o)
		}
	}
	return out
}
