package crash

// Lore is workloads after published crash-consistency bugs, each a sequence of
// ours that would meet its like.
//
// Sources: LeBlanc et al., "Chipmunk: Investigating Crash-Consistency in
// Persistent-Memory File Systems" (EuroSys 2023), whose list of bugs in NOVA,
// NOVA-Fortis, PMFS, WineFS and SplitFS is taken by kinds of consequence; Kalbfleisch
// et al., "Vinter" (USENIX ATC 2022); Mohan et al., "Finding Crash-Consistency
// Bugs with Bounded Black-Box Crash Testing" (OSDI 2018), for those of
// page-cache file systems.
func Lore() []Workload {
	all := make([]Workload, len(lore))
	for i, l := range lore {
		all[i] = ParseWorkload(l.workload)
	}
	return all
}

var lore = []struct{ after, workload string }{
	{"NOVA, WineFS: a crash in a create or mkdir leaves an image that does not mount", "mkdir /C; commit; create /C/x; commit; mkdir /C/d; sync"},
	{"NOVA: a crash while the inode table grows leaves a file that cannot be read or deleted",
		"create /1; create /2; create /3; create /4; create /5; create /6; create /7; create /8; commit; unlink /3; unlink /5; create /9; sync"},
	{"NOVA, SplitFS: rename is not atomic, the old name comes back or both stay", "rename /foo /bar; commit; rename /bar /B/bar; commit; rename /B/bar /A/foo; sync"},
	{"NOVA: rename over a file, the target disappears", "write /A/foo 0 5000; fsync /A/foo; rename /foo /A/foo; commit; sync"},
	{"NOVA: a directory that is renamed loses what is in it", "rename /A /C; commit; rename /C /B; commit; rename /B /A; sync"},
	{"NOVA: the link count grows before the name is there", "link /foo /B/bar; commit; link /foo /bar; unlink /B/bar; commit; unlink /foo; sync"},
	{"NOVA, PMFS: data is lost after a truncate", "write /foo 0 9000; fsync /foo; truncate /foo 4500; commit; append /foo 100; fsync /foo; truncate /foo 20000; sync"},
	{"NOVA: fallocate, then data is lost or a hole shows old bytes", "falloc /foo 4096 8192; write /foo 5000 100; fsync /foo; punch /foo 4096 4096; commit; write /foo 4200 10; sync"},
	{"NOVA-Fortis: replica and primary differ after unlink and truncate", "truncate /foo 0; commit; unlink /foo; commit; create /foo; append /foo 60; sync"},
	{"PMFS: write is not synchronous, its unaligned ends are not flushed", "write /foo 60 4100; fsync /foo; write /foo 1 63; fsync /foo; write /A/foo 4095 2; sync"},
	{"PMFS: the list of truncates is replayed wrongly", "truncate /A/foo 4096; hold /A/foo; unlink /A/foo; commit; truncate /foo 1; hold /foo; unlink /foo; sync"},
	{"PMFS, WineFS: the journal is recovered out of bounds after many small changes",
		"chmod /foo 384; commit; chmod /foo 420; commit; chmod /foo 384; commit; setxattr /foo user.a 30; commit; rmxattr /foo user.a; sync"},
	{"WineFS: a write that is announced as atomic shows half", "put /foo 8192; commit; put /foo 8192; commit; put /foo 100; sync"},
	{"WineFS: an unaligned write in place is lost after fsync", "write /foo 3000 2000; fsync /foo; write /foo 100 7; fsync /foo; sync"},
	{"SplitFS: an append that was moved in place is lost", "append /foo 4096; fsync /foo; append /foo 4096; append /foo 10; fsync /foo; sync"},
	{"SplitFS: metadata operations are not synchronous", "create /bar; append /bar 10; fsync /bar; rename /bar /B/bar; commit; unlink /foo; sync"},
	{"Vinter on NOVA: a file is longer than what was written to it", "append /two 200; commit; append /two 200; fsync /two; truncate /two 150; sync"},
	{"btrfs, F2FS (CrashMonkey): fsync of one of two names, the other is lost", "link /A/two /B/bar; fsync /B/bar; unlink /two; fsync /A/two; sync"},
	{"btrfs (CrashMonkey): rename and a new file of the old name, then fsync", "rename /foo /bar; create /foo; append /foo 10; fsync /foo; sync"},
	{"F2FS (CrashMonkey): zero range with kept size moves the end", "zerokeep /foo 4000 9000; fsync /foo; fallockeep /A/foo 16384 4096; fsync /A/foo; sync"},
	{"ext4 (CrashMonkey): direct and buffered append, the size is lost", "append /foo 3000; commit; write /foo 0 60; append /foo 3000; fsync /foo; sync"},
	{"DAX in general: a mapped store is not durable after fsync", "store /foo 0; fsync /foo; store /foo 0; store /foo 1; fsync /foo; store /A/foo 3; freeze; store /A/foo 3; sync"},
	{"DAX in general: a mapped page is dirtied again while it is cleaned", "store /foo 0; commit; store /foo 0; fsync /foo; write /foo 128 8; store /foo 0; freeze; sync"},
	{"DAX in general: a mapped block is freed and given away", "create /x; append /x 4096; store /x 0; unlink /x; commit; chmod /A 448; commit; chmod /A 493; commit; create /1; append /1 4096; create /2; append /2 4096; create /3; append /3 4096; create /4; append /4 12288; create /5; append /5 4096; store /x 0; sync"},
	{"a block is used again while a commit still leads to it",
		"put /foo 9000; commit; put /foo 9000; commit; put /foo 9000; commit; unlink /foo; commit; put /bar 20000; commit; put /A/foo 12000; sync"},
	{"nodes are used again while a commit still leads to them",
		"create /1; commit; create /2; commit; create /3; commit; unlink /1; commit; unlink /2; commit; mkdir /4; commit; rmdir /4; sync"},
	{"an orphan survives its crash", "hold /foo; unlink /foo; commit; append /two 10; sync"},
	{"ext4, F2FS, overlayfs: a file of O_TMPFILE keeps its place on the orphan list when it gets a name, and the next mount frees it",
		"tmpfile / 5000; commit; linktmp /bar; commit; fsync /bar; unlink /bar; sync"},
	{"O_TMPFILE: made, named and lost within one commit, or in three", "tmpfile /A 9000; linktmp /A/bar; commit; tmpfile /B 100; hold /foo; commit; linktmp /B/bar; link /B/bar /bar; sync; unlink /B/bar; tmpfile / 10; freeze"},
	{"old bytes of a block show through a new file", "create /bar; write /bar 9000 50; write /bar 5000 50; commit; truncate /bar 30000; write /bar 20000 60; fsync /bar; write /foo 20000 100; sync"},
	{"a file that grows over its tail shows what was cut off", "append /two 900; sync; truncate /two 20; commit; truncate /two 600; sync"},
	{"what lies behind the end of a file is cleared, where an older size still reaches", "truncate /foo 100; punch /foo 100 1000; sync; truncate /A/foo 4200; zerokeep /A/foo 4000 9000"},
	{"a mapping of a hole is made, and the store into it is not flushed", "exchange /foo /A/foo; store /foo 1; commit; store /foo 2; fsync /foo; sync"},
	{"a frozen image is not whole", "store /foo 1; append /A/foo 300; freeze; store /foo 1; freeze; unlink /foo; freeze"},
}
