// A build that takes its packages from the lock: which of them are still to be had, and the files that make apt take exactly those.
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { sha256Hex, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import { openApt } from './apt.ts';
import { debName, debSha256, type InstalledPackage } from './dpkg.ts';
import { lockChanges, lockPath, preferencesOf, readLock, withPackages, writeLock, type LockChange, type LockedPackage, type LockedPackages } from './lock.ts';
import type { ArchSpec } from './spec.ts';
import { quote } from './rootfs.ts';
import { EPOCH, type Workshop } from './workshop.ts';

const PREFERENCES = 'preferences.d/rackseed-lock';
const SOURCES = 'sources.list.d/rackseed-lock.list';

/**
 * Options of mmdebstrap that bind it to the lock, after the mirror was asked for every package of it. What is gone from there is taken from `debs`, the packages of earlier builds, if it is the very same file;
 * otherwise IMAGE_BUILD_FAILED with every package that is gone, and what there is now.
 */
export async function pinned(shop: Workshop, packages: LockedPackages, at: { readonly image: string; readonly lock: string; readonly suite: string; readonly arch: string; readonly sources: string; readonly debs: string }): Promise<string[]> {
  const available = await (await openApt(shop, at)).available(Object.keys(packages));
  const has = (name: string, { version, sha256 }: LockedPackage): boolean => available.get(name)?.some((one) => one.version === version && one.sha256 === sha256) ?? false;
  const missing = Object.entries(packages).filter(([name, one]) => !has(name, one));
  const gone = missing.filter(([name, one]) => debSha256(at.debs, { name, ...one }) !== one.sha256);
  if (gone.length > 0) {
    const lines = gone.map(([name, { version }]) => {
      const now = available.get(name)?.[0]?.version;
      return `${name} ${version} is gone from the mirror (${now === undefined ? 'it has no such package now' : now === version ? 'it has another file under this version' : `it has ${now} now`})`;
    });
    throw new AppError('IMAGE_BUILD_FAILED', `image ${at.image}: ${lines.join('; ')}`, `rackseed image update ${at.image} moves ${at.lock} to what there is; or point mirror at one that keeps old versions, such as http://snapshot.debian.org/archive`);
  }
  // Laid out as /etc/apt, and not left in the root.
  const pins = join(shop.dir, 'pins');
  for (const sub of ['preferences.d', 'sources.list.d']) mkdirSync(join(pins, sub), { recursive: true });
  writeFileSync(join(pins, PREFERENCES), preferencesOf(packages));
  const files = missing.map(([name, one]) => join(at.debs, debName({ name, ...one })));
  if (files.length > 0) writeFileSync(join(pins, SOURCES), ownMirror(shop, at.suite, files));
  return [`--setup-hook=cp -r ${quote(pins)}/. "$1/etc/apt/"`, `--customize-hook=rm -f "$1/etc/apt/${PREFERENCES}" "$1/etc/apt/${SOURCES}"`];
}

/** A mirror of a few files whose sha256 has been checked: its line of sources.list. */
function ownMirror(shop: Workshop, suite: string, files: readonly string[]): string {
  const dir = join(shop.dir, 'gone');
  mkdirSync(dir, { recursive: true });
  const stanzas = files.map((file) => {
    // A percent sign in a file's name would be decoded on the way to it.
    const to = join(dir, basename(file).replaceAll('%', '_'));
    copyFileSync(file, to);
    const control = execFileSync('dpkg-deb', ['--field', to], { encoding: 'utf8' }).trimEnd();
    return `${control}\nFilename: ./${basename(to)}\nSize: ${statSync(to).size}\nSHA256: ${sha256Hex(readFileSync(to))}\n`;
  });
  const index = stanzas.join('\n');
  writeFileSync(join(dir, 'Packages'), index);
  // The suite's name: mmdebstrap takes essential packages from the suite alone.
  writeFileSync(join(dir, 'Release'), `Suite: ${suite}\nCodename: ${suite}\nDate: ${new Date(EPOCH * 1000).toUTCString()}\nSHA256:\n ${sha256Hex(index)} ${Buffer.byteLength(index)} Packages\n`);
  return `deb [trusted=yes] copy:${dir} ./\n`;
}

/** The packages of a root with the sha256 of the archives that they came from. IMAGE_BUILD_FAILED when one is not there. */
export function lockOf(installed: readonly InstalledPackage[], debs: string): LockedPackages {
  return Object.fromEntries(
    installed.map((one): [string, LockedPackage] => {
      const sha256 = existsSync(debs) ? debSha256(debs, one) : undefined;
      if (sha256 === undefined) throw new AppError('IMAGE_BUILD_FAILED', `${join(debs, debName(one))}: no such file`, 'the package that it was installed from is gone: build again with --force');
      return [one.name, { version: one.version, arch: one.arch, sha256 }];
    }),
  );
}

/** IMAGE_BUILD_FAILED unless exactly the locked packages were installed. */
export function mustBeLocked(image: string, want: LockedPackages, got: LockedPackages): void {
  const changes = lockChanges(want, got);
  if (changes.length === 0) return;
  const lines = changes.map(({ name, from, to }) => (from === undefined ? `${name} ${to} is not in the lock` : to === undefined ? `${name} ${from} was not installed` : from === to ? `${name} ${to} is another file` : `${name} is ${to}, locked is ${from}`));
  throw new AppError('IMAGE_BUILD_FAILED', `image ${image} is not what its lock says: ${lines.join('; ')}`, `image.yaml, or what its packages need, has changed since: rackseed image update ${image}`);
}

export interface LockOfImage {
  readonly file: string;
  /** What is locked for this architecture; IMAGE_BUILD_FAILED when nothing is. */
  packages(): LockedPackages;
  /** After a build that was not bound to it: writes it when there is none, or tells what is different. */
  after(installed: LockedPackages): { readonly lockWritten?: string; readonly unlocked?: readonly LockChange[] };
}

/** The lock of one image and architecture, read now. `dir` has its image.yaml. */
export function lockOfImage(stateDir: string, dir: string, image: string, { base, arch }: Pick<ArchSpec, 'base' | 'arch'>, input: Digest): LockOfImage {
  const file = lockPath(stateDir, dir, image);
  const lock = 'debian' in base ? readLock(file) : undefined;
  const part = lock?.locked[arch];
  return {
    file,
    packages() {
      if (!('debian' in base)) throw new AppError('IMAGE_BUILD_FAILED', `image ${image}: only packages of Debian can be locked, and its base is none`, 'build it without --locked');
      if (part) return part.packages;
      throw new AppError('IMAGE_BUILD_FAILED', `${file}: ${lock ? `locks nothing for ${arch}` : 'no such file'}`, `rackseed image build ${image} writes it, and so does rackseed image update ${image}`);
    },
    after(installed) {
      if (!('debian' in base)) return {};
      if (part) return { unlocked: lockChanges(part.packages, installed) };
      // Another architecture of the image may have been built meanwhile.
      writeLock(file, withPackages(readLock(file), { image, suite: base.debian, mirror: base.mirror }, arch, { input, packages: installed }));
      return { lockWritten: file };
    },
  };
}
