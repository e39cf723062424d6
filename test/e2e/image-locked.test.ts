// Builds side by side, bound to a lock, and of packages that are gone from the mirror: a small image, built for real several times.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildImage, type BuildResult } from '../../src/images/build.ts';
import { debName } from '../../src/images/dpkg.ts';
import { readLock, writeLock, type ImageLock } from '../../src/images/lock.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { updateLock } from '../../src/images/update.ts';
import { verifyImage } from '../../src/images/verify.ts';
import { sha256Hex } from '../../src/digest.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { TEST_STATE } from '../lab-process.ts';

let dir: string;
let state: string;
let imagesDir: string[];
const lockFile = (): string => join(dir, 'images/small/image.lock');
const lock = (): ImageLock => readLock(lockFile())!;

beforeAll(() => {
  mkdirSync(join(TEST_STATE, 'tmp'), { recursive: true });
  // Beside the shared cache, which may be linked from there but not from another disk.
  dir = mkdtempSync(join(TEST_STATE, 'tmp', 'locked-'));
  state = join(dir, 'state');
  mkdirSync(join(dir, 'images/small'), { recursive: true });
  writeFileSync(join(dir, 'images/small/image.yaml'), 'base: { debian: trixie }\nkernel: { package: linux-image-cloud-amd64, modules: [loop, squashfs, overlay] }\npackages: [wget]\nremove: [libpsl5t64]\n');
  imagesDir = [join(dir, 'images'), SHIPPED.images];
  const cache = join(TEST_STATE, 'cache/apt');
  if (existsSync(cache)) cpSync(cache, join(state, 'cache/apt'), { recursive: true });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const build = (stateDir: string, more: object = {}): Promise<BuildResult> => buildImage({ name: 'small', imagesDir, stateDir, ...more });

let first: BuildResult;

test('two builds of one image at once, in one state directory: two whole results, of equal bytes, and a log for each', async () => {
  const both = await Promise.all([build(state, { force: true }), build(state, { force: true })]);
  first = both[0];
  expect(both[1].manifest.digest).toBe(first.manifest.digest);
  expect(both.map(({ unchanged }) => unchanged)).toEqual([false, false]);
  expect(await verifyImage(first.manifest, createBlobStore(state))).toEqual([]);
  expect(await createImageStore(state).list()).toHaveLength(1);
  expect(both.flatMap(({ lockWritten }) => lockWritten ?? [])).toContain(lockFile());
  expect(Object.keys(lock().locked['amd64']!.packages)).toEqual(expect.arrayContaining(['libc6', 'linux-image-cloud-amd64', 'libpsl5t64', 'wget']));
  // What `remove` took away again is in the lock, because it must be had again, and not in the image.
  expect(first.manifest.packages.some((line) => line.startsWith('libpsl5t64 '))).toBe(false);
  expect(readdirSync(join(state, 'log')).filter((name) => /^image-small(\.\d+\.\w+)?\.log$/.test(name))).toHaveLength(2);
  expect(readdirSync(join(state, 'tmp'))).toEqual([]);
});

test('one that is bound to the lock, with another state directory: the same bytes, SBOM and all', async () => {
  const other = join(dir, 'other');
  cpSync(join(state, 'cache'), join(other, 'cache'), { recursive: true });
  const { manifest, lockWritten, unlocked } = await build(other, { locked: true });
  expect([manifest.digest, manifest.kernel, manifest.initrds, manifest.verity, manifest.sbom, manifest.lock]).toEqual([first.manifest.digest, first.manifest.kernel, first.manifest.initrds, first.manifest.verity, first.manifest.sbom, first.manifest.lock]);
  expect([lockWritten, unlocked]).toEqual([undefined, undefined]);
  expect((await build(other, { locked: true })).unchanged).toBe(true);
});

test('a package that is gone from the mirror comes from an earlier build, and without that the build ends before it begins', async () => {
  const before = lock();
  const packages = before.locked['amd64']!.packages;
  const { mount } = packages;
  // The same package under another version, as it was never published.
  const debs = join(state, 'cache/apt');
  const tree = join(dir, 'mount');
  execFileSync('dpkg-deb', ['--raw-extract', join(debs, debName({ name: 'mount', ...mount! })), tree]);
  const control = join(tree, 'DEBIAN/control');
  writeFileSync(control, readFileSync(control, 'utf8').replace(/^Version: .*$/m, 'Version: 1:1.0+rackseed'));
  const one = { version: '1:1.0+rackseed', arch: mount!.arch };
  const file = join(debs, debName({ name: 'mount', ...one }));
  execFileSync('dpkg-deb', ['--root-owner-group', '--build', tree, file], { stdio: 'ignore' });
  const old = { ...before, locked: { amd64: { ...before.locked['amd64']!, packages: { ...packages, mount: { ...one, sha256: sha256Hex(readFileSync(file)) } } } } };
  writeLock(lockFile(), old);
  const { manifest } = await build(state, { locked: true });
  expect(manifest.packages).toContain('mount 1:1.0+rackseed');
  expect(manifest.packages).toContain(`login ${packages['login']!.version}`);
  expect(manifest.serial).toBeGreaterThan(first.manifest.serial!);
  const listing = execFileSync('unsquashfs', ['-l', createBlobStore(state).path(manifest.squashfs.digest), 'etc/apt'], { encoding: 'utf8' });
  expect(listing).not.toContain('rackseed-lock');

  rmSync(file);
  const builds = (await createImageStore(state).list()).length;
  await expect(build(state, { locked: true, force: true })).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: `image small: mount 1:1.0+rackseed is gone from the mirror (it has ${mount!.version} now)` });
  expect((await createImageStore(state).list()).length).toBe(builds);
  expect(readFileSync(join(state, 'log/image-small.log'), 'utf8')).not.toContain('# mmdebstrap');

  // And the lock moves back to what there is.
  const updated = await updateLock({ name: 'small', imagesDir, stateDir: state });
  expect(updated).toMatchObject({ file: lockFile(), changes: { amd64: [{ name: 'mount', from: '1:1.0+rackseed', to: mount!.version }] } });
  expect(lock().locked['amd64']!.packages).toEqual(packages);
  expect((await updateLock({ name: 'small', imagesDir, stateDir: state })).changes).toEqual({ amd64: [] });
  expect((await build(state, { locked: true })).manifest.digest).toBe(first.manifest.digest);
});
