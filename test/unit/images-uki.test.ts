// A UKI: sections of a PE file that firmware can map, equal bytes for equal inputs, recorded with its image and kept across rebuilds.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createImageStore, imageDigest, type ImageManifest } from '../../src/images/manifest.ts';
import { peSections, withSections } from '../../src/images/pe.ts';
import { makeUki, UKI_CMDLINE, ukiBytes } from '../../src/images/uki.ts';
import { createBlobStore } from '../../src/store/blobs.ts';

/** A PE32+ program of two sections, as "PE Format" lays it out; `headers`: bytes before the first section. */
function stub({ headers = 0x400, machine = 0x8664, signed = false } = {}): Buffer {
  const file = Buffer.alloc(headers + 0x600, 0xcc).fill(0, 0, headers);
  file.write('MZ', 0, 'latin1');
  file.writeUInt32LE(0x80, 0x3c);
  file.write('PE\0\0', 0x80, 'latin1');
  for (const [at, value] of [[0x84, machine], [0x86, 2], [0x94, 240], [0x98, 0x20b]] as const) file.writeUInt16LE(value, at);
  for (const [at, value] of [[0x98 + 32, 0x1000], [0x98 + 36, 0x200], [0x98 + 56, 0x3000], [0x98 + 60, headers], [0x98 + 64, 0xdeadbeef], [0x98 + 108, 16]] as const) file.writeUInt32LE(value, at);
  if (signed) file.writeUInt32LE(headers + 0x600, 0x98 + 112 + 4 * 8);
  for (const [index, [name, size, address, fileSize, offset]] of ([['.text', 0x3f0, 0x1000, 0x400, headers], ['.sdmagic', 0x33, 0x2100, 0x200, headers + 0x400]] as const).entries()) {
    const at = 0x188 + index * 40;
    file.write(name, at, 'latin1');
    for (const [field, value] of [[8, size], [12, address], [16, fileSize], [20, offset]] as const) file.writeUInt32LE(value, at + field);
  }
  return file;
}

const PARTS = { cmdline: 'console=ttyS0', kernelVersion: '6.12', kernel: Buffer.from('the kernel'), initrds: [Buffer.from('first'), Buffer.from('second!!')] };
const sectionOf = (file: Buffer, name: string): string => {
  const { offset, size } = peSections(file).find((section) => section.name === name)!;
  return file.toString('latin1', offset, offset + size);
};

describe('the file', () => {
  it('has what the stub looks for, initrds from multiples of 4 on, and the stub as it was', () => {
    const uki = ukiBytes(stub(), PARTS);
    expect(peSections(uki).map(({ name }) => name)).toEqual(['.text', '.sdmagic', '.osrel', '.cmdline', '.uname', '.initrd', '.linux']);
    expect([sectionOf(uki, '.cmdline'), sectionOf(uki, '.uname'), sectionOf(uki, '.linux'), sectionOf(uki, '.initrd')]).toEqual(['console=ttyS0', '6.12', 'the kernel', 'first\0\0\0second!!']);
    expect(uki.subarray(0x400, 0xa00)).toEqual(stub().subarray(0x400, 0xa00));
  });

  it('no two sections share a page of memory or a byte of the file, and the image is as large as they are', () => {
    const uki = ukiBytes(stub(), { ...PARTS, kernel: Buffer.alloc(0x2345, 1) });
    const all = peSections(uki);
    for (const [index, { address, offset }] of all.entries()) {
      const before = all[index - 1];
      if (index < 2 || !before) continue;
      expect([address % 0x1000, offset % 0x200]).toEqual([0, 0]);
      expect(address).toBeGreaterThanOrEqual(before.address + before.size);
      expect(offset).toBe(before.offset + before.fileSize);
    }
    const last = all.at(-1)!;
    expect(uki.readUInt32LE(0x98 + 56)).toBe(last.address + 0x3000);
    expect(uki.readUInt32LE(0x98 + 64)).toBe(0);
    expect(uki.length).toBe(last.offset + last.fileSize);
  });

  it('depends on nothing but its inputs', () => {
    expect(ukiBytes(stub(), PARTS)).toEqual(ukiBytes(stub(), PARTS));
  });

  it.each([
    ['no PE file', Buffer.from('#!ipxe'), 'no PE file'],
    ['a PE file that is cut off', stub().subarray(0, 0x90), 'no PE file'],
    ['a signed stub', stub({ signed: true }), 'it is signed already'],
    ['one without room for headers', stub({ headers: 0x200 }), 'there is no room for 5 more section headers'],
    ['a UKI', ukiBytes(stub(), PARTS), 'section .osrel cannot be added'],
  ])('%s takes no sections', (_what, file, why) => {
    expect(() => ukiBytes(file, PARTS)).toThrow(new RangeError(why));
  });

  it('a name of more than 8 bytes is refused', () => {
    expect(() => withSections(stub(), [{ name: '.too-long', data: Buffer.alloc(1) }])).toThrow(RangeError);
  });
});

describe('image uki', () => {
  let stateDir: string;
  let image: ImageManifest;
  beforeEach(async () => {
    stateDir = mkdtempSync(join(tmpdir(), 'rackseed-uki-'));
    const blobs = createBlobStore(stateDir);
    const [kernel, initrd, squashfs] = await Promise.all(['kernel', 'initrd', 'squashfs'].map((text) => blobs.add(Readable.from([Buffer.from(text)]))));
    const files = { arch: 'amd64', kernel: { ...kernel!, version: '6.12' }, initrds: [initrd!], squashfs: { ...squashfs!, chunkSize: 4 << 20, chunks: [] } } as const;
    image = { name: 'small', digest: imageDigest(files), ...files, packages: [], input: imageDigest(files), builder: 'test', builtAt: 0 };
    await createImageStore(stateDir).put(image);
    await createImageStore(stateDir).tag('small', 'latest', image.digest);
    writeFileSync(join(stateDir, 'stub'), stub());
  });
  afterEach(() => rmSync(stateDir, { recursive: true, force: true }));
  const make = (more: object = {}) => makeUki({ name: 'small', stateDir, stub: join(stateDir, 'stub'), ...more });

  it('is in the blob store, in the manifest and in what a boot set holds; the image keeps its digest', async () => {
    const { uki, manifest } = await make();
    const images = createImageStore(stateDir);
    expect(manifest.digest).toBe(image.digest);
    expect(await images.resolve('small')).toEqual({ name: 'small', digest: image.digest, arch: 'amd64', kernel: { digest: image.kernel.digest, size: 6 }, initrds: image.initrds, squashfs: { digest: image.squashfs.digest, size: 8 }, uki: { digest: uki.digest, size: uki.size } });
    const bytes = readFileSync(createBlobStore(stateDir).path(uki.digest));
    expect([sectionOf(bytes, '.cmdline'), sectionOf(bytes, '.initrd')]).toEqual([UKI_CMDLINE, 'initrd\0\0']);
    expect(await make()).toMatchObject({ uki: { digest: uki.digest, signed: false } });
  });

  it('stays recorded when the same image is built again, and gives way to a new one', async () => {
    const first = (await make()).uki;
    await createImageStore(stateDir).put({ ...image, builtAt: 1 });
    expect(await createImageStore(stateDir).get('small')).toMatchObject({ builtAt: 1, uki: { digest: first.digest } });
    const second = (await make({ cmdline: 'quiet' })).uki;
    expect(second.digest).not.toBe(first.digest);
    expect(await createImageStore(stateDir).get('small')).toMatchObject({ uki: { digest: second.digest, cmdline: 'quiet' } });
  });

  it.each([
    [{ name: 'none' }, 'IMAGE_UNKNOWN', 'there is no image none'],
    [{ stub: '/nowhere/stub' }, 'PACKAGES_MISSING', '/nowhere/stub: no such file'],
    [{ cmdline: 'a\nb' }, 'USAGE', '--cmdline: printable ASCII'],
    [{ sign: '/nowhere' }, 'USAGE', '--sign: /nowhere/db.key: no such file'],
  ])('%j is refused with %s, and nothing is recorded', async (more, code, message) => {
    await expect(make(more)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect((await createImageStore(stateDir).get('small'))?.uki).toBeUndefined();
  });

  it.each(['kernel', 'initrd'] as const)('a %s that is not what was built is not taken, so that nothing else gets a signature', async (what) => {
    const { digest } = what === 'kernel' ? image.kernel : image.initrds[0]!;
    const path = createBlobStore(stateDir).path(digest);
    chmodSync(path, 0o644);
    writeFileSync(path, 'evil!!');
    await expect(make()).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: `the ${what} of image small is not what was built: ${path} has another digest` });
    expect((await createImageStore(stateDir).get('small'))?.uki).toBeUndefined();
  });

  it('nor is a manifest that names other files than its digest says', async () => {
    const path = join(stateDir, 'images/small', `${image.digest.slice('sha256:'.length)}.json`);
    writeFileSync(path, JSON.stringify({ ...image, kernel: { ...image.kernel, digest: image.squashfs.digest } }));
    await expect(make()).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: `the manifest of image small is not that of ${image.digest}` });
  });

  it('a stub for another processor is refused', async () => {
    writeFileSync(join(stateDir, 'stub'), stub({ machine: 0xaa64 }));
    await expect(make()).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringContaining('is for efi-arm64, the image is for amd64') });
  });
});
