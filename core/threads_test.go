package core

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"permafrost/core/format"
)

// TestThawOfACrowd: a thaw lets everybody go at once. What they do then is
// bounded in threads, of which the runtime allows ten thousand, however many
// they are.
func TestThawOfACrowd(t *testing.T) {
	w := newWorld(t, 64<<20)
	const crowd = 1500
	inos := make([]format.Ino, crowd)
	for i := range inos {
		inos[i] = w.file(root, fmt.Sprint(i))
	}
	w.freeze()
	before := threadsOf(t)
	var wg sync.WaitGroup
	for _, ino := range inos {
		wg.Go(func() {
			if _, err := w.fs.WriteAt(ctx, ino, make([]byte, 3*format.PageSize), 0); err != nil {
				t.Error(err)
			}
			if _, err := w.fs.WaitDurable(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return w.fs.Status().Blocked == crowd })
	w.thaw()
	wg.Wait()
	if n := threadsOf(t) - before; n > cap(w.fs.threads)+50 {
		t.Errorf("%d more threads than before, with %d slots", n, cap(w.fs.threads))
	}
}

// threadsOf counts the threads of this process; idle ones stay.
func threadsOf(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(list)
}
