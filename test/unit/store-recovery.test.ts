// A damaged database: found at the start and in use, moved away, replaced by the newest good snapshot; and how snapshots are taken.
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { AppError } from '../../src/errors.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createLeaseStore } from '../../src/store/leases.ts';
import { listSnapshots, snapshotName } from '../../src/store/recovery.ts';
import { startSnapshots, type Snapshots } from '../../src/store/snapshots.ts';

const AT = Date.UTC(2026, 0, 31, 12, 0, 5);
const HOUR = 3_600_000;
let dir: string;
let file: string;
let snapshotsDir: string;
const opened: Database[] = [];
const started: Snapshots[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-recovery-'));
  file = join(dir, 'rackseed.db');
  snapshotsDir = join(dir, 'snapshots');
});
afterEach(async () => {
  for (const snapshots of started.splice(0)) await snapshots.stop();
  for (const database of opened.splice(0)) await database.close();
  rmSync(dir, { recursive: true, force: true });
});

function open(options: { onCorrupt?: (error: AppError) => void } = {}): Database {
  const database = openDatabase(file, { recoverFrom: snapshotsDir, ...options });
  opened.push(database);
  return database;
}

/** Leases 10.1.0.0 and up. */
async function fill(database: Database, count: number): Promise<void> {
  const leases = createLeaseStore(database);
  await leases.put(Array.from({ length: count }, (_, i) => ({ ip: `10.1.${i >> 8}.${i & 255}`, mac: `52:54:00:00:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`, subnet: '10.1.0.0/16', expiresAt: AT })), 0);
}

async function snapshot(database: Database, at: number): Promise<string> {
  const snapshots = startSnapshots(database, { dir: snapshotsDir, everyMs: 1e9, keep: 24, now: () => at, onFailure: () => undefined });
  const taken = await snapshots.take();
  await snapshots.stop();
  return taken;
}

function raw(use: (sqlite: BetterSqlite3.Database) => unknown): void {
  const sqlite = new BetterSqlite3(file);
  sqlite.unsafeMode();
  sqlite.pragma('writable_schema = ON');
  use(sqlite);
  sqlite.close();
}

/** Overwrites each page behind the first with what no page looks like. */
function scribble(path: string): void {
  const fd = openSync(path, 'r+');
  for (let at = 4096; at < statSync(path).size; at += 4096) writeSync(fd, Buffer.alloc(64, 0xa5), 0, 64, at);
  closeSync(fd);
}

const countOf = async (database: Database): Promise<number> => (await createLeaseStore(database).list()).length;

describe('a damaged database', () => {
  const DAMAGE: readonly [what: string, damage: () => void][] = [
    ['pages that are overwritten', () => scribble(file)],
    ['a file that is no database', () => writeFileSync(file, 'a letter to my grandmother'.repeat(1000))],
    ['a file that was cut off', () => truncateSync(file, 9 * 4096)],
    ['an index that lacks a row of its table', () => {
      // As SQLite never would: the index is hidden while a row is written.
      raw((sqlite) => sqlite.exec("DELETE FROM sqlite_schema WHERE name = 'events_of_node'"));
      raw((sqlite) => sqlite.exec("INSERT INTO events (at, kind, detail) VALUES (1, 'x', '{}')"));
      raw((sqlite) => sqlite.prepare("INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('index', 'events_of_node', 'events', ?, 'CREATE INDEX events_of_node ON events (node, id)')").run(rootOfIndex));
    }],
  ];
  let rootOfIndex: number;

  it.each(DAMAGE)('%s: the newest snapshot takes its place, the damaged file stays beside it', async (_what, damage) => {
    const database = open();
    await fill(database, 2000);
    const taken = await snapshot(database, AT);
    rootOfIndex = database.read((sqlite) => sqlite.prepare<[], number>("SELECT rootpage FROM sqlite_schema WHERE name = 'events_of_node'").pluck().get()!);
    await database.close();
    damage();
    const bad = readFileSync(file);

    const again = open();
    expect(again.recovered).toMatchObject({ from: taken, snapshotAt: AT, corrupt: expect.stringMatching(/rackseed\.db\.corrupt-\d{8}T\d{6}Z$/) });
    expect(again.recovered!.why).not.toBe('');
    expect(readFileSync(again.recovered!.corrupt).length).toBe(bad.length);
    expect(await countOf(again)).toBe(2000);
    await again.close();
    const healthy = open();
    expect(healthy.recovered).toBeUndefined();
  });

  it('passes over snapshots that are damaged, empty or none', async () => {
    const database = open();
    await fill(database, 2000);
    const oldest = await snapshot(database, AT - 3 * HOUR);
    scribble(await snapshot(database, AT - 2 * HOUR));
    await database.close();
    writeFileSync(join(snapshotsDir, snapshotName(AT - HOUR)), '');
    writeFileSync(join(snapshotsDir, snapshotName(AT)), 'no database');
    writeFileSync(join(snapshotsDir, 'notes.txt'), 'not one of ours');
    scribble(file);
    const again = open();
    expect(again.recovered).toMatchObject({ from: oldest, snapshotAt: AT - 3 * HOUR });
    expect(await countOf(again)).toBe(2000);
  });

  it('starts empty when there is no snapshot, and says so', async () => {
    const database = open();
    await fill(database, 2000);
    await database.close();
    scribble(file);
    const again = open();
    expect(again.recovered).not.toHaveProperty('from');
    expect(await countOf(again)).toBe(0);
    await fill(again, 1);
  });

  it('twice in one second keeps both damaged files', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: AT });
    try {
      for (const text of ['one', 'two']) {
        writeFileSync(file, text.repeat(5000));
        await open().close();
      }
    } finally {
      vi.useRealTimers();
    }
    const kept = readdirSync(dir).filter((name) => /corrupt-20260131T120005Z(\.2)?$/.test(name));
    expect(kept.map((name) => readFileSync(join(dir, name), 'utf8').slice(0, 3)).sort()).toEqual(['one', 'two']);
  });

  it('is left alone by a command that only looks in, and by a daemon of an older schema', async () => {
    await open().close();
    const sqlite = new BetterSqlite3(file);
    sqlite.pragma('user_version = 9999');
    sqlite.close();
    expect(() => open()).toThrow(expect.objectContaining({ code: 'STORE_UNUSABLE', message: expect.stringContaining('schema 9999') }));
    expect(readdirSync(dir).filter((name) => name.includes('corrupt'))).toEqual([]);
  });

  it('takes its WAL with it: what is in there is not replayed over the snapshot', async () => {
    const database = open();
    await fill(database, 2000);
    await snapshot(database, AT);
    await database.close();
    const again = open();
    await createLeaseStore(again).take({ ip: '10.1.99.99', mac: '52:54:00:00:99:99', subnet: '10.1.0.0/16', expiresAt: AT }, 0);
    // As after a crash: the WAL is there and nobody has the file open. Put back, because closing empties it.
    const wal = readFileSync(`${file}-wal`);
    await again.close();
    scribble(file);
    writeFileSync(`${file}-wal`, wal);
    const recovered = open();
    expect(recovered.recovered?.from).toBeDefined();
    expect(await countOf(recovered)).toBe(2000);
  });
});

describe('damage that is found in use', () => {
  it('rejects what reads and writes, tells of it once, and the next start recovers', async () => {
    const database = open();
    await fill(database, 5000);
    const taken = await snapshot(database, AT);
    await database.close();
    const told: AppError[] = [];
    const again = open({ onCorrupt: (error) => void told.push(error) });
    scribble(file);
    // Else what the check at the start read is still in memory.
    again.read((sqlite) => sqlite.pragma('shrink_memory'));
    await expect(countOf(again)).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
    const lease = { ip: '10.1.9.9', mac: '52:54:00:00:09:09', subnet: '10.1.0.0/16', expiresAt: 3 * AT };
    await expect(createLeaseStore(again).take(lease, 2 * AT)).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
    expect(told).toHaveLength(1);
    await again.close();
    expect(open().recovered).toMatchObject({ from: taken });
  });
});

describe('snapshots', () => {
  const start = (database: Database, options: Partial<Parameters<typeof startSnapshots>[1]> = {}): Snapshots => {
    const snapshots = startSnapshots(database, { dir: snapshotsDir, everyMs: HOUR, keep: 24, now: () => AT, onFailure: (error) => expect.unreachable(error.message), ...options });
    started.push(snapshots);
    return snapshots;
  };

  it('hold what was acknowledged, are named after their time, and nobody else may read them', async () => {
    const database = open();
    await fill(database, 300);
    const taken = await start(database).take();
    expect(taken).toBe(join(snapshotsDir, 'rackseed-20260131T120005Z.db'));
    expect(listSnapshots(snapshotsDir)).toEqual([{ file: taken, at: AT }]);
    expect(statSync(taken).mode & 0o777).toBe(0o640);
    const copy = new BetterSqlite3(taken, { readonly: true });
    expect(copy.prepare('SELECT count(*) FROM leases').pluck().get()).toBe(300);
    copy.close();
  });

  it('a first one is taken by itself, and none while the newest is younger than the interval', async () => {
    const database = open();
    start(database);
    await vi.waitFor(() => expect(listSnapshots(snapshotsDir)).toHaveLength(1), { timeout: 15_000 });
    await started.pop()!.stop();
    // Had the first millisecond taken one, it would have its own time and so another name.
    const second = start(database, { now: () => AT + HOUR - 1000 });
    await second.stop();
    expect(listSnapshots(snapshotsDir)).toHaveLength(1);
  });

  it('only the newest are kept', async () => {
    const database = open();
    for (let n = 0; n < 4; n++) {
      const snapshots = start(database, { keep: 2, now: () => AT + n * HOUR, everyMs: 1e9 });
      await snapshots.take();
      await snapshots.stop();
    }
    expect(listSnapshots(snapshotsDir).map((one) => one.at)).toEqual([AT + 3 * HOUR, AT + 2 * HOUR]);
  });

  it('the loop turns and writes go on while one is taken', async () => {
    const database = open();
    await fill(database, 50_000);
    let turns = 0;
    let running = true;
    const taking = start(database, { everyMs: 1e9 }).take().finally(() => (running = false));
    const leases = createLeaseStore(database);
    while (running) {
      await leases.take({ ip: '10.1.0.1', mac: '52:54:00:00:00:01', subnet: '10.1.0.0/16', expiresAt: AT + turns++ }, 0);
    }
    await taking;
    expect(turns).toBeGreaterThan(5);
  });

  it('a failure leaves nothing behind and tells why', async () => {
    const database = open();
    const failures: AppError[] = [];
    writeFileSync(snapshotsDir, 'a file where the directory should be');
    const snapshots = startSnapshots(database, { dir: snapshotsDir, everyMs: HOUR, keep: 24, now: () => AT, onFailure: (error) => void failures.push(error) });
    started.push(snapshots);
    await expect(snapshots.take()).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
    await vi.waitFor(() => expect(failures).toHaveLength(1), { timeout: 15_000 });
    rmSync(snapshotsDir);
    mkdirSync(snapshotsDir);
    writeFileSync(join(snapshotsDir, 'incoming-1.db'), 'of a process that died');
    await snapshots.take();
    expect(readdirSync(snapshotsDir)).toEqual([snapshotName(AT)]);
  });
});
