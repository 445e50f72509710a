package store

import (
	"encoding/json"
	"fmt"
	"slices"
)

// chunkRows is how many rows of one found or blocked list make one record, so
// that a batch stays small (L2) and a full queue loses little at a time.
const chunkRows = 128

// rowBytes is what one row costs in memory beside its strings.
const rowBytes = 192

// RecordFreeze writes the whole freeze with its holds and phases, whether it is
// in the ledger already or not. It never waits.
func (l *Ledger) RecordFreeze(f Freeze) {
	l.q.putFreeze(cloneFreeze(f), l.enqueued)
}

// MarkReported notes that somebody was told that this freeze was lost.
func (l *Ledger) MarkReported(freezeID int64) {
	l.put(kindFreeze, 1, rowBytes, &reportedRec{freezeID})
}

// RecordRenewal notes that a hold was prolonged. The hold must have been
// recorded before.
func (l *Ledger) RecordRenewal(r Renewal) {
	l.put(kindRenewal, 1, rowBytes+len(r.Hold), &renewalRec{r})
}

// RecordFound adds dirty inodes that a freeze found; each names its FreezeID.
// Those of a sync belong to RecordSync.
func (l *Ledger) RecordFound(rows []FoundInode) { l.putFound(rows, nil) }

func (l *Ledger) putFound(rows []FoundInode, sync *syncRef) {
	for chunk := range slices.Chunk(rows, chunkRows) {
		cost := 0
		for i := range chunk {
			cost += rowBytes + len(chunk[i].Path)
		}
		l.put(kindFound, len(chunk), cost, &foundRec{slices.Clone(chunk), sync})
	}
}

// RecordBlocked adds callers that were held and have been let go.
func (l *Ledger) RecordBlocked(rows []Blocked) {
	for chunk := range slices.Chunk(rows, chunkRows) {
		cost := 0
		for i := range chunk {
			cost += rowBytes + len(chunk[i].Path) + len(chunk[i].Comm) + len(chunk[i].Remote) + len(chunk[i].Op)
		}
		l.put(kindBlocked, len(chunk), cost, &blockedRec{slices.Clone(chunk)})
	}
}

// RecordSync adds a sync and the dirty inodes it found.
func (l *Ledger) RecordSync(s Sync, found []FoundInode) {
	ref := new(syncRef)
	l.put(kindSync, 1, rowBytes+len(s.Kind), &syncRec{s, ref})
	l.putFound(found, ref)
}

// RecordFsyncStats adds these counts to the minute they are of.
func (l *Ledger) RecordFsyncStats(s FsyncStats) {
	l.put(kindSync, 1, rowBytes, &minuteRec{s})
}

// RecordSample adds the state of things at one moment.
func (l *Ledger) RecordSample(s Sample) {
	l.put(kindSample, 1, rowBytes, &sampleRec{s})
}

// RecordEvent adds a row to the event log; its ID is given when it is written.
// Data must be JSON.
func (l *Ledger) RecordEvent(e LedgerEvent) error {
	if len(e.Data) == 0 {
		e.Data = []byte("{}")
	}
	if e.Kind == "" || !json.Valid(e.Data) {
		return fmt.Errorf("%w: event of kind %q whose data is not JSON: %.100q", ErrBadRecord, e.Kind, e.Data)
	}
	e.ID, e.Data = 0, slices.Clone(e.Data)
	l.q.putEvent(e, l.enqueued)
	return nil
}

func (l *Ledger) put(k kind, rows, cost int, rec record) {
	l.q.put(k, rows, cost, rec, l.enqueued)
}

// cloneFreeze lets the caller keep and change its slices and maps.
func cloneFreeze(f Freeze) Freeze {
	f.Holds = slices.Clone(f.Holds)
	f.Phases = slices.Clone(f.Phases)
	f.WaitingFor = slices.Clone(f.WaitingFor)
	if f.Modes != nil {
		m := make(map[string]string, len(f.Modes))
		for k, v := range f.Modes {
			m[k] = v
		}
		f.Modes = m
	}
	return f
}

// freezeCost is the memory a waiting freeze takes, in bytes.
func freezeCost(f *Freeze) int {
	n := 3*rowBytes + len(f.Error) + len(f.IdempotencyKey) + 64*len(f.Phases)
	for _, h := range f.Holds {
		n += rowBytes + len(h.Holder) + len(h.Reason)
	}
	for _, w := range f.WaitingFor {
		n += 16 + len(w)
	}
	return n
}

// States of core/freeze in which a freeze has not ended.
const (
	stateFreezing    = "freezing"
	stateFrozen      = "frozen"
	stateInterrupted = "interrupted"
)

func isOpen(state string) bool { return state == stateFreezing || state == stateFrozen }
