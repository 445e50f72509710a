package format

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Field is one field of an on-media structure, for people who read images
// beside docs/FORMAT.md.
type Field struct {
	Off     int    `json:"offset"` // bytes from the start of the structure
	Size    int    `json:"size"`   // bytes
	Name    string `json:"field"`
	Value   string `json:"value"`
	Meaning string `json:"meaning"`
}

// fields collects the fields of one structure. Describing trusts nothing: it
// reads by fixed offsets inside an array, whatever stands there.
type fields struct {
	p    []byte
	list []Field
}

func (f *fields) add(off, size int, name, value, meaning string, args ...any) {
	f.list = append(f.list, Field{off, size, name, value, fmt.Sprintf(meaning, args...)})
}

// num adds a little-endian number of size bytes.
func (f *fields) num(off, size int, name, meaning string, args ...any) {
	f.add(off, size, name, fmt.Sprint(number(f.p[off:off+size])), meaning, args...)
}

// hex adds a number shown in base 16.
func (f *fields) hex(off, size int, name, meaning string, args ...any) {
	f.add(off, size, name, fmt.Sprintf("0x%0*x", 2*size, number(f.p[off:off+size])), meaning, args...)
}

// crc adds a checksum of rest, and says whether it is right.
func (f *fields) crc(off int, rest []byte) {
	got, want := le.Uint32(f.p[off:]), Checksum(rest)
	verdict := "right"
	if got != want {
		verdict = fmt.Sprintf("WRONG: the bytes give 0x%08x", want)
	}
	f.hex(off, 4, "crc", "CRC32C of bytes %d to %d: %s", len(f.p)-len(rest), len(f.p)-1, verdict)
}

func number(p []byte) (n uint64) {
	for i := len(p) - 1; i >= 0; i-- {
		n = n<<8 | uint64(p[i])
	}
	return n
}

// stamp says when a Unix time in nanoseconds is.
func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// yes says whether a magic number is the right one.
func yes(ok bool, what string) string {
	if ok {
		return what
	}
	return "WRONG: not " + what
}

// DescribeSuperblock tells the fields of a superblock, damaged or not.
func DescribeSuperblock(p *[BlockSize]byte) []Field {
	f := &fields{p: p[:]}
	f.add(sbMagic, 8, "magic", fmt.Sprintf("%q", p[sbMagic:sbMagic+8]), "%s", yes(string(p[sbMagic:sbMagic+8]) == superMagic, "a superblock"))
	f.crc(sbCRC, p[sbVersion:])
	f.num(sbVersion, 4, "version", "format version, known up to %d", Version)
	f.add(sbUUID, 16, "uuid", hex.EncodeToString(p[sbUUID:sbUUID+16]), "names the image")
	f.add(sbSeed, 16, "hash_seed", hex.EncodeToString(p[sbSeed:sbSeed+16]), "keys the hash of names")
	f.add(sbLabel, MaxLabel, "label", fmt.Sprintf("%q", trimZeros(p[sbLabel:sbLabel+MaxLabel])), "a name for people")
	f.num(sbBlkSize, 4, "block_size", "bytes, always %d", BlockSize)
	f.num(sbSlots, 4, "slots", "blocks of the commit ring")
	f.num(sbRing, 8, "ring", "first block of the commit ring")
	f.num(sbBlocks, 8, "blocks", "size of the image: %d bytes", le.Uint64(p[sbBlocks:])*BlockSize)
	f.num(sbFirst, 8, "first", "first block the allocator may give away")
	f.num(sbCreated, 8, "created", "%s", stamp(int64(le.Uint64(p[sbCreated:]))))
	f.hex(sbIncompat, 8, "incompat", "features needed to open it, known %#x", uint64(knownIncompat))
	f.hex(sbROCompat, 8, "ro_compat", "features needed to change it, known %#x", uint64(knownROCompat))
	return f.list
}

func trimZeros(p []byte) []byte {
	for len(p) > 0 && p[len(p)-1] == 0 {
		p = p[:len(p)-1]
	}
	return p
}

// DescribeCommit tells the fields of a commit record, damaged or not. Roots
// that are all zero are left out, but the first.
func DescribeCommit(p *[CommitSize]byte) []Field {
	f := &fields{p: p[:]}
	f.crc(crCRC, p[crMagic:])
	f.add(crMagic, 4, "magic", fmt.Sprintf("%q", p[crMagic:crMagic+4]), "%s", yes(string(p[crMagic:crMagic+4]) == commitMagic, "a commit record"))
	f.num(crGen, 8, "generation", "the transaction group it made durable")
	f.num(crFreeze, 8, "freeze_id", "the freeze whose final commit it is, 0: none")
	f.num(crTime, 8, "time", "%s", stamp(int64(le.Uint64(p[crTime:]))))
	clean := "bit 0 not set: not written by a clean unmount"
	if le.Uint32(p[crFlags:])&crFlagClean != 0 {
		clean = "bit 0: written by a clean unmount"
	}
	f.hex(crFlags, 4, "flags", "%s", clean)
	f.num(crSnapPages, 4, "snapshot_pages", "pages of the saved allocator")
	f.num(crSnap, 8, "snapshot", "block of its first page, 0: none")
	f.num(crNextIno, 8, "next_ino", "the next inode number")
	f.num(crInodes, 8, "inodes", "inodes in the tree")
	f.num(crNodes, 8, "nodes", "nodes of the tree")
	f.num(crData, 8, "data", "blocks owned by records")
	f.num(crRecords, 8, "records", "records in the tree")
	f.num(crBlocks, 8, "blocks", "size of the image then")
	f.num(crLastFrz, 8, "last_freeze_id", "the greatest freeze id so far")
	second := "WRONG"
	switch le.Uint64(p[crCRC64:]) {
	case commitSum(p):
		second = "right"
	case 0:
		second = "none"
	}
	f.hex(crCRC64, 8, "crc64", "second checksum: %s", second)
	for i := range Shards {
		at := crRoots + i*rootSize
		if i > 0 && [rootSize]byte(p[at:at+rootSize]) == ([rootSize]byte{}) {
			continue
		}
		name := fmt.Sprintf("root[%d].", i)
		f.num(at+rootBlock, 8, name+"block", "block of the root node")
		f.num(at+rootBirth, 8, name+"birth", "generation that made it")
		f.hex(at+rootCRC, 4, name+"crc", "its checksum")
		f.num(at+rootLevel, 1, name+"level", "its height above the leaves")
	}
	return f.list
}

// DescribeSnapshotPage tells the fields of a page of the saved allocator,
// damaged or not, with at most as many entries as fit.
func DescribeSnapshotPage(p *SnapshotPage) []Field {
	f := &fields{p: p[:]}
	f.crc(spCRC, p[spMagic:])
	f.add(spMagic, 4, "magic", fmt.Sprintf("%q", p[spMagic:spMagic+4]), "%s", yes(string(p[spMagic:spMagic+4]) == snapMagic, "a page of the saved allocator"))
	f.num(spGen, 8, "generation", "the commit it belongs to")
	f.num(spBlock, 8, "block", "its own place")
	f.num(spNext, 8, "next", "block of the next page, 0: none")
	f.num(spIndex, 4, "index", "its number among the pages")
	f.num(spCount, 2, "count", "entries, at most %d", SnapshotEntries)
	for i := range min(p.Count(), SnapshotEntries) {
		e := p.Entry(i)
		used := 0
		for _, w := range e.Used {
			for ; w != 0; w &= w - 1 {
				used++
			}
		}
		kind := "data"
		if e.Meta {
			kind = "nodes"
		}
		at := spEntries + i*ceSize
		f.add(at, ceSize, fmt.Sprintf("entry[%d]", i), fmt.Sprintf("chunk %d", e.Chunk), "blocks %d to %d: %d of %d in use, chunk for %s",
			uint64(e.Chunk)*ChunkBlocks, uint64(e.Chunk+1)*ChunkBlocks-1, used, ChunkBlocks, kind)
	}
	return f.list
}
