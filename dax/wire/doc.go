// Package wire is the attach protocol: frames on a Unix stream socket, with
// descriptors beside them. docs/ATTACH.md describes it for those who write a
// client in another language; this package is its Go form for both ends.
//
// A frame is a 16-byte header and a body of fixed little-endian fields, at most
// MaxFrame bytes in all. The asker chooses a sequence number, which the answer
// repeats, so that several requests can be under way at once.
//
//	offset size
//	0      4    magic "PFDX"
//	4      4    length of the whole frame in bytes, 16..65536
//	8      2    type
//	10     2    flags
//	12     4    sequence number
//
// Decoders accept any bytes: they return ErrProtocol, and never panic.
package wire
