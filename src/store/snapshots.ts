// Hourly snapshots of the database, taken by a thread of their own, so that nobody waits for them.
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { AppError, lineOf } from '../errors.ts';
import type { Database } from './db.ts';
import { listSnapshots, snapshotName, syncPath } from './recovery.ts';

export interface SnapshotOptions {
  readonly dir: string;
  readonly everyMs: number;
  /** The oldest beyond so many go. */
  readonly keep: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** STORE_UNUSABLE: this snapshot could not be taken; the next one is tried in its turn. */
  readonly onFailure: (error: AppError) => void;
}

export interface Snapshots {
  /** Takes one now and answers its file; STORE_UNUSABLE when that cannot be. One that is being taken is waited for instead. */
  take(): Promise<string>;
  /** Gives up one that is being taken. */
  stop(): Promise<void>;
}

/** Room that a snapshot leaves on the disk, in bytes: it must never be what fills it. */
const ROOM_LEFT = 32 * 1024 * 1024;

/** JavaScript, not a file: it must run from the sources and when compiled. VACUUM INTO syncs nothing, so the main thread's rename waits for fsync here. */
const COPIER = `
const { workerData, parentPort } = require('node:worker_threads');
const { closeSync, fsyncSync, openSync } = require('node:fs');
const Database = require('node:module').createRequire(workerData.from)('better-sqlite3');
const database = new Database(workerData.file, { readonly: true, timeout: 5000 });
try {
  database.prepare('VACUUM INTO ?').run(workerData.to);
} finally {
  database.close();
}
const fd = openSync(workerData.to, 'r');
fsyncSync(fd);
closeSync(fd);
parentPort.postMessage('done');
`;

/** A first one is taken at once when the newest is older than the interval: a daemon that restarts each minute takes one an hour all the same. */
export function startSnapshots(database: Database, options: SnapshotOptions): Snapshots {
  const { dir, everyMs, keep, now, onFailure } = options;
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let worker: Worker | undefined;
  let running: Promise<string> | undefined;

  async function copy(): Promise<string> {
    const at = now();
    const temporary = join(dir, `incoming-${process.pid}.db`);
    try {
      mkdirSync(dir, { recursive: true, mode: 0o750 });
      // What processes that died left behind; the daemon is the only one that takes snapshots.
      for (const name of readdirSync(dir)) if (name.startsWith('incoming-')) rmSync(join(dir, name));
      const { bavail, bsize } = statfsSync(dir);
      if (bavail * bsize < statSync(database.file).size + ROOM_LEFT) throw new AppError('STORE_UNUSABLE', `${dir}: no snapshot of the database was taken: the disk is nearly full`, 'make room');
      // It holds all that the database does: as private from its first byte.
      closeSync(openSync(temporary, 'wx', 0o640));
      await new Promise<void>((resolve, reject) => {
        worker = new Worker(COPIER, { eval: true, workerData: { file: database.file, to: temporary, from: import.meta.url } });
        worker.once('message', () => resolve());
        worker.once('error', reject);
        worker.once('exit', () => reject(new Error('given up')));
      });
      const file = join(dir, snapshotName(at));
      renameSync(temporary, file);
      syncPath(dir);
      for (const old of listSnapshots(dir).slice(keep)) rmSync(old.file, { force: true });
      return file;
    } catch (error) {
      if (existsSync(temporary)) rmSync(temporary);
      throw error instanceof AppError ? error : new AppError('STORE_UNUSABLE', `${dir}: no snapshot of the database was taken: ${lineOf(error)}`, 'check that this user may write there and that the disk works', error);
    } finally {
      worker = undefined;
    }
  }

  const take = (): Promise<string> => (running ??= copy().finally(() => (running = undefined)));

  function schedule(inMs: number): void {
    timer = setTimeout(() => {
      take()
        .catch((error: unknown) => {
          if (!stopped) onFailure(error as AppError);
        })
        .finally(() => {
          if (!stopped) schedule(everyMs);
        });
    }, inMs).unref();
  }
  const newest = listSnapshots(dir)[0];
  schedule(newest ? Math.min(everyMs, Math.max(0, newest.at + everyMs - now())) : 0);
  return {
    take,
    async stop() {
      stopped = true;
      clearTimeout(timer);
      await worker?.terminate();
      await running?.catch(() => undefined);
    },
  };
}
