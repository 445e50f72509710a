-- name: CountRows :one
SELECT
    (SELECT count(*) FROM freezes) AS freezes,
    (SELECT count(*) FROM renewals) AS renewals,
    (SELECT count(*) FROM blocked) AS blocked,
    (SELECT count(*) FROM found_inodes) AS found,
    (SELECT count(*) FROM syncs) AS syncs,
    (SELECT count(*) FROM fsync_minutes) AS minutes,
    (SELECT count(*) FROM samples) AS samples,
    (SELECT count(*) FROM events) AS events;

-- name: OldestFreezes :many
SELECT id, state, requested_at FROM freezes ORDER BY id LIMIT ?;

-- name: OldestRenewals :many
SELECT id, at FROM renewals ORDER BY id LIMIT ?;

-- name: OldestBlocked :many
SELECT id, since AS at FROM blocked ORDER BY id LIMIT ?;

-- name: OldestFound :many
SELECT id, found_at AS at FROM found_inodes ORDER BY id LIMIT ?;

-- name: OldestSyncs :many
SELECT id, at FROM syncs ORDER BY id LIMIT ?;

-- name: OldestMinutes :many
SELECT minute AS id, minute AS at FROM fsync_minutes ORDER BY minute LIMIT ?;

-- name: OldestSamples :many
SELECT at AS id, at FROM samples ORDER BY at LIMIT ?;

-- name: OldestEvents :many
SELECT id, at FROM events ORDER BY id LIMIT ?;

-- name: DeleteFreeze :execrows
DELETE FROM freezes WHERE id = ?;

-- name: DeleteHoldsOf :exec
DELETE FROM holds WHERE freeze_id = ?;

-- name: DeletePhasesOf :exec
DELETE FROM phases WHERE freeze_id = ?;

-- name: DeleteRenewalsOf :execrows
DELETE FROM renewals WHERE id IN (
    SELECT r.id FROM renewals r WHERE r.freeze_id = ? LIMIT ?);

-- name: DeleteBlockedOf :execrows
DELETE FROM blocked WHERE id IN (
    SELECT b.id FROM blocked b WHERE b.freeze_id = ? LIMIT ?);

-- name: DeleteFoundOfFreeze :execrows
DELETE FROM found_inodes WHERE id IN (
    SELECT f.id FROM found_inodes f WHERE f.freeze_id = ? LIMIT ?);

-- name: DeleteFoundOfSync :execrows
DELETE FROM found_inodes WHERE id IN (
    SELECT f.id FROM found_inodes f WHERE f.sync_id = ? LIMIT ?);

-- name: DeleteRenewal :execrows
DELETE FROM renewals WHERE id = ?;

-- name: DeleteBlocked :execrows
DELETE FROM blocked WHERE id = ?;

-- name: DeleteFound :execrows
DELETE FROM found_inodes WHERE id = ?;

-- name: DeleteSync :execrows
DELETE FROM syncs WHERE id = ?;

-- name: DeleteMinute :execrows
DELETE FROM fsync_minutes WHERE minute = ?;

-- name: DeleteSample :execrows
DELETE FROM samples WHERE at = ?;

-- name: DeleteEvent :execrows
DELETE FROM events WHERE id = ?;
