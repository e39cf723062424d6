// The image's root as the builder sees it: what it puts in, and what it takes out of it. Nothing follows a link out of the root.
import { chmodSync, copyFileSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { runsOn } from '../boot/loader.ts';
import { AppError } from '../errors.ts';
import { elfNeeds } from './elf.ts';
import { isForeign } from './emulation.ts';
import type { ArchSpec } from './spec.ts';

/** Puts the spec's files into the root. Their owners are set by the finishing script, when the users exist. */
export function placeFiles(spec: Pick<ArchSpec, 'files'>, root: string, imageDir: string): void {
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

/** One file that the builder makes. */
export function placeText(root: string, path: string, contents: string | Uint8Array, mode = 0o644): void {
  const at = target(root, path);
  writeFileSync(at, contents);
  chmodSync(at, mode);
}

/** One link that the builder makes. */
export function placeLink(root: string, path: string, to: string): void {
  symlinkSync(to, target(root, path));
}

/**
 * The path below the root, its parents made and nothing in its place. A link on the way could lead out of the root, onto the machine
 * that builds: it is refused, but for /bin, /lib and /sbin, which every Debian has as links into /usr.
 */
function target(root: string, path: string): string {
  const parts = path.split('/').filter(Boolean);
  const [top = ''] = parts;
  if (['bin', 'sbin', 'lib', 'lib64'].includes(top) && lstatSync(join(root, top), { throwIfNoEntry: false })?.isSymbolicLink()) parts.unshift('usr');
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

export interface KernelFiles {
  readonly version: string;
  /** The kernel image and `/lib/modules/<version>`, in the root. */
  readonly image: string;
  readonly modules: string;
}

/** The one kernel of the root. IMAGE_BUILD_FAILED when there is none or more than one, or when it has no modules. */
export function findKernel(root: string): KernelFiles {
  const boot = inRoot(root, '/boot');
  const images = boot === undefined ? [] : readdirSync(boot).filter((name) => name.startsWith('vmlinuz-'));
  const [name] = images;
  const image = name === undefined ? undefined : inRoot(root, `/boot/${name}`);
  if (name === undefined || image === undefined || images.length > 1) {
    throw new AppError('IMAGE_BUILD_FAILED', `/boot has ${images.length} kernels, there must be one`, 'kernel.package in image.yaml must be a linux-image package, and packages must not name another; a base of its own must have /boot/vmlinuz-*');
  }
  const lib = inRoot(root, '/lib/modules') ?? inRoot(root, '/usr/lib/modules');
  const versions = lib === undefined ? [] : readdirSync(lib);
  const suffix = name.slice('vmlinuz-'.length);
  // Alpine's kernels are called after their flavor: vmlinuz-virt.
  const version = versions.includes(suffix) ? suffix : versions.length === 1 ? versions[0] : undefined;
  if (lib === undefined || version === undefined) {
    throw new AppError('IMAGE_BUILD_FAILED', `the kernel /boot/${name} has no modules: /lib/modules has ${versions.join(', ') || 'nothing'}`, 'the initrd stage needs at least loop, squashfs and overlay');
  }
  return { version, image, modules: join(lib, version) };
}

/** Where `path` is on the machine that builds, every link on the way followed inside of the root; undefined when it is not there. */
export function inRoot(root: string, path: string): string | undefined {
  const above = [root];
  const left = path.split('/');
  for (let links = 0; left.length > 0; ) {
    const part = left.shift()!;
    if (part === '' || part === '.') continue;
    if (part === '..') {
      if (above.length > 1) above.pop();
      continue;
    }
    const at = join(above.at(-1)!, part);
    const found = lstatSync(at, { throwIfNoEntry: false });
    if (!found) return undefined;
    if (!found.isSymbolicLink()) {
      above.push(at);
      continue;
    }
    if (++links > 40) return undefined;
    const to = readlinkSync(at);
    if (to.startsWith('/')) above.splice(1);
    left.unshift(...to.split('/'));
  }
  return above.at(-1);
}

/**
 * arm64 has no boot protocol but UEFI's: its kernel must be the EFI program that iPXE and the stub start, not a bare image or one packed by gzip, as other
 * distributions have it. IMAGE_BUILD_FAILED otherwise. A BIOS starts amd64's, which says nothing of itself there.
 */
export function checkKernel(arch: ArchSpec['arch'], { image, version }: KernelFiles): void {
  if (arch !== 'arm64') return;
  const found = runsOn(image, readFileSync(image));
  if (found !== 'efi-arm64') throw new AppError('IMAGE_BUILD_FAILED', `the kernel ${version} is ${found === 'unknown' ? 'no EFI program' : `for ${found}`}, so no arm64 machine can start it`, "take another kernel.package in image.yaml: Debian's own are");
}

/** `name version` of every installed package, by name; nothing where neither dpkg nor apk keeps a list. */
export function installedPackages(root: string): string[] {
  const dpkg = inRoot(root, '/var/lib/dpkg/status');
  const apk = inRoot(root, '/lib/apk/db/installed') ?? inRoot(root, '/usr/lib/apk/db/installed');
  const entries = (file: string): string[] => readFileSync(file, 'utf8').split('\n\n');
  if (dpkg !== undefined) {
    const installed = entries(dpkg).filter((entry) => /^Status: install ok installed$/m.test(entry));
    return installed.map((entry) => `${/^Package: (.*)$/m.exec(entry)?.[1]} ${/^Version: (.*)$/m.exec(entry)?.[1]}`).sort();
  }
  return (apk === undefined ? [] : entries(apk)).flatMap((entry) => (/^P:/m.test(entry) ? [`${/^P:(.*)$/m.exec(entry)?.[1]} ${/^V:(.*)$/m.exec(entry)?.[1]}`] : [])).sort();
}

/** A static busybox for the initrd: the root's; or this machine's, where both have the same processor. IMAGE_BUILD_FAILED when neither is one. */
export function findBusybox(root: string, arch?: ArchSpec['arch'], own = '/bin/busybox'): string {
  const places = ['/usr/bin/busybox', '/bin/busybox', '/bin/busybox.static', '/usr/bin/busybox.static', '/bin/busybox-static'].flatMap((path) => inRoot(root, path) ?? []);
  const found = places.find(isStatic) ?? (arch !== undefined && !isForeign(arch) && isStatic(own) ? own : undefined);
  if (found !== undefined) return found;
  const there = places.length > 0 ? `its ${places[0]!.slice(root.length)} needs shared libraries` : 'it has none';
  throw new AppError('IMAGE_BUILD_FAILED', `the image has no static busybox, which the initrd is made of: ${there}`, 'Debian has it in busybox-static (does `exclude` in image.yaml take it away?), Alpine too; or install it here, and that one is taken');
}

/** An ELF program that no dynamic linker has to start. */
function isStatic(path: string): boolean {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return false;
  const needs = elfNeeds(readFileSync(path));
  return needs !== undefined && needs.interpreter === undefined;
}

/** Every path comes from a schema that knows no quote; this is for the day that someone loosens it. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
