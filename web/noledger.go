package web

import (
	"context"
	"errors"
	"time"

	"permafrost/store"
)

var errNoLedger = errors.New("no ledger is open")

// noLedger stands where no ledger is: every page says so.
type noLedger struct{}

func (noLedger) Freezes(context.Context, store.FreezeQuery) ([]store.Freeze, error) {
	return nil, errNoLedger
}
func (noLedger) Freeze(context.Context, int64) (store.Freeze, error) {
	return store.Freeze{}, errNoLedger
}
func (noLedger) FreezeInodes(context.Context, int64, int64, int) ([]store.FoundInode, error) {
	return nil, errNoLedger
}
func (noLedger) FreezeBlocked(context.Context, int64, int64, int) ([]store.Blocked, error) {
	return nil, errNoLedger
}
func (noLedger) FreezeRenewals(context.Context, int64) ([]store.Renewal, error) {
	return nil, errNoLedger
}
func (noLedger) ImageReads(context.Context, int64, time.Time, time.Time, int) ([]store.ImageRead, error) {
	return nil, errNoLedger
}
func (noLedger) InodeHistory(context.Context, int64, int64, int) ([]store.InodeHistory, error) {
	return nil, errNoLedger
}
func (noLedger) Samples(context.Context, time.Time, time.Time, time.Duration) ([]store.Sample, error) {
	return nil, errNoLedger
}
func (noLedger) Health() (store.Health, string) { return store.Degraded, errNoLedger.Error() }
