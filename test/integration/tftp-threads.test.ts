// TFTP transfers in their threads: both kinds of sockets, windows, strangers, floods, a thread that dies, and nothing left open.
import { execFile } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { closeSync, openSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseSubnet, subnet6Of } from '../../src/addr.ts';
import type { Answer, Booter } from '../../src/booter.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createTransferPool, type TransferPool } from '../../src/tftp/pool.ts';
import { createTftpServer, MOST_TRANSFERS, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';
import { ERRORS_TO_STRANGERS } from '../../src/tftp/strangers.ts';

const LINK = 'tft0';
const SERVER = '10.94.0.1';
const NODE = '10.94.0.11';
const SERVER6 = 'fd00:94::1';
/** Only as the source of forged requests. */
const FORGED = '10.94.7';
const LOOPBACK = '127.94.0.1';
/** More than an Ethernet frame carries, so that no window of them can be one send. */
const JUMBO = 8_000;

const run = promisify(execFile);
const flood = new URL('./tftp-flood.py', import.meta.url).pathname;
/** `name` is the size of the file that is meant. */
const content = (size: number): Uint8Array => Uint8Array.from({ length: size }, (_, at) => (at * 31 + (at >> 8) * 7) & 0xff);
const answer: Answer = { decision: { kind: 'silent', why: 'not asked' } };

let peer: Namespace;
let dir: string;

beforeAll(async () => {
  await run('ip', ['link', 'set', 'lo', 'up']);
  peer = await createNamespace();
  await run('ip', ['link', 'add', LINK, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid)]);
  await run('ip', ['addr', 'add', `${SERVER}/16`, 'dev', LINK]);
  await run('ip', ['-6', 'addr', 'add', `${SERVER6}/64`, 'dev', LINK, 'nodad']);
  await run('ip', ['link', 'set', LINK, 'up']);
  await peer.must(['ip', 'addr', 'add', `${NODE}/16`, 'dev', 'eth0']);
  await peer.must(['ip', '-6', 'addr', 'add', 'fd00:94::11/64', 'dev', 'eth0', 'nodad']);
  await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
});

afterAll(async () => {
  await run('ip', ['link', 'del', LINK]);
  await peer.close();
});

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rackseed-tftp-threads-'));
});

afterEach(async () => {
  await rm(dir, { recursive: true });
});

const openFiles = () => readdirSync('/proc/self/fd').length;
const files = new Map<string, Uint8Array>();

async function startServer(): Promise<{ readonly server: TftpServer; readonly pool: TransferPool; readonly logged: () => string }> {
  let logged = '';
  const log = createLog('warn', { write: (line: string) => void (logged += line) });
  const pool = createTransferPool({ log, most: MOST_TRANSFERS, threads: 2 });
  const server = createTftpServer({
    sockets: await bindTftp({
      listen: [SERVER, LOOPBACK, SERVER6],
      served: [
        { subnet: parseSubnet('127.0.0.0/8')!, serve: 'known', blockSize: 1_468 },
        { subnet: parseSubnet('10.94.0.0/16')!, serve: 'known', blockSize: JUMBO },
        { subnet: subnet6Of(SERVER6, 64), serve: 'known', blockSize: 1_448 },
      ],
    }),
    files: {
      async open(name) {
        if (!files.has(name)) files.set(name, content(Number(name)));
        return { file: { bytes: files.get(name)! }, answer };
      },
    },
    booter: {} as Booter,
    log,
    pool,
  });
  server.start();
  return { server, pool, logged: () => logged };
}

interface Fetched {
  readonly bytes: Buffer;
  readonly options: ReadonlyMap<string, string>;
  /** DATA packets between one ACK of ours and the next. */
  readonly bursts: readonly number[];
}

/** A client by RFC 1350, 2347 and 7440 that says exactly what the test wants. */
async function openClient(address: string, server: string) {
  const socket = createSocket({ type: server.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 4 << 20 });
  const heard: { readonly packet: TftpPacket; readonly port: number }[] = [];
  let wake = () => {};
  socket.on('message', (datagram, { port }) => {
    heard.push({ packet: decodeTftp(datagram), port });
    wake();
  });
  socket.bind(0, address);
  await once(socket, 'listening');
  const client = {
    heard,
    port: () => socket.address().port,
    /** dgram sends on the next tick: a socket closed before that swallows it. */
    send: (packet: TftpPacket, port: number) => new Promise<void>((resolve) => socket.send(encodeTftp(packet), port, server, () => resolve())),
    ask: (size: number, options: Record<string, string> = {}) => void client.send({ kind: 'rrq', file: String(size), mode: 'octet', options: new Map(Object.entries(options)) }, 69),
    async next() {
      while (heard.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      return heard.shift()!;
    },
    /** Takes the answer to ask() and all that follows. `onFirst` is called with the transfer's port before anything is acknowledged. */
    async take(onFirst: (port: number) => Promise<void> = async () => {}): Promise<Fetched> {
      let got = await client.next();
      const { port } = got;
      await onFirst(port);
      let [blockSize, windowSize] = [512, 1];
      let options: ReadonlyMap<string, string> = new Map();
      if (got.packet.kind === 'oack') {
        ({ options } = got.packet);
        blockSize = Number(options.get('blksize') ?? 512);
        windowSize = Number(options.get('windowsize') ?? 1);
        void client.send({ kind: 'ack', block: 0 }, port);
        got = await client.next();
      }
      const parts: Uint8Array[] = [];
      const bursts: number[] = [];
      for (let inBurst = 0; ; got = await client.next()) {
        if (got.packet.kind === 'error') throw new Error(`error ${got.packet.code}: ${got.packet.message}`);
        if (got.packet.kind !== 'data' || got.packet.block !== ((parts.length + 1) & 0xffff)) continue;
        parts.push(got.packet.data);
        inBurst++;
        const last = got.packet.data.length < blockSize;
        if (!last && inBurst < windowSize) continue;
        const acknowledged = client.send({ kind: 'ack', block: parts.length & 0xffff }, port);
        bursts.push(inBurst);
        inBurst = 0;
        if (!last) continue;
        await acknowledged;
        return { bytes: Buffer.concat(parts), options, bursts };
      }
    },
    close: () => socket.close(),
  };
  return client;
}

async function fetch(size: number, options: Record<string, string> = {}, address = '127.94.0.2', server = LOOPBACK): Promise<Fetched> {
  const client = await openClient(address, server);
  try {
    client.ask(size, options);
    return await client.take();
  } finally {
    client.close();
  }
}

const same = (bytes: Buffer, size: number) => bytes.length === size && bytes.equals(content(size));
/** UDP sends of this network namespace so far; a window in one send counts as one. */
const sends = () => Number(/^Udp: (?:\d+ ){3}(\d+)/m.exec(readFileSync('/proc/self/net/snmp', 'utf8'))![1]);

describe.each([
  ['on sockets of our own', undefined],
  ["on Node's sockets", 'plain'],
] as const)('%s', (_name, sockets) => {
  let base: number;
  let server: TftpServer;
  let pool: TransferPool;
  let logged: () => string;

  beforeEach(async () => {
    if (sockets) process.env.RACKSEED_SOCKETS = sockets;
    base = openFiles();
    ({ server, pool, logged } = await startServer());
  });

  afterEach(async () => {
    await server.stop();
    delete process.env.RACKSEED_SOCKETS;
  });

  test.each([0, 1, 511, 512, 513, 512 * 16, 100_000])('a file of %i bytes arrives byte for byte, in lock-step and in windows (RFC 1350, 7440)', async (size) => {
    for (const windowsize of ['1', '4', '16', '64']) {
      const { bytes, options, bursts } = await fetch(size, { windowsize });
      expect([options.get('windowsize'), same(bytes, size)]).toEqual([windowsize, true]);
      const blocks = Math.floor(size / 512) + 1;
      const full = Math.floor(blocks / Number(windowsize));
      expect(bursts).toEqual([...Array<number>(full).fill(Number(windowsize)), ...(blocks % Number(windowsize) ? [blocks % Number(windowsize)] : [])]);
    }
    expect(same((await fetch(size)).bytes, size)).toBe(true);
    await expect.poll(() => server.counters()).toMatchObject({ complete: 5, failed: 0, active: 0, bytes: 5 * size });
  });

  test('block numbers begin again at 0 behind 65,535', async () => {
    const { bytes } = await fetch(8 * 66_000, { blksize: '8', windowsize: '64' });
    expect(same(bytes, 8 * 66_000)).toBe(true);
  });

  test(sockets ? 'each block is a send of its own' : 'a window is one send (UDP GSO)', async () => {
    const before = sends();
    const { bursts } = await fetch(512 * 640, { windowsize: '64' });
    // 641 blocks in 11 windows; the client sends one request and an ACK for the OACK and each window.
    const ours = sends() - before - 1 - 1 - bursts.length;
    if (sockets) expect(ours).toBe(1 + 641);
    else expect(ours).toBe(1 + 11);
  });

  test('blocks larger than the MTU arrive in fragments where a window of them cannot be one send', async () => {
    const out = join(dir, 'out');
    const script = `
      import socket, sys
      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.bind(('${NODE}', 0))
      s.sendto(b'\\x00\\x01400000\\x00octet\\x00blksize\\x008000\\x00windowsize\\x004\\x00', ('${SERVER}', 69))
      got, to = s.recvfrom(9000)
      assert got == b'\\x00\\x06blksize\\x008000\\x00windowsize\\x004\\x00', got
      s.sendto(bytes([0, 4, 0, 0]), to)
      out, n = b'', 0
      while True:
          got, to = s.recvfrom(9000)
          if int.from_bytes(got[2:4], 'big') != n + 1: continue
          n += 1; out += got[4:]
          if n % 4 == 0 or len(got) < 8004: s.sendto(bytes([0, 4]) + n.to_bytes(2, 'big'), to)
          if len(got) < 8004: break
      open(sys.argv[1], 'wb').write(out)
    `.replace(/^ {6}/gm, '');
    expect(await peer.run(['python3', '-c', script, out])).toMatchObject({ code: 0, stderr: '' });
    expect(same(await readFile(out), 400_000)).toBe(true);
  });

  test('an IPv6 client is answered from the address that it asked', async () => {
    const out = join(dir, 'out');
    const ran = await peer.run(['curl', '--silent', '--show-error', '--max-time', '20', '--globoff', '--output', out, `tftp://[${SERVER6}]/30000`]);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(same(await readFile(out), 30_000)).toBe(true);
  });

  test(`the transfer's socket is ${sockets ? 'not ' : ''}connected to its peer, and a stranger on its port gets ERROR 5 without ending it (RFC 1350 section 4)`, async () => {
    const client = await openClient('127.94.0.2', LOOPBACK);
    const stranger = await openClient('127.94.0.3', LOOPBACK);
    client.ask(5_000, { windowsize: '4' });
    const { bytes } = await client.take(async (port) => {
      const hex = (number: number) => number.toString(16).toUpperCase().padStart(4, '0');
      const ours = readFileSync('/proc/self/net/udp', 'utf8').split('\n').filter((line) => line.includes(`:${hex(port)} `));
      expect(ours.some((line) => line.trim().split(/\s+/)[2] === `02005E7F:${hex(client.port())}`)).toBe(!sockets);
      await stranger.send({ kind: 'error', code: 0, message: 'stop' }, port);
      await stranger.send({ kind: 'ack', block: 0 }, port);
      expect((await stranger.next()).packet).toMatchObject({ kind: 'error', code: 5 });
    });
    expect(same(bytes, 5_000)).toBe(true);
    expect(stranger.heard).toEqual([]);
    await expect.poll(() => server.counters()).toMatchObject({ wrongTid: 2, complete: 1, failed: 0 });
    client.close();
    stranger.close();
  });

  test.each([
    ['IPv4', LOOPBACK, ['127.94.0.2', '127.94.0.3', '127.94.0.4']],
    ['IPv6', SERVER6, [SERVER6, SERVER6, SERVER6]],
  ])("strangers on a transfer's port, whose addresses may be forged, get some ERRORs all together and then none, and do not end it (%s)", async (_name, to, [own, ...others]) => {
    const client = await openClient(own!, to);
    const strangers = await Promise.all(others.map((address) => openClient(address, to)));
    const began = performance.now();
    client.ask(5_000, { windowsize: '4' });
    const { bytes } = await client.take(async (port) => {
      for (let sent = 0; sent < 400; sent += 40) {
        for (let i = 0; i < 20; i++) for (const stranger of strangers) await stranger.send({ kind: 'ack', block: i }, port);
        // No more at once than the socket holds.
        await expect.poll(() => server.counters().wrongTid, { interval: 2 }).toBe(sent + 40);
      }
    });
    const most = ERRORS_TO_STRANGERS.burst + (ERRORS_TO_STRANGERS.perSecond * (performance.now() - began)) / 1000;
    expect(same(bytes, 5_000)).toBe(true);
    const heard = strangers.flatMap((stranger) => stranger.heard);
    expect(heard.length).toBeGreaterThanOrEqual(ERRORS_TO_STRANGERS.burst);
    expect(heard.length).toBeLessThanOrEqual(most);
    for (const { packet } of heard) expect(packet).toMatchObject({ kind: 'error', code: 5 });
    await expect.poll(() => server.counters()).toMatchObject({ wrongTid: 400, complete: 1, failed: 0 });
    for (const each of [client, ...strangers]) each.close();
  });

  test('a request that comes again before its first ACK repeats the answer and opens no second transfer', async () => {
    const client = await openClient('127.94.0.2', LOOPBACK);
    client.ask(5_000, { tsize: '0' });
    const { bytes } = await client.take(async (port) => {
      client.ask(5_000, { tsize: '0' });
      expect(await client.next()).toEqual({ packet: { kind: 'oack', options: new Map([['tsize', '5000']]) }, port });
    });
    expect(same(bytes, 5_000)).toBe(true);
    await expect.poll(() => server.counters()).toMatchObject({ requests: 1, duplicates: 1, complete: 1 });
    client.close();
  });

  test('forty clients at once, in lock-step and in windows, spread over both threads', async () => {
    const all = await Promise.all(Array.from({ length: 40 }, (_, i) => fetch(60_000 + i, { windowsize: String(1 + (i % 20)) }, `127.94.1.${i + 1}`)));
    all.forEach(({ bytes }, i) => expect(same(bytes, 60_000 + i)).toBe(true));
    await expect.poll(() => server.counters()).toMatchObject({ complete: 40, active: 0 });
  });

  test('a thread that is killed takes its transfers with it, is started anew, and leaves nothing open', async () => {
    // The first one of each thread may open what it keeps.
    await Promise.all([fetch(2_000), fetch(2_000)]);
    await expect.poll(() => server.counters()).toMatchObject({ complete: 2, active: 0 });
    const clients = await Promise.all(Array.from({ length: 6 }, (_, i) => openClient(`127.94.2.${i + 1}`, LOOPBACK)));
    for (const client of clients) client.ask(50_000, { tsize: '0' });
    await Promise.all(clients.map((client) => client.next()));
    await pool.workers[0]!.terminate();
    await expect.poll(() => server.counters()).toMatchObject({ threadDeaths: 1, failed: 3, active: 3 });
    expect(logged()).toMatch(/tftp: a thread died/);
    expect(logged()).toMatch(/its thread died/);
    // The other one serves on at once.
    expect(same((await fetch(70_000, { windowsize: '16' })).bytes, 70_000)).toBe(true);
    await expect.poll(() => pool.workers.length).toBe(2);
    expect(same((await fetch(70_000, { windowsize: '16' })).bytes, 70_000)).toBe(true);
    await server.stop();
    for (const client of clients) client.close();
    await expect.poll(openFiles).toBe(base);
  });

  test('a stop right after a thread died writes nothing into the files that have its numbers now', async () => {
    const clients = await Promise.all(Array.from({ length: 4 }, (_, i) => openClient(`127.94.2.${i + 1}`, LOOPBACK)));
    for (const client of clients) client.ask(50_000, { tsize: '0' });
    await Promise.all(clients.map((client) => client.next()));
    // Asleep by now: nobody acknowledges anything.
    await Promise.all(pool.workers.map((worker) => worker.terminate()));
    const files = Array.from({ length: 32 }, (_, i) => openSync(join(dir, `reused-${i}`), 'w'));
    await server.stop();
    for (const file of files) closeSync(file);
    expect(files.map((_, i) => statSync(join(dir, `reused-${i}`)).size)).toEqual(files.map(() => 0));
    for (const client of clients) client.close();
    await expect.poll(openFiles).toBe(base);
  });

  test('stopping tells each client in an ERROR 0, and no file stays open', async () => {
    const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => openClient(`127.94.2.${i + 1}`, LOOPBACK)));
    for (const client of clients) client.ask(50_000, { tsize: '0' });
    await Promise.all(clients.map((client) => client.next()));
    await server.stop();
    for (const client of clients) {
      let { packet } = await client.next();
      // On a busy machine the OACK may have come again before.
      while (packet.kind === 'oack') ({ packet } = await client.next());
      expect(packet).toEqual({ kind: 'error', code: 0, message: 'the server is stopping' });
    }
    expect(server.counters()).toMatchObject({ stopped: 20, failed: 0, active: 0 });
    for (const client of clients) client.close();
    await expect.poll(openFiles).toBe(base);
  });

  test(`a client that has closed its port is ${sockets ? 'given up when the first ACK does not come' : 'not sent anything more (ICMP port unreachable)'}`, async () => {
    const client = await openClient('127.94.0.2', LOOPBACK);
    client.ask(50_000);
    await client.next();
    client.close();
    await expect.poll(() => server.counters(), { timeout: 10_000 }).toMatchObject({ failed: 1, active: 0 });
    expect(logged()).toMatch(sockets ? /the client never answered/ : /the client has closed its port/);
  });
});

test('10,000 requests from 256 forged addresses that never acknowledge get at most 4 packets each, and a real client gets its file meanwhile', { timeout: 60_000 }, async () => {
  const { server } = await startServer();
  // Without this the other side's kernel would say that nobody listens there, and the transfers would end at once.
  await peer.must(['nft', 'add', 'table', 'ip', 'mute']);
  await peer.must(['nft', 'add', 'chain', 'ip', 'mute', 'input', '{ type filter hook input priority 0; }']);
  await peer.must(['nft', 'add', 'rule', 'ip', 'mute', 'input', 'ip', 'daddr', `${FORGED}.0/24`, 'drop']);
  await peer.must(['ip', 'route', 'add', 'local', `${FORGED}.0/24`, 'dev', 'lo']);
  try {
    const flooding = peer.run(['python3', flood, 'eth0', SERVER, FORGED, '10000', '4', '5000']);
    await expect.poll(() => server.counters().active, { timeout: 10_000 }).toBeGreaterThan(MOST_TRANSFERS / 2);
    for (let download = 0; download < 3; download++) {
      const out = join(dir, `out${download}`);
      expect(await peer.run(['curl', '--silent', '--show-error', '--retry', '5', '--retry-all-errors', '--retry-delay', '1', '--max-time', '20', '--interface', NODE, '--output', out, `tftp://${SERVER}/150000`])).toMatchObject({ code: 0 });
      expect(same(await readFile(out), 150_000)).toBe(true);
      expect(server.counters().active).toBeLessThanOrEqual(MOST_TRANSFERS);
    }
    const ran = await flooding;
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    const { answers, errors } = JSON.parse(ran.stdout) as { answers: Record<string, number>; errors: Record<string, number> };
    // One answer and three of it again; a request over the limit gets one ERROR.
    expect(Object.keys(answers).filter((times) => Number(times) > 4)).toEqual([]);
    expect(Object.keys(errors).filter((times) => Number(times) > 1)).toEqual([]);
    const answered = Object.values(answers).reduce((sum, requests) => sum + requests, 0);
    expect(answered).toBeGreaterThan(MOST_TRANSFERS);
    await expect.poll(() => server.counters(), { timeout: 10_000 }).toMatchObject({ active: 0 });
    const { requests, complete, failed, stopped, busy } = server.counters();
    expect(requests).toBeGreaterThanOrEqual(10_000);
    expect(complete).toBe(3);
    expect(complete + failed + stopped + busy).toBe(requests);
  } finally {
    await peer.must(['nft', 'delete', 'table', 'ip', 'mute']);
    await peer.must(['ip', 'route', 'del', 'local', `${FORGED}.0/24`, 'dev', 'lo']);
    await server.stop();
  }
});
