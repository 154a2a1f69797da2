-- Who keeps this ledger; another party's worker refuses it.
CREATE TABLE party (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    kind TEXT NOT NULL CHECK (kind IN ('terminal', 'server')),
    name TEXT NOT NULL
) STRICT;

-- Where it writes. Set at the first contact with the chain, never changed by itself.
CREATE TABLE target (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    chain_id  INTEGER NOT NULL,
    genesis   BLOB NOT NULL,
    contract  BLOB NOT NULL,
    code_hash BLOB NOT NULL,
    submitter BLOB NOT NULL,
    stream    BLOB NOT NULL,
    base_head BLOB NOT NULL -- the stream's head when this ledger began
) STRICT;

-- The last chunk taken from each source. A source that began anew numbers its chunks anew, under another epoch.
CREATE TABLE sources (
    epoch     INTEGER PRIMARY KEY,
    watermark INTEGER NOT NULL
) STRICT;

CREATE TABLE batches (
    number       INTEGER PRIMARY KEY,
    root         BLOB NOT NULL,
    first_seq    INTEGER NOT NULL,
    count        INTEGER NOT NULL, -- of chunks
    records      INTEGER NOT NULL,
    closed_at    INTEGER NOT NULL,
    prev         BLOB, -- known when it is signed: the head of the batch before
    head         BLOB,
    state        TEXT NOT NULL CHECK (state IN ('BATCHED', 'SIGNED', 'SENT', 'MINED', 'FINAL', 'FAILED')),
    since        INTEGER NOT NULL,
    offered_at   INTEGER NOT NULL,
    unseen       INTEGER NOT NULL DEFAULT 0,
    reverts      INTEGER NOT NULL DEFAULT 0,
    failure      TEXT,
    tx           BLOB,
    block_number INTEGER,
    block_hash   BLOB,
    log_index    INTEGER,
    gas_used     INTEGER,
    CHECK ((state IN ('MINED', 'FINAL')) = (tx IS NOT NULL)),
    CHECK ((state = 'FAILED') = (failure IS NOT NULL))
) STRICT;
CREATE INDEX batches_by_state ON batches (state, number);
CREATE UNIQUE INDEX batches_by_head ON batches (head) WHERE head IS NOT NULL;

CREATE TABLE leaves (
    batch    INTEGER NOT NULL REFERENCES batches (number),
    position INTEGER NOT NULL,
    source   INTEGER NOT NULL,
    chunk    INTEGER NOT NULL,
    leaf     BLOB NOT NULL,
    header   BLOB NOT NULL,
    PRIMARY KEY (batch, position)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX leaves_by_chunk ON leaves (source, chunk);

-- Every transaction ever signed for a batch: any of them may be the one that is mined.
CREATE TABLE transactions (
    id        INTEGER PRIMARY KEY,
    hash      BLOB NOT NULL UNIQUE,
    batch     INTEGER NOT NULL REFERENCES batches (number),
    nonce     INTEGER NOT NULL,
    raw       BLOB NOT NULL,
    fee_cap   INTEGER NOT NULL,
    tip       INTEGER NOT NULL,
    gas       INTEGER NOT NULL,
    signed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX transactions_by_batch ON transactions (batch, id);
CREATE INDEX transactions_by_nonce ON transactions (nonce);

-- The states by the names that the business side uses.
CREATE VIEW batch_states AS
SELECT b.number AS batch,
       CASE b.state
           WHEN 'FINAL' THEN 'OnChain'
           WHEN 'BATCHED' THEN (SELECT CASE kind WHEN 'terminal' THEN 'ServerAccepted' ELSE 'RequestCompleted' END FROM party)
           ELSE 'SentToChain'
       END AS state,
       b.state AS detail,
       b.failure AS failure,
       b.count AS chunks,
       lower(hex(b.root)) AS root,
       lower(hex(b.tx)) AS tx,
       b.block_number AS block_number,
       b.gas_used AS gas_used
FROM batches b;

CREATE VIEW chunk_states AS
SELECT l.source AS source, l.chunk AS chunk, l.batch AS batch, s.state AS state, s.detail AS detail, s.failure AS failure
FROM leaves l JOIN batch_states s ON s.batch = l.batch;
