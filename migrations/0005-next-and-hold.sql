-- What an operator said of a node's next boot, and what failed last, so that a node which fails again and again can be held with its reason. The boot set that
-- failed is no reference: a boot set goes with its last boot.
ALTER TABLE node_systems ADD COLUMN next TEXT CHECK (next IN ('netboot', 'boot-once', 'local'));
ALTER TABLE node_systems ADD COLUMN next_at INTEGER;
ALTER TABLE node_systems ADD COLUMN failed_boot_set TEXT;
ALTER TABLE node_systems ADD COLUMN failed_stage TEXT;
ALTER TABLE node_systems ADD COLUMN failed_why TEXT;
ALTER TABLE node_systems ADD COLUMN held_at INTEGER;
-- Failures that were counted before mean less: forged DISCOVERs counted, too, and to be held was a pause of a minute.
UPDATE node_systems SET failed_in_row = 0, last_failed_at = NULL;
