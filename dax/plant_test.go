//go:build plant

package dax

import (
	"syscall"
	"testing"
	"time"
)

// Each planted fault must be seen by what proves the opposite: otherwise the
// proofs of attach_test.go prove nothing.
func TestPlantedFaultsAreSeen(t *testing.T) {
	changed := func(r *rig) bool {
		before := string(r.file("/f", 0, 16*4096)) + string(r.file("/g", 0, 16*4096))
		time.Sleep(20 * time.Millisecond)
		return before != string(r.file("/f", 0, 16*4096))+string(r.file("/g", 0, 16*4096))
	}
	for name, f := range map[string]Fault{"skip-mapping": FaultSkipMapping, "short-run": FaultShortRun,
		"late-events": FaultLateEvents, "grant-frozen": FaultGrantFrozen} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			w := r.attached("/f", 16)
			w.do("map 1 /g 0 %d wcg", 16*4096)
			w.do("hammer 0 0 0 4096 16")
			w.do("hammer 1 1 0 4096 16")
			w.do("hammer 3 0 %d 4096 1", 15*4096) // one that needs no other page
			w.moved(0, 1000)
			w.moved(1, 1000)
			r.freeze()
			r.waitParked(3)
			if changed(r) {
				t.Fatal("it changes without a fault planted")
			}
			r.thaw()
			Plant(f)
			defer Plant(FaultNone)
			w.moved(0, w.slot(0)+1000)
			w.moved(1, w.slot(1)+1000)
			pid := int(w.do("fork 2 0 64 4096 16"))
			defer syscall.Kill(pid, syscall.SIGKILL)
			w.moved(2, 1000)
			r.freeze()
			if !changed(r) {
				t.Error("the fault was not seen")
			}
			Plant(FaultNone)
			r.thaw()
		})
	}
}
