// `rackseed image gc`: removes old builds that nobody uses, then the blobs that nothing names. Safe beside a running daemon, a build, an `artifact add`.
import { lstat, mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobRef } from '../boot/profile.ts';
import { hexOf, isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { blobDir, blobFile, unlessMissing } from '../store/blobs.ts';
import { createImageStore, isDatedTag, isLatestTag, type ImageManifest, type ImageStore } from './manifest.ts';
import { tagsOf } from './refs.ts';
import { digestsOfFiles, readUses, type Uses, type UsesOptions } from './uses.ts';

export interface GcOptions extends UsesOptions {
  /** Dated builds of each image and architecture that stay: the newest. Default KEEP. */
  readonly keep?: number;
  /** Only says what would go. */
  readonly dryRun?: boolean;
  /** How long what goes is only out of sight, in milliseconds; default SETTLE_MS. */
  readonly settleMs?: number;
}

export interface GcBuild {
  readonly image: ImageManifest;
  readonly tags: readonly string[];
  /** Why it stays; absent: it goes. */
  readonly why?: string;
}

export interface GcResult {
  readonly builds: readonly GcBuild[];
  /** What went, or would go. */
  readonly blobs: readonly BlobRef[];
}

export const KEEP = 5;
/** A build or an `artifact add` writes its blobs first and the record that names them last. */
const YOUNG_MS = 3_600_000;
/** A daemon that reads its profiles at this moment has resolved an image and not yet written down which: it is long done by then. */
const SETTLE_MS = 3_000;

/**
 * What a profile, a node's running or last good system or a boot of the last day uses stays, and so does what has a tag of its own, `latest`, or one of the newest
 * dates. A blob that is younger than an hour stays. STORE_UNUSABLE when it cannot be told what is in use, or the store cannot be written.
 */
export async function collectGarbage(options: GcOptions): Promise<GcResult> {
  const { stateDir, dryRun = false, settleMs = SETTLE_MS } = options;
  const images = createImageStore(stateDir);
  const removing = join(stateDir, 'blobs', 'removing');
  try {
    // Of one that was killed; whether they may go is asked anew.
    if (!dryRun) await putBack(stateDir, removing);
    const builds = await judge(options, images, await readUses(options, images, { withSnapshot: true }));
    const going = builds.filter(({ why }) => why === undefined);
    if (dryRun) return { builds, blobs: await idle(options, images, new Set(going.map(({ image }) => image.digest))) };
    for (const { image, tags } of going) if (String(await tagsOf(images, image)) === String(tags)) await images.remove(image.name, image.digest);
    const hidden = await hide(await idle(options, images, new Set()), stateDir, removing);
    if (going.length + hidden.length > 0) await sleep(settleMs);
    const back = await restore(options, images, going);
    const needed = await blobsNeeded(options, images);
    const blobs: BlobRef[] = [];
    for (const blob of hidden) {
      const path = join(removing, hexOf(blob.digest));
      if (needed.has(blob.digest)) await rename(path, blobFile(stateDir, blob.digest));
      else {
        await rm(path, { force: true });
        blobs.push(blob);
      }
    }
    if (hidden.length > 0) await rmdir(removing).catch(() => undefined);
    return { builds: builds.map((build) => (back.has(build.image) ? { ...build, why: 'it was asked for meanwhile' } : build)), blobs };
  } catch (error) {
    throw error instanceof AppError ? error : new AppError('STORE_UNUSABLE', `${stateDir}: ${lineOf(error)}`, 'run it as root or as the user of the daemon', error);
  }
}

async function judge({ keep = KEEP, now }: GcOptions, images: ImageStore, uses: Uses): Promise<GcBuild[]> {
  const all = await images.list();
  const builds: GcBuild[] = [];
  for (const name of [...new Set(all.map((image) => image.name))].sort()) {
    const tags = Object.keys(await images.tags(name));
    const newest = new Set([...groupedByEnd(tags.filter(isDatedTag))].flatMap(([, dated]) => dated.sort().reverse().slice(0, keep)));
    for (const image of all.filter((one) => one.name === name)) {
      const own = await tagsOf(images, image);
      const [byHand, latest, dated] = [own.find((tag) => !isDatedTag(tag) && !isLatestTag(tag)), own.find(isLatestTag), own.find((tag) => newest.has(tag))];
      const user = uses.of(image)[0];
      const why =
        byHand !== undefined ? `tag ${byHand}`
        : latest !== undefined ? `tag ${latest}`
        : dated !== undefined ? `one of the newest ${keep} dates`
        : user !== undefined ? `used by ${user}`
        : now - image.builtAt < YOUNG_MS ? 'built within the last hour'
        : undefined;
      builds.push({ image, tags: own, ...(why === undefined ? {} : { why }) });
    }
  }
  return builds;
}

/** By what stands behind the date: another architecture's builds do not count with these. */
function groupedByEnd(tags: readonly string[]): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const tag of tags) groups.set(tag.slice(10), [...(groups.get(tag.slice(10)) ?? []), tag]);
  return groups;
}

/** Blobs that nothing names when these builds are gone, and that are not young. */
async function idle(options: GcOptions, images: ImageStore, without: ReadonlySet<Digest>): Promise<BlobRef[]> {
  const needed = await blobsNeeded(options, images, without);
  const dir = blobDir(options.stateDir);
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : Promise.reject(error)));
  const found: BlobRef[] = [];
  for (const digest of names.map((name) => `sha256:${name}`).filter(isDigest).sort()) {
    if (needed.has(digest)) continue;
    const stat = await lstat(blobFile(options.stateDir, digest)).catch(() => undefined);
    // Of both times the later one: adding a content that is there already replaces the file, and a copy may keep the first one's.
    if (stat?.isFile() && options.now - Math.max(stat.mtimeMs, stat.ctimeMs) >= YOUNG_MS) found.push({ digest, size: stat.size });
  }
  return found;
}

/** From the manifests' text: what a version of another form names there stays, too. */
async function blobsNeeded(options: GcOptions, images: ImageStore, without: ReadonlySet<Digest> = new Set()): Promise<ReadonlySet<Digest>> {
  const dir = join(options.stateDir, 'images');
  const names = await readdir(dir, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : Promise.reject(error)));
  const skipped = new Set([...without].map((digest) => `${hexOf(digest)}.json`));
  const named = await Promise.all(names.filter((entry) => entry.isDirectory()).map((entry) => digestsOfFiles(join(dir, entry.name), skipped)));
  return new Set([...(await readUses(options, images, { withSnapshot: true })).blobs, ...named.flat()]);
}

/** Builds that somebody named while they were going: a tag, or a generation that was swapped in. */
async function restore(options: GcOptions, images: ImageStore, gone: readonly GcBuild[]): Promise<Set<ImageManifest>> {
  const back = new Set<ImageManifest>();
  const uses = await readUses(options, images);
  for (const { image, tags } of gone) {
    if (uses.of(image).length === 0 && (await tagsOf(images, image)).length === 0) continue;
    await images.put(image);
    for (const tag of tags) if ((await images.tags(image.name))[tag] === undefined) await images.tag(image.name, tag, image.digest);
    back.add(image);
  }
  return back;
}

/** Those that could be moved: one that went to quarantine meanwhile is gone already. */
async function hide(blobs: readonly BlobRef[], stateDir: string, removing: string): Promise<BlobRef[]> {
  if (blobs.length > 0) await mkdir(removing, { recursive: true, mode: 0o750 });
  const hidden: BlobRef[] = [];
  for (const blob of blobs) {
    if (await unlessMissing(rename(blobFile(stateDir, blob.digest), join(removing, hexOf(blob.digest))).then(() => true))) hidden.push(blob);
  }
  return hidden;
}

async function putBack(stateDir: string, removing: string): Promise<void> {
  const names = await readdir(removing).catch(() => []);
  for (const name of names) if (isDigest(`sha256:${name}`)) await rename(join(removing, name), join(blobDir(stateDir), name));
  if (names.length > 0) await rmdir(removing).catch(() => undefined);
}
