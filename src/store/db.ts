// The database: reads at once, and group commit, so that many durable writes share one sync.
import type BetterSqlite3 from 'better-sqlite3';
import { AppError } from '../errors.ts';
import { isFull, openFile, openOrRecover, unusable, type Sqlite } from './connection.ts';
import { readMigrations } from './migrations.ts';
import { isCorruption, type Recovered } from './recovery.ts';
import { ballastIsGone, fillReserve, layBallast, watchSpace, type Spare } from './reserve.ts';
import { createSyncer, type Syncer } from './syncer.ts';

export interface Database {
  readonly file: string;
  /** Set when the file was found damaged and replaced while it was opened. */
  readonly recovered?: Recovered;
  /** Prepares a statement once, to be used inside `read` and `write`. */
  prepare<Parameters extends unknown[] | object = unknown[], Row = unknown>(sql: string): BetterSqlite3.Statement<Parameters extends unknown[] ? Parameters : [Parameters], Row>;
  /** Runs at once, and never inside of a write (BUG): what it sees is committed, so it may be kept in memory. STORE_UNUSABLE when the file is found damaged. */
  read<T>(operation: (sqlite: Sqlite) => T): T;
  /**
   * Runs `operation` in one transaction with the others that arrive at the same time, and resolves when it is durable. One that throws
   * rejects its own promise and undoes its own writes only. It must be synchronous and write nothing but SQL: it runs again when a
   * neighbour throws. STORE_UNUSABLE when the transaction as a whole fails (disk full, locked, damaged, closed): then nothing of it is there.
   */
  write<T>(operation: (sqlite: Sqlite) => T, options?: WriteOptions): Promise<T>;
  /** Bytes that can still be written, inside the file and on its disk. */
  spare(): Spare;
  /** True while the disk is nearly full: what is left is for those who must not fail. Cheap: asks the file system at most once a second. */
  isTight(): boolean;
  /** Fills the reserve up again when more than half of it is used and the disk has room: some 40 ms then, else nothing. To be called now and then. */
  refill(): void;
  /** Commits what is queued, then closes. */
  close(): Promise<void>;
}

export interface WriteOptions {
  /** It may wait a millisecond for company, while there is any: for what comes by the thousand. Default false. */
  readonly patient?: boolean;
}

export interface OpenOptions {
  readonly migrationsDir?: string;
  /** Replaces a damaged file by the newest good snapshot of this directory, else by an empty database. Only for the file's one owner. */
  readonly recoverFrom?: string;
  /** Keeps so much room inside the files for a full disk (`RESERVE_BYTES`); default none. */
  readonly reserveBytes?: number;
  /** Called once when damage is found while the database is in use, or a sync fails: end the process, the next start recovers. */
  readonly onCorrupt?: (error: AppError) => void;
}

interface Queued {
  readonly operation: (sqlite: Sqlite) => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A commit costs the same for one operation as for twenty. Patient operations wait for company so long, in milliseconds, when the last one had
 * company a moment ago,
 */
const PACE_MS = 1;
/** or until they are so many, or one comes that does not wait. */
const BATCH_ENOUGH = 64;

/** Opens or creates the database and brings it to this version's schema. STORE_UNUSABLE when that cannot be. */
export function openDatabase(file: string, options: OpenOptions = {}): Database {
  const migrations = readMigrations(options.migrationsDir);
  const { sqlite, recovered } = options.recoverFrom === undefined ? { sqlite: openFile(file, migrations) } : openOrRecover(file, migrations, options.recoverFrom);
  const begin = sqlite.prepare('BEGIN IMMEDIATE');
  const commit = sqlite.prepare('COMMIT');
  const rollback = sqlite.prepare('ROLLBACK');
  const savepoint = sqlite.prepare('SAVEPOINT operation');
  const release = sqlite.prepare('RELEASE operation');
  const undo = sqlite.prepare('ROLLBACK TO operation');
  const freePages = sqlite.prepare('PRAGMA freelist_count').pluck();
  const pageSize = Number(sqlite.pragma('page_size', { simple: true }));
  const space = watchSpace(file, () => Number(freePages.get()) * pageSize);
  let queue: Queued[] = [];
  /** The sync of the last commit, while it runs. */
  let syncing: Promise<void> | undefined;
  let syncer: Syncer | undefined;
  let committedAt = -Infinity;
  let hadCompany = false;
  let waiting: NodeJS.Timeout | undefined;
  let damaged: AppError | undefined;
  let tight = false;

  function refused(error: unknown): AppError {
    const fault = unusable(file, error);
    if (isFull(error)) space.full();
    if (isCorruption(error)) damage(fault);
    return fault;
  }

  function damage(fault: AppError): void {
    if (damaged) return;
    damaged = fault;
    options.onCorrupt?.(fault);
  }

  function fill(): void {
    if (!options.reserveBytes) return;
    try {
      fillReserve(sqlite, options.reserveBytes);
      if (!space.isTight()) layBallast(file, options.reserveBytes);
    } catch (error) {
      // Without room there is none to reserve, and a daemon that starts goes on: what is in the files already stays.
      refused(error);
    }
  }

  function refill(): void {
    if (options.reserveBytes && !space.isTight() && (space.spare().freeBytes < options.reserveBytes / 2 || ballastIsGone(file))) fill();
  }

  function run({ operation }: Queued): unknown {
    const value = operation(sqlite);
    if (value instanceof Promise) throw new AppError('BUG', 'a write operation returned a promise: it would run outside of its transaction');
    return value;
  }

  /** All of a batch, without the cost of savepoints; undefined, and nothing is written, when one of them throws. */
  function runTogether(batch: readonly Queued[]): (() => void)[] | undefined {
    const settle: (() => void)[] = [];
    for (const queued of batch) {
      try {
        const value = run(queued);
        settle.push(() => queued.resolve(value));
      } catch (error) {
        // A full disk or an I/O error has rolled back the whole transaction by itself: then nobody's writes are there.
        if (!sqlite.inTransaction || isCorruption(error)) throw error;
        return undefined;
      }
    }
    return settle;
  }

  function runOneByOne(queued: Queued): () => void {
    savepoint.run();
    try {
      const value = run(queued);
      release.run();
      return () => queued.resolve(value);
    } catch (error) {
      if (!sqlite.inTransaction || isCorruption(error)) throw error;
      undo.run();
      release.run();
      const fault = isFull(error) ? refused(error) : error;
      return () => queued.reject(fault);
    }
  }

  function flush(): void {
    clearTimeout(waiting);
    waiting = undefined;
    if (syncing || queue.length === 0) return;
    const batch = queue;
    queue = [];
    hadCompany = batch.length > 1;
    const reject = (fault: AppError) => batch.forEach((queued) => queued.reject(fault));
    let settle: (() => void)[] | undefined;
    try {
      // What is behind a sync that failed may be behind a hole in the WAL: recovery would stop there.
      if (damaged) throw damaged;
      begin.run();
      settle = runTogether(batch);
      if (!settle) {
        rollback.run();
        begin.run();
        settle = batch.map(runOneByOne);
      }
      commit.run();
    } catch (error) {
      if (sqlite.open && sqlite.inTransaction) rollback.run();
      return reject(refused(error));
    } finally {
      committedAt = performance.now();
    }
    const tellAll = settle;
    syncing = syncWal().then(
      () => tellAll.forEach((tell) => tell()),
      (error: unknown) => {
        const fault = unusable(file, error);
        damage(fault);
        reject(fault);
      },
    ).finally(() => {
      syncing = undefined;
      // What came in meanwhile has waited for company long enough; but the answers of this commit, which go out behind this turn, leave first.
      if (queue.length > 0) setImmediate(commitSoon);
    });
  }

  /** Off the main thread: a slow disk must not keep a datagram waiting. One sync at a time, and no commit beside it: nothing is ahead of what is synced. */
  async function syncWal(): Promise<void> {
    syncer ??= createSyncer(`${file}-wal`);
    await syncer.sync();
  }

  /** Behind the poll phase, so that all datagrams that were read in it share the transaction. */
  function commitSoon(): void {
    clearTimeout(waiting);
    waiting = undefined;
    setImmediate(flush);
  }

  function isTight(): boolean {
    const was = tight;
    tight = space.isTight();
    // What the reserve gave while the disk was full is wanted back before it is full again.
    if (was && !tight) setImmediate(() => sqlite.open && refill());
    return tight;
  }

  // Always at the start: the WAL file is new.
  fill();
  // SQLite itself still syncs around each checkpoint; commits are synced here.
  sqlite.pragma('synchronous = NORMAL');
  return {
    file,
    ...(recovered ? { recovered } : {}),
    prepare: (sql) => sqlite.prepare(sql),
    read(operation) {
      if (sqlite.inTransaction) throw new AppError('BUG', 'a read inside of a write operation: what it sees may be undone');
      try {
        return operation(sqlite);
      } catch (error) {
        throw isCorruption(error) ? refused(error) : error;
      }
    },
    write: <T>(operation: (sqlite: Sqlite) => T, { patient = false }: WriteOptions = {}) =>
      new Promise<T>((resolve, reject) => {
        queue.push({ operation, resolve: resolve as (value: unknown) => void, reject });
        if (syncing) return;
        if (queue.length === 1 && patient && hadCompany && performance.now() - committedAt < PACE_MS) waiting = setTimeout(flush, PACE_MS);
        else if (queue.length === 1 || (waiting && (!patient || queue.length === BATCH_ENOUGH))) commitSoon();
      }),
    spare: space.spare,
    isTight,
    refill,
    async close() {
      for (flush(); syncing; flush()) await syncing;
      if (!sqlite.open) return;
      sqlite.close();
      await syncer?.close();
    },
  };
}
