-- Since when a row or a chunk is in its state, in nanoseconds since 1970; NULL: since before this was kept.
ALTER TABLE outbox ADD COLUMN since INTEGER;
ALTER TABLE chunks ADD COLUMN since INTEGER;
-- The batch that a chunk is anchored with, once it is in one.
ALTER TABLE chunks ADD COLUMN batch INTEGER;

-- What was taken over from the anchor ledger, so that this database alone says where a record is: the ledger, and the last change read of it.
CREATE TABLE followed (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    ledger BLOB    NOT NULL,
    change INTEGER NOT NULL
);
CREATE TABLE batches (
    number  INTEGER PRIMARY KEY,
    detail  TEXT    NOT NULL,                       -- the batch's own state in the ledger
    failure TEXT,
    tx      BLOB                                    -- the transaction that wrote it, or the newest one signed
);

-- Carries all that is asked for a key, so that rows are only read when they hold it.
DROP INDEX outbox_ungrouped;
CREATE INDEX outbox_ungrouped ON outbox (series, seq_first, seq_last) WHERE chunk IS NULL;

DROP VIEW record_states;
DROP VIEW record_spans;
CREATE VIEW record_spans AS
    SELECT s.name AS series, o.seq_first, o.seq_last, o.state, o.since, NULL AS batch, NULL AS tx, NULL AS detail, o.reason
      FROM series s JOIN outbox o ON o.series = s.id AND o.chunk IS NULL
    UNION ALL
    SELECT s.name, c.seq_first, c.seq_last, c.state, c.since, c.batch, nullif('0x' || lower(hex(b.tx)), '0x'), b.detail, b.failure
      FROM series s JOIN chunks c ON c.series = s.id LEFT JOIN batches b ON b.number = c.batch
    UNION ALL
    SELECT s.name, t.seq_first, t.seq_last, 3, t.at, NULL, NULL, NULL, t.reason
      FROM series s JOIN tombstones t ON t.series = s.id AND t.taken = 1;

-- The patent's view: one row a record, made on the fly from the spans. The number is a column of its own and compared with both ends of its
-- span, because then SQLite looks for the span in an index when series and number are given.
CREATE VIEW record_states AS
    SELECT spans.series, printf('%x', origin.epoch) AS epoch, each.value AS seq,
           CASE spans.state WHEN 0 THEN 'Pending' WHEN 1 THEN 'SentToServer' WHEN 2 THEN 'ServerAccepted'
                            WHEN 3 THEN 'ServerRejected' WHEN 4 THEN 'SentToChain' WHEN 5 THEN 'OnChain' END AS state,
           strftime('%Y-%m-%dT%H:%M:%S', spans.since / 1000000000, 'unixepoch')
               || printf('.%09dZ', spans.since % 1000000000) AS since,
           spans.batch, spans.tx, spans.detail, spans.reason
      FROM record_spans AS spans, origin,
           json_each((WITH RECURSIVE every (seq) AS (SELECT spans.seq_first UNION ALL SELECT seq + 1 FROM every WHERE seq < spans.seq_last)
                      SELECT json_group_array(seq) FROM every)) AS each
     WHERE spans.seq_first <= each.value AND spans.seq_last >= each.value;
