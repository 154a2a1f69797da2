-- Who this database is. One row, made with it.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    secret BLOB NOT NULL
) STRICT;

-- How far the upkeep has come. Whatever lies beyond a mark is replayed or thrown away at the next opening.
CREATE TABLE marks (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- Buffer pages up to this one are in published chunks.
    buffer_done INTEGER NOT NULL DEFAULT 0,
    -- Outgoing pages below this one are counted in `held`.
    outgoing_saved INTEGER NOT NULL DEFAULT 1,
    -- Chunks above this one belong to a segment that was not closed.
    chunks_published INTEGER NOT NULL DEFAULT 0,
    chunk_count INTEGER NOT NULL DEFAULT 0,
    chunk_records INTEGER NOT NULL DEFAULT 0,
    chunk_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO marks (one) VALUES (1);

-- Outgoing pages that the cloud holds, as intervals.
CREATE TABLE receipts (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    delivered BLOB NOT NULL
) STRICT;

CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE relays (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- Secrets of the epochs whose records are here. The empty scope is a relay's own.
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    scope TEXT NOT NULL,
    secret BLOB NOT NULL,
    UNIQUE (epoch, scope)
) STRICT;

-- Pages of the open segment of the storage area: runs one behind the other, as one commit left them.
CREATE TABLE buffer (
    id INTEGER PRIMARY KEY,
    via INTEGER NOT NULL,
    records INTEGER NOT NULL,
    taken_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Pages on their way to the cloud. Both tables share one sequence of ids, which are the frame numbers.
CREATE TABLE live (
    id INTEGER PRIMARY KEY,
    records INTEGER NOT NULL,
    taken_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE backlog (
    id INTEGER PRIMARY KEY,
    records INTEGER NOT NULL,
    taken_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    via INTEGER NOT NULL,
    seq_first INTEGER NOT NULL,
    seq_last INTEGER NOT NULL,
    at_min INTEGER NOT NULL,
    at_max INTEGER NOT NULL,
    records INTEGER NOT NULL,
    seqs BLOB NOT NULL,
    root BLOB,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX chunks_by_time ON chunks (series, at_max, at_min);
CREATE INDEX chunks_by_seq ON chunks (series, epoch, seq_first, seq_last);
CREATE INDEX chunks_without_root ON chunks (id) WHERE root IS NULL;

-- Sequence numbers given out or received, as of the last closed segment.
CREATE TABLE held (
    series INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seqs BLOB NOT NULL,
    PRIMARY KEY (series, epoch)
) STRICT, WITHOUT ROWID;

-- Frames received, by the relay's numbers.
CREATE TABLE frames (
    relay INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    numbers BLOB NOT NULL,
    PRIMARY KEY (relay, epoch)
) STRICT, WITHOUT ROWID;

-- Records that came under a key that is held with other content.
CREATE TABLE conflicts (
    id INTEGER PRIMARY KEY,
    series TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    via INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    at INTEGER NOT NULL,
    operation INTEGER NOT NULL,
    payload BLOB NOT NULL,
    held_digest BLOB NOT NULL,
    offered_digest BLOB NOT NULL
) STRICT;
