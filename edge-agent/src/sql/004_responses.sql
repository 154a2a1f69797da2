-- A user terminal's responses to demand-response events, written by the commit that takes the record which says so. Only so many rows are kept.
CREATE TABLE responses (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event       TEXT    NOT NULL UNIQUE,
    program     TEXT    NOT NULL,
    baseline_kw REAL    NOT NULL,
    promised_kw REAL    NOT NULL,
    begins      INTEGER NOT NULL,                   -- nanoseconds since 1970
    ends        INTEGER NOT NULL,
    reported    INTEGER NOT NULL DEFAULT 0          -- whether its result was taken, too
);
CREATE INDEX responses_open ON responses (id) WHERE reported = 0;
