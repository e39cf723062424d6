// A root of Debian's packages, by mmdebstrap.
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { quote } from './rootfs.ts';
import type { ArchSpec, ImageBase } from './spec.ts';
import type { Workshop } from './workshop.ts';

/**
 * Packages that every image gets. busybox-static is what the initrd is made of. A kernel package wants some maker of initrds:
 * tiny-initramfs is the lightest (its initrd has 15 KB and is thrown away), initramfs-tools costs 9 s and 18 MB for nothing. dmsetup: the initrd stage checks
 * the squashfs by it, block by block.
 */
const ALWAYS = ['systemd', 'systemd-sysv', 'udev', 'kmod', 'login', 'passwd', 'busybox-static', 'tiny-initramfs', 'dmsetup'];

export interface DebianPaths {
  /** The directory that becomes the root. */
  readonly root: string;
  /** Has what aptSources and dpkgExcludes say. */
  readonly sources: string;
  readonly excludes: string;
  /** The packages of earlier builds, from which nothing is fetched again; this build's are added. */
  readonly debs: string;
}

type DebianBase = Extract<ImageBase, { readonly debian: string }>;

/** Every package that is asked for by name. */
export function wantedPackages(spec: ArchSpec): string[] {
  return [...new Set([...ALWAYS, ...(spec.kernel.package === undefined ? [] : [spec.kernel.package]), ...spec.packages])];
}

/** The command line of mmdebstrap; `more` are further options of it. */
export function mmdebstrapArgs(spec: ArchSpec, base: DebianBase, paths: DebianPaths, more: readonly string[] = []): string[] {
  const { root, sources, debs } = paths;
  const include = wantedPackages(spec).join(',');
  return [
    'mmdebstrap',
    '--mode=root',
    '--variant=minbase',
    '--format=directory',
    `--architectures=${spec.arch}`,
    // It looks for emulation that the whole machine has; ours is the build's own (emulation.ts), and needTools has looked for it.
    '--skip=check/qemu',
    `--include=${include}`,
    '--aptopt=Apt::Install-Recommends "false"',
    '--aptopt=Acquire::Retries "3"',
    // The whole root is thrown away when the build is interrupted: no file needs to be safe on disk before its turn.
    '--dpkgopt=force-unsafe-io',
    // apt takes a package from its archives only when the size is right; dpkg then checks the archive itself.
    '--skip=download/empty',
    '--skip=essential/unlink',
    // Not as --dpkgopt: mmdebstrap would then run each archive through a slow filter (12 s of CPU). What the first packages brought in
    // before this hook, the finishing script removes.
    `--extract-hook=cp ${quote(paths.excludes)} "$1/etc/dpkg/dpkg.cfg.d/rackseed"`,
    // Links, one by one: another build may add a package, or drop an old one, at the same moment, and that is no failure of this one.
    `--setup-hook=mkdir -p "$1/var/cache/apt/archives"; for deb in ${quote(debs)}/*.deb; do ln "$deb" "$1/var/cache/apt/archives/" 2>/dev/null || :; done`,
    // Only what this image uses is kept for another month.
    `--customize-hook=dpkg-query --admindir="$1/var/lib/dpkg" --show --showformat='\${Package}_\${Version}_\${Architecture}.deb\\n' | sed s/:/%3a/ | while read -r deb; do at="$1/var/cache/apt/archives/$deb"; touch "$at"; [ "$at" -ef ${quote(debs)}/"$deb" ] || ln -f "$at" ${quote(debs)}/; done`,
    ...more,
    base.debian,
    root,
    sources,
  ];
}

/** The suite with its updates and its security updates. */
export function aptSources({ debian, mirror, components }: DebianBase): string {
  const base = mirror.replace(/\/+$/, '');
  const words = components.join(' ');
  return [`deb ${base}/debian ${debian} ${words}`, `deb ${base}/debian ${debian}-updates ${words}`, `deb ${base}/debian-security ${debian}-security ${words}`, ''].join('\n');
}

export const COPYRIGHTS = '/usr/share/doc/*/copyright';

/** dpkg.cfg: the last line that matches a path decides. */
export function dpkgExcludes(spec: ArchSpec): string {
  return [...spec.exclude.map((path) => `path-exclude=${path}`), `path-include=${COPYRIGHTS}`, ''].join('\n');
}

/** mmdebstrap's lines that tell how far it is, with the share of its time that has passed by then (measured). */
const MILESTONES: readonly (readonly [RegExp, number])[] = [
  [/running apt-get update/, 0.02],
  [/downloading packages/, 0.1],
  [/extracting archives/, 0.25],
  [/installing essential/, 0.35],
  [/installing remaining/, 0.45],
  [/cleaning package lists/, 0.98],
];

/** Fills `root`, which is not there yet. `more`: further options of mmdebstrap. IMAGE_BUILD_FAILED, with apt's or dpkg's own words. */
export async function debian(spec: ArchSpec, base: DebianBase, root: string, stateDir: string, shop: Workshop, at: (fraction: number, message?: string) => void, more: readonly string[] = []): Promise<void> {
  const debs = join(stateDir, 'cache', 'apt');
  mkdirSync(debs, { recursive: true });
  const paths = { root, debs, sources: join(shop.dir, 'sources.list'), excludes: join(shop.dir, 'dpkg.cfg') };
  writeFileSync(paths.sources, aptSources(base));
  writeFileSync(paths.excludes, dpkgExcludes(spec));
  const code = await shop.asRoot(mmdebstrapArgs(spec, base, paths, more), (line) => {
    const milestone = MILESTONES.find(([pattern]) => line.startsWith('I: ') && pattern.test(line));
    if (milestone) at(milestone[1], line.slice(3).replace(/\.+$/, ''));
  });
  if (code !== 0) throw new AppError('IMAGE_BUILD_FAILED', `mmdebstrap: ${reasonIn(shop.said())}`, `the whole log is ${shop.log}`);
  forgetOld(debs);
}

/** Packages that no build has used for a month will not be asked for again. */
function forgetOld(debs: string): void {
  const month = Date.now() - 30 * 86_400_000;
  for (const name of readdirSync(debs)) if ((statSync(join(debs, name), { throwIfNoEntry: false })?.mtimeMs ?? month) < month) rmSync(join(debs, name), { force: true });
}

/** The line of a failed mmdebstrap's log that says what went wrong: apt's or dpkg's own, not the ones that only pass it on. */
export function reasonIn(log: string): string {
  const lines = log.split('\n').map((line) => line.trim());
  const errors = lines.filter((line) => /^(E|Err|dpkg): ?/.test(line) && !/(failed to execute|failed with exit|failed: |setup failed|Some index files failed|Sub-process)/.test(line));
  const reason = errors[0] ?? lines.filter((line) => /^(E:|error|unshare:)/i.test(line)).at(-1) ?? lines.filter((line) => line !== '' && !line.startsWith('#')).at(-1);
  return (reason ?? 'it said nothing').replace(/^(E|Err): ?/, '').slice(0, 300);
}
