// Firmware of the image's root that the initrd stage's drivers ask for, by globs below /usr/lib/firmware.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import type { CpioEntry } from './cpio.ts';
import { realIn } from './programs.ts';

/**
 * The matching files as entries of the initrd, each under every name it has, as the kernel asks for it. `*`, `?` and `[…]` match inside of one name, `**` any depth; a
 * directory stands for all that is in it. IMAGE_BUILD_FAILED for a glob that matches nothing.
 */
export function firmwareEntries(root: string, globs: readonly string[]): CpioEntry[] {
  if (globs.length === 0) return [];
  const names = filesBelow(root, '/usr/lib/firmware', '');
  const found = new Map<string, CpioEntry>();
  for (const glob of globs) {
    const pattern = asPattern(glob);
    const matching = names.filter((name) => pattern.test(name));
    if (matching.length === 0) throw new AppError('IMAGE_BUILD_FAILED', `kernel.firmware: the image has no /usr/lib/firmware/${glob}`, 'add the package that has it (firmware-… in non-free-firmware), or mend the pattern');
    for (const name of matching) found.set(name, { path: `lib/firmware/${name}`, kind: 'file', mode: 0o644, data: readFileSync(join(root, realIn(root, `/usr/lib/firmware/${name}`)!)) });
  }
  return [...found.values()];
}

/** Files and links to files, by their path below the directory; a link that leads nowhere is not there. */
function filesBelow(root: string, base: string, under: string): string[] {
  const dir = realIn(root, join(base, under));
  if (dir === undefined) return [];
  return readdirSync(join(root, dir)).sort().flatMap((name) => {
    const path = under ? `${under}/${name}` : name;
    const real = realIn(root, join(base, path));
    const kind = real === undefined ? undefined : statSync(join(root, real));
    return kind?.isDirectory() ? filesBelow(root, base, path) : kind?.isFile() ? [path] : [];
  });
}

function asPattern(glob: string): RegExp {
  const text = glob
    .replace(/\/+$/, '')
    .replace(/[.+^${}()|\\]/g, '\\$&')
    .replace(/\*\*|\*|\?|\[!?[^\]]*\]|[[\]]/g, (wild) => (wild === '**' ? '.*' : wild === '*' ? '[^/]*' : wild === '?' ? '[^/]' : wild.length > 2 ? wild.replace('[!', '[^') : `\\${wild}`));
  return new RegExp(`^${text}(/.*)?$`);
}
