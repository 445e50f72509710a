package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"permafrost/core/format"
	"permafrost/core/tree"
	"permafrost/pmem"
)

// dumpCmd prints structures as they stand in an image, beside which
// docs/FORMAT.md can be held. It trusts nothing: from a damaged image it prints
// what can be read and says what is wrong.
type dumpCmd struct {
	Image      string `arg:"" help:"The pmem file. Nobody may be serving it." type:"path"`
	What       string `arg:"" optional:"" enum:"super,ring,tree,node,inode,path,alloc" default:"super" help:"super, ring, tree, node BLOCK, inode N, path PATH or alloc."`
	Which      string `arg:"" optional:"" help:"The block, the inode number or the path."`
	Generation uint64 `help:"Read this commit of the ring instead of the one that a mount would take." placeholder:"G"`
	JSON       bool   `name:"json" help:"One JSON document."`
}

// Run prints what was asked for. Its status is 1 if something was wrong with it.
func (d *dumpCmd) Run(c *console) error {
	takesWhich := d.What == "node" || d.What == "inode" || d.What == "path"
	switch {
	case takesWhich && d.Which == "":
		return &exitError{code: exitUsage, err: fmt.Errorf("dump %s needs one more argument: see permafrost dump --help", d.What)}
	case !takesWhich && d.Which != "":
		return &exitError{code: exitUsage, err: fmt.Errorf("dump %s takes no further argument, %q was given", d.What, d.Which)}
	}
	r, err := pmem.Open(d.Image, pmem.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	return d.dump(c, r)
}

// dump is Run on an open medium.
func (d *dumpCmd) dump(c *console, m pmem.Medium) error {
	p := &dumper{c: c, m: m, json: d.JSON, doc: dumpDoc{Image: d.Image, What: d.What, Sections: []dumpSection{}}}
	err := d.sections(p)
	if p.json {
		raw, jerr := json.Marshal(&p.doc)
		if jerr == nil {
			jerr = c.printJSON(raw)
		}
		err = errors.Join(err, jerr)
	}
	if err == nil && p.doc.Problems > 0 {
		if !p.json {
			c.printf("%d problems\n", p.doc.Problems)
		}
		return &exitError{code: exitFailed}
	}
	return err
}

func (d *dumpCmd) sections(p *dumper) error {
	switch d.What {
	case "super":
		p.super()
		return nil
	case "node":
		b, err := parseNumber("block", d.Which)
		if err != nil {
			return err
		}
		return p.node(format.Block(b))
	}
	s, err := tree.OpenSalvage(p.m)
	if err != nil {
		return fmt.Errorf("%w (permafrost dump %s super shows what stands there)", err, d.Image)
	}
	p.s = s
	if d.What == "ring" {
		p.ring()
		return nil
	}
	if err := s.Choose(format.Generation(d.Generation)); err != nil {
		return err
	}
	switch d.What {
	case "tree":
		p.tree()
	case "alloc":
		p.alloc()
	case "path":
		return p.path(d.Which)
	case "inode":
		n, err := parseNumber("inode number", d.Which)
		if err != nil {
			return err
		}
		return p.inode(format.Ino(n))
	}
	return nil
}

// parseNumber reads a number in base 10, or in another one as Go writes them.
func parseNumber(what, text string) (n uint64, err error) {
	if n, err = strconv.ParseUint(text, 0, 64); err != nil {
		return 0, &exitError{code: exitUsage, err: fmt.Errorf("%q is no %s: give a number such as 24 or 0x18", text, what)}
	}
	return n, nil
}

// dumper collects or prints the sections of one dump.
type dumper struct {
	c    *console
	m    pmem.Medium
	s    *tree.Salvage // nil for what needs no tree
	json bool
	doc  dumpDoc
}

// dumpDoc is the document of --json.
type dumpDoc struct {
	Image    string        `json:"image"`
	What     string        `json:"what"`
	Sections []dumpSection `json:"sections"`
	Problems int           `json:"problems_total"`
}

// dumpSection is one structure, or one table of things found.
type dumpSection struct {
	Title    string         `json:"title"`
	Block    format.Block   `json:"block"`
	Fields   []format.Field `json:"fields,omitempty"`
	Columns  []string       `json:"columns,omitempty"`
	Rows     [][]string     `json:"rows,omitempty"`
	Notes    []string       `json:"notes,omitempty"`
	Problems []string       `json:"problems,omitempty"`
}

func (s *dumpSection) row(cells ...any) {
	r := make([]string, len(cells))
	for i, c := range cells {
		r[i] = fmt.Sprint(c)
	}
	s.Rows = append(s.Rows, r)
}

func (s *dumpSection) note(form string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(form, args...))
}

func (s *dumpSection) problem(form string, args ...any) {
	s.Problems = append(s.Problems, fmt.Sprintf(form, args...))
}

// lost is a Visit's function that makes what cannot be read a problem.
func (s *dumpSection) lost(l tree.Lost) { s.problem("%v", l) }

// emit prints a section, or keeps it for --json.
func (p *dumper) emit(s *dumpSection) {
	p.doc.Problems += len(s.Problems)
	if p.json {
		p.doc.Sections = append(p.doc.Sections, *s)
		return
	}
	p.c.printf("%s\n", s.Title)
	w := tabwriter.NewWriter(p.c.out, 0, 8, 2, ' ', 0)
	if len(s.Fields) > 0 {
		fmt.Fprintln(w, "  offset\tsize\tfield\tvalue\tmeaning")
	}
	for _, f := range s.Fields {
		fmt.Fprintf(w, "  %d\t%d\t%s\t%s\t%s\n", f.Off, f.Size, f.Name, f.Value, f.Meaning)
	}
	if err := w.Flush(); err != nil {
		return // nobody reads any more
	}
	if len(s.Rows) > 0 {
		fmt.Fprintln(w, "  "+strings.Join(s.Columns, "\t"))
	}
	for _, r := range s.Rows {
		fmt.Fprintln(w, "  "+strings.Join(r, "\t"))
	}
	if err := w.Flush(); err != nil {
		return
	}
	for _, n := range s.Notes {
		p.c.printf("  %s\n", n)
	}
	for _, n := range s.Problems {
		p.c.printf("  PROBLEM: %s\n", n)
	}
	p.c.printf("\n")
}

// read copies a structure at the start of block b; what cannot be read is
// zero and a problem of the section.
func (p *dumper) read(s *dumpSection, b format.Block, buf []byte) bool {
	off := int64(b) * format.BlockSize
	if uint64(b) > uint64(p.m.Size())/format.BlockSize || off+int64(len(buf)) > p.m.Size() {
		s.problem("block %d lies outside the file, which has %d bytes", b, p.m.Size())
		return false
	}
	if _, err := p.m.ReadAt(buf, off); err != nil {
		s.problem("block %d: %v", b, err)
		return false
	}
	return true
}
