// Manifests: what was built, by name, tag and digest. `<stateDir>/images/<name>/<hex>.json`, and `tags/<tag>` with a digest in each.
import { mkdir, open, readFile, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { imageRef, type BlobRef, type ImageRef } from '../boot/profile.ts';
import type { Arch } from '../boot/request.ts';
import { digestOfValue, hexOf, isDigest, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import { isImageName } from './spec.ts';

/** What `rackseed image uki` made of the image. Not part of its digest: it adds nothing to what is there. */
export interface UkiRef extends BlobRef {
  /** The kernel's arguments in it; a profile's own cannot be added. */
  readonly cmdline: string;
  readonly signed: boolean;
}

export interface ImageManifest extends ImageRef {
  readonly arch: Arch;
  readonly kernel: BlobRef & { readonly version: string };
  readonly uki?: UkiRef;
  readonly squashfs: BlobRef & {
    /** Bytes in each chunk but the last. */
    readonly chunkSize: number;
    /** sha256 of each chunk, 64 hex digits, in order. */
    readonly chunks: readonly string[];
  };
  /** Seconds since 1970 of the build, and more than any earlier build of this name has; 0 in manifests of older builders. Not part of the digest. */
  readonly serial?: number;
  /** What else stands in the store for it: squashfs and more of images that others made. Part of the digest of none. */
  readonly payloads?: readonly (BlobRef & { readonly name: string })[];
  /** Ids of the keys whose signature its initrd takes; absent: it goes by the digest in its config. */
  readonly trusts?: readonly string[];
  /** Its packages as SPDX JSON. */
  readonly sbom?: BlobRef;
  /** `name version`, by name. */
  readonly packages: readonly string[];
  /** Digest of all that went in; a build with the same one has nothing to do. */
  readonly input: Digest;
  /** Digest of its packages, with the sha256 of each (image.lock); absent where they are not Debian's. */
  readonly lock?: Digest;
  readonly builder: string;
  /** Milliseconds since 1970. Not part of the digest. */
  readonly builtAt: number;
}

/** An image's name for its content: two builds with equal bytes have one digest, whenever and wherever they were made. */
export function imageDigest(content: { readonly arch: Arch; readonly kernel: BlobRef; readonly initrds: readonly BlobRef[]; readonly squashfs: BlobRef }): Digest {
  const blob = ({ digest, size }: BlobRef) => ({ digest, size });
  return digestOfValue({ arch: content.arch, kernel: blob(content.kernel), initrds: content.initrds.map(blob), squashfs: blob(content.squashfs) });
}

/** A file of an image, and what it is called in a directory of its own. */
export interface ImageFile extends BlobRef {
  readonly kind: 'kernel' | 'initrd' | 'squashfs' | 'payload' | 'uki' | 'sbom' | 'signed manifest' | 'signature';
  readonly file: string;
}

/** Every blob that the manifest names, in a fixed order: what is verified, exported, and kept by `image gc`. */
export function imageFiles({ kernel, initrds, squashfs, payloads = [], uki, sbom, signed }: ImageManifest): readonly ImageFile[] {
  const one = (kind: ImageFile['kind'], file: string, { digest, size }: BlobRef): ImageFile => ({ kind, file, digest, size });
  return [
    one('kernel', 'vmlinuz', kernel),
    ...initrds.map((initrd, index) => one('initrd', index === 0 ? 'initrd' : `initrd-${index + 1}`, initrd)),
    one('squashfs', 'root.squashfs', squashfs),
    ...payloads.map((payload) => one('payload', `payload-${payload.name}`, payload)),
    ...(uki ? [one('uki', 'uki.efi', uki)] : []),
    ...(sbom ? [one('sbom', 'sbom.spdx.json', sbom)] : []),
    ...(signed ? [one('signed manifest', 'manifest', signed.manifest), one('signature', 'manifest.minisig', signed.signature)] : []),
  ];
}

export interface ImageRefQuery {
  readonly tag?: string;
  readonly digest?: Digest;
}

export interface ImageStore {
  /** Names of images with at least one build. */
  names(): Promise<readonly string[]>;
  /** Every build of every image, newest first. */
  list(): Promise<readonly ImageManifest[]>;
  /** Without `ref` the build that the tag `latest` names. */
  get(name: string, ref?: ImageRefQuery): Promise<ImageManifest | undefined>;
  /** The same, cut down to what a boot set holds. */
  resolve(name: string, ref?: ImageRefQuery): Promise<ImageRef | undefined>;
  tags(name: string): Promise<Readonly<Record<string, Digest>>>;
  /** Writes the manifest; no tag moves. A UKI that was made of these very files stays recorded. */
  put(manifest: ImageManifest): Promise<void>;
  /** Points a tag at a build that is there; IMAGE_UNKNOWN otherwise. */
  tag(name: string, tag: string, digest: Digest): Promise<void>;
  /** The two tags of a new build: `latest` and its day in UTC (`2026-11-21`); with a suffix `latest-arm64` and `2026-11-21-arm64`. */
  tagBuilt(name: string, digest: Digest, at: number, suffix?: string): Promise<void>;
  /** False when there was no such tag. The build stays. */
  untag(name: string, tag: string): Promise<boolean>;
  /** Forgets a build, with the tags that name it; its blobs stay. False when it was not there. */
  remove(name: string, digest: Digest): Promise<boolean>;
}

export const LATEST = 'latest';

/** What a build's newest is called; `suffix` for a processor that is not image.yaml's first. */
export function latestTag(suffix?: string): string {
  return suffix === undefined ? LATEST : `${LATEST}-${suffix}`;
}

/** Tags that builds set by themselves; all others were given by hand. */
export function isLatestTag(tag: string): boolean {
  return /^latest(-[a-z0-9]+)?$/.test(tag);
}

export function isDatedTag(tag: string): boolean {
  return /^\d{4}-\d\d-\d\d(-[a-z0-9]+)?$/.test(tag);
}

export function createImageStore(stateDir: string): ImageStore {
  const root = join(stateDir, 'images');
  const manifestPath = (name: string, digest: Digest) => join(root, name, `${hexOf(digest)}.json`);

  async function read(name: string, digest: Digest): Promise<ImageManifest | undefined> {
    if (!isImageName(name) || !isDigest(digest)) return undefined;
    const text = await unlessMissing(readFile(manifestPath(name, digest), 'utf8'));
    try {
      return text === undefined ? undefined : (JSON.parse(text) as ImageManifest);
    } catch (error) {
      throw new AppError('STORE_UNUSABLE', `${manifestPath(name, digest)} is no manifest`, `remove the file, then build image ${name} again`, error);
    }
  }

  async function readTag(name: string, tag: string): Promise<Digest | undefined> {
    if (!isImageName(name) || !isImageName(tag)) return undefined;
    const text = (await unlessMissing(readFile(join(root, name, 'tags', tag), 'utf8')))?.trim();
    return text !== undefined && isDigest(text) ? text : undefined;
  }

  async function builds(name: string): Promise<ImageManifest[]> {
    const digests = ((await unlessMissing(readdir(join(root, name)))) ?? []).map((file) => `sha256:${file.replace(/\.json$/, '')}`).filter(isDigest);
    const found = await Promise.all(digests.map((digest) => read(name, digest)));
    return found.filter((manifest) => manifest !== undefined);
  }

  const store: ImageStore = {
    async names() {
      const names = ((await unlessMissing(readdir(root))) ?? []).filter(isImageName).sort();
      const built = await Promise.all(names.map(builds));
      return names.filter((_name, index) => built[index]!.length > 0);
    },
    async list() {
      const all = await Promise.all((await store.names()).map(builds));
      return all.flat().sort((a, b) => b.builtAt - a.builtAt || (a.digest < b.digest ? -1 : 1));
    },
    async get(name, ref) {
      const digest = ref?.digest ?? (await readTag(name, ref?.tag ?? LATEST));
      return digest === undefined ? undefined : read(name, digest);
    },
    async resolve(name, ref) {
      const found = await store.get(name, ref);
      if (!found) return undefined;
      return imageRef(found);
    },
    async tags(name) {
      if (!isImageName(name)) return {};
      const tags = ((await unlessMissing(readdir(join(root, name, 'tags')))) ?? []).filter(isImageName).sort();
      const found = await Promise.all(tags.map(async (tag) => [tag, await readTag(name, tag)] as const));
      return Object.fromEntries(found.filter((entry): entry is [string, Digest] => entry[1] !== undefined));
    },
    async put(manifest) {
      await mkdir(join(root, manifest.name), { recursive: true });
      const uki = manifest.uki ?? (await read(manifest.name, manifest.digest))?.uki;
      await replaceFile(manifestPath(manifest.name, manifest.digest), `${JSON.stringify(uki ? { ...manifest, uki } : manifest, null, 2)}\n`);
    },
    async tag(name, tag, digest) {
      if (!isImageName(tag)) throw new AppError('USAGE', `${tag} is not a tag`, 'small letters, digits, dot, dash, underscore');
      if (!(await read(name, digest))) throw new AppError('IMAGE_UNKNOWN', `image ${name} has no build ${digest}`, `rackseed image list`);
      await mkdir(join(root, name, 'tags'), { recursive: true });
      await replaceFile(join(root, name, 'tags', tag), `${digest}\n`);
    },
    async tagBuilt(name, digest, at, suffix) {
      const end = suffix === undefined ? '' : `-${suffix}`;
      await store.tag(name, `${new Date(at).toISOString().slice(0, 10)}${end}`, digest);
      await store.tag(name, latestTag(suffix), digest);
    },
    async untag(name, tag) {
      if (!isImageName(name) || !isImageName(tag)) return false;
      return (await unlessMissing(rm(join(root, name, 'tags', tag)).then(() => true))) ?? false;
    },
    async remove(name, digest) {
      if (!(await read(name, digest))) return false;
      // The tags first: a name that leads nowhere is worse than a build without one.
      for (const [tag, named] of Object.entries(await store.tags(name))) if (named === digest) await store.untag(name, tag);
      return (await unlessMissing(rm(manifestPath(name, digest)).then(() => true))) ?? false;
    },
  };
  return store;
}

/** Readers see the old text or the new one, also after a power cut. */
async function replaceFile(path: string, text: string): Promise<void> {
  // A leading dot: neither a manifest nor a tag has such a name.
  const temporary = join(path, '..', `.${process.pid}.${Math.random().toString(36).slice(2)}.tmp`);
  const handle = await open(temporary, 'wx', 0o644);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
}

async function unlessMissing<T>(pending: Promise<T>): Promise<T | undefined> {
  try {
    return await pending;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
