// The digest of all that goes into an image: equal inputs, nothing to build.
import { lstatSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { digestOfBytes, digestOfValue, type Digest } from '../digest.ts';
import { ociIdentity } from './base-oci.ts';
import { NO_TRUST, trustInput, type ImageTrust } from './image-keys.ts';
import type { ArchSpec } from './spec.ts';

/** Changes whenever the same image.yaml would come out as another image. Builds of an older builder are made again. */
export const BUILDER = 'rackseed-image/2';

/**
 * Comments and order of keys in image.yaml do not count, nor in which file of a chain of `from` something stands; packages count by name, so newer
 * versions in Debian alone do not make a build necessary (`--force` takes them in). IMAGE_BUILD_FAILED when the base cannot be read.
 */
export function inputDigest(spec: ArchSpec, imageDir: string, commonDir: string, trust: ImageTrust = NO_TRUST): Digest {
  // By what they are, not where: two machines have the same image in different places.
  const content = <T extends { readonly source?: string | undefined }>(entry: T): object => (entry.source === undefined ? entry : { ...entry, source: digestOfBytes(readFileSync(resolve(imageDir, entry.source))) });
  const said = { ...spec, base: baseContent(spec.base), files: spec.files.map(content), onboot: spec.onboot.map(content), services: { ...spec.services, units: spec.services.units.map(content) } };
  const trusted = trustInput(trust);
  return digestOfValue({ builder: BUILDER, spec: said, ...(trusted ? { trusted } : {}), common: [...treeContent(join(commonDir, 'initrd'), 'initrd/'), ...treeContent(join(commonDir, 'root'), 'root/')] });
}

function baseContent(base: ArchSpec['base']): object {
  if ('oci' in base) return { oci: ociIdentity(base.oci) };
  return 'tree' in base ? { tree: digestOfValue(treeContent(base.tree, '', true)) } : base;
}

/** `[path, x or -, digest or link target]` of each file, in order; with `whole`, modes and owners and what is no file too. */
function treeContent(dir: string, as: string, whole = false): string[][] {
  const names = lstatSync(dir, { throwIfNoEntry: false }) ? readdirSync(dir).sort() : [];
  return names.flatMap((name): string[][] => {
    const path = join(dir, name);
    const found = lstatSync(path);
    const more = whole ? [found.mode.toString(8), `${found.uid}:${found.gid}`] : [];
    if (found.isDirectory()) return [...(whole ? [[`${as}${name}/`, ...more]] : []), ...treeContent(path, `${as}${name}/`, whole)];
    if (found.isSymbolicLink()) return [[as + name, 'link', readlinkSync(path), ...more]];
    if (!found.isFile()) return [[as + name, 'other', String(found.rdev), ...more]];
    return [[as + name, found.mode & 0o100 ? 'x' : '-', digestOfBytes(readFileSync(path)), ...more]];
  });
}
