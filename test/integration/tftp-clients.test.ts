// The TFTP server against the clients that people have: tftp-hpa, atftp, curl and node-tftp, over a cable, with loss, and with bad manners.
import { execFile } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decide } from '../../src/boot/decide.ts';
import type { Node } from '../../src/boot/node.ts';
import type { BootSet, Generation } from '../../src/boot/profile.ts';
import type { Boot, StageDetail } from '../../src/boot/timeline.ts';
import type { Booter } from '../../src/booter.ts';
import { sha256Hex } from '../../src/digest.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { createVerifiedBlobs } from '../../src/store/verified.ts';
import { createFileCache } from '../../src/tftp/file-cache.ts';
import { bootFiles } from '../../src/tftp/files.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { loadLoaders, type Loaders } from '../../src/loaders.ts';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createTftpServer, MOST_TRANSFERS_PER_IP, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';

const FIRST = '10.91.0.1';
const SECOND = '10.91.0.2';
/** The node in its own namespace, at the other end of the cable: real clients. */
const NODE = '10.91.0.11';
/** The same node, one that boots from disk, and a stranger, all on our loopback: the test speaks for them byte by byte. */
const TALKER = '10.92.0.11';
const LOCAL = '10.92.0.12';
const STRANGER = '10.92.0.99';
const nodeTftp = createRequire(import.meta.url).resolve('tftp');

const ip = async (...args: string[]) => void (await promisify(execFile)('ip', args));
const nft = async (...args: string[]) => (await promisify(execFile)('nft', args)).stdout;

/** The real policy over a generation made by hand; what was seen is kept. */
function realPolicy(): { readonly booter: Booter; readonly seen: [string, string, StageDetail | undefined][]; asks: number } {
  const size = { digest: `sha256:${'0'.repeat(64)}`, size: 1 };
  const bootSet: BootSet = {
    image: { name: 'debian', digest: size.digest, arch: 'amd64', kernel: size, initrds: [size], squashfs: size },
    cmdline: ['console=ttyS0'],
    root: { state: 'none' },
    artifacts: {},
    vars: {},
  };
  const node = (name: string, mac: string, at: string, profile: string): Node => ({ name, macs: [mac], ip: at, labels: {}, vars: {}, exit: 'exit', profile, source: 'yaml' });
  const nodes = { n1: node('n1', '52:54:00:00:00:01', NODE, 'k0s'), n2: node('n2', '52:54:00:00:00:02', LOCAL, 'disk') };
  const generation: Generation = {
    id: 'sha256:g',
    profiles: { k0s: { name: 'k0s', bootSet: 'sha256:b' }, disk: { name: 'disk' } },
    bootSets: { 'sha256:b': bootSet },
    nodes,
    nodeByMac: { '52:54:00:00:00:01': 'n1', '52:54:00:00:00:02': 'n2' },
    nodeByIp: { [NODE]: 'n1', [TALKER]: 'n1', [LOCAL]: 'n2' },
  };
  const boot: Boot = { id: '01BOOT', node: 'n1', mac: '52:54:00:00:00:01', ip: NODE, state: 'open', startedAt: 0, profile: 'k0s', generation: generation.id, stages: [] };
  const policy = {
    seen: [] as [string, string, StageDetail | undefined][],
    asks: 0,
    booter: {
      async ask(request) {
        policy.asks++;
        const name = generation.nodeByIp[request.ip ?? ''];
        const found = name === undefined ? undefined : generation.nodes[name];
        const view = { failedInRow: 0, ...(found ? { node: found } : {}), ...(name === 'n1' ? { openBoot: boot } : {}) };
        const decision = decide(view, request, generation);
        return { decision, ...(found ? { node: found } : {}), ...(name === 'n1' ? { boot } : {}), ...(decision.kind === 'boot' ? { bootSet } : {}) };
      },
      async seen(id, stage, detail) {
        policy.seen.push([id, stage, detail]);
      },
    } as Pick<Booter, 'ask' | 'seen'> as Booter,
  };
  return policy;
}

let peer: Namespace;
let dir: string;
let loaders: Loaders;
let loader: Uint8Array;
let server: TftpServer;
let policy: ReturnType<typeof realPolicy>;

beforeAll(async () => {
  await ip('link', 'set', 'lo', 'up');
  peer = await createNamespace();
  await ip('link', 'add', 'tftp0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid));
  await ip('addr', 'add', `${FIRST}/24`, 'dev', 'tftp0');
  await ip('addr', 'add', `${SECOND}/24`, 'dev', 'tftp0');
  await ip('link', 'set', 'tftp0', 'up');
  await peer.must(['ip', 'addr', 'add', `${NODE}/24`, 'dev', 'eth0']);
  await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
  for (const address of [TALKER, LOCAL, STRANGER]) await ip('addr', 'add', `${address}/32`, 'dev', 'lo');
  loaders = await loadLoaders('/usr/lib/ipxe');
  loader = loaders.get('undionly.kpxe')!;
});

afterAll(async () => {
  await ip('link', 'del', 'tftp0');
  for (const address of [TALKER, LOCAL, STRANGER]) await ip('addr', 'del', `${address}/32`, 'dev', 'lo');
  await peer.close();
});

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rackseed-tftp-'));
  policy = realPolicy();
  server = createTftpServer({
    sockets: await bindTftp({ listen: [FIRST, SECOND] }),
    files: bootFiles({ loaders, booter: policy.booter, cache: createFileCache(createVerifiedBlobs({ stateDir: dir, onRotten: () => {} })), httpPort: 8080 }),
    booter: policy.booter,
    log: createLog('silent'),
  });
  server.start();
});

afterEach(async () => {
  await server.stop();
  await rm(dir, { recursive: true });
});

const out = () => join(dir, 'out');
async function expectLoader(): Promise<void> {
  expect(sha256Hex(await readFile(out()))).toBe(sha256Hex(loader));
}

/** Fetches with the npm package's client, by default with all the options that it always sends. */
const nodeTftpGet = `
  const tftp = require(${JSON.stringify(nodeTftp)});
  const [host, name, file] = process.argv.slice(1);
  tftp.createClient({ host }).get(name, file, (error) => { if (error) { console.error(error.message); process.exit(1); } });
`;
const curl = (...options: string[]) => ['curl', '--silent', '--show-error', '--max-time', '40', '--interface', NODE, '--output', '{out}', ...options, `tftp://${FIRST}/undionly.kpxe`];

describe('a loader arrives byte for byte', () => {
  test.each<[string, string[], number]>([
    ['with tftp-hpa, which asks for no option', ['tftp', '-m', 'binary', FIRST, '-c', 'get', 'undionly.kpxe', '{out}'], 512],
    ['with atftp', ['atftp', '--get', '--remote-file', 'undionly.kpxe', '--local-file', '{out}', FIRST], 512],
    ['with atftp and blksize 1468', ['atftp', '--option', 'blksize 1468', '--option', 'tsize 0', '--get', '--remote-file', '/undionly.kpxe', '--local-file', '{out}', FIRST], 1468],
    ['with atftp and a blksize that is cut down to the path', ['atftp', '--option', 'blksize 8192', '--get', '--remote-file', 'undionly.kpxe', '--local-file', '{out}', FIRST], 1468],
    ['with curl', curl(), 512],
    ['with curl without options', curl('--tftp-no-options'), 512],
    ['with curl and blksize 1428', curl('--tftp-blksize', '1428'), 1428],
    ['with curl and the smallest blksize', curl('--tftp-blksize', '8'), 8],
    ["with node-tftp's client", [process.execPath, '--no-deprecation', '-e', nodeTftpGet, FIRST, 'undionly.kpxe', '{out}'], 1468],
  ])('%s', async (_name, argv) => {
    const ran = await peer.run(argv.map((word) => (word === '{out}' ? out() : word)));
    expect(ran).toMatchObject({ code: 0 });
    await expectLoader();
    await expect.poll(() => server.counters()).toMatchObject({ complete: 1, failed: 0, aborted: 0, active: 0, bytes: loader.length });
    expect(policy.seen).toEqual([['01BOOT', 'loader', { message: 'undionly.kpxe', bytes: loader.length, durationMs: expect.any(Number), digest: digestOfBytes(loader), version: 'unknown' }]]);
  });

  test.each([1, 5])('with curl, through a network that loses %i in a hundred packets each way', async (percent) => {
    await nft('add', 'table', 'ip', 'loss');
    try {
      for (const hook of ['input', 'output']) {
        await nft('add', 'chain', 'ip', 'loss', hook, `{ type filter hook ${hook} priority 0; }`);
        await nft('add', 'rule', 'ip', 'loss', hook, 'meta', 'l4proto', 'udp', 'numgen', 'random', 'mod', '100', '<', String(percent), 'counter', 'drop');
      }
      // 580 blocks: enough that a run without any loss is as good as impossible.
      const ran = await peer.run(curl('--tftp-blksize', '128').map((word) => (word === '{out}' ? out() : word)));
      expect(ran).toMatchObject({ code: 0 });
      await expectLoader();
      expect(await nft('list', 'table', 'ip', 'loss')).toMatch(/counter packets [1-9]/);
    } finally {
      await nft('delete', 'table', 'ip', 'loss');
    }
  });

  // It answers a block that it has but once, and each one more starts its timer of 5 s anew: asked on and on it would be silent for ever.
  test('with atftp, after an ACK and the answer to its block sent again are both lost', { timeout: 60_000 }, async () => {
    const [ackOfBlock20, twoOfThem] = [['@th,64,32', '0x00040014'], ['quota', 'until', '64', 'bytes']];
    await nft('add', 'table', 'ip', 'loss');
    try {
      await nft('add', 'chain', 'ip', 'loss', 'input', '{ type filter hook input priority 0; }');
      await nft('add', 'rule', 'ip', 'loss', 'input', 'meta', 'l4proto', 'udp', ...ackOfBlock20, ...twoOfThem, 'counter', 'drop');
      const ran = await peer.run(['atftp', '--get', '--remote-file', 'undionly.kpxe', '--local-file', out(), FIRST], { timeoutMs: 40_000 });
      expect(ran).toMatchObject({ code: 0 });
      await expectLoader();
      expect(await nft('list', 'table', 'ip', 'loss')).toMatch(/counter packets 2 /);
      await expect.poll(() => server.counters()).toMatchObject({ complete: 1, failed: 0, active: 0 });
    } finally {
      await nft('delete', 'table', 'ip', 'loss');
    }
  });

  test('from the address that was asked, on a host with two', async () => {
    for (const address of [FIRST, SECOND]) {
      const client = await talker(TALKER);
      client.send(request('undionly.kpxe', { tsize: '0' }), 69, address);
      const { from } = await client.next();
      expect(from.address).toBe(address);
      expect(from.port).not.toBe(69);
      client.close();
    }
    const ran = await peer.run(['curl', '--silent', '--max-time', '20', '--interface', NODE, '--output', out(), `tftp://${SECOND}/undionly.kpxe`]);
    expect(ran.code).toBe(0);
    await expectLoader();
  });

  test('the script comes with the URLs of the address that was asked, and its end is the stage', async () => {
    const ran = await peer.run(['curl', '--silent', '--max-time', '20', '--interface', NODE, `tftp://${SECOND}/autoexec.ipxe`]);
    expect(ran.stdout).toMatch(/^#!ipxe\n/);
    expect(ran.stdout).toContain(`http://${SECOND}:8080/`);
    await expect.poll(() => policy.seen.map(([, stage]) => stage)).toEqual(['script']);
  });
});

describe('refused with a reason', () => {
  test.each<[string, string[], RegExp]>([
    ['netascii', ['tftp', '-m', 'ascii', FIRST, '-c', 'get', 'undionly.kpxe', '{out}'], /Error code 0: only mode octet/],
    ['a file to be written', ['tftp', '-m', 'binary', FIRST, '-c', 'put', '{in}', 'stolen'], /Error code 2: this server takes no files/],
    ['a name that is no loader', ['tftp', '-m', 'binary', FIRST, '-c', 'get', 'pxelinux.0', '{out}'], /Error code 1: file not found/],
    ['a way out of the directory', ['tftp', '-m', 'binary', FIRST, '-c', 'get', '../../../etc/passwd', '{out}'], /Error code 1: file not found/],
  ])('%s', async (_name, argv, answer) => {
    await writeFile(join(dir, 'in'), 'not wanted');
    const ran = await peer.run(argv.map((word) => word.replace('{out}', out()).replace('{in}', join(dir, 'in'))));
    expect(ran.stdout + ran.stderr).toMatch(answer);
    expect(server.counters()).toMatchObject({ refused: 1, complete: 0, active: 0 });
  });

  test.each<[string, string, TftpPacket]>([
    ['a machine that no profile names', STRANGER, { kind: 'error', code: 2, message: 'no profile names this machine' }],
    ['a node that boots from its disk', LOCAL, { kind: 'error', code: 1, message: 'profile disk boots from disk' }],
  ])('%s', async (_name, from, answer) => {
    const client = await talker(from);
    client.send(request('undionly.kpxe'), 69, FIRST);
    expect((await client.next()).packet).toEqual(answer);
    client.close();
  });

  test.each<[string, number]>([['mail', 4], ['klingon', 4]])('mode %s with error %i', async (mode, code) => {
    const client = await talker(TALKER);
    client.send({ kind: 'rrq', file: 'undionly.kpxe', mode, options: new Map() }, 69, FIRST);
    expect((await client.next()).packet).toMatchObject({ kind: 'error', code });
    client.close();
  });
});

describe('bad manners', () => {
  test('datagrams that are no request are counted, not answered, and hurt nobody', async () => {
    const client = await talker(TALKER);
    const junk = ['', '\0', '\0\x01', '\0\x01a', '\0\x01\0octet\0', '\0\x04\0\0', '\0\x05\0\0x\0', '\xff\xff\xff\xff'];
    for (const text of junk) client.sendRaw(Buffer.from(text, 'latin1'), 69, FIRST);
    await expect.poll(() => server.counters().malformed).toBe(junk.length);
    client.send(request('undionly.kpxe', { tsize: '0' }), 69, FIRST);
    expect((await client.next()).packet).toMatchObject({ kind: 'oack' });
    client.close();
  });

  test('an empty datagram and junk on the port of a transfer leave it running', async () => {
    const client = await talker(TALKER);
    client.send(request('undionly.kpxe', { tsize: '0', blksize: '1024' }), 69, FIRST);
    const { from } = await client.next();
    for (const text of ['', '\0', '\0\x63\0\0', '\0\x06x']) client.sendRaw(Buffer.from(text, 'latin1'), from.port, FIRST);
    expect(sha256Hex(await client.finish(from.port, FIRST, 1024))).toBe(sha256Hex(loader));
    await expect.poll(() => server.counters()).toMatchObject({ malformed: 4, complete: 1 });
    client.close();
  });

  test('a stranger on the port of a transfer gets ERROR 5 and cannot end it; an ERROR of a stranger gets nothing', async () => {
    const client = await talker(TALKER);
    client.send(request('undionly.kpxe', { tsize: '0', blksize: '1024' }), 69, FIRST);
    const { from } = await client.next();
    const stranger = await talker(STRANGER);
    stranger.send({ kind: 'error', code: 0, message: 'stop' }, from.port, FIRST);
    stranger.send({ kind: 'ack', block: 0 }, from.port, FIRST);
    expect((await stranger.next()).packet).toMatchObject({ kind: 'error', code: 5 });
    expect(stranger.waiting()).toBe(0);
    expect(sha256Hex(await client.finish(from.port, FIRST, 1024))).toBe(sha256Hex(loader));
    await expect.poll(() => server.counters()).toMatchObject({ wrongTid: 2, complete: 1, failed: 0 });
    client.close();
    stranger.close();
  });

  test('a request that comes twice opens one transfer', async () => {
    const client = await talker(TALKER);
    for (let copy = 0; copy < 3; copy++) client.send(request('undionly.kpxe', { tsize: '0', blksize: '1024' }), 69, FIRST);
    const { from } = await client.next();
    expect(sha256Hex(await client.finish(from.port, FIRST, 1024))).toBe(sha256Hex(loader));
    expect(new Set(client.sources)).toEqual(new Set([`${FIRST}:${from.port}`]));
    await expect.poll(() => server.counters()).toMatchObject({ requests: 1, duplicates: 2, complete: 1 });
    expect(policy.asks).toBe(1);
    client.close();
  });

  test('a ROM that asks for the size, hangs up and asks again on the same port gets the file', async () => {
    const client = await talker(TALKER);
    client.send(request('undionly.kpxe', { tsize: '0' }), 69, FIRST);
    const size = await client.next();
    expect(size.packet).toEqual({ kind: 'oack', options: new Map([['tsize', String(loader.length)]]) });
    client.send({ kind: 'error', code: 8, message: 'TFTP Aborted' }, size.from.port, FIRST);
    await expect.poll(() => server.counters().aborted).toBe(1);
    expect(policy.seen).toEqual([]);
    client.send(request('undionly.kpxe', { blksize: '1456' }), 69, FIRST);
    const { from } = await client.next();
    expect(sha256Hex(await client.finish(from.port, FIRST, 1456))).toBe(sha256Hex(loader));
    await expect.poll(() => server.counters()).toMatchObject({ aborted: 1, complete: 1, failed: 0 });
    client.close();
  });

  test('a ROM whose hang-up was lost is served its next request all the same', async () => {
    const client = await talker(TALKER);
    client.send(request('undionly.kpxe', { tsize: '0' }), 69, FIRST);
    await client.next();
    client.send(request('undionly.kpxe', { blksize: '1456' }), 69, FIRST);
    let answer = await client.next();
    while (answer.packet.kind !== 'oack' || !answer.packet.options.has('blksize')) answer = await client.next();
    expect(sha256Hex(await client.finish(answer.from.port, FIRST, 1456))).toBe(sha256Hex(loader));
    await expect.poll(() => server.counters()).toMatchObject({ stopped: 1, complete: 1 });
    client.close();
  });

  test('one address may hold 64 transfers, and the next is told that the server is busy', async () => {
    const clients = await Promise.all(Array.from({ length: MOST_TRANSFERS_PER_IP }, () => talker(TALKER)));
    for (const client of clients) client.send(request('undionly.kpxe', { tsize: '0' }), 69, FIRST);
    await Promise.all(clients.map((client) => client.next()));
    const late = await talker(TALKER);
    late.send(request('undionly.kpxe', { tsize: '0' }), 69, FIRST);
    expect((await late.next()).packet).toMatchObject({ kind: 'error', code: 0, message: expect.stringMatching(/^server busy: 64 transfers/) });
    expect(server.counters()).toMatchObject({ active: MOST_TRANSFERS_PER_IP, busy: 1 });
    await server.stop();
    expect(server.counters()).toMatchObject({ active: 0, stopped: MOST_TRANSFERS_PER_IP });
    for (const client of [...clients, late]) client.close();
  });

  test('a port that is taken is an error with a way out, and leaves nothing bound', async () => {
    await expect(bindTftp({ listen: ['127.0.0.1', FIRST] })).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: `TFTP cannot listen on ${FIRST}:69 (EADDRINUSE)`, hint: expect.stringContaining('another TFTP server') });
    const free = createSocket('udp4');
    free.bind(69, '127.0.0.1');
    await once(free, 'listening');
    free.close();
  });

  test('a missing BIOS loader names the package and the setting', async () => {
    await expect(loadLoaders(dir)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: `${join(dir, 'undionly.kpxe')}: no such file`, hint: expect.stringMatching(/apt install ipxe.*loaders\.dir/) });
  });
});

function request(file: string, options: Record<string, string> = {}): TftpPacket {
  return { kind: 'rrq', file, mode: 'octet', options: new Map(Object.entries(options)) };
}

interface Heard {
  readonly packet: TftpPacket;
  readonly from: { readonly address: string; readonly port: number };
}

/** A client that says exactly what the test wants, from one of the addresses on our loopback. */
async function talker(address: string) {
  const socket: Socket = createSocket('udp4');
  const heard: Heard[] = [];
  const sources: string[] = [];
  let wake = () => {};
  socket.on('message', (datagram, from) => {
    heard.push({ packet: decodeTftp(datagram), from });
    sources.push(`${from.address}:${from.port}`);
    wake();
  });
  socket.bind(0, address);
  await once(socket, 'listening');
  const client = {
    sources,
    waiting: () => heard.length,
    sendRaw: (datagram: Uint8Array, port: number, to: string) => socket.send(datagram, port, to),
    send: (packet: TftpPacket, port: number, to: string) => socket.send(encodeTftp(packet), port, to),
    async next(): Promise<Heard> {
      while (heard.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      return heard.shift()!;
    },
    /** Goes on after the OACK, in plain lock-step. */
    async finish(port: number, to: string, blockSize: number): Promise<Buffer> {
      const blocks: Uint8Array[] = [];
      client.send({ kind: 'ack', block: 0 }, port, to);
      for (;;) {
        const { packet } = await client.next();
        if (packet.kind !== 'data' || packet.block !== blocks.length + 1) continue;
        blocks.push(packet.data);
        client.send({ kind: 'ack', block: packet.block }, port, to);
        if (packet.data.length < blockSize) return Buffer.concat(blocks);
      }
    },
    close: () => socket.close(),
  };
  return client;
}
