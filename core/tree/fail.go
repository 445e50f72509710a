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

// Fail enters the ERROR state for a fence that failed (T11), unless there is a
// cause already.
func (s *Store) Fail(err error) { _ = s.fail(err) } // told by the next Begin, Commit or Err
