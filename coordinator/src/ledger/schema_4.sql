-- What attempts wrote and started, beside the memory and processor time that they used.
ALTER TABLE attempts ADD COLUMN written_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN processes_peak INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN processes_created INTEGER NOT NULL DEFAULT 0;
