-- A boot-once is used up by the ready of a boot that got its system after the word was given. Which boots had theirs before was told by the wall clock, which jumps; it is at
-- most one: that which was open. It had it since its script; a UKI has none, and counts from its boot's start on.
ALTER TABLE node_systems ADD COLUMN next_after TEXT;
UPDATE node_systems SET next_after = (
  SELECT boots.id FROM boots LEFT JOIN stages ON stages.boot = boots.id AND stages.name = 'script'
  WHERE boots.node = node_systems.node AND boots.state = 'open' AND boots.boot_set IS NOT NULL AND COALESCE(stages.first_at, boots.started_at) < node_systems.next_at
);
ALTER TABLE node_systems DROP COLUMN next_at;
