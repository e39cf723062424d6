// The digest of all that goes into an image: equal inputs, nothing to build.
import { lstatSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { digestOfBytes, digestOfValue, type Digest } from '../digest.ts';
import type { ImageSpec } from './spec.ts';

/** Changes whenever the same image.yaml would come out as another image. Builds of an older builder are made again. */
export const BUILDER = 'rackseed-image/1';

/**
 * Comments and order of keys in image.yaml do not count; packages count by name, so newer versions in Debian alone do not make a
 * build necessary (`--force` takes them in).
 */
export function inputDigest(spec: ImageSpec, imageDir: string, commonDir: string): Digest {
  const sources = spec.files.flatMap((file) => (file.source === undefined ? [] : [[file.source, digestOfBytes(readFileSync(resolve(imageDir, file.source)))]]));
  return digestOfValue({ builder: BUILDER, spec, sources, common: [...treeContent(join(commonDir, 'initrd'), 'initrd/'), ...treeContent(join(commonDir, 'root'), 'root/')] });
}

/** `[path, x or -, digest or link target]` of each file, in order. */
function treeContent(dir: string, as: string): [string, string, string][] {
  const names = lstatSync(dir, { throwIfNoEntry: false }) ? readdirSync(dir).sort() : [];
  return names.flatMap((name): [string, string, string][] => {
    const path = join(dir, name);
    const found = lstatSync(path);
    if (found.isDirectory()) return treeContent(path, `${as}${name}/`);
    if (found.isSymbolicLink()) return [[as + name, 'link', readlinkSync(path)]];
    return [[as + name, found.mode & 0o100 ? 'x' : '-', digestOfBytes(readFileSync(path))]];
  });
}
