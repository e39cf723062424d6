-- Blobs whose content was seen to be their digest's, by what the file is known: a restart hashes no file again that has not changed.
CREATE TABLE blob_verdicts (
  digest      TEXT NOT NULL PRIMARY KEY,
  identity    TEXT NOT NULL,
  verified_at INTEGER NOT NULL
) STRICT;
