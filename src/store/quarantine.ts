// The quarantine: where the file of a blob goes that does not hold its digest's bytes, or cannot be read.
import { linkSync, lstatSync, mkdirSync, renameSync, unlinkSync, type BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { hexOf, type Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import { blobFile } from './blobs.ts';

/** `movedTo`: where the file lies now; absent when it could not be moved, and then it is refused where it is. */
export type OnRotten = (digest: Digest, why: string, movedTo?: string) => void;

/** Whether the file that `found` describes is the one under this name now. */
export function isAt(path: string, found: BigIntStats): boolean {
  const now = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return now?.ino === found.ino && now.dev === found.dev;
}

/** Moves the file that `found` describes out of the way; not another one that took its name meanwhile, and of that nobody is told. */
export function quarantine(stateDir: string, digest: Digest, found: BigIntStats, why: string, onRotten: OnRotten): void {
  const path = blobFile(stateDir, digest);
  const dir = join(stateDir, 'blobs', 'quarantine');
  const target = join(dir, `${hexOf(digest)}.${new Date().toISOString().replace(/[:.]/g, '')}`);
  try {
    if (!isAt(path, found)) return;
    makeDirectory(dir);
    renameSync(path, target);
    if (isAt(target, found)) return onRotten(digest, why, target);
    // Replaced between the two calls: back with the new one, unless there is a newer one still.
    try {
      linkSync(target, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    unlinkSync(target);
  } catch (error) {
    onRotten(digest, `${why}, and it cannot be moved away: ${lineOf(error)}`);
  }
}

function makeDirectory(dir: string): void {
  try {
    // Not `recursive`, by which Node calls a file system that is read-only ENOENT.
    mkdirSync(dir, { mode: 0o750 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** Linux's numbers: a block that the disk cannot give, and what file systems say of checksums or structures that are wrong. */
const UNREADABLE: ReadonlySet<unknown> = new Set([/* EIO */ -5, /* ENODATA */ -61, /* EBADMSG */ -74, /* EUCLEAN */ -117]);

/** Why this file counts as rotten; throws the error again when it says nothing of the file. */
export function unreadable(error: unknown): string {
  if (!UNREADABLE.has((error as NodeJS.ErrnoException).errno)) throw error;
  return `the disk cannot read it: ${lineOf(error)}`;
}
