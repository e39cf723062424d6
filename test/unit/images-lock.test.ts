// image.lock: what is written, what is read back, what differs, and the pins that apt gets; serials that never go back.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { FaultsError } from '../../src/errors.ts';
import { debName, parseControl, readStatus } from '../../src/images/dpkg.ts';
import { lockChanges, lockDigest, lockPath, lockText, preferencesOf, readLock, withPackages, writeLock, type ImageLock, type LockedPackages } from '../../src/images/lock.ts';
import { lockOf, lockOfImage, mustBeLocked } from '../../src/images/locked.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { claimSerial } from '../../src/images/serial.ts';
import { SHIPPED } from '../../src/shipped.ts';

const INPUT = `sha256:${'1'.repeat(64)}`;
const [A, B] = ['a'.repeat(64), 'b'.repeat(64)] as const;
const PACKAGES: LockedPackages = {
  git: { version: '1:2.47.3-0+deb13u1', arch: 'amd64', sha256: A },
  'libstdc++6': { version: '14.2.0-19', arch: 'amd64', sha256: B },
  tzdata: { version: '2026a~0', arch: 'all', sha256: A },
};
const LOCK: ImageLock = { image: 'own', suite: 'trixie', mirror: 'http://deb.debian.org', locked: { amd64: { input: INPUT, packages: PACKAGES } } };

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'images-lock-'))));
afterEach(() => rmSync(dir, { recursive: true }));

describe('image.lock', () => {
  test('stands beside image.yaml, and below the state directory for an image that rackseed ships', () => {
    expect(lockPath('/state', '/etc/rackseed/images/own', 'own')).toBe('/etc/rackseed/images/own/image.lock');
    expect(lockPath('/state', join(SHIPPED.images, 'debian-k0s'), 'debian-k0s')).toBe('/state/locks/debian-k0s.lock');
  });

  test('comes back as it was written, versions as text', () => {
    const file = join(dir, 'locks', 'own.lock');
    writeLock(file, LOCK);
    expect(readLock(file)).toEqual(LOCK);
    expect(readdirSync(join(dir, 'locks'))).toEqual(['own.lock']);
  });

  test('has a line for each package, in order, so that a diff shows what moved', () => {
    const turned = { ...LOCK, locked: { amd64: { input: INPUT, packages: Object.fromEntries(Object.entries(PACKAGES).reverse()) } } };
    expect(lockText(turned)).toBe(lockText(LOCK));
    expect(lockText(LOCK).split('\n').filter((line) => /^ {6}\S+: \{/.test(line))).toEqual([
      `      git: { version: "1:2.47.3-0+deb13u1", arch: amd64, sha256: ${A} }`,
      `      libstdc++6: { version: "14.2.0-19", arch: amd64, sha256: ${B} }`,
      `      tzdata: { version: "2026a~0", arch: all, sha256: ${A} }`,
    ]);
  });

  test('keeps what it locks for another architecture', () => {
    const both = withPackages(LOCK, LOCK, 'arm64', { input: INPUT, packages: {} });
    expect(Object.keys(both.locked)).toEqual(['amd64', 'arm64']);
    expect(withPackages(both, LOCK, 'amd64', { input: INPUT, packages: {} }).locked).toEqual({ amd64: { input: INPUT, packages: {} }, arm64: { input: INPUT, packages: {} } });
  });

  test.each([
    ['a version that would be more than a pin', `${lockText(LOCK).replace('14.2.0-19', '14\\nPackage: *')}`, 'not a version', 10],
    ['a sha256 that is none', lockText(LOCK).replace(B, 'xyz'), '64 hex digits', 10],
    ['a key that nobody knows', `${lockText(LOCK)}more: 1\n`, 'more', 12],
  ])('refuses %s, with its place', (_what, text, words, line) => {
    const file = join(dir, 'image.lock');
    writeFileSync(file, text);
    const error = (() => {
      try {
        readLock(file);
      } catch (error) {
        return error as FaultsError;
      }
      return undefined;
    })();
    expect(error).toMatchObject({ code: 'IMAGE_SPEC_INVALID', faults: [{ file, line, message: expect.stringContaining(words) }] });
  });

  test('one digest for equal packages in any order, another for another file of the same version', () => {
    expect(lockDigest(Object.fromEntries(Object.entries(PACKAGES).reverse()))).toBe(lockDigest(PACKAGES));
    expect(lockDigest({ ...PACKAGES, git: { ...PACKAGES.git!, sha256: B } })).not.toBe(lockDigest(PACKAGES));
  });

  test('tells added, removed and changed packages apart', () => {
    const { git: _git, ...rest } = PACKAGES;
    const now: LockedPackages = { ...rest, tzdata: { ...rest.tzdata!, version: '2026b' }, zstd: { version: '1.5', arch: 'amd64', sha256: A } };
    expect(lockChanges(PACKAGES, now)).toEqual([{ name: 'git', from: '1:2.47.3-0+deb13u1' }, { name: 'tzdata', from: '2026a~0', to: '2026b' }, { name: 'zstd', to: '1.5' }]);
    expect(lockChanges(PACKAGES, PACKAGES)).toEqual([]);
  });

  test('pins these versions and lets nothing else be installed', () => {
    expect(preferencesOf({ git: PACKAGES.git! })).toBe('Package: *\nPin: release *\nPin-Priority: -1\n\nPackage: git\nPin: version 1:2.47.3-0+deb13u1\nPin-Priority: 1001\n');
  });
});

describe('a build and the lock', () => {
  const spec = { base: { debian: 'trixie', mirror: 'http://deb.debian.org', components: ['main'] }, arch: 'amd64' } as const;

  test('writes it when there is none, and tells what is different when there is one', () => {
    const file = join(dir, 'image.lock');
    expect(lockOfImage('/state', dir, 'own', spec, INPUT).after(PACKAGES)).toEqual({ lockWritten: file });
    expect(readLock(file)).toEqual(LOCK);
    const newer = { ...PACKAGES, tzdata: { ...PACKAGES.tzdata!, version: '2026b' } };
    expect(lockOfImage('/state', dir, 'own', spec, INPUT).after(newer)).toEqual({ unlocked: [{ name: 'tzdata', from: '2026a~0', to: '2026b' }] });
    expect(readLock(file)).toEqual(LOCK);
    expect(lockOfImage('/state', dir, 'own', { ...spec, arch: 'arm64' }, INPUT).after({})).toEqual({ lockWritten: file });
    expect(readLock(file)?.locked.amd64).toEqual(LOCK.locked.amd64);
  });

  test('cannot be bound to a lock that is not there, or to one of another base', () => {
    expect(() => lockOfImage('/state', dir, 'own', spec, INPUT).packages()).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: `${join(dir, 'image.lock')}: no such file` }));
    expect(() => lockOfImage('/state', dir, 'own', { base: { tree: '/x' }, arch: 'amd64' }, INPUT).packages()).toThrow(expect.objectContaining({ message: expect.stringContaining('only packages of Debian can be locked') }));
  });

  test('fails when anything else was installed, and names each package', () => {
    mustBeLocked('own', PACKAGES, PACKAGES);
    const { git: _git, ...rest } = PACKAGES;
    const got: LockedPackages = { ...rest, tzdata: { ...PACKAGES.tzdata!, sha256: B }, zstd: { version: '1.5', arch: 'amd64', sha256: A } };
    expect(() => mustBeLocked('own', PACKAGES, got)).toThrow(
      expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: 'image own is not what its lock says: git 1:2.47.3-0+deb13u1 was not installed; tzdata 2026a~0 is another file; zstd 1.5 is not in the lock' }),
    );
  });

  test('takes the sha256 of each package from the archive that it was installed from', () => {
    const root = join(dir, 'root');
    mkdirSync(join(root, 'var/lib/dpkg'), { recursive: true });
    const stanza = (name: string, version: string, status: string) => `Package: ${name}\nStatus: ${status}\nArchitecture: amd64\nVersion: ${version}\nDescription: x\n more: than\n .\n it\n`;
    writeFileSync(join(root, 'var/lib/dpkg/status'), [stanza('git', '1:2.4', 'install ok installed'), stanza('gone', '1', 'deinstall ok config-files')].join('\n'));
    expect(debName({ name: 'git', version: '1:2.4', arch: 'amd64' })).toBe('git_1%3a2.4_amd64.deb');
    expect(() => lockOf(readStatus(root), dir)).toThrow(expect.objectContaining({ message: `${join(dir, 'git_1%3a2.4_amd64.deb')}: no such file` }));
    writeFileSync(join(dir, 'git_1%3a2.4_amd64.deb'), 'abc');
    expect(lockOf(readStatus(root), dir)).toEqual({ git: { version: '1:2.4', arch: 'amd64', sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' } });
  });
});

test('stanzas of a control file: the first line of each field, none of what continues it', () => {
  const [one, two] = parseControl('Package: a\nDescription: first\n Homepage: not this\nVersion: 1:2\n\n\nPackage: b\nVersion:3\n');
  expect([one?.get('Version'), one?.get('Homepage'), two?.get('Version')]).toEqual(['1:2', undefined, '3']);
});

describe('serials', () => {
  test('are the time, and more than any before, also when many builds end at once', async () => {
    const images = { list: async () => [] };
    expect(await claimSerial(dir, images, 'own', 5_000_999)).toBe(5000);
    const many = await Promise.all(Array.from({ length: 20 }, () => claimSerial(dir, images, 'own', 5_000_999)));
    expect(new Set(many).size).toBe(20);
    expect(Math.min(...many)).toBe(5001);
    // A clock that went back.
    expect(await claimSerial(dir, images, 'own', 1000)).toBe(Math.max(...many) + 1);
    expect(await claimSerial(dir, images, 'other', 1000)).toBe(1);
  });

  test('count on from manifests that other machines made, and their claims are neither image nor tag', async () => {
    const images = { list: async () => [{ name: 'own', serial: 9000 }] as never };
    expect(await claimSerial(dir, images, 'own', 1000)).toBe(9001);
    const store = createImageStore(dir);
    expect([await store.names(), await store.list(), await store.tags('own')]).toEqual([[], [], {}]);
    expect(readdirSync(join(dir, 'images/own'))).toEqual(['.serial.9001']);
    expect(readFileSync(join(dir, 'images/own/.serial.9001'), 'utf8')).toBe('');
  });
});
