// Manifests and tags on disk, the digest of an image, and what a damaged blob is called.
import { appendFileSync, chmodSync, mkdtempSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { sha256Hex } from '../../src/digest.ts';
import { imageBuild } from '../../src/commands/image.ts';
import { inputDigest } from '../../src/images/inputs.ts';
import { createImageStore, imageDigest, LATEST, type ImageManifest } from '../../src/images/manifest.ts';
import { forArch, readImageSpec } from '../../src/images/spec.ts';
import { CHUNK_SIZE, chunkDigests, hasFiles, hasUki, verifyImage } from '../../src/images/verify.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'images-manifest-'))));
afterEach(() => rmSync(dir, { recursive: true }));

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;

function manifest(squashfs: string, builtAt: number, name = 'one'): ImageManifest {
  const content = {
    arch: 'amd64' as const,
    kernel: { digest: digest('a'), size: 1, version: '6.1' },
    initrds: [{ digest: digest('b'), size: 2 }],
    squashfs: { digest: digest(squashfs), size: 3, chunkSize: CHUNK_SIZE, chunks: [] },
  };
  return { name, digest: imageDigest(content), ...content, packages: ['git 1'], input: digest('f'), builder: 'test/1', builtAt };
}

describe('the digest of an image', () => {
  test('is that of its files and architecture: a fixed value, so that it never changes unseen', () => {
    expect(manifest('c', 1).digest).toBe('sha256:b9165b383688fc85f971a3f2280944c3bc069a7eb98e062baf0ed81f77edd3d4');
  });

  test('neither time nor packages nor the kernel\'s version move it, another squashfs does', () => {
    const one = manifest('c', 1);
    const newer = { ...one, kernel: { ...one.kernel, version: '7' } };
    expect(imageDigest(newer)).toBe(one.digest);
    expect(manifest('c', 99).digest).toBe(one.digest);
    expect(manifest('d', 1).digest).not.toBe(one.digest);
  });
});

describe('the image store', () => {
  test('knows a build by digest at once, by tag when it was tagged', async () => {
    const store = createImageStore(dir);
    const one = manifest('c', 1);
    await store.put(one);
    expect(await store.get('one')).toBeUndefined();
    expect(await store.get('one', { digest: one.digest })).toEqual(one);
    await store.tag('one', LATEST, one.digest);
    await store.tag('one', 'stable', one.digest);
    const two = manifest('d', 2);
    await store.put(two);
    await store.tag('one', LATEST, two.digest);
    expect((await store.get('one'))?.digest).toBe(two.digest);
    expect((await store.get('one', { tag: 'stable' }))?.digest).toBe(one.digest);
    expect(await store.tags('one')).toEqual({ latest: two.digest, stable: one.digest });
    expect((await store.list()).map((image) => image.builtAt)).toEqual([2, 1]);
    expect(await store.names()).toEqual(['one']);
  });

  test('gives profiles nothing but what a boot set holds', async () => {
    const store = createImageStore(dir);
    const one = manifest('c', 1);
    await store.put(one);
    await store.tag('one', LATEST, one.digest);
    expect(await store.resolve('one')).toEqual({ name: 'one', digest: one.digest, arch: 'amd64', kernel: { digest: digest('a'), size: 1 }, initrds: [{ digest: digest('b'), size: 2 }], squashfs: { digest: digest('c'), size: 3 } });
  });

  test.each(['../one', 'one/..', '', '.', 'ONE'])('the name %j leads nowhere', async (name) => {
    const store = createImageStore(dir);
    await store.put(manifest('c', 1));
    expect(await store.get(name)).toBeUndefined();
    expect(await store.get('one', { tag: name })).toBeUndefined();
    expect(await store.get('one', { digest: name })).toBeUndefined();
  });

  test('no tag can point at a build that is not there', async () => {
    const store = createImageStore(dir);
    await store.put(manifest('c', 1));
    await expect(store.tag('one', LATEST, digest('e'))).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
    await expect(store.tag('one', '../x', manifest('c', 1).digest)).rejects.toMatchObject({ code: 'USAGE' });
  });

  test('an empty state directory has no images', async () => {
    expect(await createImageStore(join(dir, 'nothing')).list()).toEqual([]);
  });
});

describe('the files of an image', () => {
  async function stored(): Promise<ImageManifest> {
    const blobs = createBlobStore(dir);
    const put = async (name: string, data: string | Buffer) => {
      writeFileSync(join(dir, name), data);
      return blobs.add(join(dir, name));
    };
    const kernel = { ...(await put('kernel', 'kernel')), version: '6.1' };
    const initrds = [await put('initrd', 'initrd')];
    const squashfs = { ...(await put('squashfs', Buffer.alloc(CHUNK_SIZE + 5, 7))), chunkSize: CHUNK_SIZE, chunks: await chunkDigests(join(dir, 'squashfs')) };
    const content = { arch: 'amd64' as const, kernel, initrds, squashfs };
    return { ...manifest('c', 1), ...content, digest: imageDigest(content) };
  }

  test('chunks are of 4 MiB, the last one is what is left', async () => {
    const { squashfs } = await stored();
    expect(squashfs.chunks).toEqual([sha256Hex(Buffer.alloc(CHUNK_SIZE, 7)), sha256Hex(Buffer.alloc(5, 7))]);
  });

  test('whole ones have no faults', async () => {
    const image = await stored();
    expect(await verifyImage(image, createBlobStore(dir))).toEqual([]);
    expect(await hasFiles(image, createBlobStore(dir))).toBe(true);
  });

  test('a UKI that is lost is named, and is no reason to build, which would not make it', async () => {
    const blobs = createBlobStore(dir);
    writeFileSync(join(dir, 'uki'), 'UKI');
    const image: ImageManifest = { ...(await stored()), uki: { ...(await blobs.add(join(dir, 'uki'))), cmdline: '', signed: false } };
    expect([await hasUki(image, blobs), await hasUki({ ...(await stored()) }, blobs)]).toEqual([true, true]);
    unlinkSync(blobs.path(image.uki!.digest));
    expect(await verifyImage(image, blobs)).toEqual([expect.stringMatching(/^UKI: .*: no such file$/)]);
    expect([await hasFiles(image, blobs), await hasUki(image, blobs)]).toEqual([true, false]);
  });

  test('a build that has nothing to do says that the UKI is lost', async () => {
    const name = 'debian-k0s';
    const spec = forArch(readImageSpec(SHIPPED.images, name));
    const image: ImageManifest = { ...(await stored()), name, input: inputDigest(spec, join(SHIPPED.images, name), join(SHIPPED.images, 'common')), uki: { digest: digest('e'), size: 3, cmdline: '', signed: true } };
    await createImageStore(dir).put(image);
    expect((await imageBuild(name, { state: dir, output: 'table' })).split('\n')[0]).toBe(`image ${name} unchanged; its UKI is lost, make it again: rackseed image uki ${name}`);
    const blobs = createBlobStore(dir);
    writeFileSync(join(dir, 'uki'), 'UKI');
    await createImageStore(dir).put({ ...image, uki: { ...(await blobs.add(join(dir, 'uki'))), cmdline: '', signed: true } });
    expect((await imageBuild(name, { state: dir, output: 'table' })).split('\n')[0]).toBe(`image ${name} unchanged`);
  });

  test('a missing, a grown and an altered one are each named', async () => {
    const image = await stored();
    const blobs = createBlobStore(dir);
    unlinkSync(blobs.path(image.kernel.digest));
    chmodSync(blobs.path(image.initrds[0]!.digest), 0o644);
    appendFileSync(blobs.path(image.initrds[0]!.digest), 'x');
    chmodSync(blobs.path(image.squashfs.digest), 0o644);
    writeFileSync(blobs.path(image.squashfs.digest), Buffer.alloc(CHUNK_SIZE + 5, 8));
    expect(await verifyImage(image, blobs)).toEqual([expect.stringMatching(/^kernel: .*: no such file$/), expect.stringMatching(/^initrd: .*: has 7 bytes, the manifest says 6$/), expect.stringMatching(/^squashfs: .*: its content has another digest$/)]);
    expect(await hasFiles(image, blobs)).toBe(false);
  });
});
