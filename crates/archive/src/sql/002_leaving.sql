-- What was handed over and has no receipt yet. A chunk in here is off the storage area, and stays in the index until the receipt.
CREATE TABLE leaving (
    id INTEGER PRIMARY KEY,
    -- The page of the backlog that carries it.
    page INTEGER NOT NULL,
    -- The chunk's number; none for runs that left the open segment.
    chunk INTEGER,
    series INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at_min INTEGER NOT NULL,
    at_max INTEGER NOT NULL,
    records INTEGER NOT NULL,
    seqs BLOB NOT NULL,
    root BLOB
) STRICT;
CREATE INDEX leaving_by_page ON leaving (page);
CREATE INDEX leaving_by_chunk ON leaving (chunk) WHERE chunk IS NOT NULL;
CREATE INDEX leaving_by_time ON leaving (series, at_max, at_min);

-- Series whose runs in the open segment, up to this page, were handed over.
CREATE TABLE gone (series INTEGER PRIMARY KEY, page INTEGER NOT NULL) STRICT;
