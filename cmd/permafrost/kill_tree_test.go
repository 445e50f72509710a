package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// killNode is a file or directory as a client knows it.
type killNode struct {
	dir  bool
	data []byte // of a file; never changed in place
}

func (n killNode) String() string {
	if n.dir {
		return "a directory"
	}
	return fmt.Sprintf("a file of %d bytes", len(n.data))
}

func (n killNode) equal(o killNode) bool { return n.dir == o.dir && bytes.Equal(n.data, o.data) }

// killTree is what lies in the image, by path.
type killTree map[string]killNode

// differs tells where got is not want, or "".
func (want killTree) differs(got killTree) string {
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w := want[path]
		g, ok := got[path]
		if !ok {
			return fmt.Sprintf("%s is not there, it was %v", path, w)
		}
		if !w.equal(g) {
			return fmt.Sprintf("%s is %v where %v was written%s", path, g, w, firstDifference(w.data, g.data))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			return fmt.Sprintf("%s is there, %v, and nobody made it", path, got[path])
		}
	}
	return ""
}

func firstDifference(want, got []byte) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Sprintf("; byte %d is %#02x and not %#02x", i, got[i], want[i])
		}
	}
	return ""
}

// under are the paths of a directory and all that is in it.
func (t killTree) under(dir string) []string {
	var all []string
	for path := range t {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			all = append(all, path)
		}
	}
	return all
}

// files are the paths of plain files straight under the root of the load.
func (t killTree) files() []string {
	var all []string
	for path, n := range t {
		if !n.dir && !strings.Contains(path, "/") {
			all = append(all, path)
		}
	}
	slices.Sort(all)
	return all
}

// dirs are the directories straight under the root of the load.
func (t killTree) dirs() []string {
	var all []string
	for path, n := range t {
		if n.dir && !strings.Contains(path, "/") {
			all = append(all, path)
		}
	}
	slices.Sort(all)
	return all
}

// readTree reads everything below a directory over REST.
func readTree(ctx context.Context, api *apiClient, root string) (killTree, error) {
	t := killTree{}
	todo := []string{""}
	for len(todo) > 0 {
		dir := todo[0]
		todo = todo[1:]
		entries, err := listDir(ctx, api, root+dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := strings.TrimPrefix(dir+"/"+e.Name, "/")
			if e.Type == "directory" {
				t[path] = killNode{dir: true}
				todo = append(todo, "/"+path)
				continue
			}
			data, err := api.readFile(ctx, root+"/"+path)
			if err != nil {
				return nil, err
			}
			t[path] = killNode{data: data}
		}
	}
	return t, nil
}

func listDir(ctx context.Context, api *apiClient, dir string) ([]wireEntry, error) {
	var all []wireEntry
	for cursor := ""; ; {
		var page wireList[wireEntry]
		path := strings.TrimRight(filePath(dir), "/") + "/"
		if _, err := api.call(ctx, "GET", path, params("limit", "1000", "cursor", cursor), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all, nil
		}
	}
}

// killOp is one change as a client asks for it, with what may be seen of it
// after a crash that came before its answer.
type killOp struct {
	text   string
	send   func(ctx context.Context, api *apiClient) error
	change func(t killTree) // the change itself
	// between accepts what is neither before nor after; nil accepts nothing.
	between func(before, after, got killTree) error
}

// settle holds what is in the image against what a client knows: everything
// acknowledged, and the change that was not answered either whole or not at all.
func (o *killOp) settle(known, got killTree) error {
	if o == nil {
		if d := known.differs(got); d != "" {
			return fmt.Errorf("an acknowledged change is lost: %s", d)
		}
		return nil
	}
	before := known.differs(got)
	if before == "" {
		return nil
	}
	after := maps.Clone(known)
	o.change(after)
	changed := after.differs(got)
	if changed == "" {
		return nil
	}
	if o.between != nil {
		err := o.between(known, after, got)
		if err == nil {
			return nil
		}
		return fmt.Errorf("after an unanswered %s: %w", o.text, err)
	}
	return fmt.Errorf("after an unanswered %s it is neither as before (%s) nor as after (%s)", o.text, before, changed)
}

// patchedPart accepts a write in place that got only so far: each byte of the
// range is old or new, the file ends at its old end, its new end or between,
// and what lies past the old end is new.
func patchedPart(path string, off int) func(before, after, got killTree) error {
	return func(before, after, got killTree) error {
		was, is, g := before[path].data, after[path].data, got[path].data
		rest := maps.Clone(before)
		rest[path] = got[path]
		if d := rest.differs(got); d != "" {
			return fmt.Errorf("something else changed: %s", d)
		}
		if len(g) < len(was) || len(g) > len(is) {
			return fmt.Errorf("%s has %d bytes; it had %d and was to have %d", path, len(g), len(was), len(is))
		}
		for i, b := range g {
			if i < len(was) && b == was[i] || i >= off && b == is[i] || i >= len(was) && b == is[i] {
				continue
			}
			return fmt.Errorf("byte %d of %s is neither old nor new", i, path)
		}
		return nil
	}
}

// removedPart accepts a recursive delete that got only so far: what is left of
// the directory is as it was, and nothing else changed.
func removedPart(dir string) func(before, after, got killTree) error {
	return func(before, after, got killTree) error {
		rest := maps.Clone(after)
		for _, path := range before.under(dir) {
			if _, left := got[path]; left {
				rest[path] = before[path]
			}
		}
		if d := rest.differs(got); d != "" {
			return fmt.Errorf("what is left is not as it was: %s", d)
		}
		return nil
	}
}

// madePart accepts a PUT with parents that made only some of them.
func madePart(steps []string) func(before, after, got killTree) error {
	return func(before, after, got killTree) error {
		rest := maps.Clone(before)
		for _, path := range steps {
			if _, had := before[path]; had {
				continue
			}
			rest[path] = after[path]
			if rest.differs(got) == "" {
				return nil
			}
		}
		return fmt.Errorf("it is not a beginning of the directories to make: %s", before.differs(got))
	}
}
