// `rackseed image sign`: a signature for an image that is built already, after its bytes were compared with all that is signed of them.
import { open, stat } from 'node:fs/promises';
import { sha256Hex, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import { createBlobStore, type BlobStore } from '../store/blobs.ts';
import { createImageStore, imageDigest, type ImageManifest, type ImageRefQuery } from './manifest.ts';
import type { SecretKey } from './minisign.ts';
import { signManifest, verifySigned } from './signed-manifest.ts';
import { chunkDigests, verifyImage } from './verify.ts';

export interface SignImage {
  readonly name: string;
  readonly query?: ImageRefQuery;
  readonly stateDir: string;
  readonly key: SecretKey;
}

/**
 * Signs the build's manifest, stores both blobs and records them, in place of an earlier signature. IMAGE_UNKNOWN; IMAGE_BUILD_FAILED when the
 * store does not hold what was built; KEY_INVALID when its initrd would refuse the signature. Then nothing is changed.
 */
export async function signImage({ name, query, stateDir, key }: SignImage): Promise<ImageManifest> {
  const images = createImageStore(stateDir);
  const blobs = createBlobStore(stateDir);
  const image = await images.get(name, query);
  if (!image) throw new AppError('IMAGE_UNKNOWN', `there is no image ${name}${query?.digest ? `@${query.digest}` : query?.tag ? `:${query.tag}` : ''}`, 'rackseed image list shows those that there are');
  await asBuilt(image, query?.digest ?? image.digest, blobs);
  if (image.trusts && !image.trusts.includes(key.id)) throw new AppError('KEY_INVALID', `the initrd of image ${name} trusts ${image.trusts.join(' and ')} only, this is key ${key.id}`, 'add the key to images.keys and build the image again');
  const signed = await signManifest(image, key, blobs);
  await images.put(signed);
  return signed;
}

/** The manifest with a signature by the key, recorded, for who knows that it says the truth; what it has already stays. */
export async function signedBy(image: ImageManifest, key: SecretKey | undefined, stateDir: string): Promise<ImageManifest> {
  const blobs = createBlobStore(stateDir);
  if (!key || (await isSignedBy(image, key, blobs))) return image;
  const signed = await signManifest(image, key, blobs);
  await createImageStore(stateDir).put(signed);
  return signed;
}

/** Whether this is root, and the directory somebody else's, who can change what is in it. */
export async function isOthers(dir: string): Promise<boolean> {
  return process.getuid?.() === 0 && ((await stat(dir).catch(() => undefined))?.uid ?? 0) !== 0;
}

/** Whether the signature that is recorded is there and good by the key. */
export async function isSignedBy(image: ImageManifest, key: SecretKey, blobs: BlobStore): Promise<boolean> {
  if (!image.signed) return false;
  try {
    verifySigned(image, await textOf(image.signed.manifest.digest, blobs), await textOf(image.signed.signature.digest, blobs), [key]);
    return true;
  } catch {
    // Whatever is wrong with it: a new one mends it.
    return false;
  }
}

/** The daemon's user can write to the store: what is signed must be what was built, byte by byte, and what is said of those bytes must be true. */
async function asBuilt(image: ImageManifest, digest: Digest, blobs: BlobStore): Promise<void> {
  const wrong = (why: string): AppError => new AppError('IMAGE_BUILD_FAILED', `image ${image.name}: ${why}`, `build it again: rackseed image build ${image.name} --force`);
  if (imageDigest(image) !== digest || image.digest !== digest) throw wrong(`its manifest is not that of ${digest}`);
  const faults = await verifyImage(withoutMade(image), blobs);
  if (faults.length > 0) throw wrong(faults.join('; '));
  const path = blobs.path(image.squashfs.digest);
  if ((await chunkDigests(path)).join() !== image.squashfs.chunks.join()) throw wrong('the chunks in its manifest are not those of its squashfs');
  if (image.verity && (await blockHash(path, image.verity.blocks)) !== image.verity.rootHash) throw wrong('the root hash in its manifest is not that of its squashfs');
}

/** UKI and signature are made of what is signed, and no part of it. */
function withoutMade({ uki: _uki, signed: _signed, ...image }: ImageManifest): ImageManifest {
  return image;
}

/** sha256 of the block of 4096 bytes: of the hash tree's topmost one it is the root hash, for there is no salt. */
async function blockHash(path: string, block: number): Promise<string> {
  const file = await open(path);
  try {
    const bytes = Buffer.alloc(4096);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, block * bytes.length);
    return sha256Hex(bytes.subarray(0, bytesRead));
  } finally {
    await file.close();
  }
}

async function textOf(digest: Digest, blobs: BlobStore): Promise<string> {
  const blob = await blobs.open(digest);
  if (!blob) throw new AppError('BLOB_UNKNOWN', `no such blob: ${digest}`);
  try {
    return await blob.handle.readFile('utf8');
  } finally {
    await blob.handle.close();
  }
}
