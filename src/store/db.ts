// The database: SQLite with its pragmas, forward-only migrations, and group commit, so that many durable writes share one fsync.
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import BetterSqlite3 from 'better-sqlite3';
import { AppError, lineOf } from '../errors.ts';

export type Sqlite = BetterSqlite3.Database;

export interface Database {
  readonly file: string;
  /** Prepares a statement once, to be used inside `read` and `write`. */
  prepare<Parameters extends unknown[] | object = unknown[], Row = unknown>(sql: string): BetterSqlite3.Statement<Parameters extends unknown[] ? Parameters : [Parameters], Row>;
  /** Runs at once. */
  read<T>(operation: (sqlite: Sqlite) => T): T;
  /**
   * Runs `operation` in one transaction with all others of this turn of the event loop, and resolves when it is durable. One that
   * throws rejects its own promise and undoes its own writes only. It must be synchronous and write nothing but SQL.
   * STORE_UNUSABLE when the transaction as a whole fails (disk full, locked, closed).
   */
  write<T>(operation: (sqlite: Sqlite) => T): Promise<T>;
  /** Commits what is queued, then closes. */
  close(): Promise<void>;
}

interface Queued {
  readonly operation: (sqlite: Sqlite) => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** The same place from src/store/ and dist/store/. */
const MIGRATIONS = fileURLToPath(new URL('../../migrations/', import.meta.url));

/** Opens or creates the database and brings it to this version's schema. STORE_UNUSABLE when that cannot be. */
export function openDatabase(file: string, options?: { readonly migrationsDir?: string }): Database {
  const migrations = readMigrations(options?.migrationsDir ?? MIGRATIONS);
  const sqlite = openFile(file);
  try {
    migrate(sqlite, file, migrations);
    sqlite.pragma('foreign_keys = ON');
  } catch (error) {
    sqlite.close();
    throw error instanceof AppError ? error : unusable(file, error);
  }

  const savepoint = sqlite.prepare('SAVEPOINT operation');
  const release = sqlite.prepare('RELEASE operation');
  const undo = sqlite.prepare('ROLLBACK TO operation');
  let queue: Queued[] = [];

  function runOne({ operation, resolve, reject }: Queued): () => void {
    savepoint.run();
    try {
      const value = operation(sqlite);
      if (value instanceof Promise) throw new AppError('BUG', 'a write operation returned a promise: it would run outside of its transaction');
      release.run();
      return () => resolve(value);
    } catch (error) {
      // A full disk or an I/O error has rolled back the whole transaction by itself: then nobody's writes are there.
      if (!sqlite.inTransaction) throw error;
      undo.run();
      release.run();
      return () => reject(error);
    }
  }

  function flush(): void {
    const batch = queue;
    queue = [];
    if (batch.length === 0) return;
    let settle: (() => void)[];
    try {
      sqlite.exec('BEGIN IMMEDIATE');
      settle = batch.map(runOne);
      sqlite.exec('COMMIT');
    } catch (error) {
      if (sqlite.open && sqlite.inTransaction) sqlite.exec('ROLLBACK');
      for (const { reject } of batch) reject(unusable(file, error));
      return;
    }
    for (const tell of settle) tell();
  }

  return {
    file,
    prepare: (sql) => sqlite.prepare(sql),
    read: (operation) => operation(sqlite),
    write: <T>(operation: (sqlite: Sqlite) => T) =>
      new Promise<T>((resolve, reject) => {
        // After the poll phase: every datagram that was read in it shares the transaction.
        if (queue.length === 0) setImmediate(flush);
        queue.push({ operation, resolve: resolve as (value: unknown) => void, reject });
      }),
    async close() {
      if (!sqlite.open) return;
      flush();
      sqlite.close();
    },
  };
}

function openFile(file: string): Sqlite {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const sqlite = new BetterSqlite3(file, { timeout: 5000 });
    try {
      sqlite.pragma('journal_mode = WAL');
      sqlite.pragma('synchronous = FULL');
    } catch (error) {
      sqlite.close();
      throw error;
    }
    return sqlite;
  } catch (error) {
    throw unusable(file, error);
  }
}

interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}

/** `NNNN-what.sql`, numbered from 1 without a gap. */
function readMigrations(dir: string): Migration[] {
  const names = readdirSync(dir).filter((name) => name.endsWith('.sql')).sort();
  return names.map((name, index) => {
    const version = Number(/^(\d{4})-[a-z0-9-]+\.sql$/.exec(name)?.[1]);
    if (version !== index + 1) throw new AppError('BUG', `${join(dir, name)}: migration ${index + 1} was expected here, named NNNN-what.sql`);
    return { version, name, sql: readFileSync(join(dir, name), 'utf8') };
  });
}

function migrate(sqlite: Sqlite, file: string, migrations: readonly Migration[]): void {
  // Immediate: of two processes that start at once, the second waits and then sees the work done. Any throw undoes all of it.
  const run = sqlite.transaction(() => {
    const current = Number(sqlite.pragma('user_version', { simple: true }));
    if (current > migrations.length) {
      throw new AppError(
        'STORE_UNUSABLE',
        `${file}: the database is at schema ${current}, this rackseed knows up to ${migrations.length}`,
        'run the newer rackseed that wrote it, or restore the backup from before the upgrade',
      );
    }
    for (const { version, name, sql } of migrations.slice(current)) {
      try {
        sqlite.exec(sql);
      } catch (error) {
        throw new AppError('STORE_UNUSABLE', `${file}: migration ${name} failed: ${lineOf(error)}`, 'nothing was changed; run the rackseed version that wrote the database, and report this one', error);
      }
      sqlite.pragma(`user_version = ${version}`);
    }
  });
  run.immediate();
}

function unusable(file: string, error: unknown): AppError {
  if (error instanceof AppError) return error;
  const code = (error as { code?: unknown } | undefined)?.code;
  const hint =
    code === 'SQLITE_FULL' || code === 'ENOSPC' ? 'the disk is full: make room'
    : code === 'SQLITE_NOTADB' || code === 'SQLITE_CORRUPT' ? 'the file is damaged or is no database: restore it from a backup, or move it away to start with an empty one'
    : code === 'SQLITE_BUSY' ? 'another process holds the database: end it, or try again'
    : `check that ${dirname(file)} exists, that this user may write there, and that its disk works`;
  return new AppError('STORE_UNUSABLE', `${file}: ${lineOf(error)}`, hint, error);
}
