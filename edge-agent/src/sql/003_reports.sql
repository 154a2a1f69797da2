-- How much of each tombstone has been told to the cloud: up to this number; 0: nothing. Written by the commit that takes the record which tells it.
ALTER TABLE tombstones ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tombstones_untold ON tombstones (id) WHERE told < seq_last;
