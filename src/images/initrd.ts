// The initrd: busybox, our own stage, the kernel modules, programs and firmware it needs, as one compressed cpio whose bytes depend on nothing else.
import { execFile } from 'node:child_process';
import { lstatSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { cpio, type CpioEntry } from './cpio.ts';
import { firmwareEntries } from './firmware.ts';
import { INTEGRITY_MODULES, moduleTables, plainPath, readModuleIndex, selectModules } from './modules.ts';
import { programClosure, programEntries } from './programs.ts';

const run = promisify(execFile);

export interface InitrdParts {
  /** A static busybox of the image's architecture. */
  readonly busybox: string;
  /** The directory that becomes `/`: `init` in it is the program that the kernel starts. */
  readonly stage: string;
  /** `/lib/modules/<version>` of the image. */
  readonly modules: string;
  readonly kernelVersion: string;
  readonly required: readonly string[];
  readonly optional: readonly string[];
  /** The image's root, from which the rest comes. */
  readonly root?: string;
  /** Absolute paths in the root, which go in with the libraries they need; one that the root does not have is left out. */
  readonly programs?: readonly string[];
  /** The same, but each must be there. */
  readonly requiredPrograms?: readonly string[];
  /** Globs below /usr/lib/firmware of the root. */
  readonly firmware?: readonly string[];
  /** What only this build has, such as the keys that sign images. */
  readonly files?: readonly CpioEntry[];
}

/** As far as the image has them: what maps dm-verity, what checks signatures (a build with keys requires it), and what formats a state disk. */
export const INITRD_PROGRAMS = ['/sbin/dmsetup', '/usr/bin/minisign', '/sbin/mke2fs', '/sbin/mkfs.xfs'];

/** What the system cannot start without: if the kernel cannot read PID 1, it panics and nobody hears why. */
const FIRST = ['/sbin/init', '/usr/lib/systemd/systemd-executor', '/bin/sh'];

/** Directories that the stage mounts on, there even before its first line runs. */
const MOUNT_POINTS = ['dev', 'proc', 'root', 'run', 'sys', 'tmp'];

/** The uncompressed archive and the names of its modules, in load order. IMAGE_BUILD_FAILED when a required module is missing. */
export async function initrdArchive(parts: InitrdParts): Promise<{ readonly archive: Buffer; readonly modules: readonly string[] }> {
  const index = readModuleIndex(parts.modules);
  const chosen = selectModules(index, parts.required, [...parts.optional, ...INTEGRITY_MODULES]);
  const base = `lib/modules/${parts.kernelVersion}`;
  const file = (path: string, data: Uint8Array | string, mode = 0o644): CpioEntry => ({ path, kind: 'file', mode, data: typeof data === 'string' ? Buffer.from(data) : data });
  const modules = await Promise.all(chosen.map(async (module) => file(`${base}/${plainPath(module.path)}`, await unpacked(join(parts.modules, module.path)))));
  const entries = [
    ...MOUNT_POINTS.map((path): CpioEntry => ({ path, kind: 'directory', mode: path === 'tmp' ? 0o1777 : 0o755 })),
    file('bin/busybox', readFileSync(parts.busybox), 0o755),
    { path: 'bin/sh', kind: 'symlink', mode: 0o777, data: Buffer.from('busybox') } as const,
    ...Object.entries(moduleTables(index, chosen)).map(([name, text]) => file(`${base}/${name}`, text)),
    ...modules,
    ...treeEntries(parts.stage),
    ...(parts.root === undefined ? [] : rootEntries(parts.root, parts)),
    ...(parts.files ?? []),
  ];
  return { archive: cpio(entries), modules: chosen.map((module) => module.name) };
}

/** What the initrd has of the image's root. The stage reads the files that are named in `first` before it gives way to the system. */
function rootEntries(root: string, { programs = [], requiredPrograms = [], firmware = [] }: InitrdParts): CpioEntry[] {
  // A root of another maker may keep libraries where only its own loader's configuration says.
  const first = programClosure(root, FIRST, () => undefined).map(({ real }) => `${real}\n`);
  return [
    { path: 'lib/rackseed/first', kind: 'file', mode: 0o644, data: Buffer.from([...new Set(first)].sort().join('')) },
    ...programEntries(root, programs, requiredPrograms),
    ...firmwareEntries(root, firmware),
  ];
}

/** zstd, one thread: the same input gives the same bytes. docs/decisions/initrd.md has the figures. */
export async function compressed(archive: Buffer): Promise<Buffer> {
  const pending = run('zstd', ['-19', '--single-thread', '--no-progress', '-q', '-c'], { encoding: 'buffer', maxBuffer: 1 << 30 });
  pending.child.stdin!.end(archive);
  return (await pending).stdout;
}

/** Every file under a directory as archive entries; the executable bit is all that is kept of a mode, so that no umask gets in. */
function treeEntries(dir: string, under = ''): CpioEntry[] {
  return readdirSync(join(dir, under)).sort().flatMap((name): CpioEntry[] => {
    const path = under ? `${under}/${name}` : name;
    const found = lstatSync(join(dir, path));
    if (found.isSymbolicLink()) return [{ path, kind: 'symlink', mode: 0o777, data: Buffer.from(readlinkSync(join(dir, path))) }];
    if (found.isDirectory()) return [{ path, kind: 'directory', mode: 0o755 }, ...treeEntries(dir, path)];
    return [{ path, kind: 'file', mode: found.mode & 0o100 ? 0o755 : 0o644, data: readFileSync(join(dir, path)) }];
  });
}

/** busybox' modprobe cannot load a compressed module; the kernel signs the uncompressed one, so this loses no signature. */
async function unpacked(path: string): Promise<Buffer> {
  if (path.endsWith('.gz')) return promisify(gunzip)(readFileSync(path));
  const program = path.endsWith('.xz') ? 'xz' : path.endsWith('.zst') ? 'zstd' : undefined;
  if (!program) return readFileSync(path);
  return (await run(program, ['-dc', path], { encoding: 'buffer', maxBuffer: 1 << 28 })).stdout;
}
