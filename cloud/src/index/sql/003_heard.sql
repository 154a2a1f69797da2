-- When a database of a relay was last known to hold nothing that the index does not name; some seconds old. NULL: never.
ALTER TABLE relays ADD COLUMN heard_at INTEGER;
