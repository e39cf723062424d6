-- The first state: leases, nodes and their profiles, boots with their stages and boot sets, artifacts, events.
-- Times are milliseconds since 1970; digests are `sha256:<hex>`; JSON is canonical (sorted keys, no spaces).

-- One row an address. A quarantined address (DHCPDECLINE) has no mac: NULLs are distinct, so the second rule leaves it alone.
CREATE TABLE leases (
  ip             TEXT NOT NULL PRIMARY KEY,
  mac            TEXT,
  subnet         TEXT NOT NULL,
  expires_at     INTEGER NOT NULL,
  declined_until INTEGER,
  UNIQUE (mac, subnet)
) STRICT;
CREATE INDEX leases_of_subnet ON leases (subnet);

-- Only the last one keeps its content. `source` is the digest of the YAML it came from: a restart resolves no name anew.
CREATE TABLE generations (
  seq     INTEGER PRIMARY KEY,
  id      TEXT NOT NULL,
  who     TEXT NOT NULL,
  at      INTEGER NOT NULL,
  content TEXT,
  source  TEXT
) STRICT;

-- The current mapping, as the last generation gave it.
CREATE TABLE nodes (
  name    TEXT NOT NULL PRIMARY KEY,
  profile TEXT NOT NULL,
  source  TEXT NOT NULL CHECK (source IN ('yaml', 'api'))
) STRICT;
CREATE TABLE node_macs (
  mac  TEXT NOT NULL PRIMARY KEY,
  node TEXT NOT NULL REFERENCES nodes (name) ON DELETE CASCADE
) STRICT;
CREATE INDEX node_macs_of_node ON node_macs (node);

-- Its history: a row for each MAC whose profile changed; a NULL profile ends the mapping.
CREATE TABLE assignments (
  seq        INTEGER PRIMARY KEY,
  node       TEXT NOT NULL,
  mac        TEXT NOT NULL,
  profile    TEXT,
  who        TEXT NOT NULL,
  at         INTEGER NOT NULL,
  generation TEXT NOT NULL
) STRICT;
CREATE INDEX assignments_of_node ON assignments (node);

-- What machines said of themselves.
CREATE TABLE node_sightings (
  node     TEXT NOT NULL PRIMARY KEY,
  uuid     TEXT,
  serial   TEXT,
  first_at INTEGER NOT NULL,
  last_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE boot_sets (
  digest  TEXT NOT NULL PRIMARY KEY,
  content TEXT NOT NULL
) STRICT;

CREATE TABLE boots (
  id          TEXT NOT NULL PRIMARY KEY,
  node        TEXT NOT NULL,
  mac         TEXT NOT NULL,
  ip          TEXT,
  machine     TEXT,
  state       TEXT NOT NULL CHECK (state IN ('open', 'ready', 'failed')),
  why         TEXT,
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER,
  profile     TEXT NOT NULL,
  generation  TEXT NOT NULL,
  boot_set    TEXT REFERENCES boot_sets (digest),
  token_hash  TEXT,
  enrolled_at INTEGER
) STRICT;
CREATE UNIQUE INDEX one_open_boot_of_node ON boots (node) WHERE state = 'open';
CREATE INDEX boots_of_node ON boots (node, started_at, id);
CREATE INDEX boots_by_start ON boots (started_at, id);
CREATE INDEX boots_of_boot_set ON boots (boot_set);
CREATE INDEX open_boots_by_ip ON boots (ip) WHERE state = 'open';

-- rowid is the order in which stages were first seen. Tails are apart: every request reads its boot's stages, only people read tails.
CREATE TABLE stages (
  boot     TEXT NOT NULL REFERENCES boots (id) ON DELETE CASCADE,
  name     TEXT NOT NULL,
  state    TEXT NOT NULL CHECK (state IN ('ok', 'running', 'failed')),
  first_at INTEGER NOT NULL,
  last_at  INTEGER NOT NULL,
  count    INTEGER NOT NULL,
  detail   TEXT NOT NULL,
  tail     TEXT,
  PRIMARY KEY (boot, name)
) STRICT;

-- What a node runs and ran; apart from boots, so that old boots can go.
CREATE TABLE node_systems (
  node           TEXT NOT NULL PRIMARY KEY,
  running        TEXT REFERENCES boot_sets (digest),
  last_good      TEXT REFERENCES boot_sets (digest),
  failed_in_row  INTEGER NOT NULL DEFAULT 0,
  last_failed_at INTEGER
) STRICT;

CREATE TABLE artifacts (
  name     TEXT NOT NULL,
  version  TEXT NOT NULL,
  digest   TEXT NOT NULL,
  size     INTEGER NOT NULL,
  added_at INTEGER NOT NULL,
  PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE events (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  at     INTEGER NOT NULL,
  kind   TEXT NOT NULL,
  node   TEXT,
  boot   TEXT,
  detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_node ON events (node, id);
CREATE INDEX events_of_boot ON events (boot, id);
