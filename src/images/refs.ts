// Which build somebody means: `name`, `name:tag`, `name@sha256:<digest>`, or with as many digits of the digest as make it the only one.
import { nearest } from '../config/faults.ts';
import { isDigest } from '../digest.ts';
import { AppError } from '../errors.ts';
import type { ImageManifest, ImageRefQuery, ImageStore } from './manifest.ts';

export interface ImageName {
  readonly name: string;
  readonly query: ImageRefQuery;
}

/** The parts of a reference with a whole digest; USAGE when there is another one. */
export function parseRef(ref: string): ImageName {
  const { name, tag, hex } = split(ref);
  if (hex === undefined) return { name, query: tag === undefined ? {} : { tag } };
  const digest = `sha256:${hex}`;
  if (!isDigest(digest)) throw new AppError('USAGE', `${ref.slice(name.length + 1)} is not a digest`, 'sha256: and 64 hex digits');
  return { name, query: { digest } };
}

/** `by`: what it was named by. IMAGE_UNKNOWN when there is no such build, USAGE when several have such a digest. */
export async function findBuild(store: ImageStore, ref: string): Promise<{ readonly image: ImageManifest; readonly by: 'name' | 'tag' | 'digest'; readonly tag?: string }> {
  const { name, tag, hex } = split(ref);
  if (hex === undefined) {
    const image = await store.get(name, tag === undefined ? undefined : { tag });
    if (!image) throw await unknown(store, ref, name);
    return tag === undefined ? { image, by: 'name' } : { image, by: 'tag', tag };
  }
  // Eight digits: enough for a person not to hit another one by a slip, and what `image list` shows is more.
  if (!/^[0-9a-f]{8,64}$/.test(hex)) throw new AppError('USAGE', `${ref}: what follows @ is not a digest`, 'sha256: and 64 hex digits, or the first 8 or more of them');
  const found = (await store.list()).filter((image) => image.name === name && image.digest.startsWith(`sha256:${hex}`));
  if (found.length === 0) throw await unknown(store, ref, name);
  if (found.length > 1) throw new AppError('USAGE', `${ref}: ${found.length} builds have such a digest`, 'write more digits: rackseed image list -o wide');
  return { image: found[0]!, by: 'digest' };
}

/** The tags that name this very build, in order. */
export async function tagsOf(store: ImageStore, image: Pick<ImageManifest, 'name' | 'digest'>): Promise<readonly string[]> {
  return Object.entries(await store.tags(image.name)).flatMap(([tag, digest]) => (digest === image.digest ? [tag] : []));
}

function split(ref: string): { readonly name: string; readonly tag?: string; readonly hex?: string } {
  const at = ref.indexOf('@');
  if (at >= 0) return { name: ref.slice(0, at), hex: ref.slice(at + 1).replace(/^sha256:/, '') };
  const colon = ref.indexOf(':');
  return colon < 0 ? { name: ref } : { name: ref.slice(0, colon), tag: ref.slice(colon + 1) };
}

async function unknown(store: ImageStore, ref: string, name: string): Promise<AppError> {
  const names = await store.names();
  const near = nearest(name, names);
  const hint = names.includes(name) ? 'rackseed image list shows the builds and tags that there are' : near ? `did you mean ${near}?` : `build it: rackseed image build ${name}`;
  return new AppError('IMAGE_UNKNOWN', `there is no image ${ref}`, hint);
}
