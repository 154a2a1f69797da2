-- What a response to an event was given to: events may be changed and cancelled, and overlap others by priority.
ALTER TABLE responses ADD COLUMN priority  INTEGER NOT NULL DEFAULT 4294967295;
ALTER TABLE responses ADD COLUMN modified  INTEGER NOT NULL DEFAULT 0;         -- nanoseconds since 1970, as the event says
ALTER TABLE responses ADD COLUMN asked_kw  REAL    NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN opted_out INTEGER NOT NULL DEFAULT 0;
UPDATE responses SET asked_kw = promised_kw;
