-- A party that has no funds signs its roots, and the anchor service writes them.
CREATE TABLE pledges (
    batch     INTEGER PRIMARY KEY REFERENCES batches (number),
    account   BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;

-- The anchor service's side. The account that a party signed with first is the party's.
CREATE TABLE sponsored (
    name    TEXT PRIMARY KEY,
    account BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Roots that wait for a transaction; a party has one at a time.
CREATE TABLE waiting (
    name       TEXT PRIMARY KEY REFERENCES sponsored (name),
    prev       BLOB NOT NULL,
    root       BLOB NOT NULL,
    first_seq  INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    signature  BLOB NOT NULL,
    offered_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The roots that one of the service's own batches carries along, all or none.
CREATE TABLE cargo (
    batch     INTEGER NOT NULL REFERENCES batches (number),
    position  INTEGER NOT NULL,
    name      TEXT NOT NULL REFERENCES sponsored (name),
    prev      BLOB NOT NULL,
    root      BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    signature BLOB NOT NULL,
    told      INTEGER NOT NULL DEFAULT 0, -- whether the party was told of its transaction
    PRIMARY KEY (batch, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX cargo_by_name ON cargo (name, batch);
CREATE INDEX cargo_untold ON cargo (batch) WHERE told = 0;
