-- +goose Up

-- What was asked for. 0: the row is older than this column.
ALTER TABLE freezes ADD COLUMN patience_us REAL NOT NULL DEFAULT 0;
ALTER TABLE holds ADD COLUMN lease_us REAL NOT NULL DEFAULT 0;
