-- What was charged to discoveries that have not succeeded.
CREATE TABLE discovery_tries (
  run INTEGER NOT NULL,
  target INTEGER NOT NULL,
  faults INTEGER NOT NULL,
  losses_uncharged INTEGER NOT NULL,
  PRIMARY KEY (run, target)
) STRICT, WITHOUT ROWID;
