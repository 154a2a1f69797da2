-- Since when all records of a chunk are durable here, in nanoseconds since 1970; NULL: since before this was kept.
ALTER TABLE chunks ADD COLUMN taken_at INTEGER;
-- The intervals of `seqs` as JSON, of a chunk with holes; one without holds all from seq_first to seq_last.
ALTER TABLE chunks ADD COLUMN spans TEXT;

-- What was taken over from the anchor ledger, so that this database alone says where a record is: the ledger, and the last change read of it.
CREATE TABLE followed (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ledger BLOB NOT NULL,
    change INTEGER NOT NULL
) STRICT;
CREATE TABLE batches (
    number INTEGER PRIMARY KEY,
    chunk_first INTEGER NOT NULL,
    chunk_last INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('RequestCompleted', 'SentToChain', 'OnChain')),
    since INTEGER NOT NULL,
    -- The batch's own state in the ledger.
    detail TEXT NOT NULL,
    failure TEXT,
    -- The transaction that wrote it, or the newest one signed.
    tx BLOB
) STRICT;
CREATE INDEX batches_by_chunk ON batches (chunk_last, chunk_first);

-- One row a record of a closed segment, made on the fly from chunks. The number is a column of its own and compared with both ends of its
-- chunk, because then SQLite looks for the chunk in an index when series and number are given.
CREATE VIEW record_states AS
    SELECT s.name AS series, printf('%x', c.epoch) AS epoch, each.value AS seq,
           ifnull(b.state, 'RequestCompleted') AS state,
           strftime('%Y-%m-%dT%H:%M:%S', iif(b.state <> 'RequestCompleted', b.since, c.taken_at) / 1000000000, 'unixepoch')
               || printf('.%09dZ', iif(b.state <> 'RequestCompleted', b.since, c.taken_at) % 1000000000) AS since,
           b.number AS batch, nullif('0x' || lower(hex(b.tx)), '0x') AS tx, b.detail, b.failure AS reason
      FROM series s
      JOIN chunks c ON c.series = s.id AND c.id <= (SELECT chunks_published FROM marks)
      LEFT JOIN batches b
             ON b.number = (SELECT number FROM batches WHERE chunk_last >= c.id ORDER BY chunk_last LIMIT 1)
            -- A chunk without a root is in no batch, and gets another id with its root.
            AND b.chunk_first <= c.id AND c.root IS NOT NULL
      JOIN json_each(iif(c.records = c.seq_last - c.seq_first + 1, json_array(json_array(c.seq_first, c.seq_last)), c.spans)) AS span
      JOIN json_each((WITH RECURSIVE every (seq, last) AS (
                          SELECT json_extract(span.value, '$[0]'), json_extract(span.value, '$[1]')
                          UNION ALL SELECT seq + 1, last FROM every WHERE seq < last)
                      SELECT json_group_array(seq) FROM every)) AS each
     WHERE c.seq_first <= each.value AND c.seq_last >= each.value;
