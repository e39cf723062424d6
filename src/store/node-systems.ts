// What each node runs and ran, how often it failed in a row, and what was said of its next start: one row a node, by its name (docs/OPERATING.md says why), written within the transactions of its boots.
import type { Next } from '../boot/node.ts';
import type { Boot, StageName } from '../boot/timeline.ts';
import type { Digest } from '../digest.ts';
import { toHistory, type NodeHistory, type SystemRow } from './boot-rows.ts';
import type { Database } from './db.ts';

export interface RunningSystem extends Pick<NodeHistory, 'next'> {
  readonly running: Digest;
  /** Of its newest boot. */
  readonly newest?: Boot['state'];
}

/** All but `of`, `failing` and `running` write, and so must be called within `Database.write`. */
export interface NodeSystems {
  of(node: string): NodeHistory;
  /** Those that failed at least so often in a row, by name. */
  failing(atLeast: number): ReadonlyMap<string, NodeHistory>;
  /** Of every node that runs something of ours, as far as is known: what, what was said of its next start, and the state of its newest boot. By name. */
  running(): ReadonlyMap<string, RunningSystem>;
  /** It starts anew: it runs nothing. */
  restarted(node: string): void;
  ready(node: string, bootSet: Digest | null): void;
  /** Of another boot set it is the first failure. A boot that failed before it had a boot set says nothing of any. */
  failed(node: string, failure: { readonly at: number; readonly bootSet: Digest | null; readonly stage: StageName | undefined; readonly why: string | undefined }): void;
  /** False: it is known to be held, or did not fail. */
  held(node: string, at: number): boolean;
  released(node: string): void;
  /** undefined: what was said before is taken back. */
  say(node: string, next: Next | undefined): void;
}

const COLUMNS = 'running, last_good, failed_in_row, last_failed_at, failed_boot_set, failed_stage, failed_why, held_at, next, next_after';
const NO_FAILURES = 'failed_in_row = 0, last_failed_at = NULL, failed_boot_set = NULL, failed_stage = NULL, failed_why = NULL, held_at = NULL';

export function createNodeSystems(db: Database): NodeSystems {
  const one = db.prepare<[string], SystemRow>(`SELECT ${COLUMNS} FROM node_systems WHERE node = ?`);
  const failing = db.prepare<[number], SystemRow & { readonly node: string }>(`SELECT node, ${COLUMNS} FROM node_systems WHERE failed_in_row >= ?`);
  const running = db
    .prepare<[], [node: string, running: Digest, next: Next | null, newest: Boot['state'] | null]>(
      'SELECT node, running, next, (SELECT state FROM boots WHERE boots.node = node_systems.node ORDER BY started_at DESC, id DESC LIMIT 1) FROM node_systems WHERE running IS NOT NULL',
    )
    .raw();
  const restart = db.prepare<[string]>('INSERT INTO node_systems (node) VALUES (?) ON CONFLICT (node) DO UPDATE SET running = NULL');
  const fail = db.prepare<{ node: string; at: number; bootSet: Digest | null; stage: string | null; why: string | null }>(
    `INSERT INTO node_systems (node, failed_in_row, last_failed_at, failed_boot_set, failed_stage, failed_why) VALUES (@node, 1, @at, @bootSet, @stage, @why)
     ON CONFLICT (node) DO UPDATE SET
       failed_in_row = CASE WHEN failed_boot_set <> @bootSet THEN 1 ELSE failed_in_row + 1 END,
       held_at = CASE WHEN failed_boot_set <> @bootSet THEN NULL ELSE held_at END,
       last_failed_at = @at, failed_boot_set = COALESCE(@bootSet, failed_boot_set), failed_stage = @stage, failed_why = @why`,
  );
  const ready = db.prepare<{ node: string; bootSet: Digest | null }>(
    `INSERT INTO node_systems (node, running, last_good) VALUES (@node, @bootSet, @bootSet)
     ON CONFLICT (node) DO UPDATE SET running = excluded.running, last_good = COALESCE(excluded.last_good, last_good), ${NO_FAILURES}`,
  );
  const forget = db.prepare<[string]>(`UPDATE node_systems SET ${NO_FAILURES} WHERE node = ?`);
  const hold = db.prepare<[number, string]>('UPDATE node_systems SET held_at = ? WHERE node = ? AND failed_in_row > 0 AND held_at IS NULL');
  const say = db.prepare<{ node: string; next: Next | null }>(
    `INSERT INTO node_systems (node, next, next_after) VALUES (@node, @next, (SELECT id FROM boots WHERE node = @node AND state = 'open' AND boot_set IS NOT NULL))
     ON CONFLICT (node) DO UPDATE SET next = excluded.next, next_after = excluded.next_after`,
  );
  return {
    of: (node) => toHistory(one.get(node)),
    failing: (atLeast) => new Map(failing.all(atLeast).map((row) => [row.node, toHistory(row)])),
    running: () => new Map(running.all().map(([node, set, next, newest]) => [node, { running: set, ...(next === null ? undefined : { next }), ...(newest === null ? undefined : { newest }) }])),
    restarted: (node) => void restart.run(node),
    ready: (node, bootSet) => void ready.run({ node, bootSet }),
    failed: (node, { at, bootSet, stage, why }) => void fail.run({ node, at, bootSet, stage: stage ?? null, why: why ?? null }),
    held: (node, at) => hold.run(at, node).changes === 1,
    released: (node) => void forget.run(node),
    say: (node, next) => void say.run({ node, next: next ?? null }),
  };
}
