#!/bin/sh
# Makes testdata/ledger-v1.db: what the first schema held. Kept to show how the
# golden file came to be; a released golden file is not made again.
set -eu
cd "$(dirname "$0")"
out=ledger-v1.db
rm -f "$out"
sqlite3 "$out" >/dev/null <<'SQL'
PRAGMA application_id = 1346785882;
PRAGMA journal_mode = WAL;
CREATE TABLE goose_db_version (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id INTEGER NOT NULL,
    is_applied INTEGER NOT NULL,
    tstamp TIMESTAMP DEFAULT (datetime('now'))
);
INSERT INTO goose_db_version (version_id, is_applied, tstamp) VALUES (0, 1, '2026-03-01 00:00:00'), (1, 1, '2026-03-01 00:00:00');
SQL
grep -v '^-- +goose' ../../migrations/00001_freezes.sql | sqlite3 "$out"
sqlite3 "$out" <<'SQL'
INSERT INTO freezes VALUES
 (1, 'thawed', 41, 1772600767891011121, 1772600767894011121, 1772600768891011121, 1772600827891011121,
  101.25, 3000.5, 2, 11, 12, 13, 1, 2, 3, 'dirty', '{"attach":"collect"}', 7.5, 1, 0, '[]', '', 0, 0, 'k'),
 (2, 'frozen', 42, 1772600867891011121, 1772600867894011121, NULL, 1772600927891011121,
  90, 2000, 1, 0, 0, 0, 0, 0, 0, 'dirty', '{}', 0, 0, 0, '[]', '', 0, 0, '');
INSERT INTO holds VALUES
 (1, '1.1', 1, 'nightly', 'copy', 1772600767891011121, 1772600827891011121, 1772600768891011121, 'thawed', 1, 1),
 (2, '2.1', 2, 'hand', '', 1772600867891011121, 1772600927891011121, NULL, '', 0, 0);
INSERT INTO phases VALUES (1, 0, 'intent', 900), (1, 1, 'preclean', 2.5);
INSERT INTO renewals VALUES (1, 1, '1.1', 1772600768000000000, 1772600827891011121);
INSERT INTO blocked VALUES (1, 1, 'write', 'create', 5, '/p', 'rest', 7, 'cp', 0, '', 1772600768000000000, 12.5, 0);
PRAGMA wal_checkpoint(TRUNCATE);
SQL
