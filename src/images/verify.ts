// An image's files against the digests in its manifest, and the chunk digests that let a part of a file be checked alone.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { sha256Hex, type Digest } from '../digest.ts';
import type { BlobStore } from '../store/blobs.ts';
import { imageFiles, type ImageManifest } from './manifest.ts';

/** 4 MiB: small enough to be fetched again, large enough that a squashfs has only some dozens. */
export const CHUNK_SIZE = 4 * 1024 * 1024;

/** sha256 (hex) of each chunk of a file, in order. */
export async function chunkDigests(path: string): Promise<string[]> {
  const chunks: string[] = [];
  let rest: Buffer = Buffer.alloc(0);
  for await (const piece of createReadStream(path, { highWaterMark: CHUNK_SIZE }) as AsyncIterable<Buffer>) {
    rest = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    for (; rest.length >= CHUNK_SIZE; rest = rest.subarray(CHUNK_SIZE)) chunks.push(sha256Hex(rest.subarray(0, CHUNK_SIZE)));
  }
  if (rest.length > 0) chunks.push(sha256Hex(rest));
  return chunks;
}

/** One line for each file of the image that is missing or damaged; nothing when all is well. Reads every byte. */
export async function verifyImage(manifest: ImageManifest, blobs: BlobStore): Promise<string[]> {
  const faults: string[] = [];
  for (const { kind, ...blob } of imageFiles(manifest)) {
    const what = kind === 'uki' ? 'UKI' : kind;
    const path = blobs.path(blob.digest);
    const found = await blobs.stat(blob.digest);
    if (!found) faults.push(`${what}: ${path}: no such file`);
    else if (found.size !== blob.size) faults.push(`${what}: ${path}: has ${found.size} bytes, the manifest says ${blob.size}`);
    else if ((await digestOfFile(path)) !== blob.digest) faults.push(`${what}: ${path}: its content has another digest`);
  }
  return faults;
}

/** Whether all files are there with their sizes: what a build that has nothing to do looks at. The UKI and the signature are none of them, because no build need make them. */
export async function hasFiles(manifest: ImageManifest, blobs: BlobStore): Promise<boolean> {
  const built = imageFiles(manifest).filter(({ kind }) => !['uki', 'signed manifest', 'signature'].includes(kind));
  const found = await Promise.all(built.map(async (blob) => (await blobs.stat(blob.digest))?.size === blob.size));
  return found.every(Boolean);
}

/** Whether the UKI that is recorded is there with its size; true where none is. */
export async function hasUki({ uki }: ImageManifest, blobs: BlobStore): Promise<boolean> {
  return uki === undefined || (await blobs.stat(uki.digest))?.size === uki.size;
}

/** Read in pieces, whatever its size. */
export async function digestOfFile(path: string): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer);
  return `sha256:${hash.digest('hex')}`;
}
