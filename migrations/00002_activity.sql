-- +goose Up

CREATE TABLE syncs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    ino         INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    inodes      INTEGER NOT NULL,
    pages       INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    duration_us REAL    NOT NULL
) STRICT;

-- A dirty inode that one freeze or one sync found: exactly one of the two.
CREATE TABLE found_inodes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    freeze_id   INTEGER REFERENCES freezes (id),
    sync_id     INTEGER REFERENCES syncs (id),
    ino         INTEGER NOT NULL,
    path        TEXT    NOT NULL,
    pages       INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    dirty_since INTEGER,
    found_at    INTEGER NOT NULL,
    in_window   INTEGER NOT NULL CHECK (in_window IN (0, 1)),
    CHECK ((freeze_id IS NULL) <> (sync_id IS NULL))
) STRICT;

CREATE INDEX found_by_freeze ON found_inodes (freeze_id, id);
CREATE INDEX found_by_sync ON found_inodes (sync_id, id);
CREATE INDEX found_by_ino ON found_inodes (ino, id);

-- The syncs of one minute, summed; minute is its first nanosecond.
CREATE TABLE fsync_minutes (
    minute   INTEGER PRIMARY KEY,
    syncs    INTEGER NOT NULL,
    pages    INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    total_us REAL    NOT NULL,
    max_us   REAL    NOT NULL
) STRICT;

CREATE TABLE samples (
    at           INTEGER PRIMARY KEY,
    dirty_inodes INTEGER NOT NULL,
    dirty_pages  INTEGER NOT NULL,
    used_bytes   INTEGER NOT NULL,
    free_bytes   INTEGER NOT NULL,
    ops_total    INTEGER NOT NULL,
    blocked      INTEGER NOT NULL,
    frozen       INTEGER NOT NULL CHECK (frozen IN (0, 1))
) STRICT;

-- AUTOINCREMENT: an id that a listener has seen is never given to another event.
CREATE TABLE events (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    at   INTEGER NOT NULL,
    kind TEXT    NOT NULL,
    data TEXT    NOT NULL CHECK (json_valid(data))
) STRICT;
