package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMountSeesREST changes files over REST that the kernel has cached, as names,
// as listings, as attributes and as data, and sees the change through the mount.
func TestMountSeesREST(t *testing.T) {
	m := newMountFixture(t, "48MiB")
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	rest := func(method, path string, query []string, body string) {
		t.Helper()
		resp, err := m.client.do(ctx, method, path, params(query...), strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		resp.Body.Close()
	}
	want := map[string]string{} // what files hold
	// look is what a program sees; reading it is what makes the kernel cache it.
	look := func() string {
		var lines []string
		names, err := os.ReadDir(m.mnt)
		if err != nil {
			return err.Error()
		}
		for _, e := range names {
			data, err := os.ReadFile(filepath.Join(m.mnt, e.Name()))
			st, serr := os.Stat(filepath.Join(m.mnt, e.Name()))
			if err != nil || serr != nil {
				return fmt.Sprint(err, serr)
			}
			lines = append(lines, fmt.Sprintf("%s %d %q", e.Name(), st.Size(), data))
		}
		for i := range 8 { // names that are not there are cached as well
			if _, err := os.Stat(filepath.Join(m.mnt, fmt.Sprint("f", i))); err == nil && want[fmt.Sprint("f", i)] == "" {
				lines = append(lines, fmt.Sprintf("f%d is there", i))
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	for step := range 120 {
		name := fmt.Sprint("f", rng.IntN(8))
		content := fmt.Sprintf("step %d of seed %d%s", step, seed, strings.Repeat(".", rng.IntN(9000)))
		switch old, there := want[name]; rng.IntN(5) {
		case 0, 1:
			rest("PUT", filePath("/"+name), nil, content)
			want[name] = content
		case 2:
			if there {
				rest("PATCH", filePath("/"+name), []string{"offset", "3"}, "#")
				want[name] = old[:3] + "#" + old[4:]
			}
		case 3:
			if there {
				rest("DELETE", filePath("/"+name), nil, "")
				delete(want, name)
			}
		case 4:
			to := fmt.Sprint("f", rng.IntN(8))
			if there && to != name {
				rest("POST", filePath("/"+name), []string{"rename_to", "/" + to, "replace", "true"}, "")
				want[to] = old
				delete(want, name)
			}
		}
		var lines []string
		for n, c := range want {
			lines = append(lines, fmt.Sprintf("%s %d %q", n, len(c), c))
		}
		slices.Sort(lines)
		expect := strings.Join(lines, "\n")
		deadline := time.Now().Add(10 * time.Second)
		for look() != expect {
			if time.Now().After(deadline) {
				t.Fatalf("step %d: programs see\n%.600s\nwhere REST has\n%.600s", step, look(), expect)
			}
			time.Sleep(time.Millisecond)
		}
	}
}
