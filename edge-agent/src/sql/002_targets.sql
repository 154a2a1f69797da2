-- The target registry: what each relay's last probes took, and every change of the target. No row here is worth a reading.

CREATE TABLE probes (
    sensor TEXT    NOT NULL,
    relay  TEXT    NOT NULL,
    rtt    INTEGER CHECK (rtt >= 0),                -- nanoseconds, the median of a round; NULL: no answer, or a refusal
    at     INTEGER NOT NULL,
    PRIMARY KEY (sensor, relay)
) WITHOUT ROWID;

-- The newest row names the target. Only so many rows are kept.
CREATE TABLE moves (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    sensor     TEXT    NOT NULL,
    relay_from TEXT,                                -- NULL: there was no target before
    relay_to   TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    why        TEXT    NOT NULL,
    rtt_before INTEGER,                             -- nanoseconds, of the round that decided
    rtt_after  INTEGER
);
