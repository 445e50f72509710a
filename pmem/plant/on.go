//go:build plant

package plant

import "sync/atomic"

// Enabled: this build contains the faults.
const Enabled = true

var current atomic.Int32

// Set makes the process make one mistake from now on, or none.
func Set(f Fault) { current.Store(int32(f)) }

// On reports whether the mistake is to be made.
func On(f Fault) bool { return Fault(current.Load()) == f }
