// Boots and their stages, and what each node was told to boot, runs, and last ran with success.
import type { Ip4, Mac } from '../addr.ts';
import type { Next } from '../boot/node.ts';
import type { BootSet } from '../boot/profile.ts';
import type { AppliedQuirk } from '../boot/quirks.ts';
import type { Machine } from '../boot/request.ts';
import { gotKernel, type Boot, type Stage, type StageDetail, type StageName } from '../boot/timeline.ts';
import { canonicalJson, digestOfBytes, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import { toBoot, toStages, type BootRow, type NodeHistory, type StageRow } from './boot-rows.ts';
import type { Database } from './db.ts';
import { createNodeSystems, type RunningSystem } from './node-systems.ts';
import { createOpenBoots } from './open-boots.ts';

export interface NewBoot {
  readonly id: string;
  readonly node: string;
  readonly mac: Mac;
  readonly profile: string;
  readonly generation: Digest;
  /** Absent or empty: none. */
  readonly quirks?: readonly AppliedQuirk[];
  /** Milliseconds since 1970. */
  readonly startedAt: number;
}

export interface SeenStage {
  readonly name: StageName;
  readonly state: Stage['state'];
  readonly at: number;
  readonly detail?: StageDetail;
}

/** What it answers is frozen. Open boots are read from memory (store/open-boots), all others from SQLite. */
export interface BootStore {
  /**
   * Starts a boot. An open boot of the same node ends in the same transaction, `why` naming the new one: as failed, which counts, if it had got a
   * kernel; else as unfinished, which does not.
   */
  start(boot: NewBoot): Promise<Boot>;
  /** Boots come without their stages' tails, but for `withTails`: every request reads its boot, and tails can be megabytes. */
  get(id: string): Promise<Boot | undefined>;
  withTails(id: string): Promise<Boot | undefined>;
  /** The one open boot of the node, if any. */
  open(node: string): Promise<Boot | undefined>;
  /** The open boot whose machine has this address; the newest if there are several. */
  openAt(ip: Ip4): Promise<Boot | undefined>;
  /** Newest first. */
  list(filter: { readonly node?: string; readonly limit: number }): Promise<readonly Boot[]>;
  /**
   * Fixes the boot set of an open boot if none is fixed yet, with the profile and generation that it comes from, and keeps its content;
   * answers the boot as it then is. From then on the node runs nothing (`running` is empty) until a boot gets ready. BOOT_UNKNOWN when
   * there is no such boot.
   */
  fixBootSet(id: string, digest: Digest, bootSet: BootSet, from: { readonly profile: string; readonly generation: Digest }): Promise<Boot>;
  bootSet(digest: Digest): Promise<BootSet | undefined>;
  /** Every boot set that a boot which is open, or a node's running or last good system, still names: its blobs and pins must stay. */
  bootSetsInUse(): Promise<readonly BootSet[]>;
  /** Sets the boot's address and the card that has it; later ones replace them, and no other open boot keeps that address. */
  setAddress(id: string, ip: Ip4, mac: Mac): Promise<void>;
  /** What DHCP said of the machine, the newest word counts. */
  setMachine(id: string, machine: Machine): Promise<void>;
  /** First enrolment wins: false, and nothing changes, when the boot has a session already, has ended or does not exist. */
  enrol(id: string, tokenHash: string, at: number): Promise<boolean>;
  /**
   * Writes a stage, also of a boot that has ended: inserted when new; else count and lastAt move on, and state and detail become the
   * newest. Of a tail the last 64 KiB are kept. BOOT_UNKNOWN when there is no such boot.
   */
  see(id: string, stage: SeenStage): Promise<void>;
  /**
   * Ends an open boot; a boot that has ended already is left as it is, and false is answered. `ready` sets the node's running and last good boot sets. `next`: what is said of the node's
   * next start, in the same transaction; unless somebody has said something since this boot had its boot set. `said`: so it was; `ended`: the boot ended, and no more.
   */
  end(id: string, state: 'ready' | 'failed' | 'unfinished', at: number, why?: string, next?: Next): Promise<'said' | 'ended' | false>;
  history(node: string): Promise<NodeHistory>;
  /** What the node does when it starts next, until something else is said; undefined: what was said is taken back, and its YAML counts again. */
  say(node: string, next: Next | undefined): Promise<void>;
  /** Notes that the node was told that it is held; false when that is known since its failures began, or there are none. */
  hold(node: string, at: number): Promise<boolean>;
  /** Forgets the node's failures. */
  release(node: string): Promise<void>;
  /** Nodes that failed at least so often in a row, by name. */
  failing(atLeast: number): Promise<ReadonlyMap<string, NodeHistory>>;
  /** Of every node that runs something of ours, as far as is known: one query, for figures over all. */
  running(): Promise<ReadonlyMap<string, RunningSystem>>;
  /** Forgets each node's boots beyond its newest `keepPerNode`, but never an open one nor the node's last ready one. Answers how many went. */
  prune(keepPerNode: number): Promise<number>;
}

export function createBootStore(db: Database): BootStore {
  const one = db.prepare<[string], BootRow>('SELECT * FROM boots WHERE id = ?');
  const openOf = db.prepare<[string], BootRow>("SELECT * FROM boots WHERE node = ? AND state = 'open'");
  const newest = db.prepare<[number], BootRow>('SELECT * FROM boots ORDER BY started_at DESC, id DESC LIMIT ?');
  const newestOf = db.prepare<[string, number], BootRow>('SELECT * FROM boots WHERE node = ? ORDER BY started_at DESC, id DESC LIMIT ?');
  const tailsOf = db.prepare<[string], StageRow>('SELECT name, state, first_at, last_at, count, detail, tail FROM stages WHERE boot = ? ORDER BY first_at, rowid');
  const stagesOf = db.prepare<[string], StageRow>('SELECT name, state, first_at, last_at, count, detail FROM stages WHERE boot = ? ORDER BY first_at, rowid');
  const insert = db.prepare<Omit<NewBoot, 'quirks'> & { quirks: string | null }, BootRow>(
    "INSERT INTO boots (id, node, mac, state, started_at, profile, generation, quirks) VALUES (@id, @node, @mac, 'open', @startedAt, @profile, @generation, @quirks) RETURNING *",
  );
  const close = db.prepare<{ id: string; state: string; at: number; why: string | null }>(
    "UPDATE boots SET state = @state, ended_at = @at, why = @why WHERE id = @id AND state = 'open'",
  );
  const putBootSet = db.prepare<[string, string]>('INSERT INTO boot_sets (digest, content) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING');
  const fix = db.prepare<{ id: string; digest: Digest; profile: string; generation: Digest }>('UPDATE boots SET boot_set = @digest, profile = @profile, generation = @generation WHERE id = @id');
  const bootSetOf = db.prepare<[string], { content: string }>('SELECT content FROM boot_sets WHERE digest = ?');
  const inUse = db.prepare<[], { content: string }>(
    `SELECT content FROM boot_sets WHERE digest IN (
       SELECT boot_set FROM boots WHERE state = 'open' UNION SELECT running FROM node_systems UNION SELECT last_good FROM node_systems
     ) ORDER BY digest`,
  );
  const address = db.prepare<[string, string, string]>('UPDATE boots SET ip = ?, mac = ? WHERE id = ?');
  const takeAddress = db.prepare<[string, string], string>("UPDATE boots SET ip = NULL WHERE ip = ? AND id <> ? AND state = 'open' RETURNING id").pluck();
  const describeMachine = db.prepare<[string, string]>('UPDATE boots SET machine = ? WHERE id = ?');
  const enrolOnce = db.prepare<[string, number, string]>(
    "UPDATE boots SET token_hash = ?, enrolled_at = ? WHERE id = ? AND token_hash IS NULL AND state = 'open'",
  );
  const seeStage = db.prepare<{ boot: string; name: string; state: string; at: number; detail: string; tail: string | null }>(
    `INSERT INTO stages (boot, name, state, first_at, last_at, count, detail, tail)
       SELECT @boot, @name, @state, @at, @at, 1, @detail, @tail WHERE EXISTS (SELECT 1 FROM boots WHERE id = @boot)
     ON CONFLICT (boot, name) DO UPDATE SET state = excluded.state, last_at = MAX(last_at, excluded.last_at), count = count + 1, detail = excluded.detail, tail = excluded.tail`,
  );
  const dropOld = db.prepare<[number]>(
    `DELETE FROM boots WHERE id IN (
       SELECT id FROM (
         SELECT id, state,
           ROW_NUMBER() OVER (PARTITION BY node ORDER BY started_at DESC, id DESC) AS nth,
           ROW_NUMBER() OVER (PARTITION BY node, state ORDER BY started_at DESC, id DESC) AS nth_of_state
         FROM boots
       ) WHERE nth > ? AND state <> 'open' AND NOT (state = 'ready' AND nth_of_state = 1)
     )`,
  );
  const dropUnusedBootSets = db.prepare<[]>(
    `DELETE FROM boot_sets WHERE digest NOT IN (
       SELECT boot_set FROM boots WHERE boot_set IS NOT NULL
       UNION SELECT running FROM node_systems WHERE running IS NOT NULL
       UNION SELECT last_good FROM node_systems WHERE last_good IS NOT NULL
     )`,
  );

  const systems = createNodeSystems(db);
  const memory = createOpenBoots(db, systems);
  const fromRow = (row: BootRow): Boot => toBoot(row, toStages(stagesOf.all(row.id)));
  /** From SQLite, ended or not. */
  const find = (id: string): Boot | undefined => {
    const row = one.get(id);
    return row && fromRow(row);
  };

  function end(row: BootRow, state: 'ready' | 'failed' | 'unfinished', at: number, why: string | undefined): void {
    memory.touch(row.id);
    // Its stages may be gone by the end of this transaction, too: prune.
    memory.touchStage(row.id);
    close.run({ id: row.id, state, at, why: why ?? null });
    if (state === 'failed') {
      // A report of a failure is written down as a stage of its own: the one before it says where.
      const stage = stagesOf.all(row.id).findLast(({ name }) => name !== 'failed')?.name;
      systems.failed(row.node, { at, bootSet: row.boot_set, stage, why });
    }
    if (state === 'ready') systems.ready(row.node, row.boot_set);
  }

  return {
    start: (boot) =>
      db.write(() => {
        const before = openOf.get(boot.node);
        if (before) end(before, gotKernel(fromRow(before)) ? 'failed' : 'unfinished', boot.startedAt, `the machine started over: boot ${boot.id}`);
        memory.touch(boot.id);
        return toBoot(insert.get({ ...boot, quirks: boot.quirks?.length ? canonicalJson(boot.quirks) : null })!, toStages([]));
      }),
    get: async (id) => db.read(() => memory.get(id) ?? find(id)),
    withTails: async (id) =>
      db.read(() => {
        const row = one.get(id);
        return row && toBoot(row, toStages(tailsOf.all(id)));
      }),
    openAt: async (ip) => db.read(() => memory.at(ip)),
    open: async (node) => db.read(() => memory.of(node)),
    list: async ({ node, limit }) => db.read(() => (node === undefined ? newest.all(limit) : newestOf.all(node, limit)).map(fromRow)),
    fixBootSet: (id, digest, bootSet, { profile, generation }) =>
      db.write(() => {
        const boot = find(id);
        if (!boot) throw unknownBoot(id);
        if (boot.bootSet !== undefined || boot.state !== 'open') return boot;
        const { content, digest: own } = contentOf(bootSet);
        if (own !== digest) throw new AppError('BUG', `boot ${id}: boot set ${digest} has the digest ${own}`);
        memory.touch(id);
        putBootSet.run(digest, content);
        fix.run({ id, digest, profile, generation });
        systems.restarted(boot.node);
        return { ...boot, bootSet: digest, profile, generation };
      }),
    bootSet: async (digest) => db.read(() => parseBootSet(bootSetOf.get(digest))),
    bootSetsInUse: async () => db.read(() => inUse.all().map((row) => parseBootSet(row)!)),
    setAddress: (id, ip, mac) =>
      db.write(() => {
        for (const other of takeAddress.all(ip, id)) memory.touch(other);
        memory.touch(id);
        address.run(ip, mac, id);
      }),
    setMachine: (id, machine) =>
      db.write(() => {
        memory.touch(id);
        describeMachine.run(canonicalJson(machine), id);
      }),
    enrol: (id, tokenHash, at) =>
      db.write(() => {
        memory.touch(id);
        return enrolOnce.run(tokenHash, at, id).changes === 1;
      }),
    see: (id, { name, state, at, detail }) =>
      db.write(() => {
        memory.touchStage(id, name);
        const { tail, ...rest } = detail ?? {};
        const seen = seeStage.run({ boot: id, name, state, at, detail: JSON.stringify(rest), tail: tail === undefined ? null : boundTail(tail) });
        if (seen.changes === 0) throw unknownBoot(id);
      }),
    end: (id, state, at, why, next) =>
      db.write(() => {
        const row = one.get(id);
        if (row?.state !== 'open') return false;
        end(row, state, at, why);
        if (!next || systems.of(row.node).nextAfter === id) return 'ended';
        systems.say(row.node, next);
        return 'said';
      }),
    history: async (node) => db.read(() => memory.history(node)),
    say: (node, next) =>
      db.write(() => {
        memory.touchNode(node);
        systems.say(node, next);
      }),
    hold: (node, at) =>
      db.write(() => {
        memory.touchNode(node);
        return systems.held(node, at);
      }),
    release: (node) =>
      db.write(() => {
        memory.touchNode(node);
        systems.released(node);
      }),
    failing: async (atLeast) => db.read(() => systems.failing(atLeast)),
    running: async () => db.read(() => systems.running()),
    prune: (keepPerNode) =>
      db.write(() => {
        const dropped = dropOld.run(keepPerNode).changes;
        dropUnusedBootSets.run();
        return dropped;
      }),
  };
}

function unknownBoot(id: string): AppError {
  return new AppError('BOOT_UNKNOWN', `no boot ${id}`, 'GET /api/boots?node=NODE lists the boots that are still kept; rackseed boot show NODE shows the newest');
}

interface Content {
  readonly content: string;
  readonly digest: Digest;
}

/** Of boot sets that nobody can change, as those of a generation: a thousand machines fix the same one, which takes 40 us each time. */
const contents = new WeakMap<BootSet, Content>();

function contentOf(bootSet: BootSet): Content {
  const known = contents.get(bootSet);
  if (known) return known;
  const content = canonicalJson(bootSet);
  const made = { content, digest: digestOfBytes(content) };
  if (isFrozen(bootSet)) contents.set(bootSet, made);
  return made;
}

function isFrozen(value: unknown): boolean {
  return typeof value !== 'object' || value === null || (Object.isFrozen(value) && Object.values(value).every(isFrozen));
}

/** Bytes of a stage's output that are kept: the newest. */
export const TAIL_KEPT = 64 * 1024;

function boundTail(tail: string): string {
  if (Buffer.byteLength(tail) <= TAIL_KEPT) return tail;
  const bytes = Buffer.from(tail).subarray(-TAIL_KEPT);
  // Not from the middle of a character: skip UTF-8 continuation bytes.
  let from = 0;
  while (from < 4 && (bytes[from]! & 0xc0) === 0x80) from++;
  return bytes.subarray(from).toString('utf8');
}

function parseBootSet(row: { readonly content: string } | undefined): BootSet | undefined {
  return row && (JSON.parse(row.content) as BootSet);
}
