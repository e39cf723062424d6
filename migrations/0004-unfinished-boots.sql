-- A boot that another one of its node followed before it had got a kernel is unfinished, not failed. SQLite changes no CHECK: both tables are laid anew, the
-- child first out of the way, because dropping its parent would empty it. Boots that ended before stay as they were written.
CREATE TABLE boots_anew (
  id          TEXT NOT NULL PRIMARY KEY,
  node        TEXT NOT NULL,
  mac         TEXT NOT NULL,
  ip          TEXT,
  machine     TEXT,
  state       TEXT NOT NULL CHECK (state IN ('open', 'ready', 'failed', 'unfinished')),
  why         TEXT,
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER,
  profile     TEXT NOT NULL,
  generation  TEXT NOT NULL,
  boot_set    TEXT REFERENCES boot_sets (digest),
  token_hash  TEXT,
  enrolled_at INTEGER
) STRICT;
INSERT INTO boots_anew SELECT id, node, mac, ip, machine, state, why, started_at, ended_at, profile, generation, boot_set, token_hash, enrolled_at FROM boots;
CREATE TABLE stages_anew (
  boot     TEXT NOT NULL REFERENCES boots_anew (id) ON DELETE CASCADE,
  name     TEXT NOT NULL,
  state    TEXT NOT NULL CHECK (state IN ('ok', 'running', 'failed')),
  first_at INTEGER NOT NULL,
  last_at  INTEGER NOT NULL,
  count    INTEGER NOT NULL,
  detail   TEXT NOT NULL,
  tail     TEXT,
  PRIMARY KEY (boot, name)
) STRICT;
-- rowid is the order in which stages were first seen.
INSERT INTO stages_anew (rowid, boot, name, state, first_at, last_at, count, detail, tail) SELECT rowid, boot, name, state, first_at, last_at, count, detail, tail FROM stages;
DROP TABLE stages;
DROP TABLE boots;
ALTER TABLE boots_anew RENAME TO boots;
ALTER TABLE stages_anew RENAME TO stages;
CREATE UNIQUE INDEX one_open_boot_of_node ON boots (node) WHERE state = 'open';
CREATE INDEX boots_of_node ON boots (node, started_at, id);
CREATE INDEX boots_by_start ON boots (started_at, id);
CREATE INDEX boots_of_boot_set ON boots (boot_set);
CREATE INDEX open_boots_by_ip ON boots (ip) WHERE state = 'open';
