// Open boots are read from memory: whatever is written, fails or is written by others, a reader sees what SQLite has committed at that moment.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BootSet } from '../../src/boot/profile.ts';
import type { Boot, StageName } from '../../src/boot/timeline.ts';
import { digestOfValue } from '../../src/digest.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { NOW } from './boot-world.ts';

const NODES = ['n0', 'n1', 'n2'];
const IPS = ['10.77.0.10', '10.77.0.11', '10.77.0.12'];
const IDS = Array.from({ length: 8 }, (_, n) => `b${n}`);
const STAGES: readonly StageName[] = ['discover', 'offer', 'kernel', 'step:10'];
const MAC = '52:54:00:00:00:01';
const GENERATION = `sha256:${'1'.repeat(64)}`;
const blob = { digest: `sha256:${'2'.repeat(64)}`, size: 1 };
const SETS = ['quiet', 'loud'].map((word): BootSet => ({
  image: { name: 'debian', digest: blob.digest, arch: 'amd64', kernel: blob, initrds: [blob], squashfs: blob }, cmdline: [word], root: { state: 'none' }, artifacts: {}, vars: {},
}));
/** Larger than what is left of a page: the database must grow. */
const BIG = 'x'.repeat(60_000);

let dir: string;
/** The daemon's connection, and one of another process: what that reads is committed. */
let db: Database;
let other: Database;
let boots: BootStore;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-open-boots-'));
  db = openDatabase(join(dir, 'db'));
  other = openDatabase(join(dir, 'db'));
  boots = createBootStore(db);
});
afterEach(async () => {
  await db.close();
  await other.close();
  rmSync(dir, { recursive: true });
});

type Do = (store: BootStore, database: Database) => Promise<unknown>;
interface Step {
  readonly run: Do;
}

const id = fc.constantFrom(...IDS);
const at = fc.integer({ min: 0, max: 3 }).map((n) => NOW + n);
const step = <T extends readonly unknown[]>(name: string, args: fc.Arbitrary<T>, run: (...args: T) => Do): fc.Arbitrary<Step> => args.map((values) => ({ run: run(...values), [fc.toStringMethod]: () => `${name}(${values.join(' ').slice(0, 60)})` }));

const fix = (store: BootStore, id: string, n: number) => store.fixBootSet(id, digestOfValue(SETS[n] ?? 'none'), SETS[n] ?? SETS[0]!, { profile: 'q', generation: GENERATION });

const STEPS: fc.Arbitrary<Step> = fc.oneof(
  // Also with an id that is there: it throws when it has ended the older boot already.
  { weight: 6, arbitrary: step('start', fc.tuple(id, fc.constantFrom(...NODES), at), (id, node, startedAt) => (store) => store.start({ id, node, mac: MAC, profile: 'p', generation: GENERATION, startedAt })) },
  // Also of a boot that does not exist: BOOT_UNKNOWN.
  { weight: 10, arbitrary: step('see', fc.tuple(id, fc.constantFrom(...STAGES), at, fc.constantFrom('', 'm', BIG)), (id, name, at, tail) => (store) => store.see(id, { name, state: 'ok', at, detail: { message: `${at}`, ...(tail ? { tail } : {}) } })) },
  { weight: 4, arbitrary: step('setAddress', fc.tuple(id, fc.constantFrom(...IPS)), (id, ip) => (store) => store.setAddress(id, ip, MAC)) },
  { weight: 2, arbitrary: step('setMachine', fc.tuple(id, fc.constantFrom('bios', 'uefi')), (id, firmware) => (store) => store.setMachine(id, { firmware })) },
  { weight: 2, arbitrary: step('enrol', fc.tuple(id, at), (id, at) => (store) => store.enrol(id, `hash-${at}`, at)) },
  // The digest of the last is another's: BUG.
  { weight: 4, arbitrary: step('fixBootSet', fc.tuple(id, fc.constantFrom(0, 0, 1, 1, 2)), (id, n) => (store) => fix(store, id, n)) },
  // So that its node has a history.
  { weight: 3, arbitrary: step('gets ready', fc.tuple(id, fc.constantFrom(0, 1)), (id, n) => (store) => Promise.all([fix(store, id, n), store.end(id, 'ready', NOW)])) },
  { weight: 1, arbitrary: step('end', fc.tuple(id, fc.constantFrom('ready', 'failed'), at), (id, state, at) => (store) => store.end(id, state, at, 'why')) },
  { weight: 2, arbitrary: step('say', fc.tuple(fc.constantFrom(...NODES), fc.constantFrom('boot-once', 'local', undefined)), (node, next) => (store) => store.say(node, next)) },
  // Else ids are used up.
  { weight: 3, arbitrary: step('prune', fc.tuple(fc.constantFrom(0, 0, 1)), (keep) => (store) => store.prune(keep)) },
  { weight: 1, arbitrary: step('neighbour', fc.tuple(), () => (_store, database) => database.write(() => { throw new Error('changed its mind'); })) },
);

/** Steps in one transaction. `full`: the file may not grow · `uncommitted`: the commit itself fails · `other`: another process writes them. */
interface Batch {
  readonly steps: readonly Step[];
  readonly how: 'plain' | 'full' | 'uncommitted' | 'other' | 'restart';
}
const BATCH: fc.Arbitrary<Batch> = fc.record({
  steps: fc.array(STEPS, { minLength: 1, maxLength: 5 }),
  how: fc.oneof({ weight: 8, arbitrary: fc.constant('plain' as const) }, { weight: 6, arbitrary: fc.constantFrom('full', 'uncommitted', 'other', 'restart') }),
});

interface Seen {
  readonly get: Record<string, Boot | undefined>;
  readonly open: Record<string, Boot | undefined>;
  readonly openAt: Record<string, Boot | undefined>;
  readonly history: Record<string, unknown>;
  readonly bootSets: readonly unknown[];
}

async function each<T>(keys: readonly string[], read: (key: string) => Promise<T>): Promise<Record<string, T>> {
  return Object.fromEntries(await Promise.all(keys.map(async (key) => [key, await read(key)] as const)));
}

/** What the store answers, all of it asked for before this returns. */
async function answers(store: BootStore): Promise<Seen> {
  const asked = [each(IDS, store.get), each(NODES, store.open), each(IPS, store.openAt), each(NODES, store.history), Promise.all(SETS.map((set) => store.bootSet(digestOfValue(set))))] as const;
  const [get, open, openAt, history, bootSets] = await Promise.all(asked);
  return { get, open, openAt, history, bootSets };
}

/** The same by plain SQL, of what is committed now. */
function committed(): Seen {
  return other.read((sqlite) => {
    const all = <T>(sql: string, ...values: unknown[]) => sqlite.prepare<unknown[], T>(sql).all(...values);
    const byId = new Map(all<Record<string, string | number | null>>('SELECT * FROM boots ORDER BY started_at DESC, id DESC').map((row) => [row.id as string, { ...row }]));
    const boot = (row: Record<string, unknown> | undefined): Boot | undefined => row && without({
      id: row.id, node: row.node, mac: row.mac, ip: row.ip, state: row.state, why: row.why, startedAt: row.started_at, endedAt: row.ended_at, profile: row.profile, generation: row.generation,
      bootSet: row.boot_set, tokenHash: row.token_hash, enrolledAt: row.enrolled_at, machine: row.machine === null ? null : JSON.parse(row.machine as string),
      stages: all<Record<string, unknown>>('SELECT * FROM stages WHERE boot = ? ORDER BY first_at, rowid', row.id).map((stage) => ({
        name: stage.name, state: stage.state, firstAt: stage.first_at, lastAt: stage.last_at, count: stage.count, detail: JSON.parse(stage.detail as string),
      })),
    }) as unknown as Boot;
    const rows = [...byId.values()];
    const of = <T>(keys: readonly string[], find: (key: string) => T) => Object.fromEntries(keys.map((key) => [key, find(key)]));
    return {
      get: of(IDS, (id) => boot(byId.get(id))),
      open: of(NODES, (node) => boot(rows.find((row) => row.node === node && row.state === 'open'))),
      openAt: of(IPS, (ip) => boot(rows.find((row) => row.ip === ip && row.state === 'open'))),
      history: of(NODES, (node) => {
        const [row] = all<Record<string, unknown>>('SELECT * FROM node_systems WHERE node = ?', node);
        return without({ failedInRow: row?.failed_in_row ?? 0, lastFailedAt: row?.last_failed_at, running: row?.running, lastGood: row?.last_good, heldAt: row?.held_at, next: row?.next, nextAfter: row?.next_after, lastFailure: row && (row.failed_boot_set ?? row.failed_stage ?? row.failed_why) !== null ? without({ bootSet: row.failed_boot_set, stage: row.failed_stage, why: row.failed_why }) : null });
      }),
      bootSets: SETS.map((set) => (all('SELECT 1 FROM boot_sets WHERE digest = ?', digestOfValue(set)).length === 0 ? undefined : set)),
    };
  });
}

function without(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== null && member !== undefined));
}

/** Codes of what failed, in all runs. */
const failures = new Set<string>();

async function check(): Promise<void> {
  const asked = answers(boots);
  const truth = committed();
  expect(await asked).toEqual(truth);
}

async function play({ steps, how }: Batch): Promise<void> {
  if (how === 'restart') boots = createBootStore(db);
  if (how === 'full') db.read((sqlite) => sqlite.pragma(`max_page_count = ${sqlite.pragma('page_count', { simple: true })}`));
  const [store, database] = how === 'other' ? [createBootStore(other), other] : [boots, db];
  let settled = false;
  const work = steps.map(({ run }) => run(store, database));
  if (how === 'uncommitted') {
    work.push(db.write((sqlite) => {
      sqlite.pragma('defer_foreign_keys = ON');
      sqlite.prepare("INSERT INTO stages (boot, name, state, first_at, last_at, count, detail) VALUES ('nobody', 'offer', 'ok', 0, 0, 1, '{}')").run();
    }));
  }
  const all = Promise.allSettled(work).then((results) => {
    settled = true;
    for (const result of results) if (result.status === 'rejected') failures.add((result.reason as { code?: string }).code ?? 'neighbour');
    if (how === 'uncommitted') expect(new Set(results.map(({ status }) => status))).toEqual(new Set(['rejected']));
  });
  // Also while the batch is queued, and while it is committed but not synced yet.
  while (!settled && how !== 'other') {
    await check();
    await turn();
  }
  await all;
  if (how === 'other') await sleep(2);
  if (how === 'full') db.read((sqlite) => sqlite.pragma('max_page_count = 1000000'));
  await check();
}

describe('open boots in memory', () => {
  it('are what SQLite has committed, for every order of writes, failures and others who write', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(BATCH, { minLength: 4, maxLength: 14 }), async (batches) => {
        await db.write((sqlite) => sqlite.exec('DELETE FROM boots; DELETE FROM node_systems; DELETE FROM boot_sets'));
        boots = createBootStore(db);
        for (const batch of batches) await play(batch);
      }),
      { numRuns: 400 },
    );
    expect([...failures].sort()).toEqual(['BOOT_UNKNOWN', 'BUG', 'SQLITE_CONSTRAINT_PRIMARYKEY', 'STORE_UNUSABLE', 'neighbour']);
  }, 120_000);

  it('of two with one address, as only others write them, the newest is answered, and the older one when that ends', async () => {
    for (const [n, node] of NODES.entries()) await boots.start({ id: `b${n}`, node, mac: MAC, profile: 'p', generation: GENERATION, startedAt: NOW - n });
    other.read((sqlite) => sqlite.prepare('UPDATE boots SET ip = ?').run(IPS[0]));
    await sleep(2);
    for (const id of ['b0', 'b1', 'b2']) {
      await check();
      expect((await boots.openAt(IPS[0]!))?.id).toBe(id);
      await boots.end(id, 'failed', NOW);
    }
    expect(await boots.openAt(IPS[0]!)).toBeUndefined();
  });

  it('bring back nothing of a boot that ended and was pruned in the transaction that starts its id anew', async () => {
    const start = (id: string) => boots.start({ id, node: 'n0', mac: MAC, profile: 'p', generation: GENERATION, startedAt: NOW });
    await start('b0');
    await boots.see('b0', { name: 'discover', state: 'ok', at: NOW });
    await check();
    await Promise.all([boots.end('b0', 'failed', NOW), boots.prune(0), start('b0')]);
    await check();
    expect((await boots.get('b0'))?.stages).toEqual([]);
  });

  it('are the same objects until something is written, and nobody can change them', async () => {
    await boots.start({ id: 'b0', node: 'n0', mac: MAC, profile: 'p', generation: GENERATION, startedAt: NOW });
    await boots.see('b0', { name: 'discover', state: 'ok', at: NOW, detail: { message: 'm' } });
    const boot = (await boots.get('b0'))!;
    expect([await boots.open('n0'), await boots.get('b0')].every((again) => again === boot)).toBe(true);
    expect([boot, boot.stages, ...boot.stages, ...boot.stages.map(({ detail }) => detail)].every(Object.isFrozen)).toBe(true);
    await boots.see('b0', { name: 'offer', state: 'ok', at: NOW });
    expect(boot.stages).toHaveLength(1);
    expect((await boots.get('b0'))?.stages).toHaveLength(2);
  });
});
