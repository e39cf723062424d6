// What the verbs of `rackseed image` have in common: whose state they work on, and how an image is shown.
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { readSettings, SETTINGS_PLACES, type Settings } from '../config/settings.ts';
import type { ImageManifest, ImageStore } from '../images/manifest.ts';
import { tagsOf } from '../images/refs.ts';
import type { UsesOptions } from '../images/uses.ts';
import { bytes, duration, type Column, type Format } from './output.ts';

export interface ImageOptions {
  readonly config?: string;
  /** Instead of the settings' state directory. */
  readonly state?: string;
  readonly output: Format;
}

export function stateOf(options: Pick<ImageOptions, 'config' | 'state'>): string {
  return options.state === undefined ? readSettings(options.config).stateDir : resolve(options.state);
}

/** Undefined with `--state` alone, which needs no settings. */
export function settingsOf({ config, state }: Pick<ImageOptions, 'config' | 'state'>): Settings | undefined {
  return state === undefined || config !== undefined || SETTINGS_PLACES.some((place) => existsSync(place)) ? readSettings(config) : undefined;
}

/** Where it stands who uses an image. The settings' profiles count for the settings' state directory only. */
export function whereUsed(options: Pick<ImageOptions, 'config' | 'state'>): UsesOptions {
  const stateDir = stateOf(options);
  const settings = settingsOf(options);
  return { stateDir, now: Date.now(), ...(settings?.stateDir === stateDir ? { profilesDir: settings.profilesDir } : {}) };
}

export interface TaggedImage extends ImageManifest {
  readonly tags: readonly string[];
}

export async function withTags(store: ImageStore, image: ImageManifest): Promise<TaggedImage> {
  return { ...image, tags: await tagsOf(store, image) };
}

/** As programs see an image: the manifest with its tags, and `initrd` beside `initrds` because ours is one. */
export function shown(image: TaggedImage): object {
  return { ...image, initrd: image.initrds[0], builtAt: new Date(image.builtAt).toISOString() };
}

/** What `image list` shows of a digest, and other verbs take for it. */
export function shortDigest(digest: string): string {
  return digest.slice(0, 'sha256:'.length + 12);
}

export const COLUMNS: readonly Column<TaggedImage>[] = [
  { title: 'NAME', of: (image) => image.name },
  { title: 'TAGS', of: (image) => image.tags.join(',') },
  { title: 'DIGEST', of: (image) => shortDigest(image.digest) },
  { title: 'ARCH', of: (image) => image.arch },
  { title: 'KERNEL', of: (image) => image.kernel.version },
  { title: 'INITRD', of: (image) => bytes(image.initrds.reduce((sum, initrd) => sum + initrd.size, 0)) },
  { title: 'SQUASHFS', of: (image) => bytes(image.squashfs.size) },
  { title: 'AGE', of: (image) => duration(Date.now() - image.builtAt) },
  { title: 'SIGNED', of: (image) => (image.signed ? 'yes' : 'no'), wide: true },
  { title: 'PACKAGES', of: (image) => image.packages.length, wide: true },
  { title: 'FULL DIGEST', of: (image) => image.digest, wide: true },
];
