// The connection to the SQLite file: opened with its pragmas, brought to this version's schema, recovered when it is damaged; and what its errors mean.
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';
import { AppError, lineOf } from '../errors.ts';
import { migrate, type Migration } from './migrations.ts';
import { damageOf, isCorruption, recover, type Recovered } from './recovery.ts';
import { dropBallast } from './reserve.ts';

export type Sqlite = BetterSqlite3.Database;

/** Replaces a damaged file by the newest good snapshot of the directory, else by an empty database. STORE_UNUSABLE when that cannot be. */
export function openOrRecover(file: string, migrations: readonly Migration[], snapshots: string): { readonly sqlite: Sqlite; readonly recovered?: Recovered } {
  try {
    const sqlite = openFile(file, migrations);
    const damage = damageOf(sqlite);
    if (damage === undefined) return { sqlite };
    sqlite.close();
    return replaced(damage);
  } catch (error) {
    if (!(error instanceof AppError) || !isCorruption(error.cause)) throw error instanceof AppError ? error : unusable(file, error);
    return replaced(lineOf(error.cause));
  }

  function replaced(why: string) {
    const recovered = recover(file, snapshots, why, Date.now());
    return { sqlite: openFile(file, migrations), recovered };
  }
}

/** STORE_UNUSABLE when it cannot be opened, or is damaged. On a full disk what was laid by for its start is given up. */
export function openFile(file: string, migrations: readonly Migration[]): Sqlite {
  try {
    return openConnection(file, migrations);
  } catch (error) {
    if (!isFull((error as AppError).cause) || !dropBallast(file)) throw error;
    return openConnection(file, migrations);
  }
}

function openConnection(file: string, migrations: readonly Migration[]): Sqlite {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const sqlite = new BetterSqlite3(file, { timeout: 5000 });
    try {
      sqlite.pragma('journal_mode = WAL');
      sqlite.pragma('synchronous = FULL');
      // better-sqlite3 asks for 16 MB: half of it holds the leases of 50,000 machines, and the kernel's page cache holds the rest.
      sqlite.pragma('cache_size = -8000');
      migrate(sqlite, file, migrations);
      sqlite.pragma('foreign_keys = ON');
    } catch (error) {
      sqlite.close();
      throw error;
    }
    return sqlite;
  } catch (error) {
    throw unusable(file, error);
  }
}

/** ENOSPC reaches us as SQLITE_FULL from a write, and as an I/O error from the shared memory file of the WAL. */
export function isFull(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return code === 'SQLITE_FULL' || code === 'ENOSPC' || code === 'SQLITE_IOERR_SHMSIZE';
}

/** What went wrong with the file as STORE_UNUSABLE, with what to do about it. */
export function unusable(file: string, error: unknown): AppError {
  if (error instanceof AppError) return error;
  const code = (error as { code?: unknown } | undefined)?.code;
  const hint =
    isFull(error) ? 'the disk is full: make room'
    : isCorruption(error) ? 'the file is damaged or is no database: restore it from a backup, or move it away to start with an empty one'
    : code === 'SQLITE_BUSY' ? 'another process holds the database: end it, or try again'
    : `check that ${dirname(file)} exists, that this user may write there, and that its disk works`;
  return new AppError('STORE_UNUSABLE', `${file}: ${lineOf(error)}`, hint, error);
}
