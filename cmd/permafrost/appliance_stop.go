package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"permafrost/store"
)

// shutdownTime bounds each step of stopping. Each has its own: a peer that
// holds up one step must not cost the file system its last sync and commit.
const shutdownTime = 20 * time.Second

// degradedTime is how long a stop waits for a ledger that cannot write: long
// enough for whoever locked it to finish a query, and for several attempts.
const degradedTime = 3 * time.Second

// stop goes top down; it works after a start that failed half way as well. Its
// error says which steps failed; the others were taken all the same.
func (a *appliance) stop() error {
	close(a.stopping)
	if a.ui != nil {
		a.ui.Close() // open tabs would hold up the servers' Shutdown
	}
	if a.rest != nil {
		a.rest.Close()
	}
	var failed []error
	step := func(what string, do func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		if err := do(ctx); err != nil {
			a.log.Error("shutdown: "+what, "error", err)
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		}
	}
	if a.fs != nil {
		step("end the freeze", a.fs.Freezer().Close)
	}
	step("end the requests", a.endRequests)
	a.serving.Wait()
	if a.mounted != nil {
		step("unmount "+a.places.mount, func(context.Context) error { return a.mounted.Close() })
	}
	if a.attach != nil {
		step("stop the attach server", a.attach.Close)
	}
	if a.fs != nil {
		step("unmount", a.fs.Unmount)
	}
	if a.recorder != nil {
		a.recorder.stop()
	}
	if a.ledger != nil {
		a.flushLedger()
		step("close the ledger", a.ledger.Close)
	}
	if a.region != nil {
		step("close the image", func(context.Context) error { return a.region.Close() })
	}
	return errors.Join(failed...)
}

// flushLedger gives the ledger time to write what waits: all of shutdownTime
// while it writes, and degradedTime once it cannot. Closing it makes the last
// attempt and says what is lost, so a failure here is none yet.
func (a *appliance) flushLedger() {
	for began := time.Now(); time.Since(began) < shutdownTime; {
		ctx, cancel := context.WithTimeout(context.Background(), degradedTime)
		err := a.ledger.Flush(ctx)
		cancel()
		if err == nil {
			return
		}
		if health, _ := a.ledger.Health(); health != store.OK {
			a.log.Warn("shutdown: the ledger cannot write what waits", "error", err)
			return
		}
	}
}

// endRequests lets requests finish while ctx lasts, and cuts off the rest: they
// are answered by nobody, and so were not promised anything.
func (a *appliance) endRequests(ctx context.Context) error {
	for _, s := range a.servers {
		if err := s.Shutdown(ctx); err != nil {
			a.log.Warn("shutdown: requests are cut off", "error", err)
			s.Close()
		}
	}
	if a.rest == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cutOffTime)
	defer cancel()
	if err := a.rest.Drained(ctx); err != nil {
		a.log.Warn("shutdown: a request that was cut off goes on", "error", err)
	}
	return nil
}
