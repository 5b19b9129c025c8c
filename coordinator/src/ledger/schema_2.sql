-- What was charged to cases that have no outcome yet.
CREATE TABLE tries (
  run INTEGER NOT NULL,
  target INTEGER NOT NULL,
  case_index INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  failed_tries INTEGER NOT NULL,
  faults INTEGER NOT NULL,
  losses INTEGER NOT NULL,
  losses_alone INTEGER NOT NULL,
  losses_uncharged INTEGER NOT NULL,
  alone INTEGER NOT NULL,
  -- The attempt in which it failed in company; 0 when it did not.
  company_epoch INTEGER NOT NULL,
  -- The words of its last failure: an encoded muster.v1.CaseReport.
  failure BLOB,
  PRIMARY KEY (run, target, case_index)
) STRICT, WITHOUT ROWID;
