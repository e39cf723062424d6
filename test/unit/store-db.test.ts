// The database itself: group commit, durability under kill -9, and what guards its migrations.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import BetterSqlite3 from 'better-sqlite3';
import ts from 'typescript';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createLeaseStore } from '../../src/store/leases.ts';

const REPO = fileURLToPath(new URL('../../', import.meta.url));
let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-db-'));
  file = join(dir, 'state', 'rackseed.db');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A directory of migrations of the test's own, by file name. */
function migrations(files: Record<string, string>): string {
  const at = mkdtempSync(join(dir, 'migrations-'));
  for (const [name, sql] of Object.entries(files)) writeFileSync(join(at, name), sql);
  return at;
}

function versionOf(path: string): unknown {
  const sqlite = new BetterSqlite3(path, { readonly: true });
  try {
    return sqlite.pragma('user_version', { simple: true });
  } finally {
    sqlite.close();
  }
}

describe('group commit', () => {
  const TABLE = 'CREATE TABLE t (x TEXT PRIMARY KEY, parent TEXT REFERENCES t (x) DEFERRABLE INITIALLY DEFERRED);';
  let db: Database;
  let rows: () => string[];
  beforeEach(() => {
    db = openDatabase(file, { migrationsDir: migrations({ '0001-t.sql': TABLE }) });
    rows = () => {
      const other = new BetterSqlite3(file, { readonly: true });
      try {
        return other.prepare<[], string>('SELECT x FROM t ORDER BY x').pluck().all();
      } finally {
        other.close();
      }
    };
  });
  afterEach(() => db.close());
  const insert = (x: string, parent: string | null = null) => db.write((sqlite) => sqlite.prepare('INSERT INTO t VALUES (?, ?)').run(x, parent).changes);

  // Each commit's sync is our own, off the main thread (durability/order sees that nothing is answered before it); NORMAL is for those around a checkpoint.
  it('has a write-ahead log that SQLite syncs around checkpoints, and foreign keys', () => {
    const pragmas = ['journal_mode', 'synchronous', 'foreign_keys'].map((name) => db.read((sqlite) => sqlite.pragma(name, { simple: true })));
    expect(pragmas).toEqual(['wal', 1, 1]);
  });

  it('answers only after the commit, when another connection sees the rows', async () => {
    const first = insert('a');
    const second = insert('b');
    expect(rows()).toEqual([]);
    expect(await first.then(() => rows())).toEqual(['a', 'b']);
    expect(await second).toBe(1);
  });

  it('undoes all of an operation that throws and nothing of its neighbours', async () => {
    const answers = await Promise.allSettled([
      insert('a'),
      db.write((sqlite) => {
        sqlite.prepare("INSERT INTO t VALUES ('half', NULL)").run();
        throw new Error('changed its mind');
      }),
      insert('a'),
      insert('b'),
    ]);
    expect(answers.map((answer) => answer.status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
    expect((answers[1] as PromiseRejectedResult).reason).toMatchObject({ message: 'changed its mind' });
    expect(rows()).toEqual(['a', 'b']);
  });

  it('lets an operation see what was written before it in the same transaction', async () => {
    void insert('a');
    expect(await db.write((sqlite) => sqlite.prepare('SELECT count(*) FROM t').pluck().get())).toBe(1);
  });

  it('rejects every operation of a transaction that cannot be committed, and the next one works', async () => {
    const answers = await Promise.allSettled([insert('a'), insert('child', 'nobody'), insert('b')]);
    expect(answers.map((answer) => (answer as PromiseRejectedResult).reason?.code)).toEqual(['STORE_UNUSABLE', 'STORE_UNUSABLE', 'STORE_UNUSABLE']);
    expect(rows()).toEqual([]);
    await insert('c');
    expect(rows()).toEqual(['c']);
  });

  it('answers each operation once and commits all in one transaction, however long the line is', async () => {
    const marks: string[] = [];
    const many = Array.from({ length: 700 }, (_, i) => insert(`r${String(i).padStart(3, '0')}`).then(() => marks.push(rows().length.toString())));
    await Promise.all(many);
    expect(new Set(marks)).toEqual(new Set(['700']));
  });

  it('commits what comes in while a batch is answered in the next one', async () => {
    await insert('a').then(() => Promise.all([insert('b'), insert('c')]));
    expect(rows()).toEqual(['a', 'b', 'c']);
  });

  it('refuses an asynchronous operation, whose writes would run outside of the transaction', async () => {
    await expect(db.write(async () => 1)).rejects.toMatchObject({ code: 'BUG' });
  });

  it('refuses a read inside of a write, which would see what may be undone', async () => {
    await expect(db.write(() => db.read((sqlite) => sqlite.prepare('SELECT count(*) FROM t').pluck().get()))).rejects.toMatchObject({ code: 'BUG' });
    expect(db.read((sqlite) => sqlite.prepare('SELECT count(*) FROM t').pluck().get())).toBe(0);
  });

  it('commits what is queued when it is closed and refuses what comes later', async () => {
    const queued = insert('a');
    await db.close();
    await queued;
    expect(rows()).toEqual(['a']);
    await expect(insert('b')).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
  });
});

describe('migrations', () => {
  const ONE = 'CREATE TABLE one (x); INSERT INTO one VALUES (1);';
  const opened = async (files: Record<string, string>): Promise<unknown> => {
    const db = openDatabase(file, { migrationsDir: migrations(files) });
    const found = db.read((sqlite) => sqlite.prepare('SELECT * FROM one').all());
    await db.close();
    return found;
  };

  it('brings an empty file to the newest of the shipped schemas, and does it once', async () => {
    await openDatabase(file).close();
    await openDatabase(file).close();
    expect(versionOf(file)).toBe(readdirSync(join(REPO, 'migrations')).length);
  });

  it('runs only what is missing and keeps the rows', async () => {
    await opened({ '0001-one.sql': ONE });
    expect(await opened({ '0001-one.sql': ONE, '0002-two.sql': 'ALTER TABLE one ADD COLUMN y DEFAULT 7;' })).toEqual([{ x: 1, y: 7 }]);
  });

  it('changes nothing when one of several fails', async () => {
    await opened({ '0001-one.sql': ONE });
    const broken = { '0001-one.sql': ONE, '0002-two.sql': 'CREATE TABLE two (x);', '0003-three.sql': 'CREATE TABLE three (x); ALTER TABLE nowhere ADD y;' };
    await expect(opened(broken)).rejects.toMatchObject({ code: 'STORE_UNUSABLE', message: expect.stringContaining('0003-three.sql') });
    expect(versionOf(file)).toBe(1);
    expect(await opened({ '0001-one.sql': ONE, '0002-two.sql': 'CREATE TABLE two (x);' })).toEqual([{ x: 1 }]);
  });

  it('keeps the leases of the first schema: what was text is a number, and the holder is the card', async () => {
    const first = '0001-state.sql';
    await openDatabase(file, { migrationsDir: migrations({ [first]: readFileSync(join(REPO, 'migrations', first), 'utf8') }) }).close();
    const old = new BetterSqlite3(file);
    old.exec(`INSERT INTO leases (ip, mac, subnet, expires_at, declined_until) VALUES
      ('192.168.5.9', '52:54:00:00:00:0a', '192.168.5.0/24', 2000, NULL), ('10.77.0.100', '52:54:00:00:00:0a', '10.77.0.0/24', 3000, NULL), ('10.77.0.101', NULL, '10.77.0.0/24', 4000, 4000), ('10.77.0.102', NULL, '10.77.0.0/24', 5000, 5000)`);
    old.close();
    const db = openDatabase(file);
    const mac = '52:54:00:00:00:0a';
    const nobody = { mac: '00:00:00:00:00:00', holder: '00:00:00:00:00:00' };
    expect(await createLeaseStore(db).list()).toEqual([
      { ip: '10.77.0.100', mac, holder: mac, subnet: '10.77.0.0/24', expiresAt: 3000 },
      { ip: '10.77.0.101', ...nobody, subnet: '10.77.0.0/24', expiresAt: 4000, declinedUntil: 4000 },
      { ip: '10.77.0.102', ...nobody, subnet: '10.77.0.0/24', expiresAt: 5000, declinedUntil: 5000 },
      { ip: '192.168.5.9', mac, holder: mac, subnet: '192.168.5.0/24', expiresAt: 2000 },
    ]);
    await db.close();
  });

  it('knows what the clock said of a word before: the open boot that had its boot set before is the one that it does not mean', async () => {
    const files = readdirSync(join(REPO, 'migrations')).filter((name) => name < '0006');
    await openDatabase(file, { migrationsDir: migrations(Object.fromEntries(files.map((name) => [name, readFileSync(join(REPO, 'migrations', name), 'utf8')]))) }).close();
    const old = new BetterSqlite3(file);
    old.exec("INSERT INTO boot_sets (digest, content) VALUES ('s', '{}')");
    // A UKI has no script; the boot that never had one has no boot set either.
    for (const [node, bootSet, scriptAt, startedAt] of [['late', 's', 1000, 500], ['early', 's', 3000, 500], ['never', null, undefined, 500], ['uki', 's', undefined, 500], ['new-uki', 's', undefined, 2500]] as const) {
      old.prepare("INSERT INTO boots (id, node, mac, state, started_at, boot_set, profile, generation) VALUES (?, ?, '52:54:00:00:00:01', 'open', ?, ?, 'p', 'g')").run(`boot-${node}`, node, startedAt, bootSet);
      if (scriptAt !== undefined) old.exec(`INSERT INTO stages (boot, name, state, first_at, last_at, count, detail) VALUES ('boot-${node}', 'script', 'ok', ${scriptAt}, 9000, 2, '{}')`);
      old.exec(`INSERT INTO node_systems (node, next, next_at) VALUES ('${node}', 'boot-once', 2000)`);
    }
    old.close();
    const db = openDatabase(file);
    const boots = createBootStore(db);
    expect(await Promise.all(['late', 'early', 'never', 'uki', 'new-uki'].map((node) => boots.history(node)))).toEqual([
      { failedInRow: 0, next: 'boot-once', nextAfter: 'boot-late' },
      { failedInRow: 0, next: 'boot-once' },
      { failedInRow: 0, next: 'boot-once' },
      { failedInRow: 0, next: 'boot-once', nextAfter: 'boot-uki' },
      { failedInRow: 0, next: 'boot-once' },
    ]);
    await db.close();
  });

  it('keeps the boots of the first schema, and their stages in the order in which they were seen', async () => {
    const first = '0001-state.sql';
    await openDatabase(file, { migrationsDir: migrations({ [first]: readFileSync(join(REPO, 'migrations', first), 'utf8') }) }).close();
    const old = new BetterSqlite3(file);
    old.exec(`INSERT INTO boots (id, node, mac, state, why, started_at, ended_at, profile, generation) VALUES
      ('1', 'n1', '52:54:00:00:00:01', 'failed', 'no disk', 1000, 2000, 'p', 'g'), ('2', 'n1', '52:54:00:00:00:01', 'open', NULL, 3000, NULL, 'p', 'g')`);
    old.exec("INSERT INTO node_systems (node, failed_in_row, last_failed_at) VALUES ('n1', 7, 2000)");
    const stage = old.prepare("INSERT INTO stages (boot, name, state, first_at, last_at, count, detail) VALUES (?, ?, 'ok', 1000, 1000, 1, '{}')");
    for (const name of ['offer', 'discover', 'gone', 'lease']) stage.run('1', name);
    stage.run('2', 'discover');
    old.exec("DELETE FROM stages WHERE name = 'gone'");
    old.close();
    const db = openDatabase(file);
    const boots = createBootStore(db);
    // They were counted by other rules, and would hold the node.
    expect(await boots.history('n1')).toMatchObject({ failedInRow: 0 });
    const before = await boots.get('1');
    expect(before).toMatchObject({ state: 'failed', why: 'no disk', startedAt: 1000, endedAt: 2000 });
    expect(before?.stages.map(({ name }) => name)).toEqual(['offer', 'discover', 'lease']);
    await boots.start({ id: '3', node: 'n1', mac: '52:54:00:00:00:01', profile: 'p', generation: 'g', startedAt: 4000 });
    expect(await boots.get('2')).toMatchObject({ state: 'unfinished', endedAt: 4000 });
    await boots.see('3', { name: 'discover', state: 'ok', at: 4000 });
    expect(await boots.prune(1)).toBe(2);
    // A stage goes with its boot, and none is written without one.
    expect(db.read((sqlite) => sqlite.prepare('SELECT boot FROM stages').pluck().all())).toEqual(['3']);
    expect(db.read((sqlite) => sqlite.pragma('foreign_key_check'))).toEqual([]);
    await db.close();
  });

  it('refuses a database that is newer than this rackseed and says what to do', async () => {
    await opened({ '0001-one.sql': ONE, '0002-two.sql': 'CREATE TABLE two (x);' });
    await expect(opened({ '0001-one.sql': ONE })).rejects.toMatchObject({
      code: 'STORE_UNUSABLE', message: `${file}: the database is at schema 2, this rackseed knows up to 1`, hint: expect.stringContaining('newer rackseed'),
    });
  });

  it('refuses migrations with a gap in their numbers', async () => {
    await expect(opened({ '0001-one.sql': ONE, '0003-three.sql': '' })).rejects.toMatchObject({ code: 'BUG' });
  });
});

describe('a file that cannot be used', () => {
  it('is told from a directory that cannot be made', () => {
    writeFileSync(join(dir, 'state'), 'a file where the directory should be');
    expect(() => openDatabase(file)).toThrow(expect.objectContaining({ code: 'STORE_UNUSABLE', hint: expect.stringContaining('may write') }));
  });

  it('is told from one that is no database, and is left as it is', () => {
    const text = 'this is a letter to my grandmother'.repeat(100);
    mkdirSync(dirname(file));
    writeFileSync(file, text);
    expect(() => openDatabase(file)).toThrow(expect.objectContaining({ code: 'STORE_UNUSABLE', hint: expect.stringContaining('backup') }));
    expect(readFileSync(file, 'utf8')).toBe(text);
  });
});

describe('kill -9', () => {
  /** The full size: RACKSEED_KILLS=50. */
  const KILLS = Number(process.env['RACKSEED_KILLS'] ?? 3);
  const SOURCES = ['addr.ts', 'errors.ts', 'store/connection.ts', 'store/db.ts', 'store/leases.ts', 'store/migrations.ts', 'store/recovery.ts', 'store/reserve.ts', 'store/syncer.ts'];
  /** Takes leases, 32 at a time, and tells of each only when it is acknowledged. */
  const TAKER = `
    import { openDatabase } from './src/store/db.js';
    import { createLeaseStore } from './src/store/leases.js';
    const [file, round] = process.argv.slice(2);
    const leases = createLeaseStore(openDatabase(file));
    for (let n = 0; ; n += 32) {
      await Promise.all(Array.from({ length: 32 }, async (_, i) => {
        const ip = '10.' + round + '.' + ((n + i) >> 8) + '.' + ((n + i) & 255);
        const mac = '52:54:00:' + [round, (n + i) >> 8, (n + i) & 255].map((x) => Number(x).toString(16).padStart(2, '0')).join(':');
        if (await leases.take({ ip, mac, subnet: '10.0.0.0/8', expiresAt: 2e12 }, 1e12)) process.stdout.write(ip + ' ' + mac + '\\n');
      }));
    }`;

  it(`loses no lease that was acknowledged (${KILLS} kills)`, async () => {
    // Node 20 runs no TypeScript: the child gets the same sources as JavaScript.
    for (const source of SOURCES) {
      const out = join(dir, 'src', source.replace(/\.ts$/, '.js'));
      mkdirSync(dirname(out), { recursive: true });
      const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023, rewriteRelativeImportExtensions: true };
      writeFileSync(out, ts.transpileModule(readFileSync(join(REPO, 'src', source), 'utf8'), { compilerOptions: options }).outputText);
    }
    for (const name of ['node_modules', 'migrations']) symlinkSync(join(REPO, name), join(dir, name));
    writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(dir, 'taker.js'), TAKER);

    let acknowledged: string[] = [];
    for (let round = 0; round < KILLS; round++) {
      const child = spawn(process.execPath, [join(dir, 'taker.js'), file, String(round)], { stdio: ['ignore', 'pipe', 'pipe'] });
      let told = '';
      let complaint = '';
      child.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
      child.stdout.on('data', (chunk: Buffer) => {
        told += chunk.toString();
        // Any moment will do: another number of leases in each round, some in flight.
        if (told.split('\n').length > 100 + 37 * (round % 7)) child.kill('SIGKILL');
      });
      const [, signal] = await once(child, 'close');
      expect({ signal, complaint }).toEqual({ signal: 'SIGKILL', complaint: '' });
      acknowledged = acknowledged.concat(told.slice(0, told.lastIndexOf('\n')).split('\n'));
    }
    const db = openDatabase(file);
    const kept = new Set((await createLeaseStore(db).list()).map((lease) => `${lease.ip} ${lease.mac}`));
    await db.close();
    expect(acknowledged.length).toBeGreaterThanOrEqual(100 * KILLS);
    expect(acknowledged.filter((lease) => !kept.has(lease))).toEqual([]);
  });
});
