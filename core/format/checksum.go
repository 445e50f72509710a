package format

import (
	"encoding/binary"
	"hash/crc32"
	"hash/crc64"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	ecma       = crc64.MakeTable(crc64.ECMA)
)

// Checksum is the CRC32C of p.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// le is the byte order of every number on the medium.
var le = binary.LittleEndian
