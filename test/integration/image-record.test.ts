// From a finished root to the store: equal roots give equal bytes whenever and wherever they are packed, and the same bytes keep their manifest.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { VerityRef } from '../../src/boot/profile.ts';
import { createImageStore, type ImageManifest } from '../../src/images/manifest.ts';
import { recordImage } from '../../src/images/record.ts';
import { rootContents } from '../../src/images/sbom.ts';
import { addVerity, makeSquashfs } from '../../src/images/squash.ts';
import { verifyImage } from '../../src/images/verify.ts';
import { openWorkshop, type Workshop } from '../../src/images/workshop.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { openDir, removeDir } from '../lab-process.ts';

let dir: string;
const shops: Workshop[] = [];
beforeEach(() => (dir = openDir()));
afterEach(() => {
  for (const shop of shops.splice(0)) shop.close();
  removeDir(dir);
});

const workshop = (state: string): Workshop => {
  const shop = openWorkshop(join(dir, state), 'small', undefined, new AbortController().signal);
  shops.push(shop);
  return shop;
};

/** 600 kB that nothing makes smaller, so that the tree has more than one block. */
const NOISE = Buffer.concat(Array.from({ length: 9600 }, (_, index) => createHash('sha512').update(String(index)).digest()));
const STATUS = 'Package: git\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.4\nMaintainer: Nobody <nobody@example.org>\n';

/** The same files; made in another order and at another time. */
function makeRoot(shop: Workshop, order: 1 | -1, motd = 'hello\n'): string {
  const root = join(shop.dir, 'root');
  const files: [string, string | Buffer][] = [['etc/motd', motd], ['usr/bin/tool', NOISE], ['usr/lib/other', NOISE.subarray(100)], ['var/lib/dpkg/status', STATUS]];
  for (const [path, content] of order === 1 ? files : [...files].reverse()) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), 0o644);
    utimesSync(join(root, path), order === 1 ? 1e9 : 1.7e9, order === 1 ? 1e9 : 1.7e9);
  }
  symlinkSync('usr/lib', join(root, 'lib'));
  return root;
}

async function pack(shop: Workshop, root: string): Promise<{ readonly file: string; readonly verity: VerityRef }> {
  const file = join(shop.dir, 'squashfs');
  await makeSquashfs(root, file, shop, () => undefined);
  return { file, verity: await addVerity(file, shop) };
}

describe('a squashfs with its hash tree', () => {
  test('has the same bytes from two directories, whose files were made in another order and at another time', async () => {
    const [one, other] = [workshop('a'), workshop('b/longer')];
    const [first, second] = [await pack(one, makeRoot(one, 1)), await pack(other, makeRoot(other, -1))];
    expect(second.verity).toEqual(first.verity);
    expect(readFileSync(second.file).equals(readFileSync(first.file))).toBe(true);
    const changed = workshop('c');
    expect((await pack(changed, makeRoot(changed, 1, 'hellO\n'))).verity.rootHash).not.toBe(first.verity.rootHash);
  });

  test('is one that veritysetup verifies from the root hash alone, and one changed bit is found', async () => {
    const shop = workshop('a');
    const { file, verity } = await pack(shop, makeRoot(shop, 1));
    const offset = verity.blocks * 4096;
    const verify = (path: string): string => {
      const argv = ['verify', '--no-superblock', '--format=1', '--hash=sha256', '--data-block-size=4096', '--hash-block-size=4096', '--salt=-', `--data-blocks=${verity.blocks}`, `--hash-offset=${offset}`, path, path, verity.rootHash];
      return spawnSync('veritysetup', argv, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } }).stderr;
    };
    expect(verify(file)).toBe('');
    // Its blocks come first, so it can be mounted as it is.
    expect(execFileSync('unsquashfs', ['-cat', file, 'etc/motd'], { encoding: 'utf8' })).toBe('hello\n');
    for (const at of [offset - 5000, offset + 10]) {
      const bytes = readFileSync(file);
      bytes[at]! ^= 1;
      writeFileSync(join(shop.dir, 'bad'), bytes);
      expect(verify(join(shop.dir, 'bad')), String(at)).toMatch(/corrupt|failed/i);
    }
  });
});

test('a build that comes to the same bytes keeps manifest, serial and SBOM; another one has a higher serial', async () => {
  const state = join(dir, 'a');
  const shop = workshop('a');
  const root = makeRoot(shop, 1);
  for (const file of ['kernel', 'initrd']) writeFileSync(join(shop.dir, file), file);
  const record = async (packed: { readonly file: string; readonly verity: VerityRef }): Promise<ImageManifest> => {
    const files = { kernel: join(shop.dir, 'kernel'), initrd: join(shop.dir, 'initrd'), squashfs: packed.file };
    const contents = { ...rootContents(root, 'amd64'), checksums: {} };
    return recordImage(state, { name: 'small', arch: 'amd64', files, kernelVersion: '6.12', verity: packed.verity, packages: ['git 1:2.4'], input: `sha256:${'1'.repeat(64)}`, builder: 'b/1', lock: `sha256:${'2'.repeat(64)}`, contents });
  };
  const packed = await pack(shop, root);
  const first = await record(packed);
  expect(await record(packed)).toEqual(first);
  expect(first).toMatchObject({ serial: expect.any(Number), verity: packed.verity, sbom: { digest: expect.stringMatching(/^sha256:/) } });
  const sbom = JSON.parse(readFileSync(createBlobStore(state).path(first.sbom!.digest), 'utf8')) as { packages: { name: string; supplier: string }[] };
  expect(sbom.packages.find(({ name }) => name === 'git')).toMatchObject({ supplier: 'Person: Nobody (nobody@example.org)' });
  writeFileSync(join(shop.dir, 'initrd'), 'another');
  const second = await record(packed);
  expect(second.serial).toBeGreaterThan(first.serial!);
  expect(await createImageStore(state).list()).toHaveLength(2);
  for (const manifest of [first, second]) expect(await verifyImage(manifest, createBlobStore(state))).toEqual([]);
});

test('two workshops of one image at once have a log each; one alone has the plain one', () => {
  const [first, second] = [workshop('a'), workshop('a')];
  expect(first.log).toBe(join(dir, 'a/log/image-small.log'));
  expect(second.log).not.toBe(first.log);
  first.close();
  second.close();
  expect(workshop('a').log).toBe(first.log);
});
