CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  run INTEGER PRIMARY KEY AUTOINCREMENT,
  token TEXT NOT NULL UNIQUE,
  project TEXT NOT NULL,
  -- An encoded muster.v1.RunSpec whose bases are pinned.
  spec BLOB NOT NULL,
  -- `running`, or the name of the run's outcome.
  state TEXT NOT NULL,
  started_unix_ms INTEGER NOT NULL,
  wall_ms INTEGER NOT NULL DEFAULT 0,
  -- Whether watchers were told the plan.
  announced INTEGER NOT NULL DEFAULT 0,
  cancelled INTEGER NOT NULL DEFAULT 0,
  -- Outcomes that came second for their case and differed: none is ever taken, and any is a fault.
  refused INTEGER NOT NULL DEFAULT 0,
  -- An encoded muster.v1.Efficiency, of a finished run.
  efficiency BLOB
) STRICT;

CREATE INDEX runs_open ON runs (run) WHERE state = 'running';

CREATE TABLE targets (
  run INTEGER NOT NULL,
  target INTEGER NOT NULL,
  -- An encoded muster.v1.Discovered, once discovery was accepted.
  discovered BLOB,
  -- Number and names of the planned cases, by position, once filters were applied: an encoded muster.v1.Discovered.
  planned INTEGER,
  names BLOB,
  PRIMARY KEY (run, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
  epoch INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  target INTEGER NOT NULL,
  agent INTEGER NOT NULL,
  agent_name TEXT NOT NULL,
  discover INTEGER NOT NULL,
  alone INTEGER NOT NULL,
  -- Positions of the cases, little endian, four bytes each.
  cases BLOB NOT NULL,
  -- 1 while it is a lease.
  open INTEGER NOT NULL DEFAULT 1,
  queued_unix_ms INTEGER NOT NULL,
  assigned_unix_ms INTEGER NOT NULL,
  finished_unix_ms INTEGER,
  result TEXT NOT NULL DEFAULT '',
  waited_us INTEGER NOT NULL DEFAULT 0,
  transfer_us INTEGER NOT NULL DEFAULT 0,
  environment_us INTEGER NOT NULL DEFAULT 0,
  execution_us INTEGER NOT NULL DEFAULT 0,
  memory_peak_bytes INTEGER NOT NULL DEFAULT 0,
  cpu_us INTEGER NOT NULL DEFAULT 0,
  fetched_bytes INTEGER NOT NULL DEFAULT 0,
  reused_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX attempts_of_run ON attempts (run);

CREATE TABLE outcomes (
  run INTEGER NOT NULL,
  target INTEGER NOT NULL,
  case_index INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  -- Of a crash the signal, of a fault its kind.
  detail INTEGER NOT NULL,
  cached INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  duration_us INTEGER NOT NULL,
  -- The attempt that decided it; 0 when none did.
  epoch INTEGER NOT NULL,
  -- The event that told of it.
  sequence INTEGER NOT NULL,
  PRIMARY KEY (run, target, case_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  run INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  -- An encoded muster.v1.RunEvent.
  event BLOB NOT NULL,
  PRIMARY KEY (run, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE fenced (
  evidence INTEGER PRIMARY KEY AUTOINCREMENT,
  epoch INTEGER NOT NULL,
  agent INTEGER NOT NULL,
  received_unix_ms INTEGER NOT NULL,
  result TEXT NOT NULL
) STRICT;

CREATE TABLE history (
  -- Of project and target name: see `history.rs`.
  target_hash BLOB NOT NULL,
  case_name TEXT NOT NULL,
  -- Microseconds, newest last, little endian, four bytes each.
  durations BLOB NOT NULL,
  failed_last INTEGER NOT NULL,
  needs_alone INTEGER NOT NULL,
  last_run INTEGER NOT NULL,
  PRIMARY KEY (target_hash, case_name)
) STRICT, WITHOUT ROWID;
