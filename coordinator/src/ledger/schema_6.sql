-- The exclusive groups that an attempt is in, each after a zero byte: a coordinator that starts again must know who may still be in them.
ALTER TABLE attempts ADD COLUMN exclusive BLOB NOT NULL DEFAULT x'';
