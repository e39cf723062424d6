// `rackseed blob export`: lays blobs out for another web server, in the paths that machines ask for.
import { randomBytes } from 'node:crypto';
import { link, lstat, mkdir, open, rename, rm, utimes } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { BlobRef } from '../boot/profile.ts';
import { readSettings } from '../config/settings.ts';
import { hexOf, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { createImageStore, imageFiles } from '../images/manifest.ts';
import { blobFile, createBlobStore, syncDirectory } from '../store/blobs.ts';
import { createVerifiedBlobs, type VerifiedBlob } from '../store/verified.ts';
import { bytes, render, type Column, type Format } from './output.ts';
import { progressBar } from './progress.ts';

export interface ExportBlobs {
  readonly stateDir: string;
  readonly dir: string;
  /** Hard links instead of copies: the same file system, and no second set of bytes. */
  readonly link?: boolean;
  /** Every blob; without it those that a build of an image names. */
  readonly all?: boolean;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface Exported extends BlobRef {
  readonly how: 'copied' | 'linked' | 'there';
}

const COLUMNS: readonly Column<Exported>[] = [
  { title: 'DIGEST', of: ({ digest }) => digest },
  { title: 'SIZE', of: ({ size }) => bytes(size) },
  { title: 'WHAT', of: ({ how }) => how },
];

const PIECE = 1024 * 1024;
/** nginx makes its ETag of size and time: with one time for all copies, a download can go on at another server. */
const MTIME = new Date('2000-01-01T00:00:00Z');

/**
 * Fills `<dir>/blobs/sha256/`, each file verified on its way and there under its name only when it is whole; what is there stays. BLOB_UNKNOWN, after
 * all that could be done was done, when blobs are missing or rotten; STORE_UNUSABLE when `dir` cannot be written.
 */
export async function exportBlobs({ stateDir, dir, link: asLinks = false, all = false, onProgress }: ExportBlobs): Promise<readonly Exported[]> {
  const target = join(dir, 'blobs', 'sha256');
  const rotten = new Map<Digest, string>();
  const blobs = createVerifiedBlobs({ stateDir, onRotten: (digest, why) => void rotten.set(digest, why) });
  const wanted = all ? await createBlobStore(stateDir).list() : await ofImages(stateDir);
  const total = wanted.reduce((sum, { size }) => sum + size, 0);
  const exported: Exported[] = [];
  const faults: string[] = [];
  let before = 0;
  try {
    await mkdir(target, { recursive: true });
    for (const { digest, size } of wanted) {
      const path = join(target, hexOf(digest));
      const there = await lstat(path).catch(() => undefined);
      if (there?.isFile() && there.size === size) exported.push({ digest, size, how: 'there' });
      else {
        const blob = await blobs.open(digest);
        if (!blob) faults.push(`${digest}: ${rotten.get(digest) ?? 'no such blob'}`);
        else {
          try {
            await place(path, (temporary) => (asLinks ? linkTo(blobFile(stateDir, digest), temporary) : copyTo(blob, temporary, (done) => onProgress?.(before + done, total))));
            exported.push({ digest, size: blob.size, how: asLinks ? 'linked' : 'copied' });
          } finally {
            blob.close();
          }
        }
      }
      onProgress?.((before += size), total);
    }
    await syncDirectory(target);
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('STORE_UNUSABLE', `${target}: ${lineOf(error)}`, 'check that this user may write there and that the disk has room', error);
  }
  if (faults.length > 0) throw new AppError('BLOB_UNKNOWN', `not exported: ${faults.join('; ')}`, 'build the image again, then export again: what is there already stays');
  return exported;
}

/** Each file once, in the order of images; what no machine asks for under a blob's path stays out. */
async function ofImages(stateDir: string): Promise<readonly BlobRef[]> {
  const files = (await createImageStore(stateDir).list()).flatMap((image) => imageFiles(image).filter(({ kind }) => kind !== 'sbom' && kind !== 'uki'));
  return [...new Map(files.map(({ digest, size }) => [digest, { digest, size }])).values()];
}

/** Readers see the whole file or none. */
async function place(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
  // No web server publishes it: our configuration of nginx knows names of 64 hex digits only.
  const temporary = `${path}.${randomBytes(6).toString('hex')}.new`;
  try {
    await make(temporary);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function linkTo(source: string, temporary: string): Promise<void> {
  await link(source, temporary).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
    throw new AppError('USAGE', '--link: the directory is on another file system than the state directory', 'leave --link out: then the blobs are copied', error);
  });
}

async function copyTo(blob: VerifiedBlob, temporary: string, onProgress: (done: number) => void): Promise<void> {
  const output = await open(temporary, 'wx', 0o644);
  try {
    const buffer = Buffer.allocUnsafeSlow(PIECE);
    for (let at = 0; at < blob.size; ) {
      const length = Math.min(PIECE, blob.size - at);
      await blob.read(buffer, length, at);
      for (let done = 0; done < length; ) done += (await output.write(buffer, done, length - done)).bytesWritten;
      onProgress((at += length));
    }
    await output.sync();
  } finally {
    await output.close();
  }
  await utimes(temporary, MTIME, MTIME);
}

export async function blobExport(dir: string, options: { readonly config?: string; readonly state?: string; readonly link?: boolean; readonly all?: boolean; readonly output: Format }): Promise<string> {
  const stateDir = options.state === undefined ? readSettings(options.config).stateDir : resolve(options.state);
  const { onProgress, stop } = progressBar('exporting blobs');
  const exported = await exportBlobs({ stateDir, dir: resolve(dir), ...(options.link ? { link: true } : {}), ...(options.all ? { all: true } : {}), onProgress }).finally(stop);
  return render(options.output, { blobs: exported }, exported, COLUMNS);
}
