// Blobs as they are served: an opened file whose bytes were proved to be the digest's, watched for change at each read; wrong ones go to quarantine.
import { close, closeSync, constants, fstat, fstatSync, lstatSync, open, read, type BigIntStats } from 'node:fs';
import { promisify } from 'node:util';
import type { BlobRef } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import { blobFile, unlessMissing } from './blobs.ts';
import { digestOf, settle, type Pace } from './hash.ts';
import { isAt, quarantine, unreadable, type OnRotten } from './quarantine.ts';
import { createVerdicts, identityOf, type Verdicts } from './verdicts.ts';

export interface VerifiedBlob {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  /**
   * Fills the first `length` bytes of the buffer from byte `at` on. What it gave is the digest's content; it rejects when the file was changed or
   * cut since it was verified, was found rotten by somebody else, or the disk cannot read it: then it goes to quarantine. A file that lost its name
   * or was replaced by another one is still whole.
   */
  read(buffer: Uint8Array, length: number, at: number): Promise<void>;
  /** Once; no read may be under way. */
  close(): void;
}

export interface VerifiedBlobs {
  /** Not verified: only whether there is one, and how large it is. */
  stat(digest: Digest): Promise<BlobRef | undefined>;
  /** The blob, verified: the first time it takes as long as reading it. undefined when there is none, its content is wrong or cannot be read. */
  open(digest: Digest): Promise<VerifiedBlob | undefined>;
  /** Reads the whole file again at this rate, whatever is known of it; a wrong one, or one that cannot be read, goes to quarantine. */
  scrub(digest: Digest, pace: Pace): Promise<'good' | 'rotten' | 'gone' | 'changing' | 'stopped'>;
}

/**
 * An open file, shared by all who read it. A number and no FileHandle: that closes in Node's thread pool, and a thread that ends drops what still waits there, so that the
 * file stays open for as long as the process lives. A number is closed at once, and Node closes those that a dead thread has left open.
 */
interface SharedFile {
  readonly fd: number;
  readonly size: number;
  identity: string;
  users: number;
  checking?: Promise<boolean>;
  /** It is not what it was: nothing more is read from it. */
  refused: boolean;
}

type Judged = { readonly good: true; readonly identity: string; readonly size: number } | { readonly good: false };

export interface VerifiedParts {
  readonly stateDir: string;
  readonly onRotten: OnRotten;
  /** What is known already, also by others; default: nothing. */
  readonly verdicts?: Verdicts;
}

const [openAt, statOf, readFrom] = [promisify(open), promisify(fstat), promisify(read)];
/** The identity of a file of which nothing is known. */
const LOST = 'unreadable';
const FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Hashed between two turns of the event loop: 0.8 ms at 1.2 GB/s (measured). */
const PIECE = 1024 * 1024;
/** The same at a scrub, which nobody waits for. */
const SCRUB_PIECE = 256 * 1024;
/** A file that changes each time it is hashed is being written to. */
const TRIES = 3;

/** Needs no right to write, unless something is rotten. */
export function createVerifiedBlobs({ stateDir, onRotten, verdicts = createVerdicts() }: VerifiedParts): VerifiedBlobs {
  const files = new Map<string, SharedFile>();
  const opening = new Map<Digest, Promise<SharedFile | undefined>>();

  const keyOf = (digest: Digest, identity: string): string => `${digest} ${identity}`;

  function isWrong(digest: Digest, identity: string): boolean {
    const known = verdicts.of(digest);
    return known?.identity === identity && !known.good;
  }

  function release(digest: Digest, file: SharedFile): void {
    if (--file.users > 0) return;
    if (files.get(keyOf(digest, file.identity)) === file) files.delete(keyOf(digest, file.identity));
    closeFile(file.fd);
  }

  /**
   * Whether the open file holds the digest's bytes, and by what it is known then. A file that is renamed and then removed (`image gc`) has other times twice
   * within a moment, so one that changed while it was hashed is hashed again.
   */
  async function judge(digest: Digest, fd: number): Promise<Judged> {
    for (let tries = 1; ; tries += 1) {
      const judged = await judgeOnce(digest, fd);
      // Not good, and not for ever bad: it is being written to.
      if (judged !== 'changing') return judged;
      if (tries === TRIES) return { good: false };
    }
  }

  async function judgeOnce(digest: Digest, fd: number): Promise<Judged | 'changing'> {
    await settle(fd);
    const stat = await statOf(fd, { bigint: true });
    const identity = identityOf(stat);
    const file = { identity, size: Number(stat.size) };
    const known = verdicts.of(digest);
    if (known?.identity === identity) return known.good ? { good: true, ...file } : { good: false };
    let why: string | undefined;
    try {
      const found = await digestOf(fd, PIECE);
      if (identityOf(await statOf(fd, { bigint: true })) !== identity) return 'changing';
      why = whyWrong(digest, found);
    } catch (error) {
      why = unreadable(error);
    }
    conclude(digest, stat, why);
    return why === undefined ? { good: true, ...file } : { good: false };
  }

  /** Writes down what a file is, and puts a wrong one away; not one that lost its name, of which nobody will ask again. */
  function conclude(digest: Digest, stat: BigIntStats, why: string | undefined): void {
    if (!isAt(blobFile(stateDir, digest), stat)) return;
    const identity = identityOf(stat);
    // Told already, and it could not be moved away.
    if (why !== undefined && isWrong(digest, identity)) return;
    verdicts.note({ digest, identity, good: why === undefined });
    if (why !== undefined) quarantine(stateDir, digest, stat, why, onRotten);
  }

  /** Not even its inode can be read: there is nothing to move, nor to know it by. */
  function lost(digest: Digest, error: unknown): undefined {
    const why = unreadable(error);
    if (verdicts.of(digest)?.identity === LOST) return;
    verdicts.note({ digest, identity: LOST, good: false });
    onRotten(digest, `${why}, so it cannot be moved away`);
  }

  /** By the name; at once, for an inode that is asked for is in memory: by Node's pool it takes 27 us of CPU and a second thread, so 3 us (measured on an idle machine). */
  function look(digest: Digest): BigIntStats | undefined {
    try {
      const found = lstatSync(blobFile(stateDir, digest), { bigint: true, throwIfNoEntry: false });
      return found?.isFile() ? found : undefined;
    } catch (error) {
      return lost(digest, error);
    }
  }

  async function openFile(digest: Digest): Promise<SharedFile | undefined> {
    // Non-blocking, or a FIFO of that name would hang a thread of the pool for ever.
    const fd = await unlessMissing(openAt(blobFile(stateDir, digest), FLAGS));
    if (fd === undefined) return undefined;
    let file: SharedFile | undefined;
    try {
      if (!(await statOf(fd)).isFile()) return undefined;
      const judged = await judge(digest, fd);
      if (!judged.good) return undefined;
      const { identity, size } = judged;
      const shared = files.get(keyOf(digest, identity));
      if (shared) return hold(digest, shared);
      file = { fd, size, identity, users: 0, refused: false };
      files.set(keyOf(digest, identity), file);
      return hold(digest, file);
    } finally {
      if (!file) closeFile(fd);
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
        for (let tries = 0; tries < TRIES; tries += 1) {
          if (file.refused) throw new Error("the blob's file is not what it was when its sending began");
          await fill(digest, file, buffer, length, at);
          // A write changes the times before it changes the first byte: with the same times, what was read is what was verified.
          const isSame = identityOf(fstatSync(file.fd, { bigint: true })) === file.identity;
          if (isSame && !isWrong(digest, file.identity)) return;
          // It may have lost its name only, or have been touched; or another thread has found it wrong.
          if (!(await (file.checking ??= recheck(digest, file).finally(() => delete file.checking)))) throw new Error("the blob's file was changed while it was sent");
        }
        throw new Error("the blob's file keeps changing while it is sent");
      },
    };
  }

  async function fill(digest: Digest, file: SharedFile, buffer: Uint8Array, length: number, at: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const { bytesRead } = await readFrom(file.fd, buffer, done, length - done, at + done).catch((error: unknown) => {
        const why = unreadable(error);
        file.refused = true;
        files.delete(keyOf(digest, file.identity));
        conclude(digest, fstatSync(file.fd, { bigint: true }), why);
        throw error;
      });
      if (bytesRead === 0) throw new Error(`the blob's file ends at byte ${at + done}, before its size`);
      done += bytesRead;
    }
  }

  async function recheck(digest: Digest, file: SharedFile): Promise<boolean> {
    files.delete(keyOf(digest, file.identity));
    const judged = await judge(digest, file.fd);
    file.refused = !judged.good;
    if (!judged.good) return false;
    file.identity = judged.identity;
    files.set(keyOf(digest, judged.identity), file);
    return true;
  }

  return {
    async stat(digest) {
      const found = look(digest);
      return found && { digest, size: Number(found.size) };
    },
    async open(digest) {
      const found = look(digest);
      if (!found) return undefined;
      const shared = files.get(keyOf(digest, identityOf(found)));
      if (shared && !shared.refused && !isWrong(digest, shared.identity)) return lend(digest, shared);
      let pending = opening.get(digest);
      if (!pending) {
        pending = openFile(digest).finally(() => opening.delete(digest));
        opening.set(digest, pending);
      }
      const file = await pending;
      return file && lend(digest, file);
    },
    async scrub(digest, pace) {
      const fd = await unlessMissing(openAt(blobFile(stateDir, digest), FLAGS)).catch((error: unknown) => lost(digest, error));
      if (fd === undefined) return verdicts.of(digest)?.identity === LOST ? 'rotten' : 'gone';
      try {
        await settle(fd);
        const before = await statOf(fd, { bigint: true });
        if (!before.isFile()) return 'gone';
        let why: string | undefined;
        try {
          const found = await digestOf(fd, SCRUB_PIECE, pace);
          if (found === undefined) return 'stopped';
          why = whyWrong(digest, found);
        } catch (error) {
          why = unreadable(error);
        }
        if (identityOf(await statOf(fd, { bigint: true })) !== identityOf(before)) return why === undefined ? 'good' : 'changing';
        conclude(digest, before, why);
        return why === undefined ? 'good' : 'rotten';
      } finally {
        closeFile(fd);
      }
    },
  };
}

function whyWrong(digest: Digest, found: Digest | undefined): string | undefined {
  return found === digest ? undefined : `its content has the digest ${found}`;
}

/** At once; but with the last number of a file that has no name any more the kernel frees all of it, 0.1 s for 150 MiB (measured): that is for the pool. */
function closeFile(fd: number): void {
  if (fstatSync(fd).nlink > 0) closeSync(fd);
  else close(fd, () => undefined);
}
