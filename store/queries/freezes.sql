-- name: FreezeRequestedAt :one
SELECT requested_at FROM freezes WHERE id = ?;

-- name: PutFreeze :exec
INSERT INTO freezes (
    id, state, generation, requested_at, frozen_at, ended_at, expires_at,
    window_us, total_us, preclean_passes, inodes, pages, bytes,
    window_inodes, window_pages, window_bytes, strategy, modes,
    longest_wait_us, blocked_total, image_reads, waiting_for, error,
    degraded, reported, idempotency_key, patience_us
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, generation = excluded.generation,
    frozen_at = excluded.frozen_at, ended_at = excluded.ended_at,
    expires_at = excluded.expires_at, window_us = excluded.window_us,
    total_us = excluded.total_us, preclean_passes = excluded.preclean_passes,
    inodes = excluded.inodes, pages = excluded.pages, bytes = excluded.bytes,
    window_inodes = excluded.window_inodes, window_pages = excluded.window_pages,
    window_bytes = excluded.window_bytes, strategy = excluded.strategy,
    modes = excluded.modes, longest_wait_us = excluded.longest_wait_us,
    blocked_total = excluded.blocked_total, image_reads = excluded.image_reads,
    waiting_for = excluded.waiting_for, error = excluded.error,
    degraded = excluded.degraded,
    reported = max(freezes.reported, excluded.reported),
    idempotency_key = excluded.idempotency_key,
    patience_us = excluded.patience_us;

-- name: PutHold :exec
INSERT INTO holds (
    hold, freeze_id, holder, reason, since, expires_at, ended_at, ending, renewals, has_token, lease_us
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (hold) DO UPDATE SET
    holder = excluded.holder, reason = excluded.reason, since = excluded.since,
    expires_at = excluded.expires_at, ended_at = excluded.ended_at,
    ending = excluded.ending, renewals = excluded.renewals,
    has_token = excluded.has_token, lease_us = excluded.lease_us;

-- name: PutPhase :exec
INSERT INTO phases (freeze_id, n, name, duration_us) VALUES (?, ?, ?, ?)
ON CONFLICT (freeze_id, n) DO UPDATE SET
    name = excluded.name, duration_us = excluded.duration_us;

-- name: AddRenewal :execrows
INSERT INTO renewals (freeze_id, hold, at, expires_at)
SELECT holds.freeze_id, holds.hold, sqlc.arg(at), sqlc.arg(expires_at)
FROM holds WHERE holds.hold = sqlc.arg(hold);

-- name: ProlongHold :exec
UPDATE holds SET expires_at = sqlc.arg(expires_at)
WHERE hold = sqlc.arg(hold) AND (expires_at IS NULL OR expires_at < sqlc.arg(expires_at));

-- name: AddBlocked :exec
INSERT INTO blocked (
    freeze_id, gate, op, ino, path, way_in, pid, comm, uid, remote, since, waited_us, cancelled
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: SetReported :execrows
UPDATE freezes SET reported = 1 WHERE id = ?;

-- name: OpenFreezes :many
SELECT * FROM freezes WHERE state IN ('freezing', 'frozen') ORDER BY id;

-- name: InterruptFreeze :exec
UPDATE freezes SET state = 'interrupted', ended_at = sqlc.arg(ended_at) WHERE id = sqlc.arg(id);

-- name: InterruptHolds :exec
UPDATE holds SET ending = 'interrupted', ended_at = sqlc.arg(ended_at)
WHERE freeze_id = sqlc.arg(freeze_id) AND ended_at IS NULL;

-- name: GetFreeze :one
SELECT * FROM freezes WHERE id = ?;

-- name: ListFreezes :many
SELECT * FROM freezes
WHERE id < sqlc.arg(before) AND requested_at >= sqlc.arg(since)
ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: ListFreezesByState :many
SELECT * FROM freezes
WHERE state = sqlc.arg(state) AND id < sqlc.arg(before) AND requested_at >= sqlc.arg(since)
ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: ListFreezesByHolder :many
SELECT * FROM freezes
WHERE id IN (
    SELECT h.freeze_id FROM holds h
    WHERE h.holder = sqlc.arg(holder) AND h.freeze_id < sqlc.arg(before)
) AND requested_at >= sqlc.arg(since)
ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: ListFreezesByHolderAndState :many
SELECT * FROM freezes
WHERE id IN (
    SELECT h.freeze_id FROM holds h
    WHERE h.holder = sqlc.arg(holder) AND h.freeze_id < sqlc.arg(before)
) AND state = sqlc.arg(state) AND requested_at >= sqlc.arg(since)
ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: HoldsOf :many
SELECT * FROM holds WHERE freeze_id IN (sqlc.slice(ids)) ORDER BY id;

-- name: PhasesOf :many
SELECT * FROM phases WHERE freeze_id IN (sqlc.slice(ids)) ORDER BY freeze_id, n;

-- name: RenewalsOf :many
SELECT * FROM renewals WHERE freeze_id = sqlc.arg(freeze_id) ORDER BY id DESC LIMIT sqlc.arg(max);

-- name: BlockedOf :many
SELECT * FROM blocked
WHERE freeze_id = sqlc.arg(freeze_id) AND id > sqlc.arg(after)
ORDER BY id LIMIT sqlc.arg(max);

-- name: LastHolds :many
SELECT sqlc.embed(holds), freezes.state, freezes.frozen_at, freezes.requested_at,
       freezes.reported, freezes.idempotency_key
FROM holds JOIN freezes ON freezes.id = holds.freeze_id
ORDER BY holds.id DESC LIMIT ?;

-- name: MaxFreezeID :one
SELECT CAST(coalesce(max(id), 0) AS INTEGER) FROM freezes;
