// A lock against a mirror that moves on: real .debs, a real apt. What mmdebstrap then does with the pins is tested in e2e/image-locked.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { sha256Hex } from '../../src/digest.ts';
import { openApt } from '../../src/images/apt.ts';
import { pinned } from '../../src/images/locked.ts';
import type { LockedPackage, LockedPackages } from '../../src/images/lock.ts';
import { openWorkshop, type Workshop } from '../../src/images/workshop.ts';
import { openDir, removeDir } from '../lab-process.ts';

let dir: string;
let mirror: string;
let shop: Workshop;
/** By `name version`. */
const made = new Map<string, LockedPackage & { readonly file: string }>();

beforeAll(() => {
  dir = openDir();
  mirror = join(dir, 'mirror');
  mkdirSync(mirror);
  deb('base-files', '13', 'Essential: yes\nPriority: required\n');
  deb('login', '1:4.16', 'Priority: required\n');
  deb('git', '1:2.47-1', 'Depends: libz (>= 1)\n');
  deb('git', '1:2.47-2', 'Depends: libz (>= 1)\n');
  deb('libz', '1.3', '');
  deb('unused', '1', '');
});
afterAll(() => removeDir(dir));
beforeEach(() => {
  shop?.close();
  shop = openWorkshop(join(dir, 'state'), 'own', undefined, new AbortController().signal);
});
afterAll(() => shop.close());

function deb(name: string, version: string, more: string): void {
  const tree = join(dir, 'tree');
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
  writeFileSync(join(tree, 'DEBIAN/control'), `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\n${more}Description: ${name}\n`);
  const file = join(dir, `${name}_${version.replace(':', '%3a')}_amd64.deb`);
  execFileSync('dpkg-deb', ['--root-owner-group', '--build', tree, file], { stdio: 'ignore' });
  rmSync(tree, { recursive: true });
  made.set(`${name} ${version}`, { version, arch: 'amd64', sha256: sha256Hex(readFileSync(file)), file });
}

/** The mirror has these and no others, now; the lines of sources.list for it. */
function offer(...names: string[]): string {
  for (const file of readdirSync(mirror)) rmSync(join(mirror, file));
  const stanzas = names.map((name) => {
    const { file, sha256 } = made.get(name)!;
    const to = `${name.replace(/[ :]/g, '_')}.deb`;
    copyFileSync(file, join(mirror, to));
    return `${execFileSync('dpkg-deb', ['--field', file], { encoding: 'utf8' })}Filename: ./${to}\nSize: ${readFileSync(file).length}\nSHA256: ${sha256}\n`;
  });
  writeFileSync(join(mirror, 'Packages'), stanzas.join('\n'));
  writeFileSync(join(mirror, 'Release'), `Suite: trixie\nCodename: trixie\nDate: Wed, 01 Jan 2025 00:00:00 GMT\nSHA256:\n ${sha256Hex(stanzas.join('\n'))} ${Buffer.byteLength(stanzas.join('\n'))} Packages\n`);
  return `deb [trusted=yes] copy:${mirror} ./\n`;
}

const ALL = ['base-files 13', 'login 1:4.16', 'git 1:2.47-1', 'git 1:2.47-2', 'libz 1.3', 'unused 1'];
const locked = (...names: string[]): LockedPackages =>
  Object.fromEntries(
    names.map((name) => {
      const { version, arch, sha256 } = made.get(name)!;
      return [name.split(' ')[0]!, { version, arch, sha256 }];
    }),
  );

describe('apt, asked for an empty root', () => {
  test('takes the newest of what is wanted, what it depends on and what every system has, and nothing of this machine', async () => {
    const apt = await openApt(shop, { sources: offer(...ALL), arch: 'amd64' });
    expect(await apt.resolve('trixie', ['git'])).toEqual(locked('base-files 13', 'login 1:4.16', 'git 1:2.47-2', 'libz 1.3'));
    expect(await apt.available(['git', 'nosuch'])).toEqual(new Map([['git', [locked('git 1:2.47-2')['git'], locked('git 1:2.47-1')['git']]]]));
  });

  test('says what it cannot find, and that the mirror cannot be read', async () => {
    const apt = await openApt(shop, { sources: offer('base-files 13', 'login 1:4.16', 'git 1:2.47-1'), arch: 'amd64' });
    await expect(apt.resolve('trixie', ['nosuch'])).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: 'apt-get: Unable to locate package nosuch' });
    await expect(openApt(shop, { sources: `deb [trusted=yes] copy:${dir}/nowhere ./\n`, arch: 'amd64' })).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringContaining('nowhere') });
  });
});

describe('a lock', () => {
  const at = (sources: string) => ({ image: 'own', lock: '/etc/rackseed/images/own/image.lock', suite: 'trixie', arch: 'amd64', sources, debs: join(dir, 'debs') });
  /** What apt would take with the pins, asked as mmdebstrap asks. */
  async function taken(sources: string): Promise<string[]> {
    const pins = join(shop.dir, 'pins');
    const own = join(pins, 'sources.list.d/rackseed-lock.list');
    await openApt(shop, { sources: sources + (existsSync(own) ? readFileSync(own, 'utf8') : ''), arch: 'amd64' });
    const config = join(shop.dir, 'apt-private/apt.conf');
    writeFileSync(config, readFileSync(config, 'utf8').replace('Dir::Etc::preferencesparts "/dev/null"', `Dir::Etc::preferencesparts "${join(pins, 'preferences.d')}"`));
    const said = execFileSync('apt-get', ['install', '-qq', '--yes', '--simulate', '?essential', '?priority(required)', 'git'], { encoding: 'utf8', env: { ...process.env, APT_CONFIG: config } });
    return [...said.matchAll(/^Inst (\S+) \((\S+) /gm)].map((match) => `${match[1]} ${match[2]}`).sort();
  }

  test('binds apt to its versions, although the mirror has newer ones', async () => {
    const sources = offer(...ALL);
    const options = await pinned(shop, locked('base-files 13', 'login 1:4.16', 'git 1:2.47-1', 'libz 1.3'), at(sources));
    expect(options.every((option) => /^--(setup|customize)-hook=/.test(option))).toBe(true);
    expect(await taken(sources)).toEqual(['base-files 13', 'git 1:2.47-1', 'libz 1.3', 'login 1:4.16']);
  });

  test('keeps out what it does not have, also when something needs it', async () => {
    const sources = offer(...ALL);
    await pinned(shop, locked('base-files 13', 'login 1:4.16', 'git 1:2.47-1'), at(sources));
    await expect(taken(sources)).rejects.toThrow();
  });

  test('names each package that is gone, with the version that there is now, before anything is built', async () => {
    const sources = offer('base-files 13', 'git 1:2.47-2');
    await expect(pinned(shop, locked('base-files 13', 'git 1:2.47-1', 'libz 1.3'), at(sources))).rejects.toMatchObject({
      code: 'IMAGE_BUILD_FAILED',
      message: 'image own: git 1:2.47-1 is gone from the mirror (it has 1:2.47-2 now); libz 1.3 is gone from the mirror (it has no such package now)',
      hint: expect.stringContaining('rackseed image update own'),
    });
    const { git } = locked('git 1:2.47-2');
    await expect(pinned(shop, { git: { ...git!, sha256: 'f'.repeat(64) } }, at(sources))).rejects.toMatchObject({ message: expect.stringContaining('it has another file under this version') });
  });

  test('takes what is gone from the packages of earlier builds, if it is the very same file', async () => {
    const sources = offer('base-files 13', 'login 1:4.16', 'git 1:2.47-2', 'libz 1.3');
    const old = made.get('git 1:2.47-1')!;
    mkdirSync(join(dir, 'debs'), { recursive: true });
    const kept = join(dir, 'debs/git_1%3a2.47-1_amd64.deb');
    copyFileSync(old.file, kept);
    const lock = locked('base-files 13', 'login 1:4.16', 'git 1:2.47-1', 'libz 1.3');
    await pinned(shop, lock, at(sources));
    expect(await taken(sources)).toEqual(['base-files 13', 'git 1:2.47-1', 'libz 1.3', 'login 1:4.16']);
    // As long, and not the same.
    const bytes = readFileSync(kept);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(kept, bytes);
    await expect(pinned(shop, lock, at(sources))).rejects.toMatchObject({ message: expect.stringContaining('git 1:2.47-1 is gone from the mirror') });
  });
});
