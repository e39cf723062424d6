// A damaged database: how it is found, moved out of the way, and replaced by the newest good snapshot. Nothing is ever deleted.
import { closeSync, copyFileSync, existsSync, fsyncSync, openSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';

export interface Recovered {
  /** Where the damaged file is now; its `-wal` and `-shm` beside it keep their endings, so that sqlite3 opens all three. */
  readonly corrupt: string;
  /** What was wrong, one line. */
  readonly why: string;
  /** The snapshot that took its place; absent: none was good, and the database is empty. */
  readonly from?: string;
  /** Milliseconds since 1970; what was acknowledged after that is lost. */
  readonly snapshotAt?: number;
}

export interface Snapshot {
  readonly file: string;
  /** Milliseconds since 1970, to the second. */
  readonly at: number;
}

/** SQLite's own word for damage; full disks, locks and failing reads are none. */
export function isCorruption(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' && (code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB');
}

/** What is wrong with the content, one line; undefined when nothing is. Also compares indexes with their tables, which quick_check leaves out. */
export function damageOf(sqlite: BetterSqlite3.Database): string | undefined {
  try {
    const found = String(sqlite.pragma('integrity_check(1)', { simple: true }));
    return found === 'ok' ? undefined : found.split('\n').slice(0, 2).join(': ');
  } catch (error) {
    if (isCorruption(error)) return (error as Error).message;
    throw error;
  }
}

/** `20260131T235959Z`: sorts by time, and is safe in a file name. */
export function stampOf(at: number): string {
  return new Date(at).toISOString().replace(/[-:]|\.\d+/g, '');
}

export function snapshotName(at: number): string {
  return `rackseed-${stampOf(at)}.db`;
}

/** Newest first. A directory that is not there has none. */
export function listSnapshots(dir: string): Snapshot[] {
  // A file in its place has none either; taking one says so.
  if (!statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return [];
  return readdirSync(dir)
    .sort()
    .reverse()
    .flatMap((name) => {
      const match = /^rackseed-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z\.db$/.exec(name);
      if (!match) return [];
      const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [number, number, number, number, number, number];
      return [{ file: join(dir, name), at: Date.UTC(year, month - 1, day, hour, minute, second) }];
    });
}

/** Moves the damaged database away and puts the newest good snapshot in its place, if there is one. No connection may be open. */
export function recover(file: string, snapshotsDir: string, why: string, now: number): Recovered {
  const corrupt = freeName(`${file}.corrupt-${stampOf(now)}`);
  // The database first: killed in between, the next start finds none, and a WAL without its database is never replayed (SQLite deletes it).
  for (const ending of ['', '-wal', '-shm']) if (existsSync(file + ending)) renameSync(file + ending, corrupt + ending);
  const good = listSnapshots(snapshotsDir).find((snapshot) => isGood(snapshot.file));
  if (good) {
    const temporary = `${file}.restoring`;
    rmSync(temporary, { force: true });
    copyFileSync(good.file, temporary);
    syncPath(temporary);
    renameSync(temporary, file);
  }
  syncPath(dirname(file));
  return { corrupt, why, ...(good ? { from: good.file, snapshotAt: good.at } : {}) };
}

/** A file or directory, durable; a name is only when its directory is. */
export function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function isGood(file: string): boolean {
  try {
    const sqlite = new BetterSqlite3(file, { readonly: true, fileMustExist: true });
    try {
      // An empty file is a sound database to SQLite; a snapshot of ours has a schema.
      return Number(sqlite.pragma('user_version', { simple: true })) > 0 && damageOf(sqlite) === undefined;
    } finally {
      sqlite.close();
    }
  } catch {
    return false;
  }
}

function freeName(wanted: string): string {
  for (let n = 1; ; n++) {
    const name = n === 1 ? wanted : `${wanted}.${n}`;
    if (!existsSync(name)) return name;
  }
}
