//go:build !plant

package dax

import "permafrost/dax/uffd"

// Planted faults exist only in builds with the tag "plant": a proof that never
// fails proves nothing. Here they are constants that the compiler removes.
const planted = false

func plantSkipMapping(*mapping) bool            { return false }
func plantShortRun() bool                       { return false }
func plantLateEvent(*member, uffd.Message) bool { return false }
func plantGrantFrozen() bool                    { return false }
