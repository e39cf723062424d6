// A signed image at the running daemon: both blobs are served by their digests, and the initrd stage's own shell takes the signature by the keys that it has.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { exportBlobs } from '../../src/commands/blob.ts';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { newKey, publicKeyText, verifySignature } from '../../src/images/minisign.ts';
import { parseSignedText } from '../../src/images/signed-manifest.ts';
import { signImage } from '../../src/images/sign.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const MINISIGN = process.env['RACKSEED_MINISIGN'] ?? '/usr/bin/minisign';
const [old, young, stranger] = [newKey(), newKey(), newKey()];

let dir: string;
let world: World;
let relay: Relay;
let n1: Machine;
let config: string;
/** busybox wget cannot choose its source address, and the daemon answers n1's only. */
let asN1: Server;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-signatures-'));
  mkdirSync(join(dir, 'bin'));
  execFileSync('busybox', ['--install', '-s', join(dir, 'bin')]);
  world = await startWorld({ before: async (stateDir) => void (await signImage({ name: 'debian-k0s', stateDir, key: old })) });
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
  await n1.dora('ipxe');
  const boot = /rackseed\.boot=(\w+)/.exec((await n1.http('GET', `/script/${n1.mac}`)).text)![1]!;
  const token = /^token (\w+)$/m.exec((await n1.http('POST', '/enrol', { body: `boot ${boot}\nmac ${n1.mac}\n` })).text)![1]!;
  asN1 = createServer((client) => {
    const daemon = connect({ host: '127.0.0.1', port: world.httpPort, localAddress: world.ips.n1 });
    for (const end of [client, daemon]) end.on('error', () => end.destroy());
    client.pipe(daemon).pipe(client);
  });
  await new Promise<void>((resolve) => asN1.listen(0, '127.0.0.1', resolve));
  config = (await n1.http('GET', `/boots/${boot}/config`, { headers: { authorization: `Bearer ${token}` } })).text;
});
afterAll(async () => {
  asN1?.close();
  await relay?.close();
  await world?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const value = (key: string): string => new RegExp(`^${key} (.*)$`, 'm').exec(config)?.[1] ?? `no ${key} in config`;

it('config names manifest and signature by digest, and the daemon serves the bytes that were signed', async () => {
  const [manifest, signature] = await Promise.all(['manifest', 'signature'].map(async (what) => {
    expect(value(`${what}-url`)).toContain(`/blobs/sha256/${hexOf(value(`${what}-digest`))}`);
    const { status, text } = await n1.http('GET', value(`${what}-url`));
    expect([status, digestOfBytes(text)]).toEqual([200, value(`${what}-digest`)]);
    return text;
  }));
  expect(verifySignature(Buffer.from(manifest!), signature!, [old], 'x').trustedComment).toBe(`rackseed image debian-k0s serial 0 digest ${world.image.digest}`);
  expect(parseSignedText(manifest!, 'x')).toMatchObject({ digest: world.image.digest, squashfs: world.image.squashfs });
  expect(value('squashfs-digest')).toBe(world.image.squashfs.digest);
});

it('an export for another web server has both', async () => {
  const exported = await exportBlobs({ stateDir: join(world.dir, 'state'), dir: join(dir, 'out') });
  expect(exported.map(({ digest }) => digest)).toEqual(expect.arrayContaining([value('manifest-digest'), value('signature-digest')]));
});

/** The stage's `trusted` with these keys: its code, the signer's file, and $why. */
async function trusted(keys: Readonly<Record<string, string>>, floor?: number): Promise<{ code: string; signer: string; why: string }> {
  const at = mkdtempSync(join(dir, 'stage-'));
  mkdirSync(join(at, 'etc/keys'), { recursive: true });
  for (const [name, text] of Object.entries(keys)) writeFileSync(join(at, 'etc/keys', name), text);
  if (floor !== undefined) writeFileSync(join(at, 'etc/floor'), `${floor}\n`);
  writeFileSync(join(at, 'answer'), `HTTP/1.1 200 OK\r\n\r\n${config}`);
  const script = `for part in say cmdline request integrity; do . ${LIB}/$part.sh; done
url=http://127.0.0.1:${(asN1.address() as AddressInfo).port} squashfs_digest=${hexOf(world.image.squashfs.digest)} squashfs_size=${world.image.squashfs.size}
integrity_config
[ -z "$config_fault" ] || { echo "fault|$config_fault|"; exit; }
trusted; code=$?
[ $code = 0 ] && why=
echo "$code|$trust|$why"`;
  const env = { PATH: [join(dir, 'bin'), dirname(MINISIGN)].join(delimiter), LD_LIBRARY_PATH: process.env['LD_LIBRARY_PATH'] ?? '', ANSWER: join(at, 'answer'), WGET_ERR: join(at, 'wget'), KEYS: join(at, 'etc'), STICK: join(at, 'stick'), TRUST: join(at, 'trust'), CONSOLE: join(at, 'console'), KMSG: join(at, 'kmsg') };
  // Not in this process's turn: the daemon that answers is in it.
  const out = await new Promise<string>((resolve, reject) => execFile('busybox', ['sh', '-c', script], { env }, (error, stdout, stderr) => (error ? reject(new Error(`${error.message}${stderr}`)) : resolve(stdout))));
  const [code = '', signer = '', why = ''] = out.trim().split('|');
  return { code, signer, why };
}

it('the initrd stage takes what one of its keys signed, also while two overlap', async () => {
  expect(await trusted({ 'old.pub': publicKeyText(old) })).toEqual({ code: '0', signer: 'old.pub', why: '' });
  expect(await trusted({ 'a-young.pub': publicKeyText(young), 'old.pub': publicKeyText(old) })).toEqual({ code: '0', signer: 'old.pub', why: '' });
  expect(await trusted({})).toMatchObject({ code: '0', signer: 'none' });
});

it('it refuses what only a key that was taken away, or nobody it knows, has signed', async () => {
  expect(await trusted({ 'young.pub': publicKeyText(young) })).toMatchObject({ code: '2', why: expect.stringMatching(/^signature: no key has signed this manifest/) as string });
  // A stranger under the id of the old key.
  expect(await trusted({ 'old.pub': publicKeyText({ ...stranger, id: old.id }) })).toMatchObject({ code: '2', why: expect.stringMatching(/^signature: /) as string });
});

it('it refuses an image that is older than its floor', async () => {
  expect(await trusted({ 'old.pub': publicKeyText(old) }, 0)).toMatchObject({ code: '0' });
  expect(await trusted({ 'old.pub': publicKeyText(old) }, 1)).toMatchObject({ code: '2', why: expect.stringMatching(/^manifest: image debian-k0s has serial 0, older than 1/) as string });
});
