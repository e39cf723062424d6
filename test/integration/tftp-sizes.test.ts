// TFTP conformance: each client that people have, with each option that it can ask for, at every size where an end can be missed, and 100 MiB.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Answer, Booter } from '../../src/booter.ts';
import type { BlobRef } from '../../src/boot/profile.ts';
import { hexOf } from '../../src/digest.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { blobFile, createBlobStore } from '../../src/store/blobs.ts';
import { createVerifiedBlobs } from '../../src/store/verified.ts';
import { createFileCache, FILE_CACHE_BYTES } from '../../src/tftp/file-cache.ts';
import { createTftpServer, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';

const LINK = 'tfz0';
const SERVER = '10.95.0.1';
/** Its transfers run on Node's own sockets. */
const PLAIN_SERVER = '10.95.0.2';
const NODE = '10.95.0.11';
const MIB = 1024 * 1024;
const LARGE = 100 * MIB;
const BLOCK = 1468;
const SIZES = [0, 1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 16 * BLOCK, 64 * BLOCK, 100 * BLOCK];

const run = promisify(execFile);
const answer: Answer = { decision: { kind: 'silent', why: 'not asked' } };

let peer: Namespace;
let dir: string;
const servers: TftpServer[] = [];
let logged = '';
/** By name, which is the size. */
const blobs = new Map<string, BlobRef>();

/** A different block at every place of the file, so that one in the wrong place is a wrong file. */
function* content(size: number): Generator<Buffer> {
  const words = new Uint32Array(16_384);
  for (let at = 0; at < size; at += words.byteLength) {
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(at / 4 + i + 1, 0x9e3779b1);
    yield Buffer.from(words.buffer.slice(0, Math.min(words.byteLength, size - at)));
  }
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rackseed-tftp-sizes-'));
  const store = createBlobStore(dir);
  for (const size of [...SIZES, LARGE]) blobs.set(String(size), await store.add(Readable.from(content(size))));
  peer = await createNamespace();
  await run('ip', ['link', 'add', LINK, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid)]);
  for (const address of [SERVER, PLAIN_SERVER]) await run('ip', ['addr', 'add', `${address}/24`, 'dev', LINK]);
  await run('ip', ['link', 'set', LINK, 'up']);
  await peer.must(['ip', 'addr', 'add', `${NODE}/24`, 'dev', 'eth0']);
  await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
  await startServer(SERVER);
  process.env.RACKSEED_SOCKETS = 'plain';
  await startServer(PLAIN_SERVER).finally(() => delete process.env.RACKSEED_SOCKETS);
});

/** With the daemon's own cache of files, but these are named by their sizes: what is larger than the memory for them comes through a ring. */
async function startServer(address: string): Promise<void> {
  const cache = createFileCache(createVerifiedBlobs({ stateDir: dir, onRotten: () => undefined }));
  const server = createTftpServer({
    sockets: await bindTftp({ listen: [address] }),
    files: {
      async open(name) {
        const file = (await cache.get([blobs.get(name)!]))!;
        if ((file.pieces !== undefined) !== Number(name) > FILE_CACHE_BYTES) throw new Error(`${name} bytes should ${file.pieces ? 'not ' : ''}be in a ring`);
        return { file, answer };
      },
    },
    booter: {} as Booter,
    log: createLog('info', { write: (line: string) => void (logged += line) }),
  });
  server.start();
  servers.push(server);
}

afterAll(async () => {
  for (const server of servers) await server.stop();
  await run('ip', ['link', 'del', LINK]);
  await peer.close();
  await rm(dir, { recursive: true });
});

type Client = (size: number, out: string, server: string) => readonly string[];
const hpa: Client = (size, out, server) => ['tftp', '-m', 'binary', server, '-c', 'get', String(size), out];
const atftp = (...options: string[]): Client => (size, out, server) => ['atftp', ...options.flatMap((option) => ['--option', option]), '--get', '--remote-file', String(size), '--local-file', out, server];
const curl = (...options: string[]): Client => (size, out, server) => ['curl', '--silent', '--show-error', '--max-time', '60', '--output', out, ...options, `tftp://${server}/${size}`];
const busybox = (...options: string[]): Client => (size, out, server) => ['busybox', 'tftp', '-g', ...options, '-r', String(size), '-l', out, server];

const lines = () => logged.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Record<string, unknown>);

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(file, { highWaterMark: MIB })) hash.update(piece as Buffer);
  return hash.digest('hex');
}

/** `blockSize` and `windowSize` are what the server granted, by its own log. */
async function expectFetched(client: Client, size: number, blockSize: number, windowSize: number, server = SERVER): Promise<void> {
  logged = '';
  const out = join(dir, 'out');
  await rm(out, { force: true });
  expect(await peer.run(client(size, out, server)), `${size} bytes`).toMatchObject({ code: 0 });
  expect([size, await sha256(out)]).toEqual([size, hexOf(blobs.get(String(size))!.digest)]);
  await expect.poll(lines, { message: `${size} bytes` }).toEqual([expect.objectContaining({ msg: 'tftp: file sent', file: String(size), bytes: size, blockSize, windowSize })]);
}

describe(`files of ${SIZES.join(', ')} bytes arrive byte for byte`, () => {
  test.each<[string, Client, number, number]>([
    ['tftp-hpa, which asks for no option', hpa, 512, 1],
    ['atftp', atftp(), 512, 1],
    ['atftp with tsize', atftp('tsize 0'), 512, 1],
    ['atftp with blksize 1468 and a timeout of 2 s', atftp('blksize 1468', 'timeout 2'), 1468, 1],
    ['atftp with blksize 8192, which is cut down to the path', atftp('blksize 8192'), 1468, 1],
    ...[1, 4, 16, 64].map((window): [string, Client, number, number] => [`atftp with windowsize ${window}`, atftp(`windowsize ${window}`), 512, window]),
    ...[4, 16, 64].map((window): [string, Client, number, number] => [`atftp with blksize 1468 and windowsize ${window}`, atftp('blksize 1468', `windowsize ${window}`), 1468, window]),
    ['curl without options', curl('--tftp-no-options'), 512, 1],
    ['busybox tftp', busybox(), 512, 1],
    ['busybox tftp with blksize 1468', busybox('-b', '1468'), 1468, 1],
  ])('with %s', async (_name, client, blockSize, windowSize) => {
    for (const size of SIZES) await expectFetched(client, size, blockSize, windowSize);
  });

  // curl always asks for tsize, and calls an answer of 0 invalid (lib/tftp.c, parsing the OACK): such a file it has without options only.
  test.each<[string, Client, number]>([
    ['curl', curl(), 512],
    ['curl with blksize 8', curl('--tftp-blksize', '8'), 8],
    ['curl with blksize 1468', curl('--tftp-blksize', '1468'), 1468],
  ])('with %s, but for the one of 0 bytes, whose size it does not take', async (_name, client, blockSize) => {
    for (const size of SIZES.slice(1)) await expectFetched(client, size, blockSize, 1);
    logged = '';
    expect(await peer.run(client(0, join(dir, 'out'), SERVER))).toMatchObject({ code: 71 });
    await expect.poll(lines).toEqual([expect.objectContaining({ msg: 'tftp: transfer failed', file: '0' })]);
  });
});

describe('100 MiB, larger than what is held in memory, arrive byte for byte', () => {
  // 204,801 blocks of 512: the number begins again at 0 three times. All of these clients take it.
  test.each<[string, Client, number, number]>([
    ['tftp-hpa', hpa, 512, 1],
    ['atftp', atftp(), 512, 1],
    ['atftp in windows of 64', atftp('windowsize 64'), 512, 64],
    ['atftp in windows of 16 blocks of 1468', atftp('blksize 1468', 'windowsize 16'), 1468, 16],
    ['curl', curl(), 512, 1],
    ['busybox tftp', busybox(), 512, 1],
  ])('with %s', async (_name, client, blockSize, windowSize) => {
    await expectFetched(client, LARGE, blockSize, windowSize);
  });

  test("on Node's own sockets, with busybox tftp and with atftp in windows of 64", async () => {
    await expectFetched(busybox('-b', '1468'), LARGE, 1468, 1, PLAIN_SERVER);
    await expectFetched(atftp('blksize 1468', 'windowsize 64'), LARGE, 1468, 64, PLAIN_SERVER);
  });
});

test('a file that is written to while it is sent ends in an ERROR: the client has the first bytes of the digest\'s content and none of the others', async () => {
  const { digest } = blobs.get(String(LARGE))!;
  const out = join(dir, 'out');
  await rm(out, { force: true });
  logged = '';
  const fetching = peer.run(atftp()(LARGE, out, SERVER));
  const arrived = () => readFile(out).then((bytes) => bytes.length, () => 0);
  await expect.poll(arrived).toBeGreaterThan(2 * MIB);
  const file = await open(blobFile(dir, digest), 'r+');
  for (let at = 0; at < LARGE; at += MIB) await file.write(Buffer.alloc(MIB, 'x'), 0, MIB, at);
  await file.close();
  const { stdout, stderr } = await fetching;
  expect(stdout + stderr).toContain('the server is at fault, see its log');
  const got = await readFile(out);
  expect(got.length).toBeLessThan(LARGE);
  const whole = Buffer.concat([...content(LARGE)]);
  expect(got.equals(whole.subarray(0, got.length))).toBe(true);
  await expect.poll(lines).toEqual([expect.objectContaining({ msg: 'tftp: transfer failed', why: expect.stringMatching(/changed|changing/) })]);
});
