package main

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
)

// size is a number of bytes on the command line: 1GiB, 64MiB, 4096.
type size int64

// UnmarshalText accepts what people write; both 1G and 1GiB mean 2^30 here,
// as everywhere else where images are made.
func (s *size) UnmarshalText(text []byte) error {
	in := strings.TrimSpace(string(text))
	if n := len(in); n > 1 && strings.ContainsAny(in[n-1:], "kKmMgGtTpP") {
		in += "iB"
	}
	v, err := humanize.ParseBytes(in)
	if err != nil || v > 1<<62 {
		return fmt.Errorf("%q is not a size: write it like 1GiB, 64MiB or 4096", text)
	}
	*s = size(v)
	return nil
}

func (s size) String() string { return humanize.IBytes(uint64(s)) }
