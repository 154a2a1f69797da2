-- Clients of other makers that take part in demand response (OpenADR VENs).
CREATE TABLE vens (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    attributes TEXT,                                -- JSON
    created    INTEGER NOT NULL,
    modified   INTEGER NOT NULL,
    UNIQUE (user, name)
);
