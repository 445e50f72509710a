package main

import (
	"context"
	"errors"
	"time"
)

const (
	// minRenewal is the shortest time between two renewals.
	minRenewal = 10 * time.Millisecond
	// renewLimit bounds one renewal: the command's end must not wait for a
	// server that does not answer.
	renewLimit = 10 * time.Second
	// capMargin is how far below the cap a renewal asks: time goes by between
	// asking and being answered.
	capMargin = 20 * time.Millisecond
)

// renewer prolongs the hold of one freeze -- COMMAND. Owned by attend.
type renewer struct {
	api     *apiClient
	hold    string        // immutable
	token   string        // immutable
	lease   time.Duration // asked for each time; immutable
	expires time.Time     // the hold's end, as last answered
}

func newRenewer(api *apiClient, fr *wireFreeze, lease *time.Duration) *renewer {
	r := &renewer{api: api, hold: fr.Hold, token: fr.Token, lease: time.Minute}
	if lease != nil {
		r.lease = *lease
	}
	r.took(fr)
	return r
}

// took notes the hold's end from an answer.
func (r *renewer) took(fr *wireFreeze) {
	for _, h := range fr.Holds {
		if h.Hold == r.hold {
			r.expires = h.ExpiresAt
		}
	}
}

// renew asks for the lease anew; over the cap, for what is left of it. again
// says whether a later renewal can gain anything: not after the cap is reached,
// nor after a refusal, but after an answer that never came.
func (r *renewer) renew() (again bool, err error) {
	err = r.ask(r.lease)
	var p *problem
	if !errors.As(err, &p) {
		return true, err
	}
	if p.name() != "over-cap" || p.ExpiresAt == nil {
		return false, err
	}
	// The clock of another machine may be ahead: then half of it, and so on.
	for left := time.Until(*p.ExpiresAt) - capMargin; left > minRenewal && time.Now().Add(left).After(r.expires); left /= 2 {
		if err = r.ask(left); !errors.As(err, &p) || p.name() != "over-cap" {
			return false, err
		}
	}
	return false, nil // the hold lasts about as long as it may: nothing to gain
}

func (r *renewer) ask(lease time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), renewLimit)
	defer cancel()
	var fr wireFreeze
	if _, err := r.api.callToken(ctx, "POST", "/renew", params("hold", r.hold, "lease", lease.String()), r.token, &fr); err != nil {
		return err
	}
	r.took(&fr)
	return nil
}
