-- name: AddSync :one
INSERT INTO syncs (at, kind, ino, generation, inodes, pages, bytes, duration_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id;

-- name: AddFound :exec
INSERT INTO found_inodes (
    freeze_id, sync_id, ino, path, pages, bytes, dirty_since, found_at, in_window
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: BumpMinute :execrows
UPDATE fsync_minutes SET
    syncs = syncs + sqlc.arg(syncs), pages = pages + sqlc.arg(pages),
    bytes = bytes + sqlc.arg(bytes), total_us = total_us + sqlc.arg(total_us),
    max_us = CASE WHEN max_us > sqlc.arg(max_us) THEN max_us ELSE sqlc.arg(max_us) END
WHERE minute = sqlc.arg(minute);

-- name: AddMinute :exec
INSERT INTO fsync_minutes (minute, syncs, pages, bytes, total_us, max_us)
VALUES (?, ?, ?, ?, ?, ?);

-- name: AddSample :execrows
INSERT INTO samples (
    at, dirty_inodes, dirty_pages, used_bytes, free_bytes, ops_total, blocked, frozen
) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (at) DO NOTHING;

-- name: AddEvent :one
INSERT INTO events (at, kind, data) VALUES (?, ?, ?) RETURNING id;

-- name: FoundOfFreeze :many
SELECT * FROM found_inodes
WHERE freeze_id = sqlc.arg(freeze_id) AND id > sqlc.arg(after)
ORDER BY id LIMIT sqlc.arg(max);

-- name: FoundOfSync :many
SELECT * FROM found_inodes
WHERE sync_id = sqlc.arg(sync_id) AND id > sqlc.arg(after)
ORDER BY id LIMIT sqlc.arg(max);

-- name: FoundOfInode :many
SELECT * FROM found_inodes
WHERE ino = sqlc.arg(ino) AND id < sqlc.arg(before)
ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: ListSyncs :many
SELECT * FROM syncs WHERE id < sqlc.arg(before) ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: ListMinutes :many
SELECT * FROM fsync_minutes
WHERE minute >= sqlc.arg(start) AND minute < sqlc.arg(finish)
ORDER BY minute LIMIT sqlc.arg(max);

-- name: ListSamples :many
SELECT * FROM samples
WHERE at >= sqlc.arg(start) AND at < sqlc.arg(finish)
ORDER BY at LIMIT sqlc.arg(max);

-- name: EventsAfter :many
SELECT * FROM events WHERE id > sqlc.arg(after) ORDER BY id LIMIT sqlc.arg(max);

-- name: LastEvent :one
SELECT CAST(coalesce(max(id), 0) AS INTEGER) AS id FROM events;

-- name: LastEventAt :one
SELECT at FROM events ORDER BY id DESC LIMIT 1;

-- name: LastSampleAt :one
SELECT at FROM samples ORDER BY at DESC LIMIT 1;
