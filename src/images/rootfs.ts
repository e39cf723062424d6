// The image's root: Debian packages, then the spec's users, files and services, then everything out that belongs to one machine or one build.
import { chmodSync, copyFileSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { runsOn } from '../boot/loader.ts';
import { AppError } from '../errors.ts';
import type { ImageSpec } from './spec.ts';

/**
 * Packages that every image gets. busybox-static is what the initrd is made of. A kernel package wants some maker of initrds:
 * tiny-initramfs is the lightest (its initrd has 15 KB and is thrown away), initramfs-tools costs 9 s and 18 MB for nothing.
 */
const ALWAYS = ['systemd', 'systemd-sysv', 'udev', 'kmod', 'login', 'passwd', 'busybox-static', 'tiny-initramfs'];

export interface DebianPaths {
  /** The directory that becomes the root. */
  readonly root: string;
  /** Has what aptSources and dpkgExcludes say. */
  readonly sources: string;
  readonly excludes: string;
  /** The packages of earlier builds, from which nothing is fetched again; this build's are added. */
  readonly debs: string;
}

/** The command line of mmdebstrap. */
export function mmdebstrapArgs(spec: ImageSpec, paths: DebianPaths): string[] {
  const { root, sources, debs } = paths;
  const include = [...new Set([...ALWAYS, spec.kernel.package, ...spec.packages])].join(',');
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
    `--setup-hook=mkdir -p "$1/var/cache/apt/archives" && find ${quote(debs)} -name '*.deb' -exec cp -l -t "$1/var/cache/apt/archives" {} +`,
    `--customize-hook=find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec touch {} + -exec cp -lf -t ${quote(debs)} {} +`,
    spec.base.debian,
    root,
    sources,
  ];
}

/** The suite with its updates and its security updates. */
export function aptSources(spec: ImageSpec): string {
  const { debian, mirror } = spec.base;
  const base = mirror.replace(/\/+$/, '');
  return [`deb ${base}/debian ${debian} main`, `deb ${base}/debian ${debian}-updates main`, `deb ${base}/debian-security ${debian}-security main`, ''].join('\n');
}

const COPYRIGHTS = '/usr/share/doc/*/copyright';

/** dpkg.cfg: the last line that matches a path decides. */
export function dpkgExcludes(spec: ImageSpec): string {
  return [...spec.exclude.map((path) => `path-exclude=${path}`), `path-include=${COPYRIGHTS}`, ''].join('\n');
}

/** Puts the spec's files into the root. Their owners are set by the finishing script, when the users exist. */
export function placeFiles(spec: ImageSpec, root: string, imageDir: string): void {
  for (const file of spec.files) {
    const path = target(root, file.path);
    if (file.symlink !== undefined) {
      symlinkSync(file.symlink, path);
      continue;
    }
    if (file.source !== undefined) copyFileSync(resolve(imageDir, file.source), path);
    else writeFileSync(path, file.contents ?? '');
    chmodSync(path, Number.parseInt(file.mode, 8));
  }
}

/** Copies a tree into the root; of each file's mode only the executable bit counts, so that no umask gets in. */
export function placeTree(tree: string, root: string, under = ''): void {
  for (const name of readdirSync(join(tree, under)).sort()) {
    const from = join(tree, under, name);
    const found = lstatSync(from);
    if (found.isDirectory()) {
      placeTree(tree, root, join(under, name));
      continue;
    }
    const path = target(root, `/${join(under, name)}`);
    if (found.isSymbolicLink()) symlinkSync(readlinkSync(from), path);
    else {
      copyFileSync(from, path);
      chmodSync(path, found.mode & 0o100 ? 0o755 : 0o644);
    }
  }
}

/**
 * The path below the root, its parents made and nothing in its place. A link on the way could lead out of the root, onto the machine
 * that builds: it is refused, but for /bin, /lib and /sbin, which every Debian has as links into /usr.
 */
function target(root: string, path: string): string {
  const parts = path.replace(/^\/(bin|sbin|lib|lib64)\//, '/usr/$1/').split('/').filter(Boolean);
  let at = root;
  for (const part of parts.slice(0, -1)) {
    at = join(at, part);
    const found = lstatSync(at, { throwIfNoEntry: false });
    if (!found) {
      mkdirSync(at);
      chmodSync(at, 0o755);
    } else if (!found.isDirectory()) throw new AppError('IMAGE_BUILD_FAILED', `${path}: ${at.slice(root.length)} is no directory in this image`, 'give the real path, not one through a link');
  }
  const leaf = join(root, ...parts);
  const found = lstatSync(leaf, { throwIfNoEntry: false });
  if (found?.isDirectory()) throw new AppError('IMAGE_BUILD_FAILED', `${path} is a directory in this image`, 'give the path of a file');
  if (found) rmSync(leaf);
  return leaf;
}

/** What runs as root once the files are in: a POSIX shell script whose first argument is the root. */
export function finishScript(spec: ImageSpec): string {
  const lines = ['set -eu', 'root=$1', '[ -d "$root/usr" ]', 'in_root() { chroot "$root" "$@" </dev/null; }'];
  for (const user of spec.users) {
    const gid = user.gid ?? user.uid;
    // --system: no aging, no range of subordinate ids, no complaint about an id below 1000.
    lines.push(`in_root groupadd --system --gid ${gid} ${quote(user.name)}`);
    lines.push(`in_root useradd --system --no-create-home --uid ${user.uid} --gid ${gid} --home-dir ${quote(user.home ?? '/nonexistent')} --shell ${quote(user.shell ?? '/usr/sbin/nologin')} ${quote(user.name)}`);
  }
  for (const file of spec.files) if (file.owner !== 'root:root') lines.push(`in_root chown -h ${quote(file.owner)} ${quote(file.path)}`);
  const { enable, disable, mask } = spec.services;
  for (const [verb, units] of [['disable', disable], ['mask', mask], ['enable', enable]] as const) {
    if (units.length > 0) lines.push(`in_root systemctl --quiet ${verb} ${units.map(quote).join(' ')}`);
  }
  lines.push('cd "$root"');
  if (spec.exclude.length > 0) {
    // find's -path and dpkg's path-exclude read patterns alike: * matches slashes too.
    const matching = spec.exclude.map((path) => `-path ${quote(`.${path}`)}`).join(' -o ');
    lines.push(`find . -xdev -depth \\( ${matching} \\) ! -path ${quote(`.${COPYRIGHTS}`)} \\( ! -type d -o -empty \\) -delete`);
  }
  return [...lines, CLEAN, ''].join('\n');
}

/** docs: TRAPS 5. A machine's identity and a build's traces go; the mount points and /boot/config-* (k0s looks at it) stay. */
const CLEAN = `find dev proc run sys tmp var/tmp -xdev -mindepth 1 -delete
find var/log var/cache var/lib/apt/lists -xdev ! -type d -delete
rm -f etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/apt/apt.conf.d/99mmdebstrap etc/hostname etc/resolv.conf etc/.pwd.lock
rm -f etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/subuid- etc/subgid- etc/ssh/ssh_host_*
rm -f var/lib/systemd/random-seed var/lib/systemd/credential.secret var/lib/dbus/machine-id var/lib/dpkg/*-old var/lib/dpkg/lock*
rm -f vmlinuz vmlinuz.old initrd.img initrd.img.old boot/vmlinuz-* boot/initrd.img-* boot/System.map-*
: > etc/machine-id
chmod 0444 etc/machine-id
chmod 1777 tmp var/tmp
mkdir -p dev proc run sys`;

export interface KernelFiles {
  readonly version: string;
  /** The kernel image and `/lib/modules/<version>`, in the root. */
  readonly image: string;
  readonly modules: string;
}

/** The one kernel of the root. IMAGE_BUILD_FAILED when there is none or more than one. */
export function findKernel(root: string): KernelFiles {
  const images = readdirSync(join(root, 'boot')).filter((name) => name.startsWith('vmlinuz-'));
  const [image] = images;
  if (image === undefined || images.length > 1) {
    throw new AppError('IMAGE_BUILD_FAILED', `/boot has ${images.length} kernels, there must be one`, 'kernel.package in image.yaml must be a linux-image package, and packages must not name another');
  }
  const version = image.slice('vmlinuz-'.length);
  return { version, image: join(root, 'boot', image), modules: join(root, 'usr/lib/modules', version) };
}

/**
 * arm64 has no boot protocol but UEFI's: its kernel must be the EFI program that iPXE and the stub start, not a bare image or one packed by gzip, as other
 * distributions have it. IMAGE_BUILD_FAILED otherwise. A BIOS starts amd64's, which says nothing of itself there.
 */
export function checkKernel(arch: ImageSpec['arch'], { image, version }: KernelFiles): void {
  if (arch !== 'arm64') return;
  const found = runsOn(image, readFileSync(image));
  if (found !== 'efi-arm64') throw new AppError('IMAGE_BUILD_FAILED', `the kernel ${version} is ${found === 'unknown' ? 'no EFI program' : `for ${found}`}, so no arm64 machine can start it`, "take another kernel.package in image.yaml: Debian's own are");
}

/** `name version` of every installed package, by name. */
export function installedPackages(root: string): string[] {
  return readFileSync(join(root, 'var/lib/dpkg/status'), 'utf8')
    .split('\n\n')
    .filter((entry) => /^Status: install ok installed$/m.test(entry))
    .map((entry) => `${/^Package: (.*)$/m.exec(entry)?.[1]} ${/^Version: (.*)$/m.exec(entry)?.[1]}`)
    .sort();
}

/** The static busybox of the root. */
export function findBusybox(root: string): string {
  const path = join(root, 'usr/bin/busybox');
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) throw new AppError('IMAGE_BUILD_FAILED', 'the image has no /usr/bin/busybox', 'busybox-static is part of every image: does `exclude` in image.yaml take it away?');
  return path;
}

/** `rootfs.ts`'s paths are checked by the schema; quoting is for the day that someone loosens it. */
function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The line of a failed mmdebstrap's log that says what went wrong: apt's or dpkg's own, not the ones that only pass it on. */
export function reasonIn(log: string): string {
  const lines = log.split('\n').map((line) => line.trim());
  const errors = lines.filter((line) => /^(E|Err|dpkg): ?/.test(line) && !/(failed to execute|failed with exit|failed: |setup failed|Some index files failed|Sub-process)/.test(line));
  const reason = errors[0] ?? lines.filter((line) => /^(E:|error|unshare:)/i.test(line)).at(-1) ?? lines.filter((line) => line !== '' && !line.startsWith('#')).at(-1);
  return (reason ?? 'it said nothing').replace(/^(E|Err): ?/, '').slice(0, 300);
}
