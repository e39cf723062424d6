// What a full TFTP server does: slow transfers give way, IPv6 has a share, a disk that hangs frees its slots, buffers come back, strangers fill no log.
import { execFile } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Answer, Booter } from '../../src/booter.ts';
import { createLog } from '../../src/log.ts';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createTftpServer, type TftpLimits, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';

const SERVER = '127.95.0.1';
const answer: Answer = { decision: { kind: 'silent', why: 'not asked' } };
const bytes = new Uint8Array(new SharedArrayBuffer(1 << 20));

let server: TftpServer;
let logged: string;
let released: number;
const sockets: Socket[] = [];

beforeAll(async () => {
  await promisify(execFile)('ip', ['link', 'set', 'lo', 'up']);
});

beforeEach(() => {
  logged = '';
  released = 0;
});

afterEach(async () => {
  await server.stop();
  for (const socket of sockets.splice(0)) socket.close();
});

/** Of the names, `hangs` comes when `disk` does. */
async function start(limits: Partial<TftpLimits>, disk: Promise<void> = Promise.resolve()): Promise<void> {
  server = createTftpServer({
    sockets: await bindTftp({ listen: [SERVER, '::1'] }),
    files: {
      async open(name) {
        if (name === 'hangs') await disk;
        return { file: { bytes, release: () => released++ }, answer };
      },
    },
    booter: {} as Booter,
    log: createLog('info', { write: (line: string) => void (logged += line) }),
    limits,
  });
  server.start();
}

/** A client that has asked, and says only what the test wants. */
async function ask(from: string, file = 'file', options: Record<string, string> = { blksize: '8' }) {
  const to = from.includes(':') ? '::1' : SERVER;
  const socket = createSocket(from.includes(':') ? 'udp6' : 'udp4');
  sockets.push(socket);
  const heard: { readonly packet: TftpPacket; readonly port: number }[] = [];
  let wake = () => {};
  socket.on('message', (datagram, { port }) => {
    heard.push({ packet: decodeTftp(datagram), port });
    wake();
  });
  socket.bind(0, from);
  await once(socket, 'listening');
  const send = (packet: TftpPacket, port: number) => new Promise<void>((resolve) => socket.send(encodeTftp(packet), port, to, () => resolve()));
  await send({ kind: 'rrq', file, mode: 'octet', options: new Map(Object.entries(options)) }, 69);
  return {
    send,
    /** The next packet that is not of this kind. */
    async next(but?: TftpPacket['kind']) {
      for (;;) {
        while (heard.length === 0) await new Promise<void>((resolve) => (wake = resolve));
        const got = heard.shift()!;
        if (got.packet.kind !== but) return got;
      }
    },
  };
}

/** Its transfer has been heard once: eight bytes, no more. */
async function drip(from: string) {
  const client = await ask(from);
  const { port } = await client.next();
  await client.send({ kind: 'ack', block: 0 }, port);
  await client.next('oack');
  await client.send({ kind: 'ack', block: 1 }, port);
  await client.next('oack');
  return client;
}

describe.each([
  ['on sockets of our own', undefined],
  ["on Node's sockets", 'plain'],
] as const)('%s', (_name, kind) => {
  beforeEach(() => {
    if (kind) process.env.RACKSEED_SOCKETS = kind;
  });
  afterEach(() => {
    delete process.env.RACKSEED_SOCKETS;
  });

  test('when all slots are taken the slowest transfer is told so, and the next peer has its slot', async () => {
    await start({ transfers: 8, slowAfterMs: 2_000 });
    const slow = [];
    for (let n = 1; n <= 8; n++) slow.push(await drip(`127.95.1.${n}`));
    const early = await ask('127.95.2.1');
    expect((await early.next()).packet).toMatchObject({ kind: 'error', code: 0, message: expect.stringMatching(/^server busy: 8 transfers are running/) });
    await sleep(2_050);
    const next = await ask('127.95.2.2');
    expect((await next.next()).packet).toMatchObject({ kind: 'oack' });
    const told = await Promise.race(slow.map((client) => client.next('data')));
    expect(told.packet).toMatchObject({ kind: 'error', code: 0, message: 'the server is busy and this transfer too slow, ask again later' });
    expect(server.counters()).toMatchObject({ active: 8, busy: 1, stopped: 1, failed: 0 });
  });

  test('all addresses of IPv6 together have a share of the slots, and IPv4 has the rest', async () => {
    await start({ transfers: 8, ip6: 3 });
    for (let n = 0; n < 3; n++) await drip('::1');
    const fourth = await ask('::1');
    expect((await fourth.next()).packet).toMatchObject({ kind: 'error', code: 0, message: expect.stringMatching(/^server busy/) });
    for (let n = 1; n <= 5; n++) await drip(`127.95.1.${n}`);
    expect(server.counters()).toMatchObject({ active: 8, busy: 1 });
  });

  test('bytes are let go when the thread has let go of them: after an ERROR of the client and after a stop', async () => {
    await start({});
    const client = await drip('127.95.1.1');
    expect(released).toBe(0);
    await client.send({ kind: 'error', code: 0, message: 'enough' }, (await client.next()).port);
    await expect.poll(() => released).toBe(1);
    await drip('127.95.1.2');
    await drip('127.95.1.3');
    await server.stop();
    expect(released).toBe(3);
  });
});

test('a file that does not come from the disk in time is an ERROR 0 and its slot is free; what comes later is let go', async () => {
  let go = () => {};
  await start({ transfers: 2, openMs: 150 }, new Promise((resolve) => (go = resolve)));
  const [first, second] = [await ask('127.95.1.1', 'hangs'), await ask('127.95.1.2', 'hangs')];
  await expect.poll(() => server.counters().active).toBe(2);
  for (const client of [first, second]) expect((await client.next()).packet).toMatchObject({ kind: 'error', code: 0, message: 'the server is at fault, see its log' });
  expect(server.counters()).toMatchObject({ active: 0, failed: 2, faults: 2 });
  expect(logged).toMatch(/opening hangs took longer than 150 ms/);
  await drip('127.95.1.3');
  go();
  await expect.poll(() => released).toBe(2);
  expect(server.counters()).toMatchObject({ active: 1, failed: 2 });
});

test('an address whose own transfer gave way for its next one is not charged for both', async () => {
  await start({ transfers: 2, perIp: 3 });
  for (let n = 0; n < 5; n++) {
    const next = await ask('127.95.1.1');
    expect((await next.next()).packet).toMatchObject({ kind: 'oack' });
    // From now on 250 ms: then the first that was not heard gives way.
    if (n > 0) await sleep(400);
  }
  expect(server.counters()).toMatchObject({ active: 2, busy: 0, stopped: 3 });
});

test('requests that no decision can allow are refused without a line at level info: anybody may send them, under any address', async () => {
  await start({});
  const stranger = createSocket('udp4');
  sockets.push(stranger);
  const told: number[] = [];
  stranger.on('message', (datagram) => {
    const packet = decodeTftp(datagram);
    if (packet.kind === 'error') told.push(packet.code);
  });
  const requests = [{ kind: 'wrq', file: 'x', mode: 'octet' }, { kind: 'rrq', file: 'x', mode: 'netascii' }, { kind: 'rrq', file: 'x', mode: 'mail' }] as const;
  for (const request of requests) stranger.send(encodeTftp({ ...request, options: new Map() }), 69, SERVER);
  await expect.poll(() => told.toSorted()).toEqual([0, 2, 4]);
  expect(server.counters()).toMatchObject({ refused: 3 });
  expect(logged).toBe('');
});
