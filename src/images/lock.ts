// image.lock: the version and sha256 of every Debian package of an image, so that it can be built again as it was.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { z } from 'zod';
import { readYaml } from '../config/document.ts';
import { knownKeys, zodFaults } from '../config/faults.ts';
import { digestOfValue, type Digest } from '../digest.ts';
import { AppError, FaultsError, lineOf } from '../errors.ts';
import { SHIPPED } from '../shipped.ts';

export interface LockedPackage {
  readonly version: string;
  /** `all` for what runs on any. */
  readonly arch: string;
  /** Of the .deb, 64 hex digits. */
  readonly sha256: string;
}

/** By name. */
export type LockedPackages = Readonly<Record<string, LockedPackage>>;

export interface ArchLock {
  /** Of the inputs that the packages were chosen for. */
  readonly input: Digest;
  readonly packages: LockedPackages;
}

export interface ImageLock {
  readonly image: string;
  readonly suite: string;
  readonly mirror: string;
  /** By architecture. */
  readonly locked: Readonly<Record<string, ArchLock>>;
}

export interface LockChange {
  readonly name: string;
  /** Absent: it was not there. */
  readonly from?: string;
  /** Absent: it is there no more. */
  readonly to?: string;
}

const name = z.string().regex(/^[a-z0-9][a-z0-9+.-]+$/, 'not a package name');
const lockSchema = z.strictObject({
  image: z.string(),
  suite: z.string(),
  mirror: z.string(),
  locked: z.record(
    z.string(),
    z.strictObject({
      input: z.string().regex(/^sha256:[0-9a-f]{64}$/, 'sha256: and 64 hex digits'),
      // What stands here goes into apt's preferences.
      packages: z.record(name, z.strictObject({ version: z.string().regex(/^[A-Za-z0-9.+~:-]+$/, 'not a version'), arch: z.string().regex(/^[a-z0-9-]+$/, 'not an architecture'), sha256: z.string().regex(/^[0-9a-f]{64}$/, '64 hex digits') })),
    }),
  ),
});

/** Beside image.yaml; of an image that rackseed ships, which is not the operator's to change, below the state directory. */
export function lockPath(stateDir: string, imageDir: string, image: string): string {
  const shipped = !relative(SHIPPED.images, imageDir).startsWith('..');
  return shipped ? join(stateDir, 'locks', `${image}.lock`) : join(imageDir, 'image.lock');
}

/** Undefined when there is no such file; IMAGE_SPEC_INVALID (a FaultsError) for one that cannot be used. */
export function readLock(file: string): ImageLock | undefined {
  if (!existsSync(file)) return undefined;
  const yaml = readYaml(readFileSync(file, 'utf8'), file, { scalars: 'text' });
  const hint = 'rackseed image update NAME makes it anew';
  if (yaml.value === undefined || yaml.faults.length > 0) throw new FaultsError('IMAGE_SPEC_INVALID', yaml.faults, hint);
  const parsed = lockSchema.safeParse(yaml.value);
  if (!parsed.success) throw new FaultsError('IMAGE_SPEC_INVALID', zodFaults(parsed.error, yaml.document, yaml.lines, file, (path) => knownKeys(lockSchema, path)), hint);
  return parsed.data;
}

/** The lock with one architecture's part in place of what was there; the others stay. */
export function withPackages(lock: ImageLock | undefined, head: Omit<ImageLock, 'locked'>, arch: string, part: ArchLock): ImageLock {
  const { image, suite, mirror } = head;
  return { image, suite, mirror, locked: { ...lock?.locked, [arch]: part } };
}

/** One line a package, in order: what a diff of two of them shows is what moved. */
export function lockText({ image, suite, mirror, locked }: ImageLock): string {
  const sorted = <T>(record: Readonly<Record<string, T>>) => Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1));
  const parts = sorted(locked).flatMap(([arch, { input, packages }]) => [
    `  ${arch}:`,
    `    input: ${input}`,
    `    packages:${Object.keys(packages).length === 0 ? ' {}' : ''}`,
    ...sorted(packages).map(([name, { version, arch, sha256 }]) => `      ${name}: { version: ${JSON.stringify(version)}, arch: ${arch}, sha256: ${sha256} }`),
  ]);
  return [`# The packages of image ${image}, as they were when it was locked. rackseed image update ${image} moves it; keep it in version control.`, `image: ${image}`, `suite: ${suite}`, `mirror: ${mirror}`, 'locked:', ...parts, ''].join('\n');
}

/** IMAGE_BUILD_FAILED when it cannot be written. Readers see the old one or the new one. */
export function writeLock(file: string, lock: ImageLock): void {
  const temporary = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}.tmp`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(temporary, lockText(lock));
    renameSync(temporary, file);
  } catch (error) {
    throw new AppError('IMAGE_BUILD_FAILED', `the lock cannot be written: ${lineOf(error)}`, `whoever builds the image must be able to write in ${dirname(file)}`, error);
  }
}

/** The name of a set of packages: equal for equal packages, whenever and from whichever mirror they came. */
export function lockDigest(packages: LockedPackages): Digest {
  return digestOfValue(packages);
}

/** What is another version, or in only one of them, by name. A package with the same version and another sha256 counts as changed. */
export function lockChanges(from: LockedPackages, to: LockedPackages): LockChange[] {
  return [...new Set([...Object.keys(from), ...Object.keys(to)])].sort().flatMap((name) => {
    const [old, now] = [from[name], to[name]];
    if (old && now && old.version === now.version && old.arch === now.arch && old.sha256 === now.sha256) return [];
    return [{ name, ...(old ? { from: old.version } : {}), ...(now ? { to: now.version } : {}) }];
  });
}

/** apt_preferences(5): these versions and no others; a package that is not in the lock cannot be installed at all. */
export function preferencesOf(packages: LockedPackages): string {
  const pins = Object.entries(packages).map(([name, { version }]) => `Package: ${name}\nPin: version ${version}\nPin-Priority: 1001\n`);
  return ['Package: *\nPin: release *\nPin-Priority: -1\n', ...pins].join('\n');
}
