-- The epoch that raw readings are numbered in, if it is no longer the database's own.
ALTER TABLE marks ADD COLUMN origin INTEGER;
-- Pages up to this one may have been seen by the uplink before their commit. 0: none, or the database was closed in order.
ALTER TABLE marks ADD COLUMN ahead INTEGER NOT NULL DEFAULT 0;
