// The open boots in memory, so that the many reads of each request cost no SQLite: learned from there, and forgotten by whoever writes.
import type { Ip4 } from '../addr.ts';
import type { Boot, Stage, StageName } from '../boot/timeline.ts';
import { toBoot, toStage, type BootRow, type NodeHistory, type StageRow } from './boot-rows.ts';
import type { Database } from './db.ts';
import type { NodeSystems } from './node-systems.ts';

/**
 * What SQLite has committed, and nothing else: a write says what it touches and puts nothing in; the next read, which is outside of any transaction,
 * learns that anew. So it does not matter whether the write, its neighbours or the whole batch failed.
 *
 * All that read must be called within `Database.read`. They answer nothing of boots that are not open.
 */
export interface OpenBoots {
  get(id: string): Boot | undefined;
  of(node: string): Boot | undefined;
  /** The newest of those with this address. */
  at(ip: Ip4): Boot | undefined;
  /** Of any node; kept while it has an open boot. */
  history(node: string): NodeHistory;
  /** Within a write: the row of this boot changes, or what is known of its node. Also of boots that begin or end to be open. */
  touch(id: string): void;
  /** Within a write: no more than this stage of the boot changes; without a name all do. */
  touchStage(id: string, name?: StageName): void;
  /** Within a write: what is known of this node changes, and none of its boots. */
  touchNode(node: string): void;
}

/** What others write to the file, as tests and people do, is seen at last so many milliseconds later. */
const OTHERS_SEEN_MS = 1;

/** `rowid`: of stages that were first seen at the same time, which was before. */
type PlacedRow = StageRow & { readonly rowid: number };
interface PlacedStage {
  readonly rowid: number;
  readonly stage: Stage;
}

interface Entry {
  readonly id: string;
  readonly node: string;
  readonly ip: Ip4 | null;
  row?: BootRow | undefined;
  /** All but `touched`, which are read one by one: most writes are of one stage, and there are a dozen. */
  stages?: Map<StageName, PlacedStage> | undefined;
  touched?: Set<StageName> | undefined;
  boot?: Boot | undefined;
  history?: NodeHistory | undefined;
}

export function createOpenBoots(db: Database, systems: Pick<NodeSystems, 'of'>): OpenBoots {
  const every = db.prepare<[], [id: string, node: string, ip: Ip4 | null]>("SELECT id, node, ip FROM boots WHERE state = 'open'").raw();
  const openOne = db.prepare<[string], BootRow>("SELECT * FROM boots WHERE id = ? AND state = 'open'");
  const newestAt = db.prepare<[string], string>("SELECT id FROM boots WHERE ip = ? AND state = 'open' ORDER BY started_at DESC, id DESC LIMIT 1").pluck();
  const stagesOf = db.prepare<[string], PlacedRow>('SELECT rowid, name, state, first_at, last_at, count, detail FROM stages WHERE boot = ?');
  const stageOf = db.prepare<[string, string], PlacedRow>('SELECT rowid, name, state, first_at, last_at, count, detail FROM stages WHERE boot = ? AND name = ?');
  /** Another number when another connection has committed something since it was asked for last. */
  const dataVersion = db.prepare<[], number>('PRAGMA data_version').pluck();

  const byId = new Map<string, Entry>();
  const byNode = new Map<string, Entry>();
  const byIp = new Map<Ip4, Entry>();
  /** Addresses that two open boots have, or had: SQLite is asked for the newest. None of our own writes does that. */
  const doubled = new Set<Ip4>();
  const touched = new Set<string>();
  let version: number | undefined;
  let askedAt = -Infinity;

  /** Before each read. With nothing touched it costs a look at the clock. */
  function refresh(): void {
    const now = performance.now();
    if (now - askedAt >= OTHERS_SEEN_MS || now < askedAt) {
      const current = dataVersion.get();
      if (current !== version) loadAll();
      version = current;
      askedAt = now;
    }
    for (const id of touched) {
      const row = openOne.get(id);
      // Only the row was touched, most often.
      const { stages, touched: seen } = byId.get(id) ?? {};
      if (row) put({ id, node: row.node, ip: row.ip, row, stages, touched: seen });
      else byId.delete(id);
      touched.delete(id);
    }
  }

  /** No more than where each is found: at the start there may be ten thousand, and most of them were switched off long ago. */
  function loadAll(): void {
    for (const known of [byId, byNode, byIp, doubled, touched]) known.clear();
    for (const [id, node, ip] of every.iterate()) put({ id, node, ip });
  }

  function put(entry: Entry): void {
    byId.set(entry.id, entry);
    byNode.set(entry.node, entry);
    if (entry.ip === null) return;
    if (byIp.has(entry.ip)) doubled.add(entry.ip);
    byIp.set(entry.ip, entry);
  }

  function unlink(entry: Entry): void {
    if (byNode.get(entry.node) === entry) byNode.delete(entry.node);
    if (entry.ip !== null && byIp.get(entry.ip) === entry) byIp.delete(entry.ip);
  }

  function bootOf(entry: Entry | undefined): Boot | undefined {
    if (!entry) return undefined;
    if (entry.boot) return entry.boot;
    entry.row ??= openOne.get(entry.id);
    return (entry.boot = entry.row && toBoot(entry.row, stagesIn(entry)));
  }

  function stagesIn(entry: Entry): readonly Stage[] {
    const rows = entry.stages ? [...(entry.touched ?? [])].map((name) => stageOf.get(entry.id, name)) : stagesOf.all(entry.id);
    entry.stages ??= new Map();
    // One that was touched and is not there was undone.
    for (const row of rows) if (row) entry.stages.set(row.name, { rowid: row.rowid, stage: toStage(row) });
    entry.touched = undefined;
    return Object.freeze([...entry.stages.values()].sort((a, b) => a.stage.firstAt - b.stage.firstAt || a.rowid - b.rowid).map(({ stage }) => stage));
  }

  return {
    get(id) {
      refresh();
      return bootOf(byId.get(id));
    },
    of(node) {
      refresh();
      return bootOf(byNode.get(node));
    },
    at(ip) {
      refresh();
      return bootOf(doubled.has(ip) ? byId.get(newestAt.get(ip) ?? '') : byIp.get(ip));
    },
    history(node) {
      refresh();
      const entry = byNode.get(node);
      if (!entry) return systems.of(node);
      return (entry.history ??= systems.of(node));
    },
    touch(id) {
      touched.add(id);
      const entry = byId.get(id);
      if (entry) unlink(entry);
    },
    touchStage(id, name) {
      const entry = byId.get(id);
      if (!entry) return;
      entry.boot = undefined;
      if (name === undefined) entry.stages = undefined;
      else if (entry.stages) (entry.touched ??= new Set()).add(name);
    },
    touchNode(node) {
      const entry = byNode.get(node);
      if (entry) entry.history = undefined;
    },
  };
}
