package main

import "slices"

// mountRow is a line of the table of `bench mount`. Immutable.
type mountRow struct {
	name    string // of mountWork
	threads int
	unit    string
	what    string
	goal    float64 // in the unit; 0: none but to be ahead of fuse2fs
	asFast  float64 // goal: this part of what ext4 does in the same run; 0: none
	less    bool    // less is better
}

// mountRows is the table. Cold means that the pages of the file were dropped
// by POSIX_FADV_DONTNEED, which is verified by cachestat(2); on tmpfs nothing
// can be cold.
var mountRows = []mountRow{
	{name: "write", threads: 1, unit: "GB/s", goal: 0.9, what: "sequential write of a new file, 1 MiB writes"},
	{name: "write_fsync", threads: 1, unit: "GB/s", goal: 0.9, what: "the same and its fsync"},
	{name: "overwrite", threads: 1, unit: "GB/s", what: "sequential overwrite and fsync, 1 MiB writes"},
	{name: "read_cold", threads: 1, unit: "GB/s", goal: 2, what: "sequential read, 1 MiB reads, pages dropped before"},
	{name: "read_warm", threads: 1, unit: "GB/s", what: "sequential read, pages cached"},
	{name: "mmap_read", threads: 1, unit: "GB/s", goal: 2, what: "sequential copy out of a mapping, pages dropped before"},
	{name: "rand_read", threads: 1, unit: "/s", goal: 25000, what: "random 4 KiB reads by O_DIRECT"},
	{name: "rand_read", threads: 4, unit: "/s", what: "random 4 KiB reads by O_DIRECT"},
	{name: "rand_cached", threads: 1, unit: "/s", what: "random 4 KiB reads, each page once, pages dropped before"},
	{name: "rand_write", threads: 1, unit: "/s", goal: 35000, what: "random 4 KiB overwrites, no fsync"},
	{name: "rand_write", threads: 4, unit: "/s", what: "random 4 KiB overwrites, no fsync, a file a thread"},
	{name: "fsync", threads: 1, unit: "/s", what: "4 KiB overwrite and fsync"},
	{name: "fsync", threads: 4, unit: "/s", what: "4 KiB overwrite and fsync, a file a thread"},
	{name: "create", threads: 1, unit: "/s", goal: 15000, what: "create empty files in one directory"},
	{name: "create", threads: 4, unit: "/s", what: "create empty files in one directory"},
	{name: "unlink", threads: 1, unit: "/s", what: "unlink them"},
	{name: "unlink", threads: 4, unit: "/s", what: "unlink them"},
	{name: "rename", threads: 1, unit: "/s", what: "rename within the directory"},
	{name: "stat", threads: 1, unit: "/s", asFast: 0.8, what: "stat of 1,000 entries the kernel has cached"},
	{name: "stat", threads: 4, unit: "/s", asFast: 0.8, what: "stat of 1,000 entries the kernel has cached"},
	{name: "readdir", threads: 1, unit: "/s", what: "entries listed of a directory of 10,000"},
	{name: "mmap_store", threads: 1, unit: "us/page", less: true, what: "first stores to clean cached pages, in a row"},
	{name: "mmap_msync", threads: 1, unit: "us/page", less: true, what: "msync of pages that were all stored to"},
}

// Scales of a whole and of a quick run.
var (
	mountScale      = workScale{MiB: 96, Ops: 8000, Syncs: 2000, Names: 2000, Entries: 10000, Stats: 100000, Pages: 4096}
	mountScaleQuick = workScale{MiB: 32, Ops: 2000, Syncs: 200, Names: 1000, Entries: 2000, Stats: 20000, Pages: 1024}
)

// measured is what the rounds of one row gave on one bed.
type measured struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
}

func (m *measured) add(v float64) {
	m.Rounds = append(m.Rounds, v)
	s := slices.Sorted(slices.Values(m.Rounds))
	m.Min, m.Median, m.Max = s[0], s[len(s)/2], s[len(s)-1]
}

// rowFigures is a row with its figures, by bed.
type rowFigures struct {
	Row     string               `json:"row"`
	Threads int                  `json:"threads"`
	Unit    string               `json:"unit"`
	What    string               `json:"what"`
	Beds    map[string]*measured `json:"beds"`
	// Goal is the absolute one, or the part of ext4's figure that stands for
	// it; 0 if there is none. Met and Ahead are absent if not measured.
	Goal    float64 `json:"goal,omitempty"`
	Met     *bool   `json:"met,omitempty"`
	Ahead   *bool   `json:"ahead_of_fuse2fs,omitempty"`
	Fuse2fs float64 `json:"times_fuse2fs,omitempty"` // how many times as fast
}

// judge compares medians: with the goal, and with the peer.
func (f *rowFigures) judge(r *mountRow) {
	ours := f.Beds[bedOurs]
	if ours == nil {
		return
	}
	better := func(a, b float64) bool {
		if r.less {
			return a <= b
		}
		return a >= b
	}
	f.Goal = r.goal
	if ext4 := f.Beds[bedExt4]; r.asFast > 0 && ext4 != nil {
		f.Goal = r.asFast * ext4.Median
	}
	if f.Goal > 0 {
		met := better(ours.Median, f.Goal)
		f.Met = &met
	}
	if peer := f.Beds[bedFuse2fs]; peer != nil && peer.Median > 0 && ours.Median > 0 {
		ahead := better(ours.Median, peer.Median)
		f.Ahead = &ahead
		f.Fuse2fs = ours.Median / peer.Median
		if r.less {
			f.Fuse2fs = 1 / f.Fuse2fs
		}
	}
}
