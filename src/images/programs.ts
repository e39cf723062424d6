// Programs of the image's root for the initrd stage, each with the shared libraries that it needs, found where the root's own loader would find them.
import { lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { join, posix } from 'node:path';
import { AppError } from '../errors.ts';
import type { CpioEntry } from './cpio.ts';
import { elfNeeds } from './elf.ts';

/** glibc's built-in directories in Debian, then musl's in Alpine; the triplets are those of the processors that images are built for. */
const TRIPLETS = ['x86_64-linux-gnu', 'aarch64-linux-gnu'];
const LIBRARY_DIRS = [...TRIPLETS.flatMap((triplet) => [`/lib/${triplet}`, `/usr/lib/${triplet}`]), '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/local/lib'];
/** A link that leads to a link, as often as the kernel follows. */
const MOST_LINKS = 40;

export interface ProgramFile {
  /** Where whoever starts it looks for it: absolute. */
  readonly path: string;
  /** The file itself, without links, in the root. */
  readonly real: string;
}

/**
 * The files that `programs` (absolute paths in the root) need to start, themselves among them, by path. Those that the root does not have are left out. What a
 * program opens later, when it runs, is not among them. For a library that is not there: `lacking`, by default IMAGE_BUILD_FAILED.
 */
export function programClosure(root: string, programs: readonly string[], lacking: (path: string, name: string) => void = missing): ProgramFile[] {
  const found = new Map<string, ProgramFile>();
  for (const program of programs) {
    const real = realIn(root, program);
    if (real === undefined) continue;
    // Breadth first, as loaders do: a library that is loaded already, wherever it was found, is not looked for again.
    const loaded = new Set<string>();
    const queue: ProgramFile[] = [{ path: real, real }];
    const push = (by: ProgramFile, path: string | undefined, name: string): void => {
      const real = path === undefined ? undefined : realIn(root, path);
      if (real === undefined) lacking(by.path, name);
      else queue.push({ path: path!, real });
    };
    for (const file of queue) {
      found.set(file.path, file);
      const needs = elfNeeds(readFileSync(join(root, file.real)));
      if (!needs) continue;
      const { interpreter } = needs;
      if (interpreter !== undefined && !loaded.has(interpreter)) {
        // glibc's libraries name it too, and mean the one that is at work.
        loaded.add(interpreter).add(posix.basename(interpreter));
        push(file, interpreter, interpreter);
      }
      const own = needs.runpath.map((dir) => dir.replace(/\$(ORIGIN|\{ORIGIN\})/g, posix.dirname(file.real)));
      for (const name of needs.needed) {
        if (loaded.has(name)) continue;
        loaded.add(name);
        // Without links: the initrd has no /lib that leads into /usr, and loaders look in both.
        const paths = [...own, ...LIBRARY_DIRS.map((dir) => realIn(root, dir) ?? dir)].map((dir) => posix.join(dir, name));
        push(file, paths.find((path) => realIn(root, path) !== undefined), name);
      }
    }
  }
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function missing(path: string, name: string): never {
  throw new AppError('IMAGE_BUILD_FAILED', `${path} needs ${name}, which the image does not have`, 'add the package that has it, or see what `exclude` and `remove` in image.yaml take away');
}

/**
 * The same files as entries of the initrd, and a link in /bin to each program. A required program that the root does not have is IMAGE_BUILD_FAILED.
 */
export function programEntries(root: string, programs: readonly string[], required: readonly string[] = []): CpioEntry[] {
  const lacking = required.filter((program) => realIn(root, program) === undefined);
  if (lacking.length > 0) throw new AppError('IMAGE_BUILD_FAILED', `the image has no ${lacking.join(', ')}, which its initrd needs`, 'add the package that has it to image.yaml');
  const wanted = [...new Set([...required, ...programs])].filter((program) => realIn(root, program) !== undefined);
  return [
    ...programClosure(root, wanted).map(({ path, real }): CpioEntry => ({ path: path.slice(1), kind: 'file', mode: 0o755, data: readFileSync(join(root, real)) })),
    ...wanted.map((program): CpioEntry => ({ path: `bin/${posix.basename(program)}`, kind: 'symlink', mode: 0o777, data: Buffer.from(`..${realIn(root, program)!}`) })),
  ];
}

/** The path without links, in the root, or undefined where nothing is there. */
export function realIn(root: string, path: string): string | undefined {
  let links = 0;
  let done = '/';
  const rest = path.split('/').filter(Boolean);
  while (rest.length > 0) {
    const part = rest.shift()!;
    if (part === '.') continue;
    // Above the root is the root, as in a chroot.
    if (part === '..') {
      done = posix.dirname(done);
      continue;
    }
    const at = posix.join(done, part);
    const found = lstatSync(join(root, at), { throwIfNoEntry: false });
    if (!found) return undefined;
    if (!found.isSymbolicLink()) {
      if (rest.length > 0 && !found.isDirectory()) return undefined;
      done = at;
      continue;
    }
    if (++links > MOST_LINKS) return undefined;
    const target = readlinkSync(join(root, at));
    if (target.startsWith('/')) done = '/';
    rest.unshift(...target.split('/').filter(Boolean));
  }
  return done;
}
