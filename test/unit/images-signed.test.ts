// Signed manifests: the lines that the initrd stage reads, a signature for an image that is there, and what is not signed because it is not what was built.
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { imageBuild } from '../../src/commands/image.ts';
import { imageSign, trustFor } from '../../src/commands/image-sign.ts';
import { canonicalJson, digestOfBytes, sha256Hex } from '../../src/digest.ts';
import { AppError } from '../../src/errors.ts';
import { buildImage } from '../../src/images/build.ts';
import { makeImageKeys, NO_TRUST, readSecretKey, withMinisign, type ImageTrust } from '../../src/images/image-keys.ts';
import { inputDigest } from '../../src/images/inputs.ts';
import { createImageStore, imageDigest, LATEST, type ImageManifest } from '../../src/images/manifest.ts';
import { newKey, publicKeyText, type SecretKey } from '../../src/images/minisign.ts';
import { recordImage } from '../../src/images/record.ts';
import { isSignedBy, signImage } from '../../src/images/sign.ts';
import { parseSignedText, signedText, verifySigned } from '../../src/images/signed-manifest.ts';
import { forArch, readImageSpec } from '../../src/images/spec.ts';
import { CHUNK_SIZE, chunkDigests } from '../../src/images/verify.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { minisign } from './minisign-program.ts';

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-signed-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const IMAGE: ImageManifest = {
  name: 'debian-k0s',
  digest: digest('1'),
  arch: 'amd64',
  kernel: { digest: digest('2'), size: 20, version: '6.12' },
  initrds: [{ digest: digest('3'), size: 30 }, { digest: digest('4'), size: 40 }],
  squashfs: { digest: digest('5'), size: 8192, chunkSize: CHUNK_SIZE, chunks: ['6'.repeat(64), '7'.repeat(64)] },
  verity: { rootHash: '8'.repeat(64), blocks: 1 },
  cmdline: ['mitigations=off', 'x.y="a"'],
  serial: 1_795_000_000,
  packages: ['git 1'],
  input: digest('9'),
  builder: 'test/1',
  builtAt: 1,
};
const LINES = [
  'rackseed-image 1',
  'name debian-k0s',
  'arch amd64',
  'serial 1795000000',
  `digest ${digest('1')}`,
  `kernel ${digest('2')} 20`,
  `initrd ${digest('3')} 30`,
  `initrd ${digest('4')} 40`,
  `squashfs ${digest('5')} 8192`,
  `verity ${'8'.repeat(64)} 1`,
  'cmdline mitigations=off x.y="a"',
  `json ${digestOfBytes(canonicalJson(IMAGE))}`,
  'chunk-size 4194304',
  `chunk ${'6'.repeat(64)}`,
  `chunk ${'7'.repeat(64)}`,
];
const TEXT = `${LINES.join('\n')}\n`;

/** A build whose files are in the store of `dir`; the squashfs has two blocks, and its hash tree is the third. */
async function built(more: Partial<ImageManifest> = {}): Promise<ImageManifest> {
  const blobs = createBlobStore(dir);
  const put = async (name: string, data: string | Buffer) => {
    writeFileSync(join(dir, name), data);
    return blobs.add(join(dir, name));
  };
  const tree = Buffer.alloc(4096, 3);
  const squashfs = await put('squashfs', Buffer.concat([Buffer.alloc(8192, 7), tree]));
  const content = {
    arch: 'amd64' as const,
    kernel: { ...(await put('kernel', 'kernel')), version: '6.1' },
    initrds: [await put('initrd', 'initrd')],
    squashfs: { ...squashfs, chunkSize: CHUNK_SIZE, chunks: await chunkDigests(join(dir, 'squashfs')) },
  };
  const image: ImageManifest = { name: 'one', digest: imageDigest(content), ...content, verity: { rootHash: sha256Hex(tree), blocks: 2 }, serial: 7, packages: ['git 1'], input: digest('f'), builder: 'test/1', builtAt: 1, ...more };
  const store = createImageStore(dir);
  await store.put(image);
  await store.tag(image.name, LATEST, image.digest);
  return image;
}

const textOf = (hex: string): string => readFileSync(createBlobStore(dir).path(hex), 'utf8');

describe('the text that is signed', () => {
  it('is these lines, in this order', () => {
    expect(signedText(IMAGE)).toBe(TEXT);
  });

  it('leaves out what an image does not have, and is the same with a signature and a UKI', () => {
    const { verity: _verity, cmdline: _cmdline, serial: _serial, ...plain } = IMAGE;
    const lines = signedText(plain).split('\n');
    expect(lines.slice(3, 10)).toEqual(['serial 0', ...LINES.slice(4, 9), expect.stringMatching(/^json /)]);
    const signed = { manifest: { digest: digest('a'), size: 1 }, signature: { digest: digest('b'), size: 1 } };
    expect(signedText({ ...IMAGE, signed, uki: { digest: digest('c'), size: 1, cmdline: '', signed: true } })).toBe(TEXT);
    expect(signedText({ ...IMAGE, packages: ['git 2'] })).not.toBe(TEXT);
  });

  it('is read back as what it was made of', () => {
    const { packages: _packages, input: _input, builder: _builder, builtAt: _builtAt, kernel, squashfs, ...same } = IMAGE;
    const { chunkSize, chunks, ...blob } = squashfs;
    expect(parseSignedText(TEXT, 'x')).toEqual({ ...same, kernel: { digest: kernel.digest, size: 20 }, squashfs: blob, chunkSize, chunks, json: digestOfBytes(canonicalJson(IMAGE)) });
  });

  it('no word of an image makes a line of its own', () => {
    expect(() => signedText({ ...IMAGE, cmdline: ['a\nverity 0'] })).toThrow();
    expect(() => signedText({ ...IMAGE, name: 'x\nserial 9' })).toThrow();
  });

  it.each<[string, (lines: string[]) => void, string]>([
    ['nothing of it', (lines) => lines.splice(0), ':1:1: no manifest of this kind: the first line is not rackseed-image 1'],
    ['a version to come', (lines) => lines.splice(0, 1, 'rackseed-image 2'), ':1:1: no manifest of this kind: the first line is not rackseed-image 1'],
    ['a line that is missing', (lines) => lines.splice(3, 1), ':4:1: here serial should stand'],
    ['a line twice', (lines) => lines.splice(9, 0, LINES[9]!), ':11:1: here json should stand'],
    ['lines in another order', (lines) => lines.splice(1, 2, LINES[2]!, LINES[1]!), ':2:1: here name should stand'],
    ['a key that is not known', (lines) => lines.splice(9, 0, 'extra 1'), ':10:1: here json should stand'],
    ['an empty line at the end', (lines) => lines.push(''), ':16:1: nothing should stand here'],
    ['a line behind the chunks', (lines) => lines.push('serial 9'), ':16:1: nothing should stand here'],
    ['a serial with a sign', (lines) => lines.splice(3, 1, 'serial -1'), ':4:1: not a serial'],
    ['a size with a word behind it', (lines) => lines.splice(8, 1, `${LINES[8]} 9`), ':9:1: not a squashfs'],
    ['a carriage return', (lines) => lines.splice(1, 1, 'name debian-k0s\r'), ':2:1: not a name'],
    ['two spaces', (lines) => lines.splice(10, 1, 'cmdline a  b'), ':11:1: not a cmdline'],
  ])('refused with the line\'s number: %s', (_what, change, why) => {
    const lines = [...LINES];
    change(lines);
    const text = lines.length === 0 ? '\n' : `${lines.join('\n')}\n`;
    expect(() => parseSignedText(text, 'm')).toThrow(expect.objectContaining({ code: 'SIGNATURE_INVALID', message: expect.stringContaining(`m${why}`) as string }) as Error);
  });

  it('refused without the end of its last line: it may have been cut', () => {
    expect(() => parseSignedText(TEXT.slice(0, -1), 'm')).toThrow('m:15:1: the last line has no end');
  });
});

describe('image sign', () => {
  it('stores text and signature, which the stock minisign verifies, and records both; a boot set gets them', async () => {
    const image = await built();
    const key = newKey();
    const signed = await signImage({ name: 'one', stateDir: dir, key });
    const store = createImageStore(dir);
    expect(await store.get('one')).toEqual(signed);
    expect(await store.resolve('one')).toMatchObject({ signed: signed.signed });
    const [text, signature] = [signed.signed!.manifest, signed.signed!.signature].map((blob) => createBlobStore(dir).path(blob.digest)) as [string, string];
    expect(readFileSync(text, 'utf8')).toBe(signedText(image));
    writeFileSync(join(dir, 'k.pub'), publicKeyText(key));
    expect(minisign('-V', '-H', '-Q', '-p', join(dir, 'k.pub'), '-m', text, '-x', signature)).toEqual({ code: 0, out: `rackseed image one serial 7 digest ${image.digest}\n`, err: '' });
    // The same once more: equal input, equal blobs.
    expect((await signImage({ name: 'one', query: { digest: image.digest }, stateDir: dir, key })).signed).toEqual(signed.signed);
  });

  it('a new key takes the place of the old one: each verifies what it signed, and is refused by who trusts the other only', async () => {
    await built();
    const [old, young] = [newKey(), newKey()];
    const before = await signImage({ name: 'one', stateDir: dir, key: old });
    const after = await signImage({ name: 'one', stateDir: dir, key: young });
    const by = (image: ImageManifest, keys: readonly (typeof old)[]) => verifySigned(image, textOf(image.signed!.manifest.digest), textOf(image.signed!.signature.digest), keys).key.id;
    expect([by(before, [old, young]), by(after, [old, young])]).toEqual([old.id, young.id]);
    expect(() => by(before, [young])).toThrow(expect.objectContaining({ code: 'SIGNATURE_INVALID', message: expect.stringContaining(`signed by key ${old.id}`) as string }) as Error);
    const blobs = createBlobStore(dir);
    expect([await isSignedBy(after, young, blobs), await isSignedBy(after, old, blobs), await isSignedBy(await built(), young, blobs)]).toEqual([true, false, false]);
  });

  it('another manifest under a good signature is found out', async () => {
    const signed = await signImage({ name: (await built()).name, stateDir: dir, key: newKey() });
    const key = newKey();
    const again = await signImage({ name: 'one', stateDir: dir, key });
    const [text, signature] = [textOf(again.signed!.manifest.digest), textOf(again.signed!.signature.digest)];
    expect(() => verifySigned({ ...signed, packages: [] }, text, signature, [key])).toThrow('what was signed is another manifest');
    expect(await isSignedBy({ ...again, serial: 8 }, key, createBlobStore(dir))).toBe(false);
  });

  it.each<[string, (image: ImageManifest) => ImageManifest, string]>([
    ['a digest that is not its files\'', (image) => ({ ...image, initrds: [] }), 'its manifest is not that of'],
    ['other chunks', (image) => ({ ...image, squashfs: { ...image.squashfs, chunks: ['0'.repeat(64)] } }), 'the chunks in its manifest are not those of its squashfs'],
    ['another root hash', (image) => ({ ...image, verity: { rootHash: '0'.repeat(64), blocks: 2 } }), 'the root hash in its manifest is not that of its squashfs'],
    ['another place of the hash tree', (image) => ({ ...image, verity: { ...image.verity!, blocks: 1 } }), 'the root hash in its manifest is not that of its squashfs'],
  ])('signs nothing that was not built: %s', async (_what, change, why) => {
    const image = await built();
    await createImageStore(dir).put(change(image));
    await expect(signImage({ name: 'one', query: { digest: image.digest }, stateDir: dir, key: newKey() })).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringContaining(why) as string });
    expect((await createImageStore(dir).get('one'))?.signed).toBeUndefined();
  });

  it('signs nothing whose file was changed', async () => {
    const { squashfs } = await built();
    const path = createBlobStore(dir).path(squashfs.digest);
    chmodSync(path, 0o644);
    writeFileSync(path, Buffer.alloc(squashfs.size, 7));
    await expect(signImage({ name: 'one', stateDir: dir, key: newKey() })).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringContaining('its content has another digest') as string });
  });

  it('signs nothing that its initrd would refuse, and says when the initrd does not look', async () => {
    const known = makeImageKeys(join(dir, 'keys'));
    const sign = () => imageSign('one', { state: dir, key: join(dir, 'keys/images.key'), output: 'table' });
    await built();
    expect(await sign()).toMatch(new RegExp(`^image one@sha256:[0-9a-f]{64} serial 7 signed by key ${known.id}; .*\\nits initrd has no keys`));
    await built({ trusts: [newKey().id] });
    await expect(sign()).rejects.toMatchObject({ code: 'KEY_INVALID', message: expect.stringContaining(`this is key ${known.id}`) as string });
    await built({ trusts: [known.id], cmdline: ['quiet'] });
    expect(await sign()).toMatch(/signed by key [0-9A-F]{16}, kernel arguments quiet; rackseed reload lets it boot so\n$/);
    await expect(imageSign('two', { state: dir, key: join(dir, 'keys/images.key'), output: 'table' })).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
  });
});

describe('a build', () => {
  /** What a build of these files records. */
  function record(trust: ImageTrust, initrd = 'initrd'): Promise<ImageManifest> {
    const file = (name: string, data: string | Buffer): string => {
      writeFileSync(join(dir, name), data);
      return join(dir, name);
    };
    const files = { kernel: file('kernel', 'kernel'), initrd: file('initrd', initrd), squashfs: file('squashfs', Buffer.alloc(12_288, 7)) };
    const verity = { rootHash: sha256Hex(Buffer.alloc(4096, 7)), blocks: 2 };
    return recordImage(dir, { name: 'one', arch: 'amd64', files, kernelVersion: '6.1', verity, packages: [], input: digest('f'), builder: 'test/1', contents: { installed: [], checksums: {}, licenceOf: () => undefined } }, trust);
  }
  const trustOf = (signer: SecretKey | undefined, ...keys: SecretKey[]): ImageTrust => ({ ...(signer ? { signer } : {}), keys });
  const good = (image: ImageManifest, key: SecretKey) => isSignedBy(image, key, createBlobStore(dir));
  const [old, young] = [newKey(), newKey()];

  it('without keys is not signed, with keys tells which its initrd trusts, with a signer is signed', async () => {
    const plain = await record(NO_TRUST);
    expect([plain.signed, plain.trusts]).toEqual([undefined, undefined]);
    const trusting = await record(trustOf(undefined, old));
    expect([trusting.signed, trusting.trusts]).toEqual([undefined, [old.id]]);
    expect(await good(await record(trustOf(old, old)), old)).toBe(true);
  });

  it('of the same bytes keeps manifest and signature; another signer signs the same manifest anew', async () => {
    const first = await record(trustOf(old, old, young));
    expect(await record(trustOf(old, old, young))).toEqual(first);
    // Nobody who builds without the key takes it away.
    expect(await record(trustOf(undefined, old, young))).toEqual(first);
    const second = await record(trustOf(young, old, young));
    expect(second.signed!.manifest).toEqual(first.signed!.manifest);
    expect([await good(second, young), await good(second, old)]).toEqual([true, false]);
    expect(await createImageStore(dir).get('one', { digest: second.digest })).toEqual(second);
  });

  it('signs what was built, not what somebody wrote under its digest', async () => {
    const first = await record(trustOf(undefined, old));
    await createImageStore(dir).put({ ...first, verity: { rootHash: '0'.repeat(64), blocks: 1 }, cmdline: ['init=/bin/sh'] });
    const signed = await record(trustOf(old, old));
    expect([signed.verity, signed.cmdline, await good(signed, old)]).toEqual([first.verity, undefined, true]);
    expect(parseSignedText(textOf(signed.signed!.manifest.digest), 'x')).toMatchObject({ verity: first.verity, cmdline: [] });
  });

  it('whose signature was lost or spoiled is signed again', async () => {
    const first = await record(trustOf(old, old));
    const path = createBlobStore(dir).path(first.signed!.signature.digest);
    rmSync(path);
    expect(await good(first, old)).toBe(false);
    expect(await record(trustOf(old, old))).toEqual(first);
    expect(await good(first, old)).toBe(true);
  });
});

describe('a build that has nothing to do', () => {
  const NAME = 'debian-k0s';
  const inputOf = (trust: ImageTrust) => {
    const spec = forArch(readImageSpec(SHIPPED.images, NAME));
    return inputDigest(withMinisign(spec, trust), join(SHIPPED.images, NAME), join(SHIPPED.images, 'common'), trust);
  };

  it('signs what is there, by each new key again, and leaves its bytes alone', async () => {
    const [old, young] = [makeImageKeys(join(dir, 'old')), makeImageKeys(join(dir, 'young'))];
    const image = await built({ name: NAME, input: inputOf({ keys: [old, young].sort((a, b) => (a.id < b.id ? -1 : 1)) }), trusts: [old.id, young.id] });
    const config = join(dir, 'rackseed.yaml');
    for (const [name, key] of [['old', old], ['young', young]] as const) {
      writeFileSync(config, `stateDir: elsewhere\nimages: { sign: ${name}/images.key, keys: [old/images.pub, young/images.pub] }\n`);
      expect((await imageBuild(NAME, { config, state: dir, output: 'table' })).split('\n')[0]).toBe(`image ${NAME} unchanged`);
      const { signed, ...same } = (await createImageStore(dir).get(NAME))!;
      expect(same).toEqual(image);
      expect(verifySigned(image, textOf(signed!.manifest.digest), textOf(signed!.signature.digest), [old, young]).key.id).toBe(key.id);
    }
  });

  it('without the key says so, where the initrd would refuse the image', async () => {
    const key = makeImageKeys(join(dir, 'keys'));
    await built({ name: NAME, input: inputOf({ keys: [key] }), trusts: [key.id] });
    const config = join(dir, 'rackseed.yaml');
    writeFileSync(config, 'stateDir: elsewhere\nimages: { keys: [keys/images.pub] }\n');
    expect((await imageBuild(NAME, { config, state: dir, output: 'table' })).split('\n')[0]).toBe(`image ${NAME} unchanged; NOT signed, and its initrd takes only what ${key.id} signed: rackseed image sign ${NAME} --key FILE`);
  });

  it('has another input with keys, and with a floor', () => {
    const key = newKey();
    expect(new Set([inputOf(NO_TRUST), inputOf({ keys: [key] }), inputOf({ keys: [key], floor: 1 }), inputOf({ keys: [newKey()] })]).size).toBe(4);
  });

  it('in another\'s state directory is no build of ours that could be signed: it is built again, unless our signature is on it', async () => {
    const known = makeImageKeys(join(dir, 'keys'));
    const key = await readSecretKey(join(dir, 'keys/images.key'));
    const trust = { signer: key, keys: [known] };
    await built({ name: NAME, input: inputOf(trust), trusts: [key.id] });
    // A build that is stopped at its start; as an ordinary user nobody else's directory can be written, and there is nothing to prove.
    const build = () => buildImage({ name: NAME, imagesDir: SHIPPED.images, stateDir: dir, trust, signal: AbortSignal.abort() });
    if (process.getuid?.() === 0) {
      chownSync(dir, 65534, 65534);
      await expect(build()).rejects.toBeInstanceOf(AppError);
      expect((await createImageStore(dir).get(NAME))?.signed).toBeUndefined();
      chownSync(dir, 0, 0);
    }
    const { manifest } = await build();
    expect(manifest.signed).toBeDefined();
    if (process.getuid?.() === 0) chownSync(dir, 65534, 65534);
    expect((await build()).manifest).toEqual(manifest);
  });
});

describe('what a build signs with', () => {
  it('is the settings\' images, or what is named on the command line; --state alone needs no settings', async () => {
    const [old, young] = [makeImageKeys(join(dir, 'old')), makeImageKeys(join(dir, 'young'))];
    const config = join(dir, 'rackseed.yaml');
    writeFileSync(config, 'stateDir: state\nimages: { sign: old/images.key, keys: [old/images.pub, young/images.pub], floor: 5 }\n');
    const ids = [old.id, young.id].sort();
    expect(await trustFor({ config })).toMatchObject({ signer: { id: old.id }, keys: ids.map((id) => ({ id })), floor: 5 });
    expect(await trustFor({ config, sign: join(dir, 'young/images.key') })).toMatchObject({ signer: { id: young.id }, keys: ids.map((id) => ({ id })) });
    // What a lock needs to know, without the secret key, which may ask for a password.
    expect(await trustFor({ config, isSigned: false })).toEqual({ keys: ids.map((id) => expect.objectContaining({ id }) as unknown), floor: 5 });
    writeFileSync(config, 'stateDir: state\nimages: { sign: old/images.key }\n');
    expect(await trustFor({ config, isSigned: false })).toEqual({ keys: [old] });
    expect(await trustFor({ state: dir })).toEqual({ keys: [] });
    expect(await trustFor({ state: dir, sign: join(dir, 'old/images.key') })).toEqual({ signer: await readSecretKey(join(dir, 'old/images.key')), keys: [old] });
  });

  it('a key in the state directory, and a floor that nothing signed can be below, are faults with their place', async () => {
    const config = join(dir, 'rackseed.yaml');
    const faults = async (yaml: string): Promise<unknown> => {
      writeFileSync(config, yaml);
      return trustFor({ config }).then(() => 'none', (error: { faults: unknown }) => error.faults);
    };
    expect(await faults('stateDir: state\nimages:\n  sign: state/images.key\n')).toEqual([expect.objectContaining({ line: 3, column: 9, message: 'images.sign: state/images.key is in the state directory, which the daemon owns' })]);
    expect(await faults('stateDir: state\nimages: { floor: 5 }\n')).toEqual([expect.objectContaining({ line: 2, column: 18, message: expect.stringContaining('images.floor') as string })]);
  });
});
