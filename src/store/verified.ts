// Blobs as they are served: an opened file whose bytes were proved to be the digest's, watched for change at each read; wrong ones go to quarantine.
import { createHash } from 'node:crypto';
import { fstatSync, linkSync, lstatSync, mkdirSync, renameSync, unlinkSync, type BigIntStats } from 'node:fs';
import { constants, lstat, open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobRef } from '../boot/profile.ts';
import { hexOf, type Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import { blobFile, unlessMissing } from './blobs.ts';

export interface VerifiedBlob {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  /**
   * Fills the first `length` bytes of the buffer from byte `at` on. What it gave is the digest's content; it rejects when the file was changed or
   * cut since it was verified. A file that lost its name or was replaced by another one is still whole.
   */
  read(buffer: Uint8Array, length: number, at: number): Promise<void>;
  /** Once; no read may be under way. */
  close(): void;
}

export interface VerifiedBlobs {
  /** Not verified: only whether there is one, and how large it is. */
  stat(digest: Digest): Promise<BlobRef | undefined>;
  /** The blob, verified: the first time it takes as long as reading it. undefined when there is none or its content is wrong. */
  open(digest: Digest): Promise<VerifiedBlob | undefined>;
  /** Reads the whole file again at this rate, whatever is known of it; a wrong one goes to quarantine. */
  scrub(digest: Digest, pace: Pace): Promise<'good' | 'rotten' | 'gone' | 'changing' | 'stopped'>;
}

export interface Pace {
  readonly bytesPerSecond: number;
  readonly signal?: AbortSignal;
  readonly onRead?: (bytes: number) => void;
}

/** `movedTo`: where the file lies now; absent when it could not be moved, and then it is refused where it is. */
export type OnRotten = (digest: Digest, why: string, movedTo?: string) => void;

/** An open file, shared by all who read it. */
interface SharedFile {
  readonly handle: FileHandle;
  readonly size: number;
  identity: string;
  users: number;
  checking?: Promise<boolean>;
}

interface Verdict {
  readonly good: boolean;
  readonly identity: string;
  readonly size: number;
  readonly why?: string;
}

/** Hashed between two turns of the event loop: 0.8 ms at 1.2 GB/s (measured). */
const PIECE = 1024 * 1024;
/** The same at a scrub, which nobody waits for. */
const SCRUB_PIECE = 256 * 1024;
/**
 * The kernel's file times advance with its tick, 10 ms at most: a second change within one tick leaves no trace in them (Git calls that "racily
 * clean"). So no file is judged by its times before they are this old, in milliseconds.
 */
const SETTLED_MS = 25;

/** Needs no right to write, unless something is rotten. What was verified is known for as long as this object lives. */
export function createVerifiedBlobs({ stateDir, onRotten }: { readonly stateDir: string; readonly onRotten: OnRotten }): VerifiedBlobs {
  /** What the hash of a file said, by digest: the newest file alone counts. */
  const judged = new Map<Digest, { readonly identity: string; readonly good: boolean }>();
  const files = new Map<string, SharedFile>();
  const opening = new Map<Digest, Promise<SharedFile | undefined>>();

  const keyOf = (digest: Digest, identity: string): string => `${digest} ${identity}`;

  function release(digest: Digest, file: SharedFile): void {
    if (--file.users > 0) return;
    if (files.get(keyOf(digest, file.identity)) === file) files.delete(keyOf(digest, file.identity));
    void file.handle.close().catch(() => undefined);
  }

  /** Whether the open file holds the digest's bytes, and by what it is known then. `why` is set when that is news. */
  async function judge(digest: Digest, handle: FileHandle): Promise<Verdict> {
    await settle(handle);
    const stat = await handle.stat({ bigint: true });
    const identity = identityOf(stat);
    const known = judged.get(digest);
    const file = { identity, size: Number(stat.size) };
    if (known?.identity === identity) return { good: known.good, ...file };
    const found = await digestOf(handle, PIECE);
    // Changing at this moment: not good, and not for ever bad.
    if (identityOf(await handle.stat({ bigint: true })) !== identity) return { good: false, ...file };
    return found === digest ? { good: true, ...file } : { good: false, ...file, why: `its content has the digest ${found}` };
  }

  async function openFile(digest: Digest): Promise<SharedFile | undefined> {
    // Non-blocking, or a FIFO of that name would hang a thread of the pool for ever.
    const handle = await unlessMissing(open(blobFile(stateDir, digest), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK));
    if (!handle) return undefined;
    let file: SharedFile | undefined;
    try {
      const found = await handle.stat({ bigint: true });
      if (!found.isFile()) return undefined;
      const { good, identity, size, why } = await judge(digest, handle);
      if (good || why !== undefined) judged.set(digest, { identity, good });
      if (why !== undefined) quarantine(digest, found, why);
      if (!good) return undefined;
      const shared = files.get(keyOf(digest, identity));
      if (shared) return hold(digest, shared);
      file = { handle, size, identity, users: 0 };
      files.set(keyOf(digest, identity), file);
      return hold(digest, file);
    } finally {
      // Not waited for: the file that is lent instead might be closed meanwhile.
      if (!file) void handle.close().catch(() => undefined);
    }
  }

  /** Those who waited for the opening take it before it can be closed again. */
  function hold(digest: Digest, file: SharedFile): SharedFile {
    file.users += 1;
    setImmediate(() => release(digest, file));
    return file;
  }

  function lend(digest: Digest, file: SharedFile): VerifiedBlob {
    file.users += 1;
    return {
      digest,
      size: file.size,
      close: () => release(digest, file),
      async read(buffer, length, at) {
        for (let tries = 0; tries < 3; tries += 1) {
          for (let done = 0; done < length; ) {
            const { bytesRead } = await file.handle.read(buffer, done, length - done, at + done);
            if (bytesRead === 0) throw new Error(`the blob's file ends at byte ${at + done}, before its size`);
            done += bytesRead;
          }
          // A write changes the times before it changes the first byte: with the same times, what was read is what was verified.
          if (identityOf(fstatSync(file.handle.fd, { bigint: true })) === file.identity) return;
          // It may have lost its name only, or have been touched.
          if (!(await (file.checking ??= recheck(digest, file).finally(() => delete file.checking)))) throw new Error("the blob's file was changed while it was sent");
        }
        throw new Error("the blob's file keeps changing while it is sent");
      },
    };
  }

  async function recheck(digest: Digest, file: SharedFile): Promise<boolean> {
    files.delete(keyOf(digest, file.identity));
    const { good, identity } = await judge(digest, file.handle);
    if (!good) return false;
    file.identity = identity;
    files.set(keyOf(digest, identity), file);
    return true;
  }

  /** Moves the file that `found` describes out of the way; not another one that took its name meanwhile. */
  function quarantine(digest: Digest, found: BigIntStats, why: string): void {
    const path = blobFile(stateDir, digest);
    const dir = join(stateDir, 'blobs', 'quarantine');
    const target = join(dir, `${hexOf(digest)}.${new Date().toISOString().replace(/[:.]/g, '')}`);
    const isIt = (place: string): boolean => {
      const now = lstatSync(place, { bigint: true, throwIfNoEntry: false });
      return now?.ino === found.ino && now.dev === found.dev;
    };
    try {
      if (!isIt(path)) return;
      mkdirSync(dir, { recursive: true, mode: 0o750 });
      renameSync(path, target);
      if (isIt(target)) return onRotten(digest, why, target);
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

  return {
    async stat(digest) {
      const found = await unlessMissing(lstat(blobFile(stateDir, digest)));
      return found?.isFile() ? { digest, size: found.size } : undefined;
    },
    async open(digest) {
      const found = await unlessMissing(lstat(blobFile(stateDir, digest), { bigint: true }));
      if (!found?.isFile()) return undefined;
      const shared = files.get(keyOf(digest, identityOf(found)));
      if (shared) return lend(digest, shared);
      let pending = opening.get(digest);
      if (!pending) {
        pending = openFile(digest).finally(() => opening.delete(digest));
        opening.set(digest, pending);
      }
      const file = await pending;
      return file && lend(digest, file);
    },
    async scrub(digest, pace) {
      const handle = await unlessMissing(open(blobFile(stateDir, digest), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK));
      if (!handle) return 'gone';
      try {
        const before = await handle.stat({ bigint: true });
        if (!before.isFile()) return 'gone';
        const found = await digestOf(handle, SCRUB_PIECE, pace);
        if (found === undefined) return 'stopped';
        if (found === digest) return 'good';
        if (identityOf(await handle.stat({ bigint: true })) !== identityOf(before)) return 'changing';
        judged.delete(digest);
        quarantine(digest, before, `its content has the digest ${found}`);
        return 'rotten';
      } finally {
        await handle.close();
      }
    },
  };
}

/** What changes whenever a file's content does. */
function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}

async function settle(handle: FileHandle): Promise<void> {
  const { ctimeMs } = await handle.stat();
  const wait = ctimeMs + SETTLED_MS - Date.now();
  // Times far ahead are of a clock that was set back: there is no use in waiting for it.
  if (wait > 0) await sleep(Math.min(wait, SETTLED_MS));
}

/** undefined when the signal stopped it. */
async function digestOf(handle: FileHandle, piece: number, pace?: Pace): Promise<Digest | undefined> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(piece);
  const startedAt = performance.now();
  for (let at = 0; ; ) {
    const { bytesRead } = await handle.read(buffer, 0, piece, at);
    if (bytesRead === 0) return `sha256:${hash.digest('hex')}`;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
    if (!pace) continue;
    pace.onRead?.(bytesRead);
    const ahead = (at / pace.bytesPerSecond) * 1000 - (performance.now() - startedAt);
    if (ahead > 0) await sleep(ahead, undefined, { ...(pace.signal ? { signal: pace.signal } : {}), ref: false }).catch(() => undefined);
    if (pace.signal?.aborted) return undefined;
  }
}
