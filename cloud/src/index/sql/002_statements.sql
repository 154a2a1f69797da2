-- Names this database as a source of statements; a fresh one has another name.
CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT;
INSERT INTO identity (one, epoch) VALUES (1, random());

-- What relays have stated, as it goes into batches, until it is in one. Numbers are never used again.
CREATE TABLE statements (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL) STRICT;

-- The entry's statement. NULL: stated while nothing was anchored.
ALTER TABLE entries ADD COLUMN statement INTEGER;
CREATE INDEX entries_unstated ON entries (id) WHERE statement IS NULL;
