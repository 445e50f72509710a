// Package migrations holds the ledger's schema as numbered SQL files, embedded
// in the binary. A file that has been released is never changed: a new schema
// is a new file, and old ledgers are brought up file by file. There is no way
// down; a newer ledger is refused by an older binary.
package migrations

import "embed"

// FS holds NNNNN_name.sql, in goose's format.
//
//go:embed *.sql
var FS embed.FS
