// Keys and signatures of images: minisign's own program takes ours, ours take its, and everything that was changed is refused by name.
import { scryptSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { keysInit } from '../../src/commands/keys.ts';
import { makeImageKeys, readPublicKey, readSecretKey, readTrust, trustEntries, trustInput, withMinisign } from '../../src/images/image-keys.ts';
import { isEncrypted, newKey, parsePublicKey, parseSecretKey, publicKeyText, secretKeyText, signatureText, signerOf, verifySignature, type SecretKey } from '../../src/images/minisign.ts';
import { minisign } from './minisign-program.ts';

let dir: string;
const at = (name: string): string => join(dir, name);
const write = (name: string, text: string | Uint8Array): string => {
  writeFileSync(at(name), text);
  return at(name);
};
beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-minisign-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
afterEach(() => vi.unstubAllEnvs());

const MESSAGE = Buffer.from('rackseed-image 1\nname one\n');

describe('the stock minisign', () => {
  it('verifies our signature with our public key, and prints the trusted comment', () => {
    const key = newKey();
    const file = write('ours', MESSAGE);
    write('ours.pub', publicKeyText(key));
    write('ours.minisig', signatureText(MESSAGE, key, 'rackseed image one serial 7 digest sha256:00'));
    expect(minisign('-V', '-H', '-Q', '-p', at('ours.pub'), '-m', file)).toEqual({ code: 0, out: 'rackseed image one serial 7 digest sha256:00\n', err: '' });
    writeFileSync(file, Buffer.concat([MESSAGE, Buffer.from(' ')]));
    expect(minisign('-V', '-q', '-p', at('ours.pub'), '-m', file)).toMatchObject({ code: 1 });
    expect(minisign('-V', '-p', at('ours.pub'), '-m', file).err).toContain('Signature verification failed');
  });

  it('signs with our secret key, and we verify that', () => {
    const key = newKey();
    const file = write('theirs', MESSAGE);
    expect(minisign('-S', '-s', write('theirs.key', secretKeyText(key)), '-m', file, '-t', 'by hand')).toMatchObject({ code: 0 });
    const signature = readFileSync(`${file}.minisig`, 'utf8');
    expect(verifySignature(MESSAGE, signature, [newKey(), key], file)).toMatchObject({ key: { id: key.id }, trustedComment: 'by hand' });
    // Ed25519 has no chance in it: the same key and message, the same signature.
    expect(signature.split('\n')[1]).toBe(signatureText(MESSAGE, key, 'by hand').split('\n')[1]);
  });

  it('makes keys that we read: the plain one as it is, the id as it prints it', async () => {
    expect(minisign('-G', '-W', '-p', at('g.pub'), '-s', at('g.key'))).toMatchObject({ code: 0 });
    const [secret, known] = [await readSecretKey(at('g.key')), readPublicKey(at('g.pub'))];
    expect(secret).toMatchObject(known);
    expect(readFileSync(at('g.pub'), 'utf8')).toBe(publicKeyText(known));
    write('g', MESSAGE);
    write('g.minisig', signatureText(MESSAGE, secret, 'x'));
    expect(minisign('-V', '-q', '-p', at('g.pub'), '-m', at('g'))).toMatchObject({ code: 0 });
  });
});

/** The password is `pw`; at libsodium's INTERACTIVE limits, which are 2^14, 8 and 1 for scrypt: minisign's own take too long to try twice. */
function locked(key: SecretKey): string {
  const [comment, line] = secretKeyText(key).split('\n');
  const body = Buffer.from(line!, 'base64');
  body.write('Sc', 2, 'latin1');
  body.fill(7, 6, 38);
  body.writeBigUInt64LE(524_288n, 38);
  body.writeBigUInt64LE(16_777_216n, 46);
  const stream = scryptSync('pw', body.subarray(6, 38), 104, { N: 2 ** 14, r: 8, p: 1 });
  for (let at = 0; at < 104; at++) body[54 + at] = body[54 + at]! ^ stream[at]!;
  return `${comment}\n${body.toString('base64')}\n`;
}

describe('a secret key with a password', () => {
  // Made by minisign 0.11 -G: 1 GiB and 3 s a try, so it is tried once.
  const golden = (half: string): string => readFileSync(new URL(`../golden/keys/minisign-encrypted.${half}`, import.meta.url), 'utf8');

  it('that minisign made opens with it', { timeout: 60_000 }, async () => {
    expect(isEncrypted(golden('key'))).toBe(true);
    expect(await parseSecretKey(golden('key'), 'e.key', 'pw')).toMatchObject(parsePublicKey(golden('pub'), 'e.pub'));
  });

  it('is refused with another, and says what to do without one', async () => {
    const key = newKey();
    expect(isEncrypted(secretKeyText(key))).toBe(false);
    expect(await parseSecretKey(locked(key), 'e.key', 'pw')).toEqual(await parseSecretKey(secretKeyText(key), 'plain.key'));
    await expect(parseSecretKey(locked(key), 'e.key', 'PW')).rejects.toMatchObject({ code: 'KEY_INVALID', message: 'e.key: the password is wrong' });
    await expect(parseSecretKey(locked(key), 'e.key')).rejects.toMatchObject({ code: 'KEY_INVALID', message: 'e.key is encrypted, and nobody is there to ask for its password' });
  });

  it('whose limits would take more memory than minisign ever asks for is refused before it is taken', async () => {
    const lines = golden('key').split('\n');
    const body = Buffer.from(lines[1]!, 'base64');
    body.writeBigUInt64LE(2n ** 50n, 38);
    body.writeBigUInt64LE(2n ** 40n, 46);
    await expect(parseSecretKey(`${lines[0]}\n${body.toString('base64')}\n`, 'e.key', 'pw')).rejects.toMatchObject({ code: 'KEY_INVALID', message: expect.stringMatching(/MiB of memory/) as string });
  });
});

describe('what is refused, by name', () => {
  const key = newKey();
  const good = signatureText(MESSAGE, key, 'one');
  const refused = (signature: string, message: Uint8Array = MESSAGE): string => {
    try {
      verifySignature(message, signature, [key], 'a.minisig');
      return 'taken';
    } catch (error) {
      expect(error).toMatchObject({ code: 'SIGNATURE_INVALID' });
      return (error as Error).message;
    }
  };
  /** Bits of one of the line's bytes turned; default the lowest. */
  const flipped = (text: string, line: number, byte: number, bits = 1): string =>
    text.split('\n').map((old, index) => {
      if (index !== line) return old;
      const bytes = Buffer.from(old, 'base64');
      bytes[byte] = bytes[byte]! ^ bits;
      return bytes.toString('base64');
    }).join('\n');

  it('each byte of the signatures counts', () => {
    expect(refused(good)).toBe('taken');
    for (let byte = 10; byte < 74; byte++) expect(refused(flipped(good, 1, byte))).toBe('a.minisig: it is not of these bytes');
    for (let byte = 0; byte < 64; byte++) expect(refused(flipped(good, 3, byte))).toBe('a.minisig: its trusted comment was changed');
    for (let byte = 2; byte < 10; byte++) expect(refused(flipped(good, 1, byte))).toMatch(/^a\.minisig: signed by key [0-9A-F]{16}$/);
  });

  it.each([
    ['another message', good, Buffer.from('x'), 'it is not of these bytes'],
    ['another trusted comment', good.replace(/^trusted comment: one/m, 'trusted comment: two'), MESSAGE, 'its trusted comment was changed'],
    ['the old form', flipped(good, 1, 1, 0x20), MESSAGE, 'a signature in the old form'],
    ['a form to come', flipped(good, 1, 1), MESSAGE, 'a signature of a kind that is not known'],
    ['nothing', '', MESSAGE, 'no signature of minisign'],
    ['a line more', `${good}x\n`, MESSAGE, 'no signature of minisign'],
    ['a key', publicKeyText(key), MESSAGE, 'no signature of minisign'],
    ['base64 with rubbish in it', good.replace(/^RU/m, 'R!U'), MESSAGE, 'no signature of minisign'],
  ])('%s', (_what, signature, message, why) => {
    expect(refused(signature, message)).toBe(`a.minisig: ${why}`);
  });

  it('a signature by a stranger names the key, and those that are trusted', () => {
    const stranger = newKey();
    expect(refused(signatureText(MESSAGE, stranger, 'x'))).toBe(`a.minisig: signed by key ${stranger.id}`);
    // The stranger takes our id: only the numbers count.
    expect(refused(signatureText(MESSAGE, { ...stranger, id: key.id }, 'x'))).toBe('a.minisig: it is not of these bytes');
    expect(signerOf(good, 'a.minisig')).toBe(key.id);
  });

  it.each([
    ['nothing', '', 'no public key of minisign', 'make keys'],
    ['a secret key', secretKeyText(key), 'no public key of minisign', 'SECRET'],
    ['a signature', good, 'no public key of minisign', 'signature'],
    ['a shortened one', publicKeyText(key).slice(0, -6), 'no public key of minisign', 'make keys'],
  ])('as a public key: %s', (_what, text, why, hint) => {
    expect(() => parsePublicKey(text, 'x.pub')).toThrow(expect.objectContaining({ code: 'KEY_INVALID', message: `x.pub: ${why}`, hint: expect.stringContaining(hint) as string }) as Error);
  });

  it('as a secret key: a public one, and one whose halves do not fit', async () => {
    await expect(parseSecretKey(publicKeyText(key), 'x.key')).rejects.toMatchObject({ code: 'KEY_INVALID', message: 'x.key: no secret key of minisign', hint: expect.stringContaining('public key') as string });
    await expect(parseSecretKey(flipped(secretKeyText(key), 1, 70), 'x.key')).rejects.toMatchObject({ code: 'KEY_INVALID', message: 'x.key: the two halves of the key do not fit' });
  });
});

describe('rackseed keys init images', () => {
  it('makes the pair once, the secret half for its owner only, and says what goes into rackseed.yaml', async () => {
    const said = await keysInit('images', { config: write('rackseed.yaml', `stateDir: ${dir}/state\n`), dir: at('keys') });
    expect(said).toContain(`sign: ${at('keys/images.key')}`);
    expect(readdirSync(at('keys')).sort()).toEqual(['images.key', 'images.pub']);
    expect([at('keys'), at('keys/images.key')].map((path) => (statSync(path).mode & 0o777).toString(8))).toEqual(['700', '600']);
    const before = readFileSync(at('keys/images.key'));
    await expect(keysInit('images', { config: at('rackseed.yaml'), dir: at('keys') })).rejects.toMatchObject({ code: 'USAGE', message: `${at('keys')} is not empty` });
    expect(readFileSync(at('keys/images.key'))).toEqual(before);
    const secret = await readSecretKey(at('keys/images.key'));
    expect(said).toContain(secret.id);
    write('m', MESSAGE);
    expect(minisign('-S', '-s', at('keys/images.key'), '-m', at('m'))).toMatchObject({ code: 0 });
    expect(minisign('-V', '-q', '-p', at('keys/images.pub'), '-m', at('m'))).toMatchObject({ code: 0 });
  });

  it('not below the state directory, whoever it is reached by, and no keys of a kind that there is not', async () => {
    mkdirSync(at('state/blobs'), { recursive: true });
    symlinkSync('state/blobs', at('link'));
    const config = write('rackseed.yaml', `stateDir: ${dir}/state\n`);
    for (const path of ['state/keys', 'link', 'link/not/yet']) await expect(keysInit('images', { config, dir: at(path) })).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('is in the state directory') as string });
    expect(readdirSync(at('state/blobs'))).toEqual([]);
    await expect(keysInit('image', { config })).rejects.toMatchObject({ code: 'USAGE', message: 'image: there are no such keys' });
  });
});

describe('what an initrd trusts', () => {
  it('is the key beside the one that signs, or those that are named: by id, whatever their files are called', async () => {
    const [old, young] = [makeImageKeys(at('old')), makeImageKeys(at('young'))];
    const one = await readTrust({ sign: at('old/images.key') });
    expect([one.signer?.id, one.keys.map(({ id }) => id)]).toEqual([old.id, [old.id]]);
    const both = await readTrust({ sign: at('young/images.key'), keys: [at('young/images.pub'), at('old/images.pub'), at('old/images.pub')], floor: 7 });
    expect(both.keys.map(({ id }) => id)).toEqual([old.id, young.id].sort());
    write('renamed.pub', readFileSync(at('old/images.pub'), 'utf8').replace(/comment: .*/, 'comment: of 2026'));
    const renamed = await readTrust({ keys: [at('renamed.pub'), at('young/images.pub')], floor: 7 });
    expect(renamed.signer).toBeUndefined();
    expect(trustEntries(renamed)).toEqual(trustEntries(both));
    expect(trustEntries(both).map(({ path, data }) => [path, Buffer.from(data!).toString()])).toEqual([
      ...[old, young].sort((a, b) => (a.id < b.id ? -1 : 1)).map((key) => [`etc/rackseed/keys/${key.id}.pub`, publicKeyText(key)]),
      ['etc/rackseed/floor', '7\n'],
    ]);
  });

  it('decides a build: who signs does not, another key or floor does, and without any nothing is said', async () => {
    const keys = [at('young/images.pub'), at('old/images.pub')];
    const [byOld, byYoung] = [await readTrust({ sign: at('old/images.key'), keys }), await readTrust({ sign: at('young/images.key'), keys })];
    expect(trustInput(byOld)).toEqual(trustInput(byYoung));
    expect(trustInput({ ...byOld, keys: byOld.keys.slice(1) })).not.toEqual(trustInput(byOld));
    expect(trustInput({ ...byOld, floor: 1 })).not.toEqual(trustInput(byOld));
    expect(trustInput(await readTrust({}))).toBeUndefined();
    expect(trustEntries(await readTrust({}))).toEqual([]);
  });

  it('is verified by the image\'s own minisign, which an image without keys need not have', () => {
    const trust = { keys: [newKey()] };
    expect(withMinisign({ packages: ['git'] }, trust).packages).toEqual(['git', 'minisign']);
    expect(withMinisign({ packages: ['minisign', 'git'] }, trust).packages).toEqual(['minisign', 'git']);
    expect(withMinisign({ packages: ['git'] }, { keys: [] }).packages).toEqual(['git']);
  });

  it('must be able to verify what is signed, and ids must tell keys apart', async () => {
    await expect(readTrust({ sign: at('old/images.key'), keys: [at('young/images.pub')] })).rejects.toMatchObject({ code: 'KEY_INVALID', message: expect.stringMatching(/^\S+images\.key is key [0-9A-F]{16}, and the initrd would trust [0-9A-F]{16} only$/) as string });
    const { id } = readPublicKey(at('old/images.pub'));
    const twin = write('twin.pub', publicKeyText({ ...newKey(), id }));
    await expect(readTrust({ keys: [at('old/images.pub'), twin] })).rejects.toMatchObject({ code: 'KEY_INVALID', message: `${twin}: another key with the id ${id}` });
    await expect(readTrust({ sign: at('old/images.key'), keys: [twin] })).rejects.toMatchObject({ code: 'KEY_INVALID' });
    await expect(readTrust({ sign: at('nothing.key') })).rejects.toMatchObject({ code: 'KEY_INVALID', message: `${at('nothing.pub')}: no such file` });
    await expect(readTrust({ keys: [at('old/images.pub')], floor: Math.floor(Date.now() / 1000) + 60 })).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('is in the future') as string });
    await expect(readTrust({ keys: ['/dev/zero'] })).rejects.toMatchObject({ code: 'KEY_INVALID', message: '/dev/zero is no key: not a file of a few lines' });
  });

  it('asks for the password of an encrypted key, once, and of no other', async () => {
    const asked = vi.fn(async () => 'pw');
    await readSecretKey(at('old/images.key'), asked);
    expect(asked).not.toHaveBeenCalled();
    const key = newKey();
    write('locked.pub', publicKeyText(key));
    expect((await readTrust({ sign: write('locked.key', locked(key)) }, asked)).signer).toEqual(await parseSecretKey(secretKeyText(key), 'plain.key'));
    expect(asked).toHaveBeenCalledExactlyOnceWith(at('locked.key'));
  });
});
