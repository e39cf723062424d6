// Room for writes when the disk is full: free pages inside the database and a WAL file of full size, both on the disk already.
import { existsSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type BetterSqlite3 from 'better-sqlite3';

/** What the daemon keeps: some 60,000 new leases, measured on a full tmpfs. */
export const RESERVE_BYTES = 8 * 1024 * 1024;
/** Below that the disk counts as full; it counts as usable again only above the second, so that the answer does not flap. */
const TIGHT_BYTES = 16 * 1024 * 1024;
const LOOSE_BYTES = 32 * 1024 * 1024;
/** How old an answer of the file system may be, in milliseconds. */
const FRESH_MS = 1000;

export interface Spare {
  /** Free pages inside the database: what can be written without the file growing. */
  readonly freeBytes: number;
  /** What the file system would still give to this user. */
  readonly diskFreeBytes: number;
}

export interface Space {
  spare(): Spare;
  isTight(): boolean;
  /** A write has just failed for want of room. */
  full(): void;
}

/**
 * Fills the reserve up to `bytes`. The rows are committed before they are deleted: pages that are freed in the transaction that made
 * them are never written, and stay holes in the file. Written in one transaction, they also grow the WAL to that size, and SQLite
 * reuses a WAL from its start without ever cutting it while the database is open. Where each write needs new blocks (btrfs, ZFS) this helps little.
 */
export function fillReserve(sqlite: BetterSqlite3.Database, bytes: number): void {
  sqlite.exec('DELETE FROM reserve');
  try {
    sqlite.prepare('INSERT INTO reserve (bytes) VALUES (zeroblob(?))').run(bytes);
    // Into the database file, where the room is to be; the WAL keeps its size. PASSIVE waits for nobody who reads.
    sqlite.pragma('wal_checkpoint(PASSIVE)');
  } finally {
    sqlite.exec('DELETE FROM reserve');
  }
}

export function ballastIsGone(file: string): boolean {
  return !existsSync(ballastOf(file));
}

const ballastOf = (file: string): string => `${file}.ballast`;

/**
 * A file of that size beside the database, to be given up when it cannot even be opened: closing deletes the WAL, and whatever fills the
 * disk takes that room before the next start. Does nothing when it is there.
 */
export function layBallast(file: string, bytes: number): void {
  if (!ballastIsGone(file)) return;
  try {
    writeFileSync(ballastOf(file), Buffer.alloc(bytes, 0x55), { mode: 0o600, flush: true });
  } catch (error) {
    dropBallast(file);
    throw error;
  }
}

/** False when there was none. */
export function dropBallast(file: string): boolean {
  if (ballastIsGone(file)) return false;
  rmSync(ballastOf(file));
  return true;
}

/** Asks the file system at most once a second, and only when somebody wants to know. */
export function watchSpace(file: string, freeBytes: () => number): Space {
  let tight = false;
  let askedAt = -Infinity;
  const diskFreeBytes = (): number => {
    const { bavail, bsize } = statfsSync(dirname(file));
    return bavail * bsize;
  };
  return {
    spare: () => ({ freeBytes: freeBytes(), diskFreeBytes: diskFreeBytes() }),
    isTight() {
      const now = performance.now();
      if (now - askedAt >= FRESH_MS) {
        askedAt = now;
        tight = diskFreeBytes() < (tight ? LOOSE_BYTES : TIGHT_BYTES);
      }
      return tight;
    },
    full() {
      tight = true;
      askedAt = performance.now();
    },
  };
}
