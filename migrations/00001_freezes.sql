-- +goose Up

-- Times are integer nanoseconds since 1970 UTC; NULL means "not yet".
-- A freeze belongs to the request that made it: (id, requested_at) never change.
CREATE TABLE freezes (
    id              INTEGER PRIMARY KEY,
    state           TEXT    NOT NULL CHECK (state <> ''),
    generation      INTEGER NOT NULL,
    requested_at    INTEGER NOT NULL,
    frozen_at       INTEGER,
    ended_at        INTEGER,
    expires_at      INTEGER,
    window_us       REAL    NOT NULL,
    total_us        REAL    NOT NULL,
    preclean_passes INTEGER NOT NULL,
    inodes          INTEGER NOT NULL,
    pages           INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    window_inodes   INTEGER NOT NULL,
    window_pages    INTEGER NOT NULL,
    window_bytes    INTEGER NOT NULL,
    strategy        TEXT    NOT NULL,
    modes           TEXT    NOT NULL CHECK (json_valid(modes)),
    longest_wait_us REAL    NOT NULL,
    blocked_total   INTEGER NOT NULL,
    image_reads     INTEGER NOT NULL,
    waiting_for     TEXT    NOT NULL CHECK (json_valid(waiting_for)),
    error           TEXT    NOT NULL,
    degraded        INTEGER NOT NULL CHECK (degraded IN (0, 1)),
    reported        INTEGER NOT NULL CHECK (reported IN (0, 1)),
    idempotency_key TEXT    NOT NULL
) STRICT;

CREATE INDEX freezes_by_state ON freezes (state, id);

-- Tokens are not here: only whether the hold needs one.
CREATE TABLE holds (
    id         INTEGER PRIMARY KEY,
    hold       TEXT    NOT NULL UNIQUE,
    freeze_id  INTEGER NOT NULL REFERENCES freezes (id),
    holder     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    since      INTEGER NOT NULL,
    expires_at INTEGER,
    ended_at   INTEGER,
    ending     TEXT    NOT NULL,
    renewals   INTEGER NOT NULL,
    has_token  INTEGER NOT NULL CHECK (has_token IN (0, 1))
) STRICT;

CREATE INDEX holds_by_freeze ON holds (freeze_id);
CREATE INDEX holds_by_holder ON holds (holder, freeze_id);

CREATE TABLE phases (
    freeze_id   INTEGER NOT NULL REFERENCES freezes (id),
    n           INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    duration_us REAL    NOT NULL,
    PRIMARY KEY (freeze_id, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE renewals (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    freeze_id  INTEGER NOT NULL REFERENCES freezes (id),
    hold       TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX renewals_by_freeze ON renewals (freeze_id, id);

CREATE TABLE blocked (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    freeze_id INTEGER NOT NULL REFERENCES freezes (id),
    gate      TEXT    NOT NULL,
    op        TEXT    NOT NULL,
    ino       INTEGER NOT NULL,
    path      TEXT    NOT NULL,
    way_in    TEXT    NOT NULL,
    pid       INTEGER NOT NULL,
    comm      TEXT    NOT NULL,
    uid       INTEGER NOT NULL,
    remote    TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    waited_us REAL    NOT NULL,
    cancelled INTEGER NOT NULL CHECK (cancelled IN (0, 1))
) STRICT;

CREATE INDEX blocked_by_freeze ON blocked (freeze_id, id);
