// How programs of another processor run while an image is built: QEMU's user emulation, registered where nothing but the build sees it.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../errors.ts';
import type { BuiltArch } from './spec.ts';

export type { BuiltArch } from './spec.ts';


/** What the kernel is to start a program with, in binfmt_misc's own line (Documentation/admin-guide/binfmt-misc). */
export interface Emulation {
  readonly registration: string;
}

/** Debian's package of the static emulators: they need no library in the image's root. */
const PACKAGE = 'qemu-user-static';
const HERE: Readonly<Record<string, BuiltArch>> = { x64: 'amd64', arm64: 'arm64' };
const EMULATORS: Readonly<Partial<Record<BuiltArch, { readonly program: string; readonly system: string; readonly elf: string }>>> = {
  arm64: {
    program: 'qemu-aarch64-static',
    system: 'qemu-aarch64',
    // An ELF header's first 20 bytes: 64 bit, little-endian, executable or shared object, machine 183. Written out as the text `\x7f`: a raw NUL
    // would end the kernel's line, and what is left of the magic matches the programs of this machine too (measured).
    elf: String.raw`\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`,
  },
};

/** Programs of `arch` are none of this machine's processor: something must run them for it. */
export function isForeign(arch: BuiltArch): boolean {
  return HERE[process.arch] !== arch;
}

/**
 * What a build for `arch` must register in its namespaces; undefined where programs of `arch` run as they are. `path`: where the emulator is looked for, as in
 * PATH, unless `given` is one. PACKAGES_MISSING with the apt line, or IMAGE_BUILD_FAILED, when they cannot be made to run here.
 */
export function emulationFor(arch: BuiltArch, path: string, given?: string): Emulation | undefined {
  if (!isForeign(arch)) return undefined;
  const here = HERE[process.arch];
  const emulator = EMULATORS[arch];
  if (!emulator) throw new AppError('IMAGE_BUILD_FAILED', `an image for ${arch} cannot be built on ${here ?? process.arch}`, `build it on a machine with a processor of ${arch}`);
  if (systemHas(emulator.system)) return undefined;
  const program = (given === undefined ? path.split(':').map((dir) => join(dir, emulator.program)) : [given]).find(isProgram);
  if (program === undefined) throw new AppError('PACKAGES_MISSING', `to build an image for ${arch} on ${here ?? process.arch}, ${PACKAGE} must be installed`, `${process.getuid?.() === 0 ? '' : 'sudo '}apt-get install --no-install-recommends ${PACKAGE}`);
  // F: opened at once, so that it is found from inside the image's root too. O and C as Debian registers it: open file, set-user-id programs.
  return { registration: `:${emulator.system}:M::${emulator.elf}:${program}:OCF` };
}

/** Registrations of a user namespace's own came with Linux 6.7. IMAGE_BUILD_FAILED, with the kernel's words, where they cannot be had. */
export function needPrivateRegistration(): void {
  const { status, stderr, error } = spawnSync('unshare', ['--user', '--map-root-user', '--mount', '--', 'mount', '-t', 'binfmt_misc', 'none', '/proc/sys/fs/binfmt_misc'], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (status === 0) return;
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const reason = major < 6 || (major === 6 && minor < 7) ? `Linux before 6.7, as this ${release()}, needs them` : 'allow user namespaces here, or have them';
  throw new AppError('IMAGE_BUILD_FAILED', `this machine cannot run another processor's programs: ${(stderr ?? '').trim().split('\n')[0] || (error?.message ?? `exit ${status}`)}`, `${reason} registered for the whole machine: apt-get install --no-install-recommends binfmt-support ${PACKAGE}`);
}

/** The machine's own registration will do when it is of the kind that reaches into a root directory (F). */
function systemHas(name: string): boolean {
  try {
    const entry = readFileSync(`/proc/sys/fs/binfmt_misc/${name}`, 'utf8');
    return entry.startsWith('enabled') && /^flags: .*F/m.test(entry);
  } catch {
    return false;
  }
}

/**
 * `argv`, started in new user and mount namespaces, behind a registration there; `dir` is an empty directory's path. It waits until its ids are mapped (mapOwnIds), and
 * takes its capabilities by the exec after that. Taking them clears the death signal that `unshare --kill-child` gave it (prctl(2)): it gets another.
 */
export function emulated({ registration }: Emulation, dir: string, argv: readonly string[]): string[] {
  const register = 'mkdir -p "$1" && mount -t binfmt_misc none "$1" && printf %s "$2" >"$1/register" || exit 1; shift 2; exec "$@"';
  return ['sh', '-c', 'until read -r _ </proc/self/gid_map; do sleep 0.01; done; exec "$@"', 'sh', 'setpriv', '--pdeathsig', 'KILL', '--', 'sh', '-c', register, 'sh', dir, registration, ...argv];
}

/**
 * Root's own way to a user namespace in which all ids mean what they mean outside; `unshare` has none without /etc/subuid. `pid` is a process that is about to
 * enter it.
 */
export async function mapOwnIds(pid: number, gone: () => boolean): Promise<void> {
  const ours = readlinkSync('/proc/self/ns/user');
  for (;;) {
    if (gone()) return;
    try {
      if (readlinkSync(`/proc/${pid}/ns/user`) !== ours) break;
    } catch {
      return;
    }
    await sleep(2);
  }
  for (const map of ['uid_map', 'gid_map']) {
    const own = readFileSync(`/proc/self/${map}`, 'utf8').trim().split('\n').map((line) => line.trim().split(/\s+/));
    writeFileSync(`/proc/${pid}/${map}`, own.map(([inside, , count]) => `${inside} ${inside} ${count}\n`).join(''));
  }
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
