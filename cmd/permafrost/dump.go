package main

import (
	"fmt"
	"time"

	"permafrost/core/format"
	"permafrost/pmem"
)

type dumpCmd struct {
	Image string `arg:"" help:"The pmem file. Nobody may be serving it." type:"path"`
	What  string `arg:"" optional:"" enum:"super,ring" default:"super" help:"super or ring."`
}

func (d *dumpCmd) Run(c *console) error {
	r, err := pmem.Open(d.Image, pmem.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	sb, err := readSuper(r)
	if err != nil {
		return err
	}
	switch d.What {
	case "ring":
		return dumpRing(c, r, sb)
	default:
		c.printf("%+v\n", *sb)
	}
	return nil
}

func readSuper(r *pmem.Region) (*format.Superblock, error) {
	var page [format.BlockSize]byte
	if _, err := r.ReadAt(page[:], 0); err != nil {
		return nil, err
	}
	return format.DecodeSuperblock(0, &page)
}

func dumpRing(c *console, r *pmem.Region, sb *format.Superblock) error {
	for i := range sb.Slots {
		var page [format.CommitSize]byte
		b := sb.Ring + format.Block(i)
		if _, err := r.ReadAt(page[:], int64(b)*format.BlockSize); err != nil {
			return err
		}
		if format.CommitEmpty(&page) {
			continue
		}
		rec, err := format.DecodeCommit(b, &page)
		if err != nil {
			c.printf("slot %d (block %d): %v\n", i, b, err)
			continue
		}
		c.printf("slot %d (block %d): generation %d, freeze %d, %s\n", i, b, rec.Generation, rec.FreezeID, fmt.Sprint(time.Unix(0, rec.TimeNS).UTC()))
	}
	return nil
}
