// Command permafrost hosts a persistent-memory file system that can be frozen
// with curl, and is the command line to one that runs.
//
// Each verb lives in its own file. Flags, environment and os.Exit appear in
// this package only.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// Exit statuses. They are documented in `permafrost --help` and relied on by
// scripts; 124 and 125 are those of timeout(1), which people know.
const (
	exitOK       = 0
	exitFailed   = 1   // the operation failed; stderr says why
	exitUsage    = 2   // the command line is wrong
	exitLost     = 124 // freeze -- COMMAND: the freeze was lost before the thaw
	exitRefused  = 125 // freeze -- COMMAND: the freeze was refused, COMMAND was not run
	exitNoServer = 3   // no appliance answers at the given or default places
)

type cli struct {
	Config kong.ConfigFlag `help:"A JSON file of flag values, read after the system's and the user's own." placeholder:"FILE" type:"path"`

	Serve  serveCmd  `cmd:"" group:"appliance" help:"Host the file system in a pmem file and serve REST and the dashboard."`
	Mount  mountCmd  `cmd:"" group:"appliance" help:"Serve an image with a mount, in the background, until it is unmounted."`
	Umount umountCmd `cmd:"" group:"appliance" help:"Unmount, and wait for the server to have closed the image."`
	Mkfs   mkfsCmd   `cmd:"" group:"appliance" help:"Make an image."`
	Check  checkCmd  `cmd:"" group:"appliance" help:"Verify an image that nobody serves; --repair salvages it."`
	Dump   dumpCmd   `cmd:"" group:"appliance" help:"Print annotated on-media structures of an image."`

	Freeze   freezeCmd   `cmd:"" group:"freeze" help:"Freeze; with -- COMMAND: freeze, run it, thaw."`
	Thaw     thawCmd     `cmd:"" group:"freeze" help:"End a hold, and learn whether it was kept."`
	Renew    renewCmd    `cmd:"" group:"freeze" help:"Prolong a hold's lease."`
	Fsync    fsyncCmd    `cmd:"" group:"freeze" help:"Make a file, or everything, durable."`
	Status   statusCmd   `cmd:"" group:"inspect" help:"Show the state of the appliance."`
	Freezes  freezesCmd  `cmd:"" group:"inspect" help:"List freezes, newest first, or show one."`
	Events   eventsCmd   `cmd:"" group:"inspect" help:"Print events; --follow goes on."`
	Inodes   inodesCmd   `cmd:"" group:"inspect" help:"List inodes, dirty ones first, or show one."`
	Mappings mappingsCmd `cmd:"" group:"inspect" help:"List programs' mappings."`
	Blocked  blockedCmd  `cmd:"" group:"inspect" help:"List who is held, oldest first."`

	Scrub     scrubCmd     `cmd:"" group:"inspect" help:"Read and verify all metadata of the image that is served."`
	Badblocks badblocksCmd `cmd:"" group:"inspect" help:"List bad blocks and the files that have them."`

	Ls    lsCmd    `cmd:"" group:"files" help:"List a directory."`
	Cat   catCmd   `cmd:"" group:"files" help:"Print a file."`
	Put   putCmd   `cmd:"" group:"files" help:"Store a file (atomically)."`
	Mkdir mkdirCmd `cmd:"" group:"files" help:"Make a directory."`
	Mv    mvCmd    `cmd:"" group:"files" help:"Rename."`
	Rm    rmCmd    `cmd:"" group:"files" help:"Remove."`

	Prove      proveCmd      `cmd:"" group:"evidence" help:"Show on a running appliance that a freeze holds a real mapped writer."`
	Bench      benchCmd      `cmd:"" group:"evidence" help:"Measure."`
	Version    versionCmd    `cmd:"" group:"other" help:"Print the version."`
	Completion completionCmd `cmd:"" group:"other" help:"Print a shell completion script."`

	// Children of this binary's own: not for people.
	MountSyncer    mountSyncerCmd    `cmd:"" hidden:""`
	ProveWriter    proveWriterCmd    `cmd:"" hidden:""`
	DemoWriter     demoWriterCmd     `cmd:"" hidden:""`
	BenchWriter    benchWriterCmd    `cmd:"" hidden:""`
	BenchMountWork benchMountWorkCmd `cmd:"" hidden:""`
}

// exitError carries an exit status through Run.
type exitError struct {
	code int
	err  error // nil: say nothing more
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

const description = `A persistent-memory file system you can freeze with curl.

"permafrost serve --demo" starts a throw-away appliance with a program that stores through mappings; then freeze it:
curl -X POST localhost:7433/freeze

Exit status: 0 done; 1 failed; 2 wrong usage; 3 no appliance answers; with freeze -- COMMAND: COMMAND's own, 124 if the freeze was lost,
125 if it was refused. Flags may stand in the environment (PERMAFROST_LISTEN, ...) and in config.json; a flag outweighs the environment, and that a file.`

func main() { os.Exit(runAs(os.Args[0], os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without os.Exit, so that deferred clean-up happens.
func run(args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("permafrost"),
		kong.Description(description),
		kong.UsageOnError(),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.DefaultEnvars("PERMAFROST"),
		kong.Configuration(configLoader, configFiles()...),
		kong.ExplicitGroups([]kong.Group{
			{Key: "appliance", Title: "The appliance and its image:"},
			{Key: "freeze", Title: "Freeze and thaw:"},
			{Key: "inspect", Title: "Inspection:"},
			{Key: "files", Title: "Files:"},
			{Key: "evidence", Title: "Evidence:"},
			{Key: "other", Title: "Other:"},
		}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "permafrost:", err)
		return exitUsage
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintln(stderr, "permafrost:", err)
		fmt.Fprintln(stderr, `Run "permafrost --help" for the verbs and "permafrost VERB --help" for one verb's flags.`)
		return exitUsage
	}
	err = kctx.Run(&console{out: stdout, err: stderr, parser: parser})
	if err == nil {
		return exitOK
	}
	var ee *exitError
	if errors.As(err, &ee) {
		if ee.err != nil {
			fmt.Fprintln(stderr, "permafrost:", ee.err)
		}
		return ee.code
	}
	fmt.Fprintln(stderr, "permafrost:", err)
	return exitFailed
}

// console is where a verb prints.
type console struct {
	out, err io.Writer
	parser   *kong.Kong
}

func (c *console) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }
func (c *console) notef(format string, args ...any)  { fmt.Fprintf(c.err, format, args...) }
