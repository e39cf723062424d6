// Export and import: what comes out is what went in, to the byte; what is damaged or hostile changes nothing and is told.
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { canonicalJson, digestOfBytes, hexOf } from '../../src/digest.ts';
import { exportImages } from '../../src/images/export.ts';
import { importImages, type ImportOptions } from '../../src/images/import.ts';
import { createImageStore, imageDigest, imageFiles, LATEST, type ImageManifest } from '../../src/images/manifest.ts';
import { newKey } from '../../src/images/minisign.ts';
import { signManifest } from '../../src/images/signed-manifest.ts';
import { readTar, tarEnd, tarHeader, tarPadding } from '../../src/images/transfer-tar.ts';
import { createBlobStore } from '../../src/store/blobs.ts';

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'images-transfer-'))));
afterEach(() => rmSync(dir, { recursive: true }));

const here = () => join(dir, 'here');
const there = () => join(dir, 'there');
const tar = () => join(dir, 'images.tar');
const CHUNK = 4 << 20;

/** A build with all that a manifest may name, and a member that this version does not know. */
async function build(text: string, { tags = [], name = 'one', at = 1_700_000_000_000, state = here(), key = newKey() }: { tags?: readonly string[]; name?: string; at?: number; state?: string; key?: ReturnType<typeof newKey> } = {}): Promise<ImageManifest> {
  const blobs = createBlobStore(state);
  const add = (content: string | Buffer) => blobs.add(Readable.from([Buffer.from(content)]));
  const [kernel, initrd, squashfs, uki, sbom] = [await add('kernel'), await add(`initrd ${text}`), await add(Buffer.alloc(300_007, text)), await add(`uki ${text}`), await add(`{"of":"${text}"}`)];
  const content = { arch: 'amd64' as const, kernel: { ...kernel, version: '6.12' }, initrds: [initrd], squashfs: { ...squashfs, chunkSize: CHUNK, chunks: [hexOf(squashfs.digest)] } };
  const plain: ImageManifest = { name, digest: imageDigest(content), ...content, sbom, packages: ['git 1'], input: kernel.digest, builder: 'test/1', builtAt: at, serial: at / 1000, ...{ future: { of: text } } };
  const image: ImageManifest = { ...(await signManifest(plain, key, blobs)), uki: { ...uki, cmdline: 'quiet', signed: false } };
  const store = createImageStore(state);
  await store.put(image);
  for (const tag of tags) await store.tag(name, tag, image.digest);
  return image;
}

const exported = (images: readonly ImageManifest[], to = tar(), form: 'tar' | 'directory' = 'tar') => exportImages({ stateDir: here(), images, to, form });
const take = (more: Partial<ImportOptions> = {}) => {
  mkdirSync(there(), { recursive: true });
  return importImages({ stateDir: there(), from: tar(), ...more });
};

/** Every file of a directory with its content; of JSON what it says. */
function content(state: string): Record<string, string> {
  const files = readdirSync(state, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(files.map((entry) => join(entry.parentPath, entry.name)).map((file) => [file.slice(state.length), file.endsWith('.json') ? canonicalJson(JSON.parse(readFileSync(file, 'utf8'))) : digestOfBytes(readFileSync(file))]).sort());
}

describe('export and import', () => {
  test('bring builds, tags and every blob over, so that both state directories are equal', async () => {
    const [a, b] = [await build('a', { tags: ['2026-11-21', 'stable'] }), await build('b', { tags: [LATEST], name: 'two' })];
    await exported([a, b]);
    const imported = await take();
    expect(imported.map(({ image, how, tags, kept }) => [image.name, how, tags, kept])).toEqual([['one', 'imported', ['2026-11-21', 'stable'], []], ['two', 'imported', [LATEST], []]]);
    expect(content(there())).toEqual(content(here()));
    expect(await createImageStore(there()).get('one', { tag: 'stable' })).toEqual(a);
    expect((await take()).map(({ how }) => how)).toEqual(['there', 'there']);
  });

  test('by a directory, too, which must be a new one', async () => {
    const a = await build('a', { tags: [LATEST] });
    const layout = join(dir, 'layout');
    await exported([a], layout, 'directory');
    await take({ from: layout });
    expect(content(there())).toEqual(content(here()));
    await expect(exported([a], layout, 'directory')).rejects.toMatchObject({ code: 'USAGE' });
  });

  test('equal builds give equal bytes, in whatever order and however often they are named', async () => {
    const [a, b] = [await build('a', { tags: ['x', LATEST] }), await build('b')];
    await exported([a, b]);
    const first = readFileSync(tar());
    await exported([b, a, b]);
    expect(readFileSync(tar()).equals(first)).toBe(true);
    await take();
    await exportImages({ stateDir: there(), images: await createImageStore(there()).list(), to: join(dir, 'again.tar'), form: 'tar' });
    expect(readFileSync(join(dir, 'again.tar')).equals(first)).toBe(true);
  });

  test("tar itself unpacks the archive into the same layout, and an import takes what tar and pax pack of it", async () => {
    const a = await build('a', { tags: [LATEST] });
    await exported([a]);
    const unpacked = join(dir, 'unpacked');
    mkdirSync(unpacked);
    execFileSync('tar', ['-C', unpacked, '-xf', tar()]);
    await exported([a], join(dir, 'layout'), 'directory');
    expect(content(unpacked)).toEqual(content(join(dir, 'layout')));
    for (const format of ['gnu', 'pax', 'ustar']) {
      execFileSync('tar', ['-C', unpacked, `--format=${format}`, '-cf', tar(), '.']);
      rmSync(there(), { recursive: true, force: true });
      expect((await take()).map(({ how }) => how)).toEqual(['imported']);
    }
  });

  test('index, manifest and layers are as the OCI image specification 1.1 has them', async () => {
    const a = await build('a', { tags: [LATEST, 'stable'] });
    const layout = join(dir, 'layout');
    await exported([a], layout, 'directory');
    const json = (path: string) => JSON.parse(readFileSync(join(layout, path), 'utf8'));
    expect(json('oci-layout')).toEqual({ imageLayoutVersion: '1.0.0' });
    const index = json('index.json');
    expect(index).toMatchObject({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json' });
    expect(index.manifests.map((entry: { annotations: object }) => entry.annotations)).toEqual([{ 'org.opencontainers.image.ref.name': 'one:latest' }, { 'org.opencontainers.image.ref.name': 'one:stable' }]);
    const manifest = json(`blobs/${index.manifests[0].digest.replace(':', '/')}`);
    expect(manifest).toMatchObject({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json', artifactType: 'application/vnd.rackseed.image.v1', config: { mediaType: 'application/vnd.rackseed.image.config.v1+json' } });
    expect(json(`blobs/${manifest.config.digest.replace(':', '/')}`)).toEqual(a);
    for (const { digest, size, mediaType } of [...index.manifests, manifest.config, ...manifest.layers]) {
      const bytes = readFileSync(join(layout, 'blobs', digest.replace(':', '/')));
      expect([digestOfBytes(bytes), bytes.length, mediaType]).toEqual([digest, size, expect.stringMatching(/^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$/)]);
    }
    expect(manifest.layers.map((layer: { annotations: Record<string, string> }) => layer.annotations['org.opencontainers.image.title'])).toEqual(['vmlinuz', 'initrd', 'root.squashfs', 'uki.efi', 'sbom.spdx.json', 'manifest', 'manifest.minisig']);
    expect(new Set(manifest.layers.map((layer: { digest: string }) => layer.digest))).toEqual(new Set(imageFiles(a).map(({ digest }) => digest)));
  });

  test('a copy by a tool or registry that knows no artifact types, and leaves of the name only the tag, is taken', async () => {
    const a = await build('a', { tags: [LATEST] });
    const layout = join(dir, 'layout');
    await exported([a], layout, 'directory');
    const file = (digest: string) => join(layout, 'blobs', digest.replace(':', '/'));
    const { digest } = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')).manifests[0];
    const { artifactType: _type, ...manifest } = JSON.parse(readFileSync(file(digest), 'utf8'));
    const text = JSON.stringify(manifest, null, 1);
    unlinkSync(file(digest));
    writeFileSync(file(digestOfBytes(text)), text);
    const entry = { mediaType: manifest.mediaType, digest: digestOfBytes(text), size: text.length, annotations: { 'org.opencontainers.image.ref.name': 'stable' } };
    const foreign = { ...entry, artifactType: 'application/vnd.example.other.v1', digest: digestOfBytes('not there') };
    writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [foreign, entry] }));
    expect(await take({ from: layout })).toMatchObject([{ how: 'imported', tags: ['stable'] }]);
    expect(await createImageStore(there()).get('one', { tag: 'stable' })).toEqual(a);
  });

  test('a blob that is lost or rotten is told, and no file is left; the one that was there stays', async () => {
    const a = await build('a');
    writeFileSync(tar(), 'before');
    const squashfs = createBlobStore(here()).path(a.squashfs.digest);
    chmodSync(squashfs, 0o644);
    const bytes = readFileSync(squashfs);
    bytes[99] = 1;
    writeFileSync(squashfs, bytes);
    await expect(exported([a])).rejects.toMatchObject({ code: 'BLOB_UNKNOWN', message: expect.stringContaining(a.squashfs.digest) });
    expect(readFileSync(tar(), 'utf8')).toBe('before');
    expect(readdirSync(dir).sort()).toEqual(['here', 'images.tar']);
  });
});

describe('tags at an import', () => {
  test('latest and dates follow the newest build; what a person has pointed elsewhere stays, unless told to move', async () => {
    const older = await build('older', { at: 1_600_000_000_000, tags: [LATEST, '2020-09-13', 'stable', 'new'] });
    await exported([older]);
    const newer = await build('newer', { state: there(), tags: [LATEST, 'stable'] });
    expect((await take())[0]).toMatchObject({ tags: ['2020-09-13', 'new'], kept: [LATEST, 'stable'] });
    const store = createImageStore(there());
    expect(await store.tags('one')).toEqual({ '2020-09-13': older.digest, latest: newer.digest, new: older.digest, stable: newer.digest });
    expect((await take({ moveTags: true }))[0]).toMatchObject({ how: 'there', tags: ['2020-09-13', LATEST, 'new', 'stable'], kept: [] });
    const newest = await build('newest', { at: 1_800_000_000_000, tags: [LATEST] });
    await exported([newest]);
    expect((await take())[0]).toMatchObject({ tags: [LATEST], kept: [] });
    expect((await store.get('one'))?.digest).toBe(newest.digest);
  });
});

describe('with keys', () => {
  test('only what one of them signed is taken', async () => {
    const key = newKey();
    const a = await build('a', { key });
    await exported([a]);
    await expect(take({ keys: [newKey()] })).rejects.toMatchObject({ code: 'SIGNATURE_INVALID' });
    expect(content(there())).toEqual({});
    expect((await take({ keys: [newKey(), key] }))[0]).toMatchObject({ how: 'imported' });
  });

  test('an unsigned one is refused, and one whose packages are others than was signed', async () => {
    const key = newKey();
    const image = await build('a', { key });
    const { signed: _signed, ...unsigned } = image;
    for (const [changed, message] of [[unsigned, /is not signed/], [{ ...image, packages: ['evil 1'] }, /another manifest/]] as const) {
      await createImageStore(here()).put(changed);
      await exported([changed]);
      rmSync(there(), { recursive: true, force: true });
      await expect(take({ keys: [key] })).rejects.toMatchObject({ code: 'SIGNATURE_INVALID', message: expect.stringMatching(message) });
      expect(content(there())).toEqual({});
    }
  });
});

describe('what is damaged or hostile', () => {
  interface File {
    path: string;
    data: Buffer;
    type?: string;
    link?: string;
    /** Other than the data's. */
    size?: number;
  }

  function header({ path, data, type, link, size }: File): Buffer {
    const header = tarHeader(path, size ?? data.length);
    if (type) header.write(type, 156, 'latin1');
    if (link) header.write(link, 157, 'latin1');
    header.write('        ', 148, 'latin1');
    header.write(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return header;
  }

  const pack = (files: readonly File[], end = true): Buffer => {
    const bytes = Buffer.concat(files.flatMap((file) => [header(file), file.data, tarPadding(file.data.length)]));
    return end ? Buffer.concat([bytes, tarEnd(bytes.length)]) : bytes;
  };

  async function files(bytes = readFileSync(tar())): Promise<File[]> {
    const found: File[] = [];
    for await (const { path, body } of readTar(Readable.from([bytes]))) {
      const pieces: Buffer[] = [];
      for await (const piece of body) pieces.push(piece as Buffer);
      found.push({ path, data: Buffer.concat(pieces) });
    }
    return found;
  }

  /** The same archive with another image config, and all digests above it right again. */
  function forged(all: File[], change: (image: Record<string, unknown>) => unknown): File[] {
    const of = (digest: string) => all.find(({ path }) => path === `blobs/${digest.replace(':', '/')}`)!;
    const index = JSON.parse(all.find(({ path }) => path === 'index.json')!.data.toString());
    const manifest = JSON.parse(of(index.manifests[0].digest).data.toString());
    const image = JSON.parse(of(manifest.config.digest).data.toString());
    const put = (file: File, value: unknown) => {
      file.data = Buffer.from(canonicalJson(value));
      const digest = digestOfBytes(file.data);
      file.path = `blobs/${digest.replace(':', '/')}`;
      return { digest, size: file.data.length };
    };
    const [configFile, manifestFile] = [of(manifest.config.digest), of(index.manifests[0].digest)];
    Object.assign(manifest.config, put(configFile, change(image) ?? image));
    const written = put(manifestFile, manifest);
    for (const entry of index.manifests) Object.assign(entry, written);
    all.find(({ path }) => path === 'index.json')!.data = Buffer.from(canonicalJson(index));
    return all;
  }

  const HEX = 'f'.repeat(64);
  const cases: readonly [string, (all: File[]) => Buffer | File[], RegExp][] = [
    ['no tar at all', () => Buffer.from('hello '.repeat(500)), /checksum/],
    ['an empty file', () => Buffer.alloc(0), /cut short/],
    ['nothing in it', () => pack([]), /there is no oci-layout/],
    ['cut in the middle of a blob', (all) => pack(all).subarray(0, -100_000), /cut short/],
    ['cut between two blobs', (all) => pack(all.slice(0, -1), false), /cut short/],
    ['a blob is missing', (all) => all.filter(({ data }) => data.length < 300_000), /the squashfs of one, sha256:[0-9a-f]{64}, is missing/],
    ['a byte of a blob is another one', (all) => all.map((file) => (file.data.length > 300_000 ? { ...file, data: Buffer.concat([file.data.subarray(0, -1), Buffer.from('!')]) } : file)), /blobs\/sha256\/[0-9a-f]{64}: the content has the digest/],
    ['a byte of a header is another one', (all) => { const bytes = pack(all); bytes[3]! ^= 1; return bytes; }, /checksum/],
    ['a blob twice', (all) => [...all, all.at(-1)!], /twice/],
    ['index.json twice', (all) => [...all, all.find(({ path }) => path === 'index.json')!], /index\.json stands in it twice/],
    ['a path that leads out', (all) => [...all, { path: '../../etc/cron.d/x', data: Buffer.from('x') }], /"\.\.\/\.\.\/etc\/cron\.d\/x" has no place/],
    ['an absolute path', (all) => [...all, { path: '/etc/passwd', data: Buffer.from('x') }], /"\/etc\/passwd" has no place/],
    ['a path in blobs that leads out', (all) => [...all, { path: `blobs/sha256/../../${HEX}`, data: Buffer.from('x') }], /has no place/],
    ['a symbolic link', (all) => [...all, { path: `blobs/sha256/${HEX}`, data: Buffer.alloc(0), type: '2', link: '/etc/shadow' }], /a symbolic link/],
    ['a hard link', (all) => [...all, { path: `blobs/sha256/${HEX}`, data: Buffer.alloc(0), type: '1', link: '/etc/shadow' }], /a hard link/],
    ['a device', (all) => [...all, { path: `blobs/sha256/${HEX}`, data: Buffer.alloc(0), type: '3' }], /a device/],
    ['a header that tells of 8 TiB', (all) => [...all, { path: `blobs/sha256/${HEX}`, data: Buffer.alloc(512), size: 2 ** 43 }], /cut short|expected/],
    ['an index.json of 17 MiB', (all) => [{ path: 'index.json', data: Buffer.alloc(17 << 20, ' ') }, ...all], /index\.json has/],
    ['an index that is no JSON', (all) => all.map((file) => (file.path === 'index.json' ? { ...file, data: Buffer.from('{') } : file)), /index\.json is not JSON/],
    ['an index without our images', (all) => all.map((file) => (file.path === 'index.json' ? { ...file, data: Buffer.from('{"schemaVersion":2,"manifests":[]}') } : file)), /names no image of rackseed/],
    ['an image with a path for a name', (all) => forged(all, (image) => void (image['name'] = '../../etc')), /name: not a name/],
    ['an image with a path for a digest', (all) => forged(all, (image) => void (image['digest'] = '../../etc')), /digest: not sha256/],
    ["an image with another build's digest", (all) => forged(all, (image) => void (image['digest'] = `sha256:${HEX}`)), /not that of its files/],
    ['an image that names a file which is no layer', (all) => forged(all, (image) => void (image['sbom'] = { digest: `sha256:${HEX}`, size: 1 })), /the sbom sha256:f+ is not among the layers/],
    ['an image whose packages are no list', (all) => forged(all, (image) => void (image['packages'] = { length: 1e9 })), /packages/],
    ['an image whose time is beyond all dates', (all) => forged(all, (image) => void (image['builtAt'] = 1e300)), /builtAt/],
    ['a tag with a path', (all) => all.map((file) => (file.path === 'index.json' ? { ...file, data: Buffer.from(file.data.toString().replace('one:latest', 'one:../../x')) } : file)), /is not a name and tag/],
  ];

  test.each(cases)('%s', async (_name, spoil, message) => {
    await exported([await build('a', { tags: [LATEST] })]);
    const spoilt = spoil(await files());
    writeFileSync(tar(), Buffer.isBuffer(spoilt) ? spoilt : pack(spoilt));
    await build('b', { state: there(), tags: [LATEST] });
    const before = content(there());
    const error = await take().then(() => undefined, (error: unknown) => error);
    expect(error).toMatchObject({ code: 'TRANSFER_INVALID', message: expect.stringMatching(message) });
    expect(content(there())).toEqual(before);
    expect(readdirSync(dir).sort()).toEqual(['here', 'images.tar', 'there']);
  });

  test('the archive that these are made of is a good one', async () => {
    await exported([await build('a', { tags: [LATEST] })]);
    const good = readFileSync(tar());
    writeFileSync(tar(), pack(forged(await files(), () => undefined)));
    expect(readFileSync(tar()).equals(good)).toBe(true);
    expect(await take()).toHaveLength(1);
  });

  test.each([
    ['a link in place of a blob', (_layout: string, blob: string) => { cpSync(blob, join(dir, 'elsewhere')); unlinkSync(blob); symlinkSync(join(dir, 'elsewhere'), blob); }, /is no regular file/],
    ['blobs that are a link', (layout: string) => { cpSync(join(layout, 'blobs'), join(dir, 'elsewhere'), { recursive: true }); rmSync(join(layout, 'blobs'), { recursive: true }); symlinkSync(join(dir, 'elsewhere'), join(layout, 'blobs')); }, /blobs is no directory/],
    ['a blob that is too short', (_layout: string, blob: string) => truncateSync(blob, 5), /the content has the digest/],
    ['no index', (layout: string) => unlinkSync(join(layout, 'index.json')), /there is no index\.json/],
    ['a file of another name among the blobs', (_layout: string, blob: string) => linkSync(blob, `${blob}.new`), /has no place/],
  ])('a directory with %s', async (_name, spoil, message) => {
    const layout = join(dir, 'layout');
    const image = await build('a', { tags: [LATEST] });
    await exported([image], layout, 'directory');
    spoil(layout, join(layout, 'blobs', 'sha256', hexOf(image.squashfs.digest)));
    await expect(take({ from: layout })).rejects.toMatchObject({ code: 'TRANSFER_INVALID', message: expect.stringMatching(message) });
    expect(content(there())).toEqual({});
  });

  test('an archive that is larger than the disk is refused before it is read', async () => {
    writeFileSync(tar(), '');
    truncateSync(tar(), 2 ** 42);
    await expect(take()).rejects.toMatchObject({ code: 'STORE_UNUSABLE', message: expect.stringMatching(/has room for/) });
  });

  test('a name that leads nowhere is a mistake of the command line', async () => {
    await expect(take({ from: join(dir, 'nothing') })).rejects.toMatchObject({ code: 'USAGE' });
  });
});
