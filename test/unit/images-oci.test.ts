// Container images as bases: real archives made by tar, layers over layers, whiteouts, and archives that were made to get out of the root.
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, linkSync, lstatSync, mkdirSync, mkdtempSync, openSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync, chmodSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { ociIdentity, ociRoot } from '../../src/images/base-oci.ts';
import { flatten } from '../../src/images/layers.ts';
import { tarEntries, writeEnd, writeEntry, type TarEntry, type TarType } from '../../src/images/layer-tar.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'images-oci-'))));
afterEach(() => rmSync(dir, { recursive: true }));

type Made = readonly [path: string, type?: Exclude<TarType, 'device'>, text?: string];

/** An archive with just these entries, whatever sense they make. */
function archive(name: string, entries: readonly Made[]): string {
  const file = join(dir, name);
  const fd = openSync(file, 'w');
  for (const [path, type = 'file', text = ''] of entries) {
    const content = join(dir, 'content');
    writeFileSync(content, type === 'file' ? text : '');
    const data = openSync(content, 'r');
    writeEntry(fd, { path, type, mode: type === 'dir' ? 0o755 : 0o644, uid: 0, gid: 0, mtime: 1, target: type === 'file' ? '' : text, xattrs: new Map(), data: { fd: data, offset: 0, size: type === 'file' ? text.length : 0 } });
    closeSync(data);
  }
  writeEnd(fd);
  closeSync(fd);
  return file;
}

/** What comes out of these layers, unpacked: path -> text, `-> target`, or `/` for a directory. */
function rootOf(...files: readonly string[]): Record<string, string> {
  const fds = files.map((file) => openSync(file, 'r'));
  const to = join(dir, 'flat.tar');
  try {
    flatten(fds.map((fd, index) => ({ fd, offset: 0, size: statSync(files[index]!).size })), to);
  } finally {
    for (const fd of fds) closeSync(fd);
  }
  return unpack(to);
}

function unpack(tar: string): Record<string, string> {
  const root = join(dir, 'root');
  rmSync(root, { recursive: true, force: true });
  mkdirSync(root);
  execFileSync('tar', ['--numeric-owner', '-xpf', tar, '-C', root]);
  const paths = execFileSync('find', ['.', '-mindepth', '1', '-printf', '%P\\0'], { cwd: root, encoding: 'utf8' }).split('\0').filter(Boolean).sort();
  return Object.fromEntries(paths.map((path): [string, string] => {
    const found = lstatSync(join(root, path));
    return [path, found.isDirectory() ? '/' : found.isSymbolicLink() ? `-> ${readlinkSync(join(root, path))}` : readFileSync(join(root, path), 'utf8')];
  }));
}

describe('layers', () => {
  test('lie over each other: files replace, directories merge, links are followed inside of the root', () => {
    const one = archive('1', [['etc', 'dir'], ['etc/a', 'file', 'one'], ['etc/b', 'file', 'one'], ['usr/lib', 'dir'], ['lib', 'symlink', 'usr/lib'], ['abs', 'symlink', '/usr/lib'], ['etc/abs', 'symlink', '/usr/lib'], ['etc/up', 'symlink', '../usr/lib']]);
    const two = archive('2', [['./etc/', 'dir'], ['./etc/b', 'file', 'two'], ['lib/c', 'file', 'two'], ['abs/d', 'file', 'two'], ['etc/abs/e', 'file', 'two'], ['etc/up/f', 'file', 'two'], ['etc/a/', 'dir'], ['/x', 'file', 'two']]);
    expect(rootOf(one, two)).toEqual({ abs: '-> /usr/lib', etc: '/', 'etc/a': '/', 'etc/abs': '-> /usr/lib', 'etc/b': 'two', 'etc/up': '-> ../usr/lib', lib: '-> usr/lib', usr: '/', 'usr/lib': '/', 'usr/lib/c': 'two', 'usr/lib/d': 'two', 'usr/lib/e': 'two', 'usr/lib/f': 'two', x: 'two' });
  });

  test('hide what is below them, and never what they have themselves', () => {
    const one = archive('1', [['a', 'file', '1'], ['d/x', 'file', '1'], ['d/deep/y', 'file', '1'], ['e/z', 'file', '1'], ['f', 'dir']]);
    const two = archive('2', [['a', 'file', '2'], ['.wh.a', 'file'], ['d/new', 'file', '2'], ['d/.wh..wh..opq', 'file'], ['e/.wh.z', 'file'], ['.wh.f', 'file'], ['.wh.missing', 'file'], ['g/.wh..wh..opq', 'file']]);
    expect(rootOf(one, two)).toEqual({ a: '2', d: '/', 'd/new': '2', e: '/' });
    // What is hidden in the middle comes back by a later layer.
    expect(rootOf(one, two, archive('3', [['f/x', 'file', '3']]))).toMatchObject({ 'f/x': '3' });
  });

  test('have hard links, to lower layers too; the file that is replaced later keeps its other name', () => {
    const one = archive('1', [['a', 'file', 'one'], ['b', 'link', 'a']]);
    const two = archive('2', [['c', 'link', './a'], ['a', 'file', 'two']]);
    expect(rootOf(one, two)).toEqual({ a: 'two', b: 'one', c: 'one' });
    expect([lstatSync(join(dir, 'root/b')).ino === lstatSync(join(dir, 'root/c')).ino, lstatSync(join(dir, 'root/a')).nlink]).toEqual([true, 1]);
  });

  test('keep modes, owners, times, long names and attributes as GNU tar wrote them', () => {
    const tree = join(dir, 'tree');
    const long = `${'long/'.repeat(30)}${'n'.repeat(90)}`;
    mkdirSync(dirname(join(tree, long)), { recursive: true });
    writeFileSync(join(tree, long), 'deep');
    writeFileSync(join(tree, 'umläut'), 'x');
    linkSync(join(tree, long), join(tree, 'again'));
    symlinkSync(`/${'t'.repeat(120)}`, join(tree, 'link'));
    chmodSync(join(tree, 'umläut'), 0o4751);
    for (const format of ['gnu', 'pax', 'ustar'] as const) {
      if (format === 'ustar') for (const name of ['link']) rmSync(join(tree, name), { force: true });
      const file = join(dir, `${format}.tar`);
      execFileSync('tar', [`--format=${format}`, '--owner=1234:7', '--group=2345:8', '--mtime=@1000', '-cf', file, '-C', tree, '.']);
      const found = rootOf(file);
      expect(found).toMatchObject({ [long]: 'deep', again: 'deep', umläut: 'x', ...(format === 'ustar' ? {} : { link: `-> /${'t'.repeat(120)}` }) });
      const { mode, uid, gid, mtimeMs, nlink } = lstatSync(join(dir, 'root/umläut'));
      expect([mode & 0o7777, mtimeMs, nlink]).toEqual([0o4751, 1_000_000, 1]);
      if (process.getuid?.() === 0) expect([uid, gid]).toEqual([7, 8]);
      expect(lstatSync(join(dir, 'root/again')).nlink).toBe(2);
    }
  });

  test.each<[string, readonly Made[], RegExp]>([
    ['climbs', [['../../evil', 'file', 'x']], /layer 2: \.\.\/\.\.\/evil: leads out of the root/],
    ['climbs on the way', [['a/../../evil', 'file', 'x']], /leads out of the root/],
    ['links to a file outside', [['evil', 'link', '../../../etc/passwd']], /leads out of the root/],
    ["links to a file of the builder's machine", [['evil', 'link', '/etc/passwd']], /evil: a hard link to \/etc\/passwd, which is not there/],
    ['hides the directory above', [['a/.wh...', 'file']], /a whiteout of nothing/],
    ['hides nothing', [['.wh.', 'file']], /a whiteout of nothing/],
    ['puts a file below a file', [['file/x', 'file', 'x']], /file\/x: file is no directory/],
    ['goes round in a circle', [['p', 'symlink', 'q'], ['q', 'symlink', 'p'], ['p/x', 'file', 'x']], /p\/x: links go round in a circle/],
  ])('that %s is refused', (_what, entries, message) => {
    const one = archive('1', [['file', 'file', 'x'], ['a', 'dir']]);
    expect(() => rootOf(one, archive('2', entries))).toThrow(message);
    expect(existsSync(join(dir, 'evil'))).toBe(false);
  });

  test('whose links lead out of the root stay in it', () => {
    mkdirSync(join(dir, 'host'));
    const one = archive('1', [['out', 'symlink', join(dir, 'host')], ['up', 'symlink', '../../../../../../../..'], ['etc/x', 'file', 'x']]);
    const two = archive('2', [['out/evil', 'file', 'x'], [`up${dir}/host/evil`, 'file', 'x'], ['out/.wh.nothing', 'file']]);
    const found = rootOf(one, two);
    expect(found[`${dir.slice(1)}/host/evil`]).toBe('x');
    expect(existsSync(join(dir, 'host/evil'))).toBe(false);
  });

  test('that are no archives, damaged or cut off are refused, and so is what cannot be read', () => {
    const good = readFileSync(archive('1', [['a', 'file', 'x'.repeat(2000)], ['b', 'file', 'y']]));
    const bad = (bytes: Buffer) => {
      writeFileSync(join(dir, 'bad'), bytes);
      return () => rootOf(join(dir, 'bad'));
    };
    expect(bad(Buffer.from('no archive at all'.repeat(100)))).toThrow('layer 1: not a tar archive');
    expect(bad(good.subarray(0, 1024))).toThrow('layer 1: cut off in "a"');
    expect(bad(good.subarray(0, 3000))).toThrow(/cut off/);
    const flipped = Buffer.from(good);
    flipped[3 * 512 + 2048 + 0] = 0x7a;
    expect(bad(flipped)).toThrow(/damaged at byte|not a tar archive/);
    const sparse = Buffer.from(good);
    sparse[156] = 'S'.charCodeAt(0);
    let sum = 0;
    for (let at = 0; at < 512; at++) sum += at >= 148 && at < 156 ? 32 : sparse[at]!;
    sparse.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    expect(bad(sparse)).toThrow('layer 1: a: a sparse file, which only GNU tar can read');
  });

  test('are read as they were written', () => {
    const file = archive('1', [['a', 'file', 'text'], ['b'.repeat(150), 'symlink', 'ü']]);
    const fd = openSync(file, 'r');
    const entries: TarEntry[] = [...tarEntries({ fd, offset: 0, size: statSync(file).size })];
    closeSync(fd);
    expect(entries.map(({ path, type, target, mode }) => [path, type, target, mode])).toEqual([['a', 'file', '', 0o644], ['b'.repeat(150), 'symlink', 'ü', 0o644]]);
  });
});

/** An OCI layout of these layers, as a directory; `change` may spoil the documents before their digests are taken. */
function layout(layers: readonly Buffer[], { arch = 'amd64', pack = (bytes: Buffer): Buffer => bytes, diffIds = layers.map((layer) => digestOfBytes(layer)), more = [] as object[] } = {}): string {
  const at = join(dir, 'layout');
  rmSync(at, { recursive: true, force: true });
  mkdirSync(join(at, 'blobs/sha256'), { recursive: true });
  const blob = (bytes: Buffer) => {
    const digest = digestOfBytes(bytes);
    writeFileSync(join(at, 'blobs/sha256', hexOf(digest)), bytes);
    return { digest, size: bytes.length };
  };
  const json = (value: object) => blob(Buffer.from(JSON.stringify(value)));
  const config = json({ architecture: arch, os: 'linux', rootfs: { type: 'layers', diff_ids: diffIds } });
  const manifest = json({ schemaVersion: 2, config, layers: layers.map((layer) => blob(pack(layer))) });
  const attestation = json({ schemaVersion: 2, config: json({}), layers: [] });
  const index = json({ schemaVersion: 2, manifests: [{ ...manifest, platform: { architecture: arch, os: 'linux' } }, { ...attestation, platform: { architecture: 'unknown', os: 'unknown' } }, ...more] });
  writeFileSync(join(at, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [index] }));
  writeFileSync(join(at, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return at;
}

const LAYERS = () => [readFileSync(archive('1', [['etc/a', 'file', 'one'], ['etc/b', 'file', 'one']])), readFileSync(archive('2', [['etc/.wh.a', 'file'], ['etc/c', 'file', 'two']]))];
const RESULT = { etc: '/', 'etc/b': 'one', 'etc/c': 'two' };

async function fromImage(path: string, arch: 'amd64' | 'arm64' = 'amd64'): Promise<Record<string, string>> {
  const to = join(dir, 'out.tar');
  const scratch = join(dir, 'scratch');
  mkdirSync(scratch, { recursive: true });
  await ociRoot(path, arch, scratch, to);
  return unpack(to);
}

describe('an OCI layout', () => {
  const zstd = (bytes: Buffer): Buffer => execFileSync('zstd', ['-q', '-c'], { input: bytes });

  test.each([
    ['plain', (bytes: Buffer) => bytes],
    ['gzip', (bytes: Buffer) => gzipSync(bytes)],
    ['zstd', zstd],
  ])('is a root, with layers by %s, as directory and as archive', async (_how, pack) => {
    const at = layout(LAYERS(), { pack });
    expect(await fromImage(at)).toEqual(RESULT);
    execFileSync('tar', ['-cf', join(dir, 'os.tar'), '-C', at, '.']);
    expect(await fromImage(join(dir, 'os.tar'))).toEqual(RESULT);
    expect(ociIdentity(join(dir, 'os.tar'))).toBe(ociIdentity(at));
  });

  test('is known by its content', () => {
    const one = ociIdentity(layout(LAYERS()));
    expect(ociIdentity(layout(LAYERS().slice(0, 1)))).not.toBe(one);
    expect(ociIdentity(layout(LAYERS()))).toBe(one);
  });

  test.each<[string, () => string, RegExp]>([
    ['of another processor', () => layout(LAYERS(), { arch: 'arm64' }), /has no image for linux on amd64, and must have one/],
    ['with a layer that another has replaced', () => layout(LAYERS(), { diffIds: [`sha256:${'0'.repeat(64)}`, `sha256:${'0'.repeat(64)}`] }), /layer 1: unpacked it is sha256:.*, and the configuration says sha256:0000/],
    ['with fewer layers than it says', () => layout(LAYERS(), { diffIds: [`sha256:${'0'.repeat(64)}`] }), /has 2 layers, and its configuration says 1/],
    ['with a byte flipped in a layer', () => spoiled(3, (bytes) => (bytes[700]! ^= 1)), /layer 1: sha256:.*: its content has another digest/],
    ['that was cut', () => spoiled(3, (bytes) => bytes.subarray(0, 600)), /layer 1 sha256:.* has 600 bytes, not/],
    ['that lacks a layer', () => spoiled(3, () => undefined), /layer 1 sha256:.* is not in it/],
    ['whose manifest was changed', () => spoiled(2, (bytes) => (bytes[10]! ^= 1)), /manifest sha256:.*: its content has another digest/],
    ['whose digests are paths', () => evilDigest(), /manifest: "sha256:\.\.\/\.\.\/etc\/passwd" is no sha256 digest/],
    ['that is none', () => (mkdirSync(join(dir, 'empty')), join(dir, 'empty')), /empty: has no manifest\.json/],
    ['that is compressed as a whole', () => (writeFileSync(join(dir, 'os.tar.gz'), gzipSync('x')), join(dir, 'os.tar.gz')), /is compressed: unpack it first/],
    ['that is no archive', () => (writeFileSync(join(dir, 'os.txt'), 'hello'.repeat(300)), join(dir, 'os.txt')), /os\.txt: not a tar archive/],
  ])('%s is refused', async (_what, make, message) => {
    await expect(fromImage(make())).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(message) as string, hint: expect.stringContaining('base.oci') as string });
  });

  /** The layout with one blob changed: 1 index, 2 manifest, 3 the first layer. */
  function spoiled(which: 2 | 3, change: (bytes: Buffer) => unknown): string {
    const at = layout(LAYERS());
    const read = (digest: string): { manifests?: { digest: string }[]; layers?: { digest: string }[] } => JSON.parse(readFileSync(join(at, 'blobs/sha256', hexOf(digest)), 'utf8')) as { manifests?: { digest: string }[]; layers?: { digest: string }[] };
    const top = (JSON.parse(readFileSync(join(at, 'index.json'), 'utf8')) as { manifests: { digest: string }[] }).manifests[0]!.digest;
    const manifest = read(top).manifests![0]!.digest;
    const file = join(at, 'blobs/sha256', hexOf(which === 2 ? manifest : read(manifest).layers![0]!.digest));
    const bytes = readFileSync(file);
    const after = change(bytes);
    if (after === undefined) rmSync(file);
    else writeFileSync(file, Buffer.isBuffer(after) ? after : bytes);
    return at;
  }

  function evilDigest(): string {
    const at = layout(LAYERS());
    writeFileSync(join(at, 'index.json'), JSON.stringify({ manifests: [{ digest: 'sha256:../../etc/passwd', size: 1 }] }));
    return at;
  }

  test('with two images for this processor is refused', async () => {
    const first = layout(LAYERS());
    const index = JSON.parse(readFileSync(join(first, 'index.json'), 'utf8')) as { manifests: object[] };
    writeFileSync(join(first, 'index.json'), JSON.stringify({ manifests: [...index.manifests, ...index.manifests] }));
    await expect(fromImage(first)).rejects.toMatchObject({ message: expect.stringMatching(/has 2 images for linux on amd64/) as string });
  });
});

describe('an archive of docker save, as older Dockers make it', () => {
  function saved({ arch = 'amd64', list = (entry: object): object[] => [entry] } = {}): string {
    const at = join(dir, 'saved');
    mkdirSync(at, { recursive: true });
    const layers = LAYERS();
    const config = JSON.stringify({ architecture: arch, rootfs: { type: 'layers', diff_ids: layers.map((layer) => digestOfBytes(layer)) } });
    const hex = hexOf(digestOfBytes(config));
    writeFileSync(join(at, `${hex}.json`), config);
    for (const [index, layer] of layers.entries()) {
      mkdirSync(join(at, `l${index}`), { recursive: true });
      writeFileSync(join(at, `l${index}/layer.tar`), layer);
    }
    // As for a layer that two images share.
    mkdirSync(join(at, 'shared'), { recursive: true });
    rmSync(join(at, 'shared/layer.tar'), { force: true });
    symlinkSync('../l1/layer.tar', join(at, 'shared/layer.tar'));
    writeFileSync(join(at, 'manifest.json'), JSON.stringify(list({ Config: `${hex}.json`, RepoTags: ['os:latest'], Layers: ['l0/layer.tar', 'shared/layer.tar'] })));
    execFileSync('tar', ['-cf', join(dir, 'saved.tar'), '-C', at, '.']);
    return join(dir, 'saved.tar');
  }

  test('is a root', async () => {
    expect(await fromImage(saved())).toEqual(RESULT);
  });

  test.each([
    ['for another processor', { arch: 'arm64' }, /is for arm64, not for amd64/],
    ['of several images', { list: (entry: object) => [entry, entry] }, /has 2 images, and must have one/],
    ['whose configuration has another name', { list: (entry: object) => [{ ...entry, Config: 'manifest.json' }] }, /configuration manifest\.json: its content has another digest/],
    ['without a layer', { list: (entry: object) => [{ ...entry, Layers: ['l0/layer.tar', 'l9/layer.tar'] }] }, /layer l9\/layer\.tar is not in it/],
    ['with its layers swapped', { list: (entry: object) => [{ ...entry, Layers: ['l1/layer.tar', 'l0/layer.tar'] }] }, /layer 1: unpacked it is/],
  ])('%s is refused', async (_what, how, message) => {
    await expect(fromImage(saved(how))).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(message) as string });
  });
});
