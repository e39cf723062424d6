-- What fitted a machine when its boot started (boot/quirks.ts), as JSON; NULL: nothing did.
ALTER TABLE boots ADD COLUMN quirks TEXT;
-- What a machine said of itself as it started, and what its initrd stage read in SMBIOS: known for the next start.
ALTER TABLE node_sightings ADD COLUMN vendor_class TEXT;
ALTER TABLE node_sightings ADD COLUMN arch TEXT;
ALTER TABLE node_sightings ADD COLUMN manufacturer TEXT;
ALTER TABLE node_sightings ADD COLUMN product TEXT;
