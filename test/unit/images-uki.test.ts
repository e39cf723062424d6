// A UKI: sections of a PE file that firmware can map, equal bytes for equal inputs, recorded with its image and kept across rebuilds.
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { imageUki } from '../../src/commands/image.ts';
import { createImageStore, imageDigest, type ImageManifest } from '../../src/images/manifest.ts';
import { peSections, withSections } from '../../src/images/pe.ts';
import { digestOfBytes } from '../../src/digest.ts';
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
    // Of this very layout: whatever changes it changes the UKI of every image, and its signature.
    expect(digestOfBytes(ukiBytes(stub(), PARTS))).toBe('sha256:38986b770aa730cbf9b2d928bfa901362691167dce42067dc68e3f87242c7512');
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

  it('nor is one that stands in the place of the build that was asked for', async () => {
    const files = { ...image, kernel: { ...image.kernel, digest: image.squashfs.digest } };
    const other = { ...files, digest: imageDigest(files) };
    writeFileSync(join(stateDir, 'images/small', `${image.digest.slice('sha256:'.length)}.json`), JSON.stringify(other));
    await expect(make({ query: { digest: image.digest } })).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: `the manifest of image small is not that of ${image.digest}` });
  });

  it.runIf(process.getuid?.() === 0)("root's keys sign no tag of a state directory that is somebody else's", async () => {
    const uki = (ref: string, more: object = {}) => imageUki(ref, { state: stateDir, stub: join(stateDir, 'stub'), output: 'json', ...more });
    const sign = { sign: '/nowhere' };
    // As far as the key that is missing.
    const taken = { code: 'USAGE', message: expect.stringContaining('--sign: /nowhere/db.key: no such file') as string };
    await expect(uki('small', sign)).rejects.toMatchObject(taken);
    chownSync(stateDir, 65534, 65534);
    for (const ref of ['small', 'small:latest']) {
      await expect(uki(ref, sign)).rejects.toMatchObject({ code: 'USAGE', message: `--sign: ${stateDir} is not root's, and whose it is can change what ${ref} is`, hint: expect.stringContaining('small@sha256:…') as string });
    }
    await expect(uki(`small@${image.digest}`, sign)).rejects.toMatchObject(taken);
    expect(JSON.parse(await uki('small'))).toMatchObject({ uki: { signed: false } });
  });

  it('what is signed is not in the state directory, whose owner could change it just before', async () => {
    const bin = join(stateDir, 'bin');
    mkdirSync(bin);
    for (const file of ['db.key', 'db.crt']) writeFileSync(join(bin, file), '');
    // sbsign --key K --cert C --output OUT FILE
    writeFileSync(join(bin, 'sbsign'), `#!/bin/sh\necho "$7" > ${bin}/asked\nstat -c %a "\${7%/*}" >> ${bin}/asked\ncp "$7" "$6"\n`, { mode: 0o755 });
    writeFileSync(join(bin, 'sbverify'), '#!/bin/sh\n', { mode: 0o755 });
    vi.stubEnv('PATH', `${bin}:${process.env['PATH']}`);
    expect((await make({ sign: bin })).uki.signed).toBe(true);
    vi.unstubAllEnvs();
    const [file, mode] = readFileSync(join(bin, 'asked'), 'utf8').split('\n');
    expect([file!.startsWith(`${stateDir}/`), mode, existsSync(file!)]).toEqual([false, '700', false]);
  });

  it('a stub for another processor is refused', async () => {
    writeFileSync(join(stateDir, 'stub'), stub({ machine: 0xaa64 }));
    await expect(make()).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringContaining('is for efi-arm64, the image is for amd64') });
  });
});
