package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMountOptions: what -o says is what programs see.
func TestMountOptions(t *testing.T) {
	type look struct {
		script string // F: a file of mode 644, X: a program, S: one that is set-uid, D: the mount; by sh
		uid    uint32
		fails  bool
		want   string
	}
	for options, looks := range map[string][]look{
		"ro": {
			{"echo x >F", 0, true, "Read-only file system"}, {"mkdir D/new", 0, true, "Read-only file system"},
			{"chmod 600 F", 0, true, "Read-only file system"}, {"cat F", 0, false, "content"},
		},
		"noexec":            {{"X", 0, true, "ermission denied"}, {"sh X", 0, false, "ran"}},
		"nosuid,dev":        {{"S", nobody, false, "65534"}, {"head -c1 D/null | wc -c", 0, false, "0"}},
		"suid":              {{"S", nobody, false, "0"}, {"head -c1 D/null", 0, true, "ermission denied"}},
		"uid=1234,gid=4321": {{"stat -c %u:%g F D", 0, false, "1234:4321\n1234:4321"}},
		"private":           {{"cat F", nobody, true, "ermission denied"}, {"ls D", nobody, true, "ermission denied"}, {"cat F", 0, false, "content"}},
		"": { // others come in, as far as modes let them
			{"cat F", nobody, false, "content"}, {"echo x >F", nobody, true, "ermission denied"}, {"cat D/secret", nobody, true, "ermission denied"},
			{"touch D/new", nobody, true, "ermission denied"}, {"echo x >F", 0, false, ""}, {"cat D/secret", 0, false, "secret"},
			{"stat -c %u:%g:%a F", 0, false, "0:0:644"}, {"X", nobody, false, "ran"},
		},
		"noatime": {{"cat F", 0, false, "content"}, {"grep ' D ' /proc/self/mountinfo", 0, false, "noatime"}},
		"defaults,noauto,nofail,_netdev,x-systemd.automount": {{"cat F", 0, false, "content"}},
	} {
		t.Run("o="+options, func(t *testing.T) {
			// The files are made through a mount that lets them be made.
			s, at := newMountServer(t, "suid,dev")
			if err := os.Chmod(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			mustBounded(t, "sh", "-ec", strings.ReplaceAll(`cd D; chmod 755 .; echo content >f; chmod 644 f; printf '#!/bin/sh\necho ran\n' >x; chmod 755 x
				cp "$(command -v id)" suid; chmod 4755 suid; echo secret >secret; chmod 600 secret; mknod null c 1 3`, "D", at))
			s.end()
			s.start(t, "", "--mount", at, "-o", options)
			for _, l := range looks {
				script := strings.NewReplacer("S", at+"/suid -u", "X", at+"/x", "F", at+"/f", "D", at).Replace(l.script)
				out, err := boundedCmd(t, asUser(l.uid, l.uid, "sh", "-c", script))
				if (err != nil) != l.fails || !strings.Contains(out, l.want) {
					t.Errorf("%s by user %d: %v, %q, want %q", script, l.uid, err, out, l.want)
				}
			}
		})
	}
}
