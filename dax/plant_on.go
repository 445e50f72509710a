//go:build plant

package dax

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"permafrost/dax/uffd"
)

// Fault is a mistake built in on purpose, to see the proofs fail.
type Fault int32

// The planted faults.
const (
	FaultNone        Fault = iota
	FaultSkipMapping       // every second writable mapping is never write-protected again
	FaultShortRun          // the last page of a run is left out
	FaultLateEvents        // pending events are not applied before protecting
	FaultGrantFrozen       // a store is granted although the gate is closed
)

const planted = true

var plantedFault atomic.Int32

// Plant selects the fault of this process.
func Plant(f Fault) { plantedFault.Store(int32(f)) }

func plant(f Fault) bool { return Fault(plantedFault.Load()) == f }

func plantSkipMapping(m *mapping) bool { return plant(FaultSkipMapping) && m.id%2 == 0 }
func plantShortRun() bool              { return plant(FaultShortRun) }
func plantGrantFrozen() bool           { return plant(FaultGrantFrozen) }

// plantLateEvent applies a fork's event a while later, if that is planted.
func plantLateEvent(m *member, e uffd.Message) bool {
	const late = 2 * time.Second
	if !plant(FaultLateEvents) {
		return false
	}
	time.AfterFunc(late, func() {
		m.c.evMu.Lock()
		defer m.c.evMu.Unlock()
		if m.gone {
			_ = unix.Close(e.FD) // the child ends unwatched
			return
		}
		m.applyForkLocked(e.FD)
	})
	return true
}
