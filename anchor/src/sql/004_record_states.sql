-- Tells one ledger from another that took its place: who follows this one starts over then.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  BLOB NOT NULL
) STRICT;
INSERT INTO identity (one, id) VALUES (1, randomblob(16));

-- How far the records of a batch have come, in the words of the patent: moved by the write that moves the batch. `change` grows with every
-- write of a batch, so that who follows the ledger sees each batch's last state and misses none.
ALTER TABLE batches ADD COLUMN record_state TEXT NOT NULL DEFAULT 'RequestCompleted'
    CHECK (record_state IN ('ServerAccepted', 'RequestCompleted', 'SentToChain', 'OnChain'));
ALTER TABLE batches ADD COLUMN record_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
UPDATE batches SET
    change = number,
    record_since = max(since, offered_at),
    record_state = CASE
        WHEN state = 'FINAL' THEN 'OnChain'
        WHEN state = 'BATCHED' AND prev IS NULL
            THEN (SELECT CASE kind WHEN 'terminal' THEN 'ServerAccepted' ELSE 'RequestCompleted' END FROM party)
        ELSE 'SentToChain'
    END;
CREATE UNIQUE INDEX batches_by_change ON batches (change);

DROP VIEW chunk_states;
DROP VIEW batch_states;
CREATE VIEW batch_states AS
SELECT b.number AS batch,
       b.record_state AS state,
       b.record_since AS since,
       b.state AS detail,
       b.failure AS failure,
       b.count AS chunks,
       lower(hex(b.root)) AS root,
       lower(hex(b.tx)) AS tx,
       b.block_number AS block_number,
       b.gas_used AS gas_used
FROM batches b;
CREATE VIEW chunk_states AS
SELECT l.source AS source, l.chunk AS chunk, l.batch AS batch, s.state AS state, s.since AS since, s.detail AS detail, s.failure AS failure
FROM leaves l JOIN batch_states s ON s.batch = l.batch;
