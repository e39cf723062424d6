// What `image diff` finds between two builds, from real squashfs files, and the verbs that move, show and remove builds.
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { imageRef } from '../../src/boot/profile.ts';
import { digestOfValue } from '../../src/digest.ts';
import { imageList } from '../../src/commands/image.ts';
import { imageShow } from '../../src/commands/image-show.ts';
import { imageExport, imageImport } from '../../src/commands/image-transfer.ts';
import { imageDiff, imageGc, imageRm, imageTag, imageUntag } from '../../src/commands/image-versions.ts';
import { diffImages, parseListing } from '../../src/images/diff.ts';
import { createImageStore, imageDigest, LATEST, type ImageManifest } from '../../src/images/manifest.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase } from '../../src/store/db.ts';

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'images-diff-'))));
afterEach(() => rmSync(dir, { recursive: true }));

const state = () => join(dir, 'state');
const table = () => ({ state: state(), output: 'table' as const });
const json = () => ({ state: state(), output: 'json' as const });

/** A build whose root is that tree: path -> text, a number for a mode of its own, `->` for a link. */
async function build(tree: Readonly<Record<string, string>>, packages: readonly string[], tags: readonly string[] = [], modes: Readonly<Record<string, number>> = {}): Promise<ImageManifest> {
  const root = mkdtempSync(join(dir, 'root-'));
  for (const [path, text] of Object.entries(tree)) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    if (text.startsWith('->')) symlinkSync(text.slice(2), join(root, path));
    else writeFileSync(join(root, path), text);
    if (!text.startsWith('->')) chmodSync(join(root, path), modes[path] ?? 0o644);
  }
  const file = `${root}.squashfs`;
  execFileSync('mksquashfs', [root, file, '-quiet', '-no-progress', '-all-root', '-mkfs-time', '0', '-all-time', '0'], { stdio: 'pipe', env: { PATH: process.env['PATH'], LD_LIBRARY_PATH: process.env['LD_LIBRARY_PATH'] } });
  // As the hash tree of dm-verity stands there.
  appendFileSync(file, Buffer.alloc(4096, 1));
  writeFileSync(`${file}.initrd`, 'initrd');
  const blobs = createBlobStore(state());
  const [kernel, initrd, squashfs] = [await blobs.add(`${file}.initrd`), await blobs.add(`${file}.initrd`), await blobs.add(file)];
  const content = { arch: 'amd64' as const, kernel: { ...kernel, version: '6.12' }, initrds: [initrd], squashfs: { ...squashfs, chunkSize: 4 << 20, chunks: [] } };
  const image: ImageManifest = { name: 'one', digest: imageDigest(content), ...content, packages, input: kernel.digest, builder: 'test/1', builtAt: Date.now() };
  const store = createImageStore(state());
  await store.put(image);
  for (const tag of tags) await store.tag('one', tag, image.digest);
  return image;
}

const A = { 'etc/motd': 'hello\n', 'etc/link': '->motd', 'usr/bin/tool': 'x'.repeat(1000), 'usr/share/gone/README': 'old' };
const B = { 'etc/motd': 'hello!\n', 'etc/link': '->issue', 'usr/bin/tool': 'x'.repeat(1000), 'usr/bin/a -> b': 'no link' };
const both = async () => [await build(A, ['git 1', 'libc6 2.41-1', 'vim 9'], ['2026-11-20']), await build(B, ['git 1', 'libc6 2.41-2', 'nano 8'], ['2026-11-21', LATEST], { 'usr/bin/tool': 0o755 })] as const;

describe('image diff', () => {
  test('names packages that came, went and changed, files by size, mode, target, and the sizes of both', async () => {
    const [a, b] = await both();
    const diff = await diffImages(state(), a, b);
    expect(diff.packages).toEqual([{ what: 'libc6', before: '2.41-1', after: '2.41-2' }, { what: 'nano', after: '8' }, { what: 'vim', before: '9' }]);
    const file = (size: number, mode = '-rw-r--r--') => ({ mode, owner: '0/0', size });
    const link = (target: string) => ({ mode: 'lrwxrwxrwx', owner: '0/0', target });
    const directory = { mode: 'drwxr-xr-x', owner: '0/0' };
    expect(diff.files).toEqual([
      { what: '/etc/link', before: link('motd'), after: link('issue') },
      { what: '/etc/motd', before: file(6), after: file(7) },
      { what: '/usr/bin/a -> b', after: file(7) },
      { what: '/usr/bin/tool', before: file(1000), after: file(1000, '-rwxr-xr-x') },
      { what: '/usr/share', before: directory },
      { what: '/usr/share/gone', before: directory },
      { what: '/usr/share/gone/README', before: file(3) },
    ]);
    expect(diff.sizes.map(({ what, same }) => [what, same])).toEqual([['vmlinuz', true], ['initrd', true], ['root.squashfs', false]]);
  });

  test('as a table, as JSON and as YAML', async () => {
    await both();
    const text = await imageDiff('one:2026-11-20', 'one', table());
    expect(text).toMatch(/^one@sha256:[0-9a-f]{12} -> one@sha256:[0-9a-f]{12}\n/);
    expect(text).toMatch(/\npackages: 1 added, 1 removed, 1 changed\nPACKAGE +BEFORE +AFTER\nlibc6 +2\.41-1 +2\.41-2\nnano +- +8\nvim +9 +-\n/);
    expect(text).toMatch(/\nfiles: 1 added, 3 removed, 3 changed\n/);
    expect(text).toMatch(/\n\/usr\/bin\/tool +-rw-r--r-- 0\/0 1000 +-rwxr-xr-x 0\/0 1000\n/);
    const value = JSON.parse(await imageDiff('one:2026-11-20', 'one', json()));
    expect(value.packages).toHaveLength(3);
    expect(parse(await imageDiff('one:2026-11-20', 'one', { ...json(), output: 'yaml' }))).toEqual(value);
    expect(JSON.parse(await imageDiff('one:2026-11-20', 'one', { ...json(), files: false }))).not.toHaveProperty('files');
    expect(await imageDiff('one', 'one:latest', table())).toMatch(/: the same build\n[^]*packages: the same 3\n\nfiles: the same/);
  });

  test('a squashfs that is no squashfs is told', async () => {
    const [a, b] = await both();
    const path = createBlobStore(state()).path(b.squashfs.digest);
    chmodSync(path, 0o644);
    writeFileSync(path, 'no squashfs');
    await expect(diffImages(state(), a, b)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN', message: expect.stringContaining(path) });
    expect((await diffImages(state(), a, b, false)).packages).toHaveLength(3);
  });

  test.each([
    ['-rwsr-xr-x 0/0               1234 2025-01-01 00:00 /usr/bin/su', '/usr/bin/su', { mode: '-rwsr-xr-x', owner: '0/0', size: 1234 }],
    ['crw-r--r-- 0/5            1,  3 2025-01-01 00:00 /dev/null', '/dev/null', { mode: 'crw-r--r--', owner: '0/5' }],
    ['drwxr-xr-x 0/0                 63 2025-01-01 00:00 ', '/', { mode: 'drwxr-xr-x', owner: '0/0' }],
    ['lrwxrwxrwx 0/0                 7 2025-01-01 00:00 /bin -> usr/bin', '/bin', { mode: 'lrwxrwxrwx', owner: '0/0', target: 'usr/bin' }],
  ])('%s', (line, path, file) => {
    expect(parseListing(line)).toEqual([path, file]);
  });
});

describe('tags', () => {
  test('move, go, and are shown; a build may be named by the first digits of its digest', async () => {
    const [a, b] = await both();
    expect(await imageTag(`one@${a.digest.slice(0, 19)}`, 'stable', table())).toMatch(/^one:stable names sha256:[0-9a-f]{12}; profiles/);
    expect(await imageTag('one', 'stable', table())).toContain(`, and ${a.digest.slice(0, 19)} no more;`);
    expect(await imageList(table())).toMatch(/^NAME +TAGS +DIGEST[^\n]*\none +2026-11-21,latest,stable +sha256:/);
    expect(JSON.parse(await imageUntag('one:stable', json())).tags).toEqual(['2026-11-21', LATEST]);
    await expect(imageUntag('one:stable', table())).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
    await expect(imageUntag('one', table())).rejects.toMatchObject({ code: 'USAGE' });
    await expect(imageTag('one', '../x', table())).rejects.toMatchObject({ code: 'USAGE' });
    await expect(imageShow('one@sha256:123', table())).rejects.toMatchObject({ code: 'USAGE' });
    await expect(imageShow('on', table())).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN', hint: 'did you mean one?' });
    expect(JSON.parse(await imageShow(`one@${b.digest.slice(7, 15)}`, json())).digest).toBe(b.digest);
  });

  test('image show has every file with its size, and says which one is lost', async () => {
    const [, b] = await both();
    rmSync(createBlobStore(state()).path(b.squashfs.digest));
    const text = await imageShow('one', table());
    expect(text).toMatch(/^image +one\ndigest +sha256:[0-9a-f]{64}\ntags +2026-11-21, latest\n/);
    expect(text).toMatch(/\nused by +nobody\n/);
    expect(text).toMatch(/\nkernel +6 B +sha256:[0-9a-f]{64} +yes\n[^]*\nsquashfs +\d[^\n]* +LOST\n$/);
    expect(await imageShow('one', { ...table(), output: 'wide' })).toMatch(/\n\ngit 1\nlibc6 2\.41-2\nnano 8\n$/);
  });
});

describe('image rm', () => {
  test('refuses what a node runs, and says which; what has more tags; and a name alone', async () => {
    const [a] = await both();
    const database = openDatabase(join(state(), 'rackseed.db'));
    const boots = createBootStore(database);
    const bootSet = { image: imageRef(a), cmdline: [], root: { state: 'none' as const }, artifacts: {}, vars: {} };
    await boots.start({ id: 'A', node: 'n1', mac: '52:54:00:00:00:01', profile: 'p', generation: digestOfValue('g'), startedAt: 1 });
    await boots.fixBootSet('A', digestOfValue(bootSet), bootSet, { profile: 'p', generation: digestOfValue('g') });
    await boots.end('A', 'ready', 2);
    await expect(imageRm(['one:2026-11-20'], table())).rejects.toMatchObject({ code: 'IMAGE_IN_USE', message: 'one:2026-11-20 is used by node n1, which runs on it; node n1, which was last good on it' });
    expect(await imageShow('one:2026-11-20', table())).toMatch(/\nused by +node n1, which runs on it; /);
    await database.write((sqlite) => sqlite.exec('DELETE FROM boots; DELETE FROM node_systems'));
    await database.close();
    await expect(imageRm(['one:2026-11-20', 'one:2026-11-21'], table())).rejects.toMatchObject({ code: 'IMAGE_IN_USE', message: 'one:2026-11-21 has more tags: latest' });
    await expect(imageRm(['one'], table())).rejects.toMatchObject({ code: 'USAGE' });
    expect(await createImageStore(state()).list()).toHaveLength(2);
    expect(await imageRm(['one:2026-11-20', `one@${(await createImageStore(state()).get('one'))!.digest}`], table())).toMatch(/^removed; rackseed image gc/);
    expect(await createImageStore(state()).tags('one')).toEqual({});
    expect(await createImageStore(state()).list()).toEqual([]);
  });
});

describe('image gc, export and import', () => {
  test('say what they did', async () => {
    await both();
    expect(await imageGc({ ...table(), dryRun: true, keep: '0' })).toMatch(/^would remove 0 builds and 0 blobs: 0 B\nNAME[^]*built within the last hour\n/);
    expect(JSON.parse(await imageGc({ ...json(), dryRun: true }))).toMatchObject({ dryRun: true, bytes: 0, blobs: [], builds: [{ removed: false }, { removed: false }] });
    await expect(imageGc({ ...table(), keep: 'all' })).rejects.toMatchObject({ code: 'USAGE' });
    const file = join(dir, 'two.tar');
    expect(await imageExport(['one', 'one:2026-11-20', file], table())).toMatch(/two\.tar: [\d.]+ KiB; rackseed image import takes it\nNAME[^]*2026-11-20[^]*$/);
    await expect(imageExport([file], table())).rejects.toMatchObject({ code: 'USAGE' });
    await expect(imageExport(['one', join(dir, 'two')], table())).rejects.toMatchObject({ code: 'USAGE' });
    expect(await imageExport(['one'], { ...table(), oci: join(dir, 'layout') })).toContain('layout: ');
    mkdirSync(join(dir, 'there'));
    const there = { state: join(dir, 'there'), output: 'table' as const };
    expect(await imageImport(file, there)).toMatch(/^verified by digest; nobody was asked who made it[^\n]*\nNAME[^]*imported +2026-11-20 +-\n/);
    expect(await imageImport(join(dir, 'layout'), there)).toMatch(/was here already +2026-11-21,latest +-\n$/);
    expect(await imageList(there)).toBe(await imageList(table()));
  });
});
