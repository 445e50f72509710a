package tree

import "fmt"

// Fail is for a caller whose operation failed between two changes of this
// transaction: if it changed anything, half of it must never be committed, and
// err becomes the cause of the ERROR state (T11). Otherwise it does nothing.
func (t *Tx) Fail(err error) {
	if t.changed && !t.ended {
		_ = t.s.fail(fmt.Errorf("a transaction failed half way: %w", err)) // told by the next Begin, Commit or Err
	}
}
