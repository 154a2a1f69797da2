-- What a person must look at: somebody else has used the key.
CREATE TABLE alarms (
    id    INTEGER PRIMARY KEY,
    at    INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    what  TEXT NOT NULL
) STRICT;
