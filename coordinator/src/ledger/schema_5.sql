-- Images that have names; their blobs are in the cache, and kept there.
CREATE TABLE images (
  name TEXT PRIMARY KEY,
  -- An encoded muster.v1.Image.
  image BLOB NOT NULL
) STRICT, WITHOUT ROWID;
