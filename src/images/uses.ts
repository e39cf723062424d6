// Who needs which build and which blob: what `image rm` refuses for, and what `image gc` leaves alone.
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseImage } from '../config/profile-schema.ts';
import type { Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { listSnapshots } from '../store/recovery.ts';
import { readStateUses } from '../store/uses.ts';
import type { ImageManifest, ImageStore } from './manifest.ts';

export interface UsesOptions {
  readonly stateDir: string;
  /** Of boot-profiles/*.yaml, which a daemon may read at any moment; absent: only what one has read already counts. */
  readonly profilesDir?: string;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface Uses {
  /** In words who uses the build; nothing when nobody does. */
  of(image: Pick<ImageManifest, 'name' | 'digest'>): readonly string[];
  /** Every digest that a boot set, an artifact or a loader set names. */
  readonly blobs: ReadonlySet<Digest>;
}

/**
 * `withSnapshot`: what the newest snapshot of the database names counts, too: a daemon whose database is damaged goes on with that one.
 * STORE_UNUSABLE when it cannot be told what is in use.
 */
export async function readUses({ stateDir, profilesDir, now }: UsesOptions, images: ImageStore, { withSnapshot = false } = {}): Promise<Uses> {
  const state = readStateUses(stateDir, now);
  const snapshot = withSnapshot ? listSnapshots(join(stateDir, 'snapshots'))[0] : undefined;
  const before = snapshot ? readStateUses(stateDir, now, snapshot.file) : { bootSets: [], artifacts: [] };
  const byBuild = new Map<Digest, Set<string>>();
  const note = (digest: Digest, who: string): void => void byBuild.set(digest, (byBuild.get(digest) ?? new Set()).add(who));
  for (const { bootSet, who } of state.bootSets) note(bootSet.image.digest, who);
  for (const { bootSet, who } of before.bootSets) note(bootSet.image.digest, `${who} in the newest snapshot of the database`);
  for (const { image, file } of profilesDir === undefined ? [] : await imagesIn(profilesDir)) {
    const wanted = parseImage(image);
    const build = wanted && (await images.get(wanted.name, wanted.ref));
    if (build) note(build.digest, file);
  }
  const blobs = new Set<Digest>([
    ...[...state.bootSets, ...before.bootSets].flatMap(({ bootSet }) => digestsIn(JSON.stringify(bootSet))),
    ...[...state.artifacts, ...before.artifacts].map(({ digest }) => digest),
    ...(await digestsOfFiles(join(stateDir, 'loaders'))),
  ]);
  return { of: ({ digest }) => [...(byBuild.get(digest) ?? [])], blobs };
}

/** Whatever looks like a digest: a member that this version does not know must not cost its blob. */
function digestsIn(text: string): Digest[] {
  return text.match(/sha256:[0-9a-f]{64}/g) ?? [];
}

/** Of the files directly in the directory, but for those left out by name. */
export async function digestsOfFiles(dir: string, without: ReadonlySet<string> = new Set()): Promise<Digest[]> {
  const names = await readdir(dir, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : Promise.reject(unreadable(dir, error))));
  const files = names.filter((entry) => entry.isFile() && !without.has(entry.name)).map((entry) => join(dir, entry.name));
  // A file that went meanwhile names nothing any more.
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? '' : Promise.reject(unreadable(file, error))))));
  return texts.flatMap(digestsIn);
}

/** By its lines and not as YAML: a profile that is being edited, and broken, names its image all the same. */
async function imagesIn(dir: string): Promise<{ readonly image: string; readonly file: string }[]> {
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : Promise.reject(unreadable(dir, error))));
  const files = names.filter((name) => /\.ya?ml$/.test(name)).map((name) => join(dir, name));
  const found = await Promise.all(
    files.map(async (file) => {
      const text = await readFile(file, 'utf8').catch((error: unknown) => Promise.reject(unreadable(file, error)));
      return [...text.matchAll(/^[ \t{]*["']?image["']?[ \t]*:[ \t]*["']?([^\s"'#,}]+)/gm)].map((match) => ({ image: match[1]!, file }));
    }),
  );
  return found.flat();
}

function unreadable(path: string, error: unknown): AppError {
  return new AppError('STORE_UNUSABLE', `${path}: ${lineOf(error)}`, 'it may name an image: nothing is removed before it can be read', error);
}
