-- Leases for speed and meaning: the address is a number and the row's own key, so that a renewal touches one page and no index; who holds it
-- is a node's name, or the MAC of a machine that is no node: one lease each in a subnet. A quarantined address has neither mac nor holder.
CREATE TABLE leases_as_numbers (
  ip             INTEGER NOT NULL PRIMARY KEY,
  mac            TEXT,
  holder         TEXT,
  subnet         TEXT NOT NULL,
  expires_at     INTEGER NOT NULL,
  declined_until INTEGER,
  hostname       TEXT,
  client_id      TEXT,
  started_at     INTEGER,
  UNIQUE (holder, subnet)
) STRICT;
-- The holder of an old row is its MAC: taking a lease counts the same MAC as the same holder, and writes the node's name then.
INSERT INTO leases_as_numbers (ip, mac, holder, subnet, expires_at, declined_until)
  SELECT (json_extract(parts, '$[0]') << 24) | (json_extract(parts, '$[1]') << 16) | (json_extract(parts, '$[2]') << 8) | json_extract(parts, '$[3]'),
         mac, mac, subnet, expires_at, declined_until
  FROM (SELECT *, '[' || replace(ip, '.', ',') || ']' AS parts FROM leases);
DROP TABLE leases;
ALTER TABLE leases_as_numbers RENAME TO leases;

-- Room inside the file for the time when the disk is full: rows that are written and deleted leave free pages behind.
CREATE TABLE reserve (bytes BLOB NOT NULL) STRICT;
