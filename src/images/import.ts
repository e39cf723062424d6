// `rackseed image import`: takes builds from an export, every byte verified before anything of it can be seen.
import { createReadStream } from 'node:fs';
import { lstat, readdir, readFile, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { BlobRef } from '../boot/profile.ts';
import { isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { createBlobStore, type BlobStore, type ReceivedBlob } from '../store/blobs.ts';
import { createImageStore, imageFiles, isDatedTag, isLatestTag, type ImageManifest, type ImageStore } from './manifest.ts';
import type { PublicKey } from './minisign.ts';
import { imagesOf, INDEX_FILE, LAYOUT_FILE, type LayoutImage } from './oci.ts';
import { verifySigned } from './signed-manifest.ts';
import { readTar } from './transfer-tar.ts';

export interface ImportOptions {
  readonly stateDir: string;
  /** An archive, or the directory of an OCI image layout. */
  readonly from: string;
  /** Only what one of them has signed is taken; none: whatever is whole. */
  readonly keys?: readonly PublicKey[];
  /** Tags that were given by hand move, too, where they name another build here. */
  readonly moveTags?: boolean;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface Imported {
  readonly image: ImageManifest;
  /** `there`: the very build is known here already, and stays as it is. */
  readonly how: 'imported' | 'there';
  /** Those that name it now because of this import. */
  readonly tags: readonly string[];
  /** Those that it has in the export and that stay with another build here. */
  readonly kept: readonly string[];
}

/** Bytes of oci-layout and index.json; of a manifest and its config. */
const TEXT_LIMIT = 16 * 1024 * 1024;

/**
 * All or nothing, as far as what can be seen goes: TRANSFER_INVALID for whatever is wrong with the export, SIGNATURE_INVALID for a build that none of
 * the keys signed, STORE_UNUSABLE when the store cannot be written or has no room. What was there stays.
 */
export async function importImages(options: ImportOptions): Promise<readonly Imported[]> {
  const { stateDir, from, keys = [] } = options;
  const blobs = createBlobStore(stateDir);
  const received = new Map<Digest, ReceivedBlob>();
  try {
    const { layout, index } = await receiveAll(options, blobs, received);
    const read = async ({ digest, size }: BlobRef): Promise<string | undefined> => {
      const blob = received.get(digest);
      if (blob && (blob.size !== size || size > TEXT_LIMIT)) throw new Error(`${digest} has ${blob.size} bytes, and ${size} are told`);
      return blob && (await readFile(blob.path, 'utf8'));
    };
    const found = await imagesOf(layout, index, read);
    if (found.length === 0) throw new Error(`${INDEX_FILE} names no image of rackseed`);
    for (const { image } of found) {
      for (const { kind, digest, size } of imageFiles(image)) if (received.get(digest)?.size !== size) throw new Error(`the ${kind} of ${image.name}, ${digest}, is missing`);
      if (keys.length > 0) await checkSignature(image, keys, read);
    }
    const needed = new Set(found.flatMap(({ image }) => imageFiles(image).map(({ digest }) => digest)));
    // Also what is there already: its file is new then, and `image gc` leaves it alone until the manifest names it.
    for (const digest of needed) await received.get(digest)!.publish();
    const images = createImageStore(stateDir);
    const imported: Imported[] = [];
    for (const one of found) imported.push(await record(one, images, options.moveTags ?? false));
    return imported;
  } catch (error) {
    if (error instanceof AppError && error.code !== 'ARTIFACT_INVALID') throw error;
    throw new AppError('TRANSFER_INVALID', `${from}: ${lineOf(error)}`, 'nothing was imported; export and copy it again', error);
  } finally {
    for (const blob of received.values()) await blob.discard();
  }
}

interface Entry {
  readonly path: string;
  readonly size: number;
  readonly body: Readable;
}

async function receiveAll({ stateDir, from, onProgress }: ImportOptions, blobs: BlobStore, received: Map<Digest, ReceivedBlob>): Promise<{ readonly layout: string; readonly index: string }> {
  const there = await lstat(from).catch((error: unknown) => Promise.reject(new AppError('USAGE', `${from}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, 'name what rackseed image export wrote', error)));
  if (!there.isDirectory() && !there.isFile()) throw new Error('neither a file nor a directory');
  const total = there.isFile() ? there.size : 0;
  const { bavail, bsize } = await statfs(stateDir);
  if (total > bavail * bsize) throw new AppError('STORE_UNUSABLE', `${from} has ${total} bytes, ${stateDir} has room for ${bavail * bsize}`, 'make room: rackseed image gc');
  let done = 0;
  const entries: AsyncIterable<Entry> = there.isDirectory() ? filesOf(from) : readTar(counted(createReadStream(from, { highWaterMark: 1 << 20 }), (count) => onProgress?.((done += count), total)));
  const texts = new Map<string, string>();
  for await (const { path, size, body } of entries) {
    const hex = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(path)?.[1];
    const digest = `sha256:${hex}`;
    if (hex !== undefined && isDigest(digest)) {
      if (received.has(digest)) throw new Error(`${path} stands in it twice`);
      received.set(digest, await blobs.receive(body, { digest, size }).catch((error: unknown) => Promise.reject(error instanceof AppError && error.code === 'ARTIFACT_INVALID' ? new Error(`${path}: ${error.message}`) : error)));
    } else if (path === LAYOUT_FILE || path === INDEX_FILE) {
      if (texts.has(path)) throw new Error(`${path} stands in it twice`);
      if (size > TEXT_LIMIT) throw new Error(`${path} has ${size} bytes`);
      const pieces: Buffer[] = [];
      for await (const piece of body) pieces.push(piece as Buffer);
      texts.set(path, Buffer.concat(pieces).toString('utf8'));
    } else throw new Error(`${JSON.stringify(path)} has no place in an image layout`);
  }
  const text = (path: string): string => {
    const found = texts.get(path);
    if (found === undefined) throw new Error(`there is no ${path} in it`);
    return found;
  };
  return { layout: text(LAYOUT_FILE), index: text(INDEX_FILE) };
}

async function* counted(input: Readable, onRead: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const piece of input as AsyncIterable<Buffer>) {
    onRead(piece.length);
    yield piece;
  }
}

/** What a layout's directory must have; other files in it are left alone. */
async function* filesOf(dir: string): AsyncGenerator<Entry> {
  const blobs = join('blobs', 'sha256');
  for (const part of ['blobs', blobs]) if (!(await lstat(join(dir, part)).catch(() => undefined))?.isDirectory()) throw new Error(`${part} is no directory in it`);
  for (const path of [LAYOUT_FILE, INDEX_FILE, ...(await readdir(join(dir, blobs))).sort().map((name) => join(blobs, name))]) {
    const found = await lstat(join(dir, path)).catch(() => undefined);
    if (!found?.isFile()) throw new Error(found ? `${path} is no regular file` : `there is no ${path} in it`);
    yield { path, size: found.size, body: createReadStream(join(dir, path), { highWaterMark: 1 << 20 }) };
  }
}

async function checkSignature(image: ImageManifest, keys: readonly PublicKey[], read: (blob: BlobRef) => Promise<string | undefined>): Promise<void> {
  if (!image.signed) throw new AppError('SIGNATURE_INVALID', `${image.name}@${image.digest} is not signed`, 'images.keys in rackseed.yaml asks for a signature: sign it where it was built (rackseed image sign), then export again');
  verifySigned(image, (await read(image.signed.manifest))!, (await read(image.signed.signature))!, keys);
}

async function record({ image, tags }: LayoutImage, images: ImageStore, moveTags: boolean): Promise<Imported> {
  const known = await images.get(image.name, { digest: image.digest });
  const how = known && !isBetter(image, known) ? 'there' : 'imported';
  if (how === 'imported') await images.put(image);
  const here = await images.tags(image.name);
  const moved: string[] = [];
  const kept: string[] = [];
  for (const tag of tags) {
    const other = here[tag] === undefined || here[tag] === image.digest ? undefined : await images.get(image.name, { tag });
    // What builds tag by themselves follows the newest; where a person has pointed a tag, it stays.
    const moves = !other || moveTags || ((isLatestTag(tag) || isDatedTag(tag)) && ageOf(image) > ageOf(other));
    if (moves && here[tag] !== image.digest) await images.tag(image.name, tag, image.digest);
    (moves ? moved : kept).push(tag);
  }
  return { image, how, tags: moved, kept };
}

/** One build, recorded twice: the record with a signature, or with one more of signature and UKI, is the better one. */
function isBetter(image: ImageManifest, known: ImageManifest): boolean {
  if ((image.signed !== undefined) !== (known.signed !== undefined)) return image.signed !== undefined;
  return image.uki !== undefined && known.uki === undefined;
}

function ageOf(image: ImageManifest): number {
  return image.serial ?? Math.floor(image.builtAt / 1000);
}
