CREATE TABLE request (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    authority TEXT NOT NULL,
    -- What the authority says about the user, of what rules and operators look at. JSON.
    attributes TEXT NOT NULL,
    -- JSON.
    bounds TEXT NOT NULL,
    from_at INTEGER NOT NULL,
    until_at INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'rejected', 'withdrawn', 'revoked')),
    decided_at INTEGER,
    decided_by TEXT,
    reason TEXT,
    -- What is in force of it while it is approved: as much as was asked for, or less.
    granted_bounds TEXT,
    granted_until INTEGER
) STRICT;
CREATE INDEX request_by_user ON request (user, asked_at);
CREATE INDEX request_by_state ON request (state, granted_until);

-- Who did what, when and why. `chain` is a hash over the entry and the chain before it, so an entry can't be changed or taken out
-- without all behind it.
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    request INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- What was asked for, or is granted. JSON.
    detail TEXT NOT NULL,
    chain BLOB NOT NULL CHECK (length(chain) = 32)
) STRICT;
CREATE TRIGGER log_stays BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the audit trail is not changed'); END;
CREATE TRIGGER log_grows BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the audit trail is not shortened'); END;
