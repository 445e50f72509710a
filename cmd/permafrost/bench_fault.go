package main

import (
	"slices"
)

type benchFaultCmd struct {
	Pages  int    `help:"Pages of the run." default:"4096"`
	Rounds int    `help:"Times each is measured." default:"30"`
	Plain  string `help:"Measure an ordinary mmap in this directory instead: the rival (an ext4 or xfs mount)." placeholder:"DIR" type:"path"`
	Dir    string `help:"Where the image is made." default:"/dev/shm" type:"path"`
	JSON   bool   `name:"json" help:"One line of JSON."`
}

type faultFigures struct {
	AloneNS float64 `json:"alone_ns_per_page"` // median; single pages far apart, one after the other
	ColdNS  float64 `json:"cold_ns_per_page"`  // median; the same, each after 1 ms of rest
	RunNS   float64 `json:"run_ns_per_page"`   // median; pages in a row
	Pages   int     `json:"pages"`
	Rounds  int     `json:"rounds"`
	Via     string  `json:"via"`
}

func (b *benchFaultCmd) Run(c *console) error {
	where, place, via := "--plain", b.Plain, "mmap in "+b.Plain
	if b.Plain == "" {
		bed, err := newBed(b.Dir, int64(b.Pages)*4096+128<<20, 1000, true)
		if err != nil {
			return err
		}
		defer bed.close()
		where, place, via = "--attach", bed.socket, "attach"
	}
	w, err := startBenchWriter(where, place, 1, b.Pages, 1)
	if err != nil {
		return err
	}
	defer w.end()
	if err := w.dirty(false); err != nil { // populate the page tables
		return err
	}
	median := func(cmd string) (float64, error) {
		var v []float64
		for range b.Rounds {
			ns, err := w.askNumber(cmd)
			if err != nil {
				return 0, err
			}
			v = append(v, ns)
		}
		slices.Sort(v)
		return v[len(v)/2], nil
	}
	fig := faultFigures{Pages: b.Pages, Rounds: b.Rounds, Via: via}
	if fig.AloneNS, err = median("time alone"); err != nil {
		return err
	}
	if fig.ColdNS, err = median("time cold"); err != nil {
		return err
	}
	if fig.RunNS, err = median("time run"); err != nil {
		return err
	}
	return benchOut(c, b.JSON, fig)
}
