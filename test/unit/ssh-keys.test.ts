// Keys against OpenSSH's own ssh-keygen: which lines of authorized_keys are taken, and what a derived host key is to it.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { faultOfKey, hostKeyOf } from '../../src/boot/ssh-keys.ts';
import { createHostKeys } from '../../src/store/host-keys.ts';

let dir: string;
beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-ssh-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const keygen = (...args: string[]): string => execFileSync('ssh-keygen', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** A pair of ssh-keygen's own; answers its public line. */
function pair(type: string, bits?: string): string {
  const file = join(dir, `${type}${bits ?? ''}`);
  keygen('-q', '-t', type, ...(bits ? ['-b', bits] : []), '-N', '', '-C', 'me@example', '-f', file);
  return readFileSync(`${file}.pub`, 'utf8').trim();
}

const string = (content: string | Buffer): Buffer => {
  const bytes = Buffer.from(content as string);
  return Buffer.concat([Buffer.from([0, 0, bytes.length >> 8, bytes.length & 255]), bytes]);
};
const line = (type: string, ...fields: (string | Buffer)[]): string => `${type} ${Buffer.concat([type, ...fields].map(string)).toString('base64')}`;
const ED = line('ssh-ed25519', Buffer.alloc(32, 1));
const BLOB = ED.split(' ')[1]!;

describe('a line of authorized_keys', () => {
  it.each<[string, string?]>([['ed25519'], ['ecdsa', '256'], ['ecdsa', '384'], ['ecdsa', '521'], ['rsa', '1024'], ['rsa', '2048']])("of ssh-keygen's own is taken: %s %s", (type, bits) => expect(faultOfKey(pair(type, bits))).toBeUndefined());

  const point = Buffer.concat([Buffer.from([4]), Buffer.alloc(64, 1)]);
  it.each([
    ['a security key', line('sk-ssh-ed25519@openssh.com', Buffer.alloc(32, 1), 'ssh:')],
    ['a security key on a curve', line('sk-ecdsa-sha2-nistp256@openssh.com', 'nistp256', point, 'ssh:')],
    ['no comment', ED],
    ['a comment of several words', `${ED} a laptop, the old one`],
    ['an option', `restrict ${ED}`],
    ['options in quotes', `from="10.0.0.0/8,::1",command="echo \\"a b\\" ssh-rsa AAAA",no-pty ${ED} me`],
    ['a key of a CA', `cert-authority ${ED}`],
    ['spaces around it', `  ${ED}  `],
  ])('with %s is taken', (_what, text) => expect(faultOfKey(text)).toBeUndefined());

  it.each([
    ['a private key', '-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----\n', /^this is a private key: give the public one/],
    ["PuTTY's private key", 'PuTTY-User-Key-File-3: ssh-ed25519', /^this is a private key/],
    ['a file name', '~/.ssh/id_ed25519.pub', /^this is the name of a file/],
    ['a path', '/home/me/key', /^this is the name of a file/],
    ['nothing', '', /^not a line of authorized_keys/],
    ['a word', 'hello', /^not a line of authorized_keys/],
    ['a type alone', 'ssh-ed25519', /^not a line of authorized_keys/],
    ['DSA', `ssh-dss ${BLOB}`, /no sshd of today takes DSA keys/],
    ['a certificate', `ssh-ed25519-cert-v01@openssh.com ${BLOB}`, /^not a line of authorized_keys/],
    ['another type in front', ED.replace('ssh-ed25519', 'ssh-rsa'), /^ssh-rsa: the base64 is no key of that type, or not all of one$/],
    ['an end that is missing', ED.slice(0, -8), /^ssh-ed25519: the base64 is no key of that type, or not all of one$/],
    ['a character that is missing', ED.slice(0, -1), /^ssh-ed25519: what follows is not base64, or not all of it$/],
    ['what is not base64', `ssh-ed25519 ${BLOB.slice(0, -2)}*=`, /not base64/],
    ['more behind it', `ssh-ed25519 ${Buffer.concat([Buffer.from(BLOB, 'base64'), string('x')]).toString('base64')}`, /^ssh-ed25519: the base64 is no key of that type$/],
    ['31 bytes of key', line('ssh-ed25519', Buffer.alloc(31)), /no key of that type$/],
    ['a point on another curve', line('ecdsa-sha2-nistp256', 'nistp384', point), /no key of that type$/],
    ['a short point', line('ecdsa-sha2-nistp384', 'nistp384', point), /no key of that type$/],
    ['RSA that sshd refuses', line('ssh-rsa', Buffer.from([1, 0, 1]), Buffer.alloc(96, 255)), /no key of that type with 1024 bits or more$/],
    ['two lines', `${ED}\n${ED}`, /^must be one line/],
    ['an option over two lines', `command="a\nb" ${ED}`, /^must be one line/],
    ['a line break of Unicode', `${ED} a\u2028b`, /^must be one line/],
    ['a carriage return', `${ED}\r`, /^must be one line/],
    ['a novel', `${ED} ${'x'.repeat(9000)}`, /at most 8192 are read$/],
  ])('%s is not taken', (_what, text, why) => expect(faultOfKey(text)).toMatch(why));

  it('never shows what was written in the reason', () => {
    for (const secret of ['-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0', 'ssh-ed25519 c2VjcmV0', '~/c2VjcmV0']) expect(faultOfKey(secret)).not.toContain('c2VjcmV0');
  });

  it('is judged in no time, whatever it is', () => {
    const start = performance.now();
    for (const text of [`a${'"'.repeat(8000)}`, `a="${'\\"'.repeat(4000)}`, `${'a '.repeat(4000)}`, ' '.repeat(8000), `a${'""'.repeat(4000)} ssh-ed25519`]) expect(faultOfKey(text)).toMatch(/not a line/);
    expect(performance.now() - start).toBeLessThan(2000);
  });
});

describe("a node's host key", () => {
  const secret = Buffer.alloc(32, 7);

  it.each(['n1', 'a', 'a-name-of-63-characters-'.padEnd(63, 'x')])('of %s is one to OpenSSH, with the public key and fingerprint that we tell', (node) => {
    const { file, publicKey, fingerprint } = hostKeyOf(secret, node);
    const at = join(dir, `host-${node.slice(0, 5)}`);
    writeFileSync(at, file, { mode: 0o600 });
    expect(keygen('-y', '-P', '', '-f', at).trim()).toBe(`${publicKey} root@${node}`);
    expect(keygen('-l', '-f', at)).toBe(`256 ${fingerprint} root@${node} (ED25519)\n`);
    // It signs, too: a file whose halves do not fit would be read all the same.
    writeFileSync(join(dir, 'signers'), `me ${publicKey}\n`);
    writeFileSync(join(dir, 'text'), 'hello');
    rmSync(join(dir, 'text.sig'), { force: true });
    keygen('-Y', 'sign', '-q', '-n', 'file', '-f', at, join(dir, 'text'));
    expect(execFileSync('ssh-keygen', ['-Y', 'verify', '-f', join(dir, 'signers'), '-I', 'me', '-n', 'file', '-s', join(dir, 'text.sig')], { input: 'hello', encoding: 'utf8' })).toContain('Good "file" signature');
  });

  it('is the same at each boot, another for each node, and another with another secret', () => {
    expect(hostKeyOf(secret, 'n1')).toEqual(hostKeyOf(secret, 'n1'));
    const all = [hostKeyOf(secret, 'n1'), hostKeyOf(secret, 'n2'), hostKeyOf(Buffer.alloc(32, 8), 'n1')].map(({ publicKey }) => publicKey);
    expect(new Set(all).size).toBe(3);
  });

  // Whoever changes how it is derived gives each node of each site another host key.
  it('does not change with a new rackseed', () => expect(hostKeyOf(secret, 'n1').fingerprint).toBe('SHA256:isoM6JHLnOI+IPZbh8/0aNwiv253DCTOuLYk+eMjcCM'));
});

describe("the daemon's secret", () => {
  test('is made once, private, and read by whoever comes later', () => {
    const state = join(dir, 'state');
    const first = createHostKeys(state).of('n1');
    expect(createHostKeys(state).of('n1')).toEqual(first);
    expect(readdirSync(state)).toEqual(['ssh-host-keys.secret']);
    expect(statSync(join(state, 'ssh-host-keys.secret'))).toMatchObject({ size: 32 });
    expect(statSync(join(state, 'ssh-host-keys.secret')).mode & 0o777).toBe(0o600);
    rmSync(join(state, 'ssh-host-keys.secret'));
    expect(createHostKeys(state).of('n1')).not.toEqual(first);
  });

  test('is not made where nobody asks', () => {
    createHostKeys(join(dir, 'unasked'));
    expect(readdirSync(dir)).not.toContain('unasked');
  });

  test('that was cut is told, and not replaced', () => {
    const state = join(dir, 'cut');
    createHostKeys(state).of('n1');
    writeFileSync(join(state, 'ssh-host-keys.secret'), 'short');
    expect(() => createHostKeys(state).of('n1')).toThrow(/has 5 bytes, not 32/);
    expect(readFileSync(join(state, 'ssh-host-keys.secret'), 'utf8')).toBe('short');
  });
});
