// A finished build goes into the store: its files as blobs, its packages as SBOM, then the manifest that names them, then its tags.
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { BlobRef, VerityRef } from '../boot/profile.ts';
import { createBlobStore } from '../store/blobs.ts';
import { NO_TRUST, type ImageTrust } from './image-keys.ts';
import { createImageStore, imageDigest, type ImageManifest } from './manifest.ts';
import { sbomText, type SbomParts } from './sbom.ts';
import { claimSerial } from './serial.ts';
import { signedBy } from './sign.ts';
import { jsonDigest } from './signed-manifest.ts';
import { CHUNK_SIZE, chunkDigests, digestOfFile } from './verify.ts';

export interface BuiltFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly squashfs: string;
}

export interface BuiltImage extends Pick<ImageManifest, 'name' | 'arch' | 'packages' | 'input' | 'builder' | 'lock' | 'cmdline'> {
  readonly files: BuiltFiles;
  readonly kernelVersion: string;
  readonly verity: VerityRef;
  readonly contents: Pick<SbomParts, 'installed' | 'checksums' | 'licenceOf' | 'distribution'>;
}

/**
 * The manifest of the build. The same bytes again keep the manifest that they have, with its serial and its time. What is not yet `latest` is no use to
 * anybody, so a build that ends here between two of its steps leaves only blobs, which `image gc` takes.
 */
export async function recordImage(stateDir: string, { files, kernelVersion, verity, contents, ...built }: BuiltImage, trust: ImageTrust = NO_TRUST): Promise<ImageManifest> {
  const { name, arch, builder } = built;
  const blobs = createBlobStore(stateDir);
  const images = createImageStore(stateDir);
  const [kernel, initrd, squashfs] = [await blobs.add(files.kernel), await blobs.add(files.initrd), await blobs.add(files.squashfs)];
  const content = {
    arch,
    kernel: { ...kernel, version: kernelVersion },
    initrds: [initrd],
    squashfs: { ...squashfs, chunkSize: CHUNK_SIZE, chunks: await chunkDigests(files.squashfs) },
    verity,
  };
  const digest = imageDigest(content);
  const text = sbomText({ ...contents, name, digest, arch, builder, files: { kernel, initrd, squashfs } });
  const sbom = await blobs.add(Readable.from([Buffer.from(text)]));
  const said = { digest, ...content, ...built, ...(trust.keys.length > 0 ? { trusts: trust.keys.map(({ id }) => id) } : {}), sbom };
  const earlier = await images.get(name, { digest });
  // The daemon's user can write to the store: what is signed is what was built just now, not what stands there under its digest.
  if (earlier && jsonDigest(earlier) === jsonDigest({ ...said, serial: earlier.serial ?? 0, builtAt: earlier.builtAt })) return signedBy(earlier, trust.signer, stateDir);
  const now = Date.now();
  const manifest: ImageManifest = { ...said, serial: await claimSerial(stateDir, images, name, now), builtAt: now };
  await images.put(manifest);
  return signedBy(manifest, trust.signer, stateDir);
}

/** What the store will call the file. */
export async function blobOf(path: string): Promise<BlobRef> {
  return { digest: await digestOfFile(path), size: (await stat(path)).size };
}
