package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// filePath turns a path of the file system into the URL path of its resource,
// keeping every byte of odd names.
func filePath(p string) string {
	parts := strings.Split(strings.Trim(p, "/"), "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return "/files/" + strings.Join(parts, "/")
}

type lsCmd struct {
	remote
	Path string `arg:"" optional:"" default:"/" help:"A directory."`
}

func (l *lsCmd) Run(c *console) error {
	api, err := l.client()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	cursor := ""
	for {
		var page wireList[wireEntry]
		path := strings.TrimRight(filePath(l.Path), "/") + "/"
		raw, err := api.call(context.Background(), "GET", path, params("limit", "1000", "cursor", cursor), &page)
		if err != nil {
			return err
		}
		if l.JSON {
			if err := c.printJSON(raw); err != nil {
				return err
			}
		} else {
			for _, e := range page.Items {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", e.Mode, e.SizeBytes, e.Mtime.Local().Format(time.DateTime), e.shown())
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			return w.Flush()
		}
	}
}

// shown is the name as `ls -F` shows it: a directory with a slash, a symbolic
// link with what it points to.
func (e *wireEntry) shown() string {
	switch {
	case e.Type == "directory":
		return e.Name + "/"
	case e.Type == "symlink" && e.Target != "":
		return e.Name + " -> " + e.Target
	}
	return e.Name
}

type catCmd struct {
	remote
	Path string `arg:"" help:"A file."`
}

func (k *catCmd) Run(c *console) error {
	api, err := k.client()
	if err != nil {
		return err
	}
	resp, err := api.do(context.Background(), "GET", filePath(k.Path), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(c.out, resp.Body)
	return err
}

type putCmd struct {
	remote
	Source  string        `arg:"" help:"A local file, or - for standard input."`
	Path    string        `arg:"" help:"Where to."`
	Parents bool          `help:"Make missing directories." short:"p"`
	Wait    time.Duration `help:"While frozen, wait so long." placeholder:"30s"`
}

func (p *putCmd) Run(c *console) error {
	api, err := p.client()
	if err != nil {
		return err
	}
	var in io.Reader = os.Stdin
	if p.Source != "-" {
		f, err := os.Open(p.Source)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if strings.HasSuffix(p.Path, "/") && p.Source != "-" {
		p.Path += commandName(p.Source)
	}
	// Not *os.File itself: the transport would hand the socket page references.
	resp, err := api.do(context.Background(), "PUT", filePath(p.Path), params("parents", flag(p.Parents), "wait", duration(p.Wait)), struct{ io.Reader }{in})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

type mkdirCmd struct {
	remote
	Path    string `arg:"" help:"The directory to make."`
	Parents bool   `help:"Make missing parents." short:"p"`
}

func (m *mkdirCmd) Run(c *console) error {
	return m.simple("PUT", strings.TrimRight(filePath(m.Path), "/")+"/", params("parents", flag(m.Parents)))
}

type mvCmd struct {
	remote
	From    string `arg:"" help:"What to rename."`
	To      string `arg:"" help:"Its new path."`
	Replace bool   `env:"-" help:"Replace what is there."`
}

func (m *mvCmd) Run(c *console) error {
	return m.simple("POST", filePath(m.From), params("rename_to", m.To, "replace", flag(m.Replace)))
}

type rmCmd struct {
	remote
	Path      string `arg:"" help:"What to remove."`
	Recursive bool   `env:"-" help:"A directory with everything in it." short:"r"`
}

func (r *rmCmd) Run(c *console) error {
	return r.simple("DELETE", filePath(r.Path), params("recursive", flag(r.Recursive)))
}

// simple does a request whose answer says nothing more than that it was done.
func (r *remote) simple(method, path string, q url.Values) error {
	api, err := r.client()
	if err != nil {
		return err
	}
	resp, err := api.do(context.Background(), method, path, q, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
