package main

import (
	"errors"
	"fmt"
	"os"

	"permafrost/core"
	"permafrost/pmem"
)

type mkfsCmd struct {
	File  string `arg:"" help:"The pmem file: on a DAX mount, on tmpfs, or on a disk." type:"path"`
	Size  size   `help:"Its size." default:"1GiB" placeholder:"SIZE"`
	Label string `help:"A name for people." placeholder:"TEXT"`
	Force bool   `env:"-" help:"Overwrite what is there. All it holds is lost."`
}

func (m *mkfsCmd) Run(c *console) error {
	r, err := pmem.Create(m.File, int64(m.Size), pmem.Options{Overwrite: m.Force})
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%w: --force overwrites it, and all it holds is lost", err)
		}
		return err
	}
	defer r.Close()
	if err := core.Mkfs(r, mkfsOptions(m.Label, m.Force)); err != nil {
		_ = os.Remove(m.File) // half made
		return err
	}
	survives := "what is fsynced survives a power loss"
	if !r.Domain().SurvivesPowerLoss() {
		survives = "nothing on it survives a power loss"
	}
	c.printf("%s: %s, domain %s: %s\n", m.File, m.Size, r.Domain(), survives)
	c.printf("serve it with: permafrost serve --pmem %s\n", m.File)
	return nil
}

// mkfsOptions makes the root directory of an image its maker's.
func mkfsOptions(label string, force bool) core.MkfsOptions {
	return core.MkfsOptions{Label: label, Force: force, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}
