// `rackseed image export`: builds with their tags and all their files as one OCI image layout, in a tar archive or a directory.
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { BlobRef } from '../boot/profile.ts';
import { AppError, lineOf } from '../errors.ts';
import { syncDirectory } from '../store/blobs.ts';
import { createVerifiedBlobs, type VerifiedBlobs } from '../store/verified.ts';
import { createImageStore, type ImageManifest } from './manifest.ts';
import { blobPath, layoutOf, type Layout } from './oci.ts';
import { tagsOf } from './refs.ts';
import { tarEnd, tarHeader, tarPadding } from './transfer-tar.ts';

export interface ExportOptions {
  readonly stateDir: string;
  readonly images: readonly ImageManifest[];
  /** Where it goes. */
  readonly to: string;
  /** `tar`: a file, which is replaced whole; `directory`: a new or empty one. */
  readonly form: 'tar' | 'directory';
  readonly onProgress?: (done: number, total: number) => void;
}

export interface ExportResult {
  readonly images: readonly { readonly image: ImageManifest; readonly tags: readonly string[] }[];
  /** Bytes written. */
  readonly bytes: number;
}

const PIECE = 1024 * 1024;

/**
 * Each blob is verified on its way. Equal builds and tags give equal bytes. It is there whole or not at all: BLOB_UNKNOWN for a blob that is missing or
 * rotten, USAGE for a directory that has something in it, STORE_UNUSABLE when it cannot be written.
 */
export async function exportImages({ stateDir, images, to, form, onProgress }: ExportOptions): Promise<ExportResult> {
  const store = createImageStore(stateDir);
  const tagged = await Promise.all(unique(images).map(async (image) => ({ image, tags: await tagsOf(store, image) })));
  const layout = layoutOf(tagged);
  const blobs = createVerifiedBlobs({ stateDir, onRotten: () => undefined });
  const total = layout.blobs.reduce((sum, { size }) => sum + size, 0);
  // Before hundreds of megabytes are written.
  for (const blob of layout.blobs) if ((await blobs.stat(blob.digest))?.size !== blob.size) throw missing(blob);
  const temporary = join(dirname(to), `.${randomBytes(6).toString('hex')}.new`);
  try {
    if (form === 'directory' && ((await readdir(to).catch(unlessMissing)) ?? []).length > 0) throw new AppError('USAGE', `${to} is not empty`, 'name a new directory');
    const there = await lstat(to).catch(unlessMissing);
    if (there && form === 'tar' && !there.isFile()) throw new AppError('USAGE', `${to} is no regular file`, 'name a file; for a directory: --oci DIR');
    const bytes = await (form === 'tar' ? asTar : asDirectory)(temporary, layout, blobs, (done) => onProgress?.(done, total));
    await rename(temporary, to);
    await syncDirectory(dirname(to));
    return { images: tagged, bytes };
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('STORE_UNUSABLE', `${to}: ${lineOf(error)}`, 'check that this user may write there and that the disk has room', error);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function unique(images: readonly ImageManifest[]): ImageManifest[] {
  return [...new Map(images.map((image) => [`${image.name} ${image.digest}`, image])).values()];
}

async function asTar(path: string, layout: Layout, blobs: VerifiedBlobs, onProgress: (done: number) => void): Promise<number> {
  const output = await open(path, 'wx', 0o644);
  try {
    let written = 0;
    const put = async (bytes: Uint8Array): Promise<void> => {
      await writeAll(output, bytes);
      written += bytes.length;
    };
    for (const { path, text } of layout.texts) {
      const bytes = Buffer.from(text);
      await put(Buffer.concat([tarHeader(path, bytes.length), bytes, tarPadding(bytes.length)]));
    }
    let done = 0;
    for (const blob of layout.blobs) {
      await put(tarHeader(blobPath(blob.digest), blob.size));
      for await (const piece of bytesOf(blob, blobs)) {
        await put(piece);
        onProgress((done += piece.length));
      }
      await put(tarPadding(blob.size));
    }
    await put(tarEnd(written));
    await output.sync();
    return written;
  } finally {
    await output.close();
  }
}

async function asDirectory(path: string, layout: Layout, blobs: VerifiedBlobs, onProgress: (done: number) => void): Promise<number> {
  await mkdir(join(path, 'blobs', 'sha256'), { recursive: true });
  let [written, done] = [0, 0];
  const file = async (name: string, pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> => {
    const output = await open(join(path, name), 'wx', 0o644);
    try {
      for await (const piece of pieces) {
        await writeAll(output, piece);
        written += piece.length;
      }
      await output.sync();
    } finally {
      await output.close();
    }
  };
  for (const { path, text } of layout.texts) await file(path, [Buffer.from(text)]);
  for (const blob of layout.blobs) {
    await file(blobPath(blob.digest), bytesOf(blob, blobs));
    onProgress((done += blob.size));
  }
  return written;
}

/** Its pieces lie in one buffer: a piece is gone when the next one is asked for. */
async function* bytesOf(blob: BlobRef, blobs: VerifiedBlobs): AsyncGenerator<Buffer> {
  const opened = await blobs.open(blob.digest);
  if (opened?.size !== blob.size) {
    opened?.close();
    throw missing(blob);
  }
  try {
    const buffer = Buffer.allocUnsafeSlow(PIECE);
    for (let at = 0; at < blob.size; ) {
      const length = Math.min(PIECE, blob.size - at);
      await opened.read(buffer, length, at);
      yield buffer.subarray(0, length);
      at += length;
    }
  } finally {
    opened.close();
  }
}

async function writeAll(output: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await output.write(bytes, done)).bytesWritten;
}

function missing({ digest, size }: BlobRef): AppError {
  return new AppError('BLOB_UNKNOWN', `not exported: ${digest} (${size} bytes) is missing or rotten`, 'build the image again: rackseed image build NAME --force');
}

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}
