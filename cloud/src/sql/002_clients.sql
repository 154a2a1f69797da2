-- What an operator has granted to a VEN, its resources, what clients want to be told, and what is still to be told to them.
ALTER TABLE vens ADD COLUMN targets TEXT;           -- JSON: a list of text
CREATE TABLE resources (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    ven        INTEGER NOT NULL REFERENCES vens (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    attributes TEXT,                                -- JSON
    targets    TEXT,                                -- JSON: a list of text
    created    INTEGER NOT NULL,
    modified   INTEGER NOT NULL,
    UNIQUE (ven, name)
);
CREATE TABLE subscriptions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user       TEXT    NOT NULL,
    content    TEXT    NOT NULL,                    -- JSON: the request, with the tokens of its callbacks
    created    INTEGER NOT NULL,
    modified   INTEGER NOT NULL
);
-- Notifications that were not taken yet. Deleted when they are, or when they are given up.
CREATE TABLE calls (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription INTEGER NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    url          TEXT    NOT NULL,
    bearer       TEXT,
    body         TEXT    NOT NULL,                  -- JSON
    tries        INTEGER NOT NULL DEFAULT 0,
    made         INTEGER NOT NULL,                  -- nanoseconds since 1970
    due          INTEGER NOT NULL                   -- not tried before
);
CREATE INDEX calls_of ON calls (subscription, id);
-- Up to which record of a program's events notifications were made.
CREATE TABLE told_events (
    program TEXT    PRIMARY KEY,
    epoch   TEXT    NOT NULL,
    seq     INTEGER NOT NULL
);
-- Which records of reports they were made of, while somebody wants to be told of reports.
CREATE TABLE told_reports (
    program TEXT NOT NULL,
    series  TEXT NOT NULL,
    epoch   TEXT NOT NULL,
    seqs    TEXT NOT NULL,                          -- JSON: a list of pairs, each from and to
    PRIMARY KEY (series, epoch)
);
CREATE TABLE reports_wanted (program TEXT PRIMARY KEY);
