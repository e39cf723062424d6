// The operator's own keys by Debian's tools: made once, for nobody else's eyes, and a signature that an altered byte breaks.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { keysInit } from '../../src/commands/keys.ts';
import { peSections } from '../../src/images/pe.ts';
import { makeSecureBootKeys, signEfi, verifyEfi } from '../../src/images/signing.ts';
import { ukiBytes } from '../../src/images/uki.ts';

const STUB = process.env['RACKSEED_UKI_STUB'] ?? '/usr/lib/systemd/boot/efi/linuxx64.efi.stub';
let dir: string;
let keys: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-keys-'));
  keys = join(dir, 'secure-boot');
  await makeSecureBootKeys(keys);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const uki = (name: string): string => {
  const file = join(dir, name);
  writeFileSync(file, ukiBytes(readFileSync(STUB), { cmdline: 'console=ttyS0', kernelVersion: '6.12', kernel: Buffer.alloc(100_000, 7), initrds: [Buffer.from('initrd')] }));
  return file;
};

it('all files are there, for their owner only', () => {
  const files = ['PK', 'KEK', 'db'].flatMap((name) => ['auth', 'cer', 'crt', 'esl', 'key'].map((kind) => `${name}.${kind}`));
  expect(readdirSync(keys).sort()).toEqual([...files, 'owner.guid'].sort());
  expect([keys, ...readdirSync(keys).map((file) => join(keys, file))].map((path) => (statSync(path).mode & 0o777).toString(8))).toEqual(['700', ...Array<string>(16).fill('600')]);
  expect(execFileSync('openssl', ['x509', '-in', join(keys, 'db.crt'), '-noout', '-text'], { encoding: 'utf8' })).toMatch(/Public-Key: \(2048 bit\)/);
});

it('keys that are there are never overwritten, and a directory that cannot be filled is left as it was', async () => {
  const before = readFileSync(join(keys, 'PK.key'));
  await expect(makeSecureBootKeys(keys)).rejects.toMatchObject({ code: 'USAGE', message: `${keys} is not empty` });
  expect(readFileSync(join(keys, 'PK.key'))).toEqual(before);
  await expect(makeSecureBootKeys(join(keys, 'PK.key'))).rejects.toMatchObject({ code: 'USAGE', message: `${join(keys, 'PK.key')} is no directory` });
  // The daemon's user owns all of the state directory.
  writeFileSync(join(dir, 'rackseed.yaml'), `stateDir: ${dir}/state\n`);
  const init = (path: string) => keysInit('secure-boot', { config: join(dir, 'rackseed.yaml'), dir: join(dir, path) });
  const refused = { code: 'USAGE', message: expect.stringContaining('is in the state directory') as string };
  await expect(init('state/secure-boot')).rejects.toMatchObject(refused);
  mkdirSync(join(dir, 'state/blobs'), { recursive: true });
  symlinkSync('state/blobs', join(dir, 'link'));
  for (const path of ['link', 'link/secure-boot', 'link/not/yet/there']) await expect(init(path)).rejects.toMatchObject(refused);
  expect(readdirSync(join(dir, 'state/blobs'))).toEqual([]);
  // Nor by a state directory that is a link itself.
  symlinkSync('state', join(dir, 'state-link'));
  writeFileSync(join(dir, 'rackseed.yaml'), `stateDir: ${dir}/state-link\n`);
  await expect(init('state/secure-boot')).rejects.toMatchObject(refused);
});

it('a signed UKI verifies, also as objdump reads it; one changed byte or another key does not', async () => {
  const file = uki('a.efi');
  await expect(verifyEfi(file, join(keys, 'db.crt'))).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED' });
  await signEfi(file, keys);
  await verifyEfi(file, join(keys, 'db.crt'));
  await expect(verifyEfi(file, join(keys, 'KEK.crt'))).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED' });
  const bytes = readFileSync(file);
  const { offset } = peSections(bytes).find(({ name }) => name === '.cmdline')!;
  bytes[offset] = bytes[offset]! ^ 1;
  writeFileSync(join(dir, 'altered.efi'), bytes);
  await expect(verifyEfi(join(dir, 'altered.efi'), join(keys, 'db.crt'))).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED' });
});

it('a directory without db.key signs nothing, and a missing program is told by its package', async () => {
  const other = join(dir, 'other');
  mkdirSync(other);
  copyFileSync(join(keys, 'db.crt'), join(other, 'db.crt'));
  const file = uki('b.efi');
  const before = readFileSync(file);
  await expect(signEfi(file, other)).rejects.toMatchObject({ code: 'USAGE', message: `--sign: ${join(other, 'db.key')}: no such file` });
  vi.stubEnv('PATH', other);
  await expect(signEfi(file, keys)).rejects.toMatchObject({ code: 'PACKAGES_MISSING', message: 'sbsign is not installed', hint: 'apt-get install --no-install-recommends sbsigntool' });
  vi.unstubAllEnvs();
  expect(readFileSync(file)).toEqual(before);
});
