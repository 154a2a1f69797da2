-- The agent's own database. A row of `outbox` is a run: consecutive records of one series that were taken together and share their fate.
-- State numbers: 0 Pending, 1 SentToServer, 2 ServerAccepted, 3 ServerRejected, 4 SentToChain, 5 OnChain.

CREATE TABLE origin (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    epoch   INTEGER NOT NULL,                       -- 64 bits, read as signed
    secret  BLOB    NOT NULL CHECK (length(secret) = 32),
    sensor  TEXT    NOT NULL,
    made_at INTEGER NOT NULL
);

CREATE TABLE series (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    next_seq INTEGER NOT NULL CHECK (next_seq >= 1)
);

CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of taking, never used twice
    series      INTEGER NOT NULL REFERENCES series (id),
    operation   INTEGER NOT NULL,
    seq_first   INTEGER NOT NULL,
    seq_last    INTEGER NOT NULL CHECK (seq_last >= seq_first),
    at_min      INTEGER NOT NULL,
    at_max      INTEGER NOT NULL,
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    cost        INTEGER NOT NULL,                   -- what it takes of the byte budget while it is open
    accepted_at INTEGER,
    reason      TEXT,                               -- why it was rejected
    chunk       INTEGER REFERENCES chunks (id),     -- from then on the state is the chunk's, and one row stands for all of it
    leaves      BLOB                                -- 32 bytes a record; moves into the chunk
);
CREATE UNIQUE INDEX outbox_keys ON outbox (series, seq_first);
CREATE INDEX outbox_ungrouped ON outbox (series, seq_first) WHERE chunk IS NULL;
CREATE INDEX outbox_grouped ON outbox (chunk) WHERE chunk IS NOT NULL;
CREATE INDEX outbox_rejected ON outbox (id) WHERE state = 3;

-- Apart from `outbox`, so that a change of state does not write the payloads again. Gone once the relay answered.
CREATE TABLE bodies (
    id  INTEGER PRIMARY KEY REFERENCES outbox (id),
    run BLOB NOT NULL
);

CREATE TABLE chunks (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    series    INTEGER NOT NULL REFERENCES series (id),
    seq_first INTEGER NOT NULL,
    seq_last  INTEGER NOT NULL CHECK (seq_last >= seq_first),
    at_min    INTEGER NOT NULL,
    at_max    INTEGER NOT NULL,
    root      BLOB    NOT NULL CHECK (length(root) = 32),
    state     INTEGER NOT NULL CHECK (state IN (2, 4, 5)),
    purged    INTEGER NOT NULL DEFAULT 0,           -- whether its row has left `outbox`
    leaves    BLOB                                  -- dropped, oldest first, when the budget for them is used up
);
CREATE UNIQUE INDEX chunks_keys ON chunks (series, seq_last);
CREATE INDEX chunks_to_purge ON chunks (id) WHERE state = 5 AND purged = 0;
CREATE INDEX chunks_unfinished ON chunks (id) WHERE state <> 5;
CREATE INDEX chunks_with_leaves ON chunks (id) WHERE leaves IS NOT NULL;

-- Every record that was given up on purpose, as ranges.
CREATE TABLE tombstones (
    id        INTEGER PRIMARY KEY,
    series    INTEGER NOT NULL REFERENCES series (id),
    seq_first INTEGER NOT NULL,
    seq_last  INTEGER NOT NULL CHECK (seq_last >= seq_first),
    reason    TEXT    NOT NULL,
    taken     INTEGER NOT NULL CHECK (taken IN (0, 1)), -- whether the records had been taken before
    at        INTEGER NOT NULL
);
CREATE UNIQUE INDEX tombstones_keys ON tombstones (series, seq_last);

-- How far an input was read, written by the same commit as the readings.
CREATE TABLE positions (
    input    TEXT PRIMARY KEY,
    source   TEXT    NOT NULL,                      -- what the position counts in; another source is another position
    position INTEGER NOT NULL
) WITHOUT ROWID;

CREATE VIEW record_spans AS
    SELECT s.name AS series, o.seq_first, o.seq_last, o.state, o.reason
      FROM outbox o JOIN series s ON s.id = o.series WHERE o.chunk IS NULL
    UNION ALL
    SELECT s.name, c.seq_first, c.seq_last, c.state, NULL FROM chunks c JOIN series s ON s.id = c.series
    UNION ALL
    SELECT s.name, t.seq_first, t.seq_last, 3, t.reason FROM tombstones t JOIN series s ON s.id = t.series WHERE t.taken = 1;

-- The patent's view: one row a record. Made on the fly, so ask it with a WHERE on series, or be patient.
CREATE VIEW record_states AS
    WITH RECURSIVE each (series, seq, seq_last, state, reason) AS (
        SELECT series, seq_first, seq_last, state, reason FROM record_spans
        UNION ALL
        SELECT series, seq + 1, seq_last, state, reason FROM each WHERE seq < seq_last
    )
    SELECT each.series, printf('%x', origin.epoch) AS epoch, each.seq,
           CASE each.state WHEN 0 THEN 'Pending' WHEN 1 THEN 'SentToServer' WHEN 2 THEN 'ServerAccepted'
                           WHEN 3 THEN 'ServerRejected' WHEN 4 THEN 'SentToChain' WHEN 5 THEN 'OnChain' END AS state,
           each.reason
      FROM each, origin;
