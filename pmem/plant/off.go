//go:build !plant

package plant

// Enabled: this build contains the faults.
const Enabled = false

// Set does nothing in this build.
func Set(Fault) {}

// On reports whether the mistake is to be made: never in this build.
func On(Fault) bool { return false }
