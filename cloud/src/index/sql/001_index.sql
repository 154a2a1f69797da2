-- Databases of relays. A relay with a fresh database states everything anew; what the one before held is lost with it.
CREATE TABLE relays (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    is_current INTEGER NOT NULL,
    UNIQUE (name, epoch)
) STRICT;

CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- Chunks that relays have stated.
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    relay INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    series INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at_min INTEGER NOT NULL,
    at_max INTEGER NOT NULL,
    seqs BLOB NOT NULL,
    root BLOB NOT NULL,
    -- NULL while the relay states it. Then since when it does not, until its records are found in the archive.
    left_at INTEGER,
    -- What the records in the archive said: 0 not compared, 1 they give this root, 2 they give another.
    checked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX entries_stated ON entries (relay, chunk) WHERE left_at IS NULL;
CREATE INDEX entries_by_chunk ON entries (relay, chunk);
CREATE INDEX entries_by_time ON entries (series, at_max, at_min);
CREATE INDEX entries_left ON entries (id) WHERE left_at IS NOT NULL;

-- Chunks whose records came with another content than was announced.
CREATE TABLE mismatches (
    id INTEGER PRIMARY KEY,
    relay TEXT NOT NULL,
    relay_epoch INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    series INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at_min INTEGER NOT NULL,
    at_max INTEGER NOT NULL,
    seqs BLOB NOT NULL,
    announced BLOB NOT NULL,
    found BLOB NOT NULL,
    found_at INTEGER NOT NULL
) STRICT;
CREATE INDEX mismatches_by_time ON mismatches (series, at_max, at_min);
