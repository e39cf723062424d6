// Content-addressed files: `<stateDir>/blobs/sha256/<hex>` holds exactly the bytes of that digest, or is not there.
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants, lstat, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { BlobRef } from '../boot/profile.ts';
import { hexOf, isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';

export interface OpenBlob {
  /** The caller closes it. What it reads stays whole, whatever happens to the name meanwhile. */
  readonly handle: FileHandle;
  /** Bytes. */
  readonly size: number;
}

/** Verified, written and synced, and under no name yet. */
export interface ReceivedBlob extends BlobRef {
  /** Where its bytes are until then. */
  readonly path: string;
  /** Durable when the promise resolves. */
  publish(): Promise<void>;
  /** Forgets it; nothing happens when it is published already. */
  discard(): Promise<void>;
}

export interface BlobStore {
  /**
   * Adds the bytes of a local file (by its path) or of a stream, durable when the promise resolves; other than expected is
   * ARTIFACT_INVALID and leaves nothing. `onProgress` gets the bytes so far. STORE_UNUSABLE when they cannot be written. A file is
   * copied, never linked: its owner could change a link's content afterwards.
   */
  add(source: string | Readable, expected?: { readonly digest?: Digest; readonly size?: number }, onProgress?: (bytes: number) => void): Promise<BlobRef>;
  /** The same, but nobody sees it before it is published: for what comes whole or not at all. */
  receive(source: string | Readable, expected?: { readonly digest?: Digest; readonly size?: number }, onProgress?: (bytes: number) => void): Promise<ReceivedBlob>;
  stat(digest: Digest): Promise<BlobRef | undefined>;
  open(digest: Digest): Promise<OpenBlob | undefined>;
  /** Where the blob's file is, or would be. Throws for what is no digest: a path is never made of foreign text. */
  path(digest: Digest): string;
  list(): Promise<readonly BlobRef[]>;
}

/** Opens or creates the store. Half-written files of processes that died are removed. STORE_UNUSABLE when it cannot be written. */
export function createBlobStore(stateDir: string): BlobStore {
  const dir = blobDir(stateDir);
  const incoming = join(stateDir, 'blobs', 'incoming');
  try {
    mkdirSync(dir, { recursive: true });
    mkdirSync(incoming, { recursive: true });
    for (const name of readdirSync(incoming)) if (!isAlive(name)) rmSync(join(incoming, name), { force: true });
  } catch (error) {
    throw unusable(stateDir, error);
  }

  const path = (digest: Digest): string => blobFile(stateDir, digest);

  async function stat(digest: Digest): Promise<BlobRef | undefined> {
    const found = await unlessMissing(lstat(path(digest)));
    return found?.isFile() ? { digest, size: found.size } : undefined;
  }

  async function receive(source: string | Readable, expected: { readonly digest?: Digest; readonly size?: number } = {}, onProgress?: (bytes: number) => void): Promise<ReceivedBlob> {
    const input = typeof source === 'string' ? await openSource(source) : source;
    // A stream may break before it is read; reading it then tells the error, an event that nobody hears would end the process.
    input.on('error', () => undefined);
    const temporary = join(incoming, `${OWNER}.${randomBytes(6).toString('hex')}`);
    try {
      const output = await open(temporary, 'wx', 0o444).catch((error: unknown) => Promise.reject(unusable(stateDir, error)));
      let written: BlobRef;
      try {
        written = await copy(input, output, expected.size, onProgress, stateDir);
        check(written, expected);
        await output.sync();
      } finally {
        await output.close();
      }
      return {
        ...written,
        path: temporary,
        async publish() {
          await rename(temporary, path(written.digest));
          await syncDirectory(dir);
        },
        discard: () => rm(temporary, { force: true }),
      };
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    } finally {
      input.destroy();
    }
  }

  return {
    path,
    stat,
    receive,
    async add(source, expected, onProgress) {
      const received = await receive(source, expected, onProgress);
      try {
        await received.publish();
        return { digest: received.digest, size: received.size };
      } finally {
        await received.discard();
      }
    },
    async open(digest) {
      const handle = await unlessMissing(open(path(digest), constants.O_RDONLY | constants.O_NOFOLLOW));
      if (!handle) return undefined;
      const found = await handle.stat();
      if (found.isFile()) return { handle, size: found.size };
      await handle.close();
      return undefined;
    },
    async list() {
      const digests = (await readdir(dir)).map((name) => `sha256:${name}`).filter(isDigest).sort();
      const found = await Promise.all(digests.map(stat));
      return found.filter((blob) => blob !== undefined);
    },
  };
}

/** Where the blobs of a state directory lie. */
export function blobDir(stateDir: string): string {
  return join(stateDir, 'blobs', 'sha256');
}

/** Where the blob's file is, or would be. Throws for what is no digest: a path is never made of foreign text. */
export function blobFile(stateDir: string, digest: Digest): string {
  if (!isDigest(digest)) throw new AppError('BUG', 'a blob was asked for by something that is no digest');
  return join(blobDir(stateDir), hexOf(digest));
}

/** Large pieces: fewer switches between JavaScript and the thread pool. */
const PIECE = 1024 * 1024;

async function openSource(path: string): Promise<Readable> {
  // Non-blocking, or opening a FIFO that nobody writes to would hang for ever.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) =>
    Promise.reject(new AppError('ARTIFACT_INVALID', `${path}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, 'check the path', error)),
  );
  if ((await handle.stat()).isFile()) return handle.createReadStream({ highWaterMark: PIECE });
  await handle.close();
  throw new AppError('ARTIFACT_INVALID', `${path} is not a regular file`, 'give the path of a file');
}

async function copy(input: Readable, output: FileHandle, limit: number | undefined, onProgress: ((bytes: number) => void) | undefined, stateDir: string): Promise<BlobRef> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const piece of input) {
    const bytes = typeof piece === 'string' ? Buffer.from(piece) : (piece as Uint8Array);
    size += bytes.length;
    if (limit !== undefined && size > limit) throw new AppError('ARTIFACT_INVALID', `more than the expected ${limit} bytes arrived`, 'is it another version of the file?');
    hash.update(bytes);
    try {
      for (let done = 0; done < bytes.length; ) done += (await output.write(bytes, done)).bytesWritten;
    } catch (error) {
      throw unusable(stateDir, error);
    }
    onProgress?.(size);
  }
  return { digest: `sha256:${hash.digest('hex')}`, size };
}

function check(written: BlobRef, expected: { readonly digest?: Digest; readonly size?: number }): void {
  if (expected.size !== undefined && written.size !== expected.size) {
    throw new AppError('ARTIFACT_INVALID', `${written.size} bytes arrived, ${expected.size} were expected`, 'the transfer was cut short or the file is another version: try again');
  }
  if (expected.digest !== undefined && written.digest !== expected.digest) {
    throw new AppError('ARTIFACT_INVALID', `the content has the digest ${written.digest}, expected was ${expected.digest}`, 'the file is damaged or another version: do not use it');
  }
}

/** A new name is durable only when its directory is. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Names of half-written files start with this: the process, and when it started, because process ids are used again. */
const OWNER = `${process.pid}.${startOf(process.pid)}`;

function isAlive(name: string): boolean {
  const [pid, start] = name.split('.');
  return start !== undefined && start !== '' && startOf(Number(pid)) === start;
}

/** proc(5): field 22 of stat, in clock ticks since the machine's start; empty when there is no such process. */
function startOf(pid: number): string {
  try {
    // The program's name, in brackets, may hold spaces: count from behind it.
    return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/** What `pending` gives; undefined where there is no such file, or a symbolic link, which we never make. */
export async function unlessMissing<T>(pending: Promise<T>): Promise<T | undefined> {
  try {
    return await pending;
  } catch (error) {
    // ELOOP is O_NOFOLLOW's word for a link.
    if (['ENOENT', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

function unusable(stateDir: string, error: unknown): AppError {
  const full = (error as NodeJS.ErrnoException).code === 'ENOSPC';
  return new AppError('STORE_UNUSABLE', `${join(stateDir, 'blobs')}: ${lineOf(error)}`, full ? 'the disk is full: make room' : 'check that this user may write there and that the disk works', error);
}
