package main

import (
	"os"
	"os/exec"
	"time"

	"permafrost/mount"
)

// mountSyncerCmd is the child that asks the kernel to write back the mount: see
// mount.RunSyncer.
type mountSyncerCmd struct {
	Dir string `arg:""`
}

func (s *mountSyncerCmd) Run(*console) error {
	nameProcess("permafrost-sync")
	return mount.RunSyncer(s.Dir, os.Stdin, os.Stdout)
}

// startSyncer starts that child. It ends when its standard input does, and so
// with this process.
func startSyncer(dir string) (mount.Syncer, error) {
	exe, err := os.Executable()
	if err != nil {
		return mount.Syncer{}, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return mount.Syncer{}, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return mount.Syncer{}, err
	}
	cmd := exec.Command(exe, "mount-syncer", dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, os.Stderr
	err = cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		return mount.Syncer{}, err
	}
	return mount.Syncer{In: inW, Out: outR, End: func() {
		kill := time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Kill() }) // it may have ended
		defer kill.Stop()
		_ = cmd.Wait() // its status says nothing that its answers did not
	}}, nil
}
