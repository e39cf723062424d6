// Blocks that threads send past Node: each connection gets its bytes in their order, whoever else is slow, goes away or dies meanwhile.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { createConnection, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Piece } from '../../src/http/pump-messages.ts';
import { createPumps, type Pumps, type Stream } from '../../src/http/pumps.ts';
import { plainSockets } from '../../src/net/libc.ts';
import { allocatePages, SLOT } from '../../src/net/pages.ts';
import { tcpProgress } from '../../src/net/tcp.ts';

const BLOCKS = 6;
const { slots } = allocatePages(BLOCKS);
const content = Buffer.alloc(BLOCKS * SLOT);
for (let at = 0; at < content.length; at += 4) content.writeUInt32LE((at * 2_654_435_761) >>> 0, at);
slots.forEach(({ bytes }, index) => content.copy(bytes, 0, index * SLOT));

let server: Server;
let pumps: Pumps;
let errors: unknown[];
const peers: Socket[] = [];
let counted: number;

beforeEach(async () => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  errors = [];
  counted = 0;
  pumps = createPumps({ log: { error: (what: unknown) => void errors.push(what) } as never, threads: 2, onSent: (bytes) => void (counted += bytes) });
});
afterEach(async () => {
  for (const peer of peers.splice(0)) peer.destroy();
  await pumps.close();
  await new Promise((resolve) => server.close(resolve));
});

/** Our end, and the peer's, which reads nothing before it is asked to. */
async function connect(): Promise<{ ours: Socket; peer: Socket }> {
  const peer = createConnection({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' }).pause();
  peer.on('error', () => undefined);
  const [ours] = (await once(server, 'connection')) as [Socket];
  ours.on('error', () => undefined);
  peers.push(peer, ours);
  return { ours, peer };
}

/** The blob's bytes `from` to `to` (exclusive), block by block. */
function piecesOf(from: number, to: number): Piece[] {
  const pieces: Piece[] = [];
  for (let at = from; at < to; ) {
    const length = Math.min(SLOT - (at % SLOT), to - at);
    pieces.push({ address: slots[Math.floor(at / SLOT)]!.address! + (at % SLOT), length });
    at += length;
  }
  return pieces;
}

async function readAll(peer: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  peer.on('data', (part: Buffer) => parts.push(part));
  peer.resume();
  await once(peer, 'end');
  return Buffer.concat(parts);
}

const filesOfPumps = (): string[] => readdirSync('/proc/self/fd').flatMap((fd) => {
  try {
    return [readlinkSync(`/proc/self/fd/${fd}`)].filter((what) => /eventpoll|eventfd|pipe:|socket:/.test(what));
  } catch {
    return [];
  }
});

describe.skipIf(plainSockets())('a pump', () => {
  it('sends what it is given, from any byte to any byte, in its order, before and behind what Node writes', async () => {
    const cuts = [1, 4_097, 70_001, SLOT - 3, SLOT + 5, 3 * SLOT, content.length - 1];
    const { ours, peer } = await connect();
    const whole = readAll(peer);
    await new Promise((resolve) => ours.write(content.subarray(0, 1), resolve));
    const stream = (await pumps.open(ours))!;
    const sent = await Promise.all(cuts.slice(1).map((to, index) => stream.send(piecesOf(cuts[index]!, to), true)));
    await stream.close();
    ours.end(content.subarray(content.length - 1));
    expect(sent).toEqual(cuts.slice(1).map((to, index) => to - cuts[index]!));
    expect((await whole).equals(content)).toBe(true);
    expect(counted).toBe(content.length - 2);
  });

  it('serves 40 connections at once while one of them takes nothing, and the streams are shared between threads', async () => {
    const slow = await connect();
    const blocked = (await pumps.open(slow.ours))!;
    const never = blocked.send(piecesOf(0, content.length), false);
    const connected: Awaited<ReturnType<typeof connect>>[] = [];
    for (let n = 0; n < 40; n++) connected.push(await connect());
    const gots = await Promise.all(
      connected.map(async ({ ours, peer }) => {
        const whole = readAll(peer);
        const stream = (await pumps.open(ours))!;
        for (let at = 0; at < content.length; at += 2 * SLOT) await stream.send(piecesOf(at, at + 2 * SLOT), at + 2 * SLOT < content.length);
        await stream.close();
        ours.end();
        return (await whole).equals(content);
      }),
    );
    expect(gots.filter(Boolean).length).toBe(40);
    expect(pumps.workers.length).toBe(2);
    // The kernel says that it is the peer that is waited for.
    const progress = tcpProgress((slow.ours as unknown as { _handle: { fd: number } })._handle.fd)!;
    expect(progress.waits).toBe(true);
    expect(progress.acknowledged).toBeLessThan(content.length);
    await blocked.close();
    expect(await never).toBeLessThan(content.length);
  }, 30_000);

  it('stops when it is told to, says how far it came, and reads the blocks no more', async () => {
    const { ours, peer } = await connect();
    const stream = (await pumps.open(ours))!;
    const [first, second] = [stream.send(piecesOf(0, 4 * SLOT), true), stream.send(piecesOf(4 * SLOT, content.length), false)];
    await vi.waitFor(() => expect(tcpProgress((ours as unknown as { _handle: { fd: number } })._handle.fd)!.waits).toBe(true));
    await stream.close();
    const taken = await first;
    expect(taken).toBeGreaterThan(0);
    expect(await second).toBe(0);
    const whole = readAll(peer);
    ours.end('end');
    expect((await whole).equals(Buffer.concat([content.subarray(0, taken), Buffer.from('end')]))).toBe(true);
  });

  it('takes nothing for a stream that is closing or whose last run it has, so that none is opened again', async () => {
    const { ours, peer } = await connect();
    const whole = readAll(peer);
    const stream = (await pumps.open(ours))!;
    expect(await stream.send(piecesOf(0, SLOT), true)).toBe(SLOT);
    const closed = stream.close();
    expect(await stream.send(piecesOf(0, SLOT), false)).toBe(0);
    await closed;
    const next = (await pumps.open(ours))!;
    const last = next.send(piecesOf(SLOT, 2 * SLOT), false);
    expect(await next.send(piecesOf(0, SLOT), true)).toBe(0);
    expect(await last).toBe(SLOT);
    await next.close();
    const unused = (await pumps.open(ours))!;
    await unused.close();
    expect(await unused.send(piecesOf(0, SLOT), false)).toBe(0);
    ours.end();
    expect((await whole).equals(content.subarray(0, 2 * SLOT))).toBe(true);
  });

  it('closes a stream by itself behind its last run, and Node writes on', async () => {
    const { ours, peer } = await connect();
    const whole = readAll(peer);
    // The thread and its files are there.
    await (await pumps.open(ours))!.close();
    const before = filesOfPumps().length;
    const stream = (await pumps.open(ours))!;
    expect(filesOfPumps().length).toBe(before + 1);
    expect(await stream.send(piecesOf(0, SLOT), false)).toBe(SLOT);
    expect(filesOfPumps().length).toBe(before);
    ours.end('end');
    expect((await whole).equals(Buffer.concat([content.subarray(0, SLOT), Buffer.from('end')]))).toBe(true);
  });

  it('tells of a connection that was reset, also when Node does not listen to it any more', async () => {
    const { ours, peer } = await connect();
    // As Node does it when answers to pipelined requests wait.
    ours.pause();
    (ours as unknown as { _handle: { readStop(): void } })._handle.readStop();
    const stream = (await pumps.open(ours))!;
    const first = stream.send(piecesOf(0, SLOT), true);
    peer.resume();
    expect(await first).toBe(SLOT);
    peer.resetAndDestroy();
    await once(peer, 'close');
    expect(await Promise.all([stream.send(piecesOf(0, SLOT), true), stream.send(piecesOf(SLOT, 2 * SLOT), false)])).toEqual([0, 0]);
    await stream.close();
  });

  it('never writes to another connection that got the number of one that ended', async () => {
    const first = await connect();
    const stream = (await pumps.open(first.ours))!;
    const sending = stream.send(piecesOf(0, content.length), false);
    first.ours.destroy();
    const second = await connect();
    first.peer.resume();
    await vi.waitFor(() => expect(first.peer.readableLength).toBe(0));
    await stream.close();
    await sending;
    const whole = readAll(second.peer);
    second.ours.end('mine');
    expect((await whole).toString()).toBe('mine');
  });

  it('that dies ends what it was sending, leaves no file open, and another one takes its place', async () => {
    // What comes with the first thread at all, such as Node's own wakers, is not counted.
    const once1 = await connect();
    await (await pumps.open(once1.ours))!.close();
    const { ours, peer } = await connect();
    const before = filesOfPumps().length;
    const stream = (await pumps.open(ours))!;
    const sending = stream.send(piecesOf(0, content.length), false);
    await pumps.workers[0]!.terminate();
    expect(await sending).toBe(0);
    await stream.close();
    expect(await stream.send(piecesOf(0, 10), false)).toBe(0);
    expect(errors.length).toBe(1);
    expect(pumps.workers).toEqual([]);
    expect(filesOfPumps().length).toBeLessThan(before);
    peer.destroy();
    const next = await connect();
    const again: Stream = (await pumps.open(next.ours))!;
    const whole = readAll(next.peer);
    expect(await again.send(piecesOf(0, SLOT), false)).toBe(SLOT);
    await again.close();
    next.ours.end();
    expect((await whole).length).toBe(SLOT);
  });

  it('is not there for a connection that ended, nor after the pumps were closed', async () => {
    const { ours } = await connect();
    const other = await connect();
    ours.destroy();
    expect(await pumps.open(ours)).toBeUndefined();
    expect(await pumps.open(null)).toBeUndefined();
    await pumps.close();
    expect(await pumps.open(other.ours)).toBeUndefined();
  });
});
