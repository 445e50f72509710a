package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type freezeCmd struct {
	remote
	Holder       string         `help:"Name of the holder; by default the caller's uid or address." placeholder:"NAME"`
	Reason       string         `help:"Why, for the record." placeholder:"TEXT"`
	Lease        *time.Duration `help:"How long the freeze may last unless renewed (60s)." placeholder:"60s"`
	Patience     time.Duration  `help:"How long reaching it may take before it is rolled back (10s)." placeholder:"10s"`
	Wait         time.Duration  `help:"How long to queue behind a freeze that stands." placeholder:"0s"`
	Join         bool           `help:"Hold a standing freeze along with its holders."`
	RequireToken bool           `help:"Let nobody thaw without the token printed."`
	Command      []string       `arg:"" optional:"" passthrough:"" help:"After --: a command to run while frozen. The lease is renewed while it runs."`
}

func (f *freezeCmd) query(holder string) map[string][]string {
	return params("holder", holder, "reason", f.Reason, "lease", leaseText(f.Lease), "patience", duration(f.Patience),
		"wait", duration(f.Wait), "join", flag(f.Join), "require_token", flag(f.RequireToken))
}

func (f *freezeCmd) Run(c *console) error {
	command, err := f.command()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	api, err := f.client()
	if err != nil {
		return refusedIf(len(command) > 0, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	holder := f.Holder
	if len(command) > 0 && holder == "" {
		holder = fmt.Sprintf("%s-%d", commandName(command[0]), os.Getpid())
	}
	var fr wireFreeze
	raw, err := api.call(ctx, "POST", "/freeze", f.query(holder), &fr)
	if err != nil {
		return refusedIf(len(command) > 0, err)
	}
	fr.noteNotify(c)
	if len(command) > 0 {
		return f.runFrozen(ctx, c, api, &fr, command)
	}
	if f.JSON {
		return c.printJSON(raw)
	}
	c.printf("frozen   freeze %d, hold %s, generation %d\n", fr.ID, fr.Hold, fr.Generation)
	c.printf("window   %s (whole %s), %d pages of %d inodes flushed\n", micros(fr.WindowUS), micros(fr.TotalUS), fr.Flushed.Pages, fr.Flushed.Inodes)
	if fr.ExpiresAt != nil {
		c.printf("lease    ends %s (in %s)\n", fr.ExpiresAt.Local().Format(time.DateTime), time.Until(*fr.ExpiresAt).Round(time.Second))
	}
	if fr.Token != "" {
		c.printf("token    %s\n", fr.Token)
	}
	c.printf("thaw     permafrost thaw --hold %s\n", fr.Hold)
	return nil
}

// command is what stands after "--". A word that looks like a flag is one that
// is mistyped, not a command: nothing may freeze because of it.
func (f *freezeCmd) command() ([]string, error) {
	switch {
	case len(f.Command) == 0:
		return nil, nil
	case f.Command[0] != "--" && strings.HasPrefix(f.Command[0], "-"):
		return nil, fmt.Errorf("unknown flag %s: \"permafrost freeze --help\" lists the flags; a command to run goes after --", f.Command[0])
	case f.Command[0] != "--":
		return f.Command, nil
	case len(f.Command) == 1 || f.Command[1] == "":
		return nil, errors.New("no command stands after --: name one, or leave the -- out to freeze only")
	}
	return f.Command[1:], nil
}

// leaseText keeps a lease of 0 apart from none: the appliance refuses the one
// and has a default for the other.
func leaseText(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return d.String()
}

func refusedIf(command bool, err error) error {
	if command {
		return &exitError{exitRefused, err}
	}
	return err
}

func commandName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// runFrozen runs the command under the hold. It renews the lease at half its
// length while the command runs, up to the cap of the appliance, passes signals on, and thaws whatever
// happens; a hold that was not kept is exit status 124 whatever the command
// said, because what it copied is not consistent.
func (f *freezeCmd) runFrozen(ctx context.Context, c *console, api *apiClient, fr *wireFreeze, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, c.out, c.err
	cmd.Env = append(os.Environ(), fmt.Sprintf("PERMAFROST_FREEZE_ID=%d", fr.ID), "PERMAFROST_HOLD="+fr.Hold)
	runErr := cmd.Start()
	if runErr == nil {
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		runErr = f.attend(ctx, c, api, fr, cmd, done)
	}
	var t wireThaw
	// Not ctx: a signal must not keep the file system frozen.
	thawCtx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	q := params("hold", fr.Hold)
	if _, err := api.callToken(thawCtx, "POST", "/thaw", q, fr.Token, &t); err != nil {
		return &exitError{exitLost, fmt.Errorf("the freeze was not kept while %s ran: %w", commandName(command[0]), err)}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(runErr, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return &exitError{code: 128 + int(ws.Signal())}
		}
		return &exitError{code: exit.ExitCode()}
	case errors.Is(runErr, exec.ErrNotFound), errors.Is(runErr, os.ErrNotExist):
		return &exitError{127, runErr}
	case runErr != nil:
		return &exitError{126, runErr}
	}
	return nil
}

// attend waits for the command, passing signals and renewing the lease.
func (f *freezeCmd) attend(ctx context.Context, c *console, api *apiClient, fr *wireFreeze, cmd *exec.Cmd, done <-chan error) error {
	r := newRenewer(api, fr, f.Lease)
	tick := time.NewTicker(max(r.lease/2, minRenewal))
	defer tick.Stop()
	stopped := ctx.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-stopped:
			stopped = nil
			_ = cmd.Process.Signal(syscall.SIGTERM) // gone already: done tells
		case <-tick.C:
			again, err := r.renew()
			if err != nil {
				c.notef("permafrost: the lease was not renewed: %v\n", err)
			}
			if !again {
				tick.Stop()
			}
		}
	}
}

type thawCmd struct {
	remote
	Hold   string `help:"The hold to end, such as 12.1." placeholder:"HOLD"`
	Holder string `help:"End this holder's newest hold." placeholder:"NAME"`
	Token  string `help:"The token, if the hold was made with one." placeholder:"TOKEN"`
	Force  bool   `env:"-" help:"End somebody else's hold. It is recorded."`
}

func (t *thawCmd) Run(c *console) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	var r wireThaw
	raw, err := api.callToken(context.Background(), "POST", "/thaw", params("hold", t.Hold, "holder", t.Holder, "force", flag(t.Force)), t.Token, &r)
	if err != nil {
		return err
	}
	if t.JSON {
		return c.printJSON(raw)
	}
	switch {
	case r.FreezeID == 0:
		c.printf("nothing was frozen\n")
	case t.Force && r.Changed:
		t.printForced(c, &r)
	case !r.Changed:
		c.printf("hold %s of freeze %d had been thawed already; it was kept for %s\n", r.Hold, r.FreezeID, millis(r.FrozenMS))
	case r.Thawed:
		c.printf("thawed: hold %s of freeze %d was kept without a gap for %s\n", r.Hold, r.FreezeID, millis(r.FrozenMS))
	default:
		c.printf("hold %s ended, kept without a gap for %s; others still hold freeze %d\n", r.Hold, millis(r.FrozenMS), r.FreezeID)
	}
	return nil
}

// printForced tells the end of somebody's hold as what it was: to its holder
// the freeze is lost.
func (t *thawCmd) printForced(c *console, r *wireThaw) {
	what, whom := "hold "+r.Hold, "its holder"
	if r.Hold == "" {
		what, whom = "all holds", "their holders"
	}
	state := "thawed"
	if !r.Thawed {
		state = "others still hold it"
	}
	c.printf("ended by force: %s of freeze %d, after %s; %s; %s will be told that the freeze was lost\n", what, r.FreezeID, millis(r.FrozenMS), state, whom)
}

type renewCmd struct {
	remote
	Hold   string         `help:"The hold to prolong." placeholder:"HOLD"`
	Holder string         `help:"Prolong this holder's newest hold." placeholder:"NAME"`
	Token  string         `help:"The token, if the hold was made with one." placeholder:"TOKEN"`
	Lease  *time.Duration `help:"From now (60s)." placeholder:"60s"`
}

func (r *renewCmd) Run(c *console) error {
	api, err := r.client()
	if err != nil {
		return err
	}
	var fr wireFreeze
	raw, err := api.callToken(context.Background(), "POST", "/renew", params("hold", r.Hold, "holder", r.Holder, "lease", leaseText(r.Lease)), r.Token, &fr)
	if err != nil {
		return err
	}
	if r.JSON {
		return c.printJSON(raw)
	}
	for _, h := range fr.Holds {
		if h.Hold == fr.Hold {
			c.printf("hold %s now ends %s (in %s)\n", h.Hold, h.ExpiresAt.Local().Format(time.DateTime), time.Until(h.ExpiresAt).Round(time.Second))
		}
	}
	return nil
}
