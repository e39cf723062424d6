// A full HTTP thread: who waits without asking, or takes almost nothing, gives its place to the next one; who takes its bytes keeps it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions } from 'node:tls';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { QUIET_MS } from '../../src/http/room.ts';
import { makeCertificate } from './certificate.ts';
import { curl, dial, openSite, say, type Site } from './front.ts';

const PORT = 8183;
const TLS_PORT = 8544;
const FULL = 30;
const BIG = Buffer.from(Uint8Array.from({ length: 8 << 20 }, (_, i) => (i * 5 + (i >> 11)) & 255));
const certificate = makeCertificate('full');

let site: Site | undefined;
afterEach(async () => {
  await site?.stop();
  site = undefined;
});
async function open(limits: NonNullable<Parameters<typeof openSite>[0]>['limits'] = {}): Promise<Site> {
  site = await openSite({ port: PORT, threads: 1, limits: { connections: FULL, idleMs: 20_000, ...limits }, tls: { port: TLS_PORT, ...certificate } });
  return site;
}
const eventually = (look: () => unknown) => expect.poll(look, { timeout: 20_000, interval: 20 });
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const SMALL = { receiving: 8192, sending: 16_384 } as const;
const addressOf = (n: number) => `127.0.9.${n + 1}`;

/** The kernel's, in bytes. When they are large it has it all before the peer takes any, and takes from us in steps that a slow reader needs minutes for. */
function setBuffers({ receiving, sending }: { readonly receiving: number; readonly sending: number }): void {
  for (const [name, value] of [['tcp_rmem', `4096 ${receiving} ${receiving}`], ['tcp_wmem', `4096 ${sending} ${sending}`]] as const) {
    const file = `/proc/sys/net/ipv4/${name}`;
    const before = readFileSync(file, 'utf8');
    writeFileSync(file, value);
    onTestFinished(() => writeFileSync(file, before));
  }
}

interface Guest {
  readonly isClosed: () => boolean;
  destroy(): void;
}
async function plain(from: string, say = '', { awaits }: { readonly awaits?: string } = {}): Promise<Guest> {
  const { socket, text, closed } = await dial(PORT, { from });
  let isClosed = false;
  void closed.then(() => (isClosed = true));
  if (say !== '') socket.write(say);
  if (awaits) await eventually(text).toContain(awaits);
  return { isClosed: () => isClosed, destroy: () => socket.destroy() };
}
async function secure(from: string, say?: string): Promise<Guest> {
  const socket = connectTls({ host: '127.0.0.1', port: TLS_PORT, ca: certificate.cert, localAddress: from } as ConnectionOptions);
  let [isClosed, text] = [false, ''];
  socket.on('error', () => undefined).on('close', () => (isClosed = true)).on('data', (chunk: Buffer) => (text += chunk));
  await once(socket, 'secureConnect');
  if (say !== undefined) {
    socket.write(say);
    await eventually(() => text).toContain('HTTP/1.1 404');
  }
  return { isClosed: () => isClosed, destroy: () => socket.destroy() };
}
const NONE = 'GET /loaders/none HTTP/1.1\r\nhost: x\r\n\r\n';

describe('a house that is full of connections', () => {
  it.each<[string, (from: string) => Promise<Guest>]>([
    ['say nothing', (from) => plain(from)],
    ['trickle a head', (from) => plain(from, 'GET /script/x HTTP/1.1\r\nx-a: ')],
    ['keep back a body', (from) => plain(from, 'POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nboot')],
    ['were answered and keep still', (from) => plain(from, NONE, { awaits: ' 404 ' })],
    ['were answered and keep back the next head', (from) => plain(from, `${NONE}GET /x`, { awaits: ' 404 ' })],
    ['only shook hands by TLS', (from) => secure(from)],
    ['were answered by TLS and keep still', (from) => secure(from, NONE)],
  ])('that %s lets the next one in, and the one goes that was quiet the longest', async (_what, guest) => {
    const site = await open();
    const path = await site.publish(BIG);
    const guests: Guest[] = [];
    for (let n = 0; n < FULL; n++) guests.push(await guest(addressOf(n)));
    await eventually(() => site.front.figures().connections).toBe(FULL);
    await pause(QUIET_MS + 50);
    expect((await curl(site.base + path)).out.equals(BIG)).toBe(true);
    await eventually(() => guests.map((one) => one.isClosed())).toEqual(guests.map((_one, n) => n === 0));
    expect(site.front.figures().cuts).toEqual({ slow: 0, stalled: 0, crowded: 0, full: 1, malformed: 0 });
    // The client that left gave its place back: once, and the one that went with it none.
    await eventually(() => site.front.figures().connections).toBe(FULL - 1);
    for (const one of guests) one.destroy();
    await eventually(() => site.front.figures().connections).toBe(0);
    expect(site.front.figures().threadRestarts).toBe(0);
  });

  it('of which one address has most, gives up one of its, though others came before', async () => {
    const site = await open();
    const alone: Guest[] = [];
    for (let n = 0; n < FULL - 8; n++) alone.push(await plain(addressOf(n)));
    const greedy: Guest[] = [];
    for (let n = 0; n < 8; n++) greedy.push(await plain('127.0.8.1'));
    await eventually(() => site.front.figures().connections).toBe(FULL);
    await pause(QUIET_MS + 50);
    expect(await say(PORT, NONE.replace('host', 'connection: close\r\nhost'))).toContain(' 404 ');
    await eventually(() => greedy.map((one) => one.isClosed())).toEqual([true, ...new Array<boolean>(7).fill(false)]);
    expect(alone.some((one) => one.isClosed())).toBe(false);
    for (const one of [...alone, ...greedy]) one.destroy();
  });

  /** Four that take 2 MB/s each. */
  async function readers(site: Site, path: string): Promise<() => Promise<void>> {
    const all = Array.from({ length: 4 }, (_, n) => {
      const out = join(site.dir, `out${n}`);
      return { out, ended: once(spawn('curl', ['-sS', '--limit-rate', '2M', '-o', out, site.base + path], { stdio: 'inherit' }), 'close') };
    });
    await eventually(() => site.front.figures().connections).toBe(4);
    await pause(1_500);
    return async () => {
      for (const { out, ended } of all) {
        expect(await ended).toEqual([0, null]);
        expect(readFileSync(out).equals(BIG)).toBe(true);
      }
    };
  }

  it('that take their bytes refuses the next one, and each of them gets its file whole', async () => {
    setBuffers(SMALL);
    const site = await open({ connections: 4, stalledMs: 400, checkMs: 50 });
    const path = await site.publish(BIG);
    const allWhole = await readers(site, path);
    expect((await curl('--max-time', '2', site.base + path)).code).not.toBe(0);
    expect(site.front.figures().cuts.full).toBe(1);
    await allWhole();
    expect((await curl(site.base + path)).out.equals(BIG)).toBe(true);
  });

  it('for which the kernel has all the rest lets the next one in, and each of them gets its file whole', async () => {
    const site = await open({ connections: 4 });
    const part = BIG.subarray(0, 256 << 10);
    const path = await site.publish(part);
    const all = await Promise.all(Array.from({ length: 4 }, async (_, n) => {
      const { socket, text, closed } = await dial(PORT, { from: addressOf(n) });
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
      socket.pause();
      return { socket, text, closed };
    }));
    await eventually(() => site.front.figures().responses['2xx']).toBe(4);
    await pause(QUIET_MS + 50);
    expect((await curl('-r', '0-999', site.base + path)).out.equals(BIG.subarray(0, 1000))).toBe(true);
    expect(site.front.figures().cuts.full).toBe(1);
    for (const { socket } of all) socket.resume();
    await eventually(() => all.map(({ text }) => Buffer.from(text().slice(text().indexOf('\r\n\r\n') + 4), 'latin1').equals(part))).toEqual([true, true, true, true]);
    for (const { socket } of all) socket.destroy();
  });

  it('one of which hardly takes a byte gives up that one', async () => {
    setBuffers(SMALL);
    const site = await open({ connections: 3, stalledMs: 2_000, checkMs: 100 });
    const path = await site.publish(BIG);
    /** Takes so many bytes of a response a second, until it is closed. */
    const reader = async (from: string, bytesPerS: number) => {
      const { socket, closed } = await dial(PORT, { from });
      const state = { bytes: 0, isClosed: false };
      void closed.then(() => (state.isClosed = true));
      socket.removeAllListeners('data').pause();
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
      const reading = setInterval(() => void (state.bytes += (socket.read(Math.min(socket.readableLength, bytesPerS / 10)) as Buffer | null)?.length ?? 0), 100);
      onTestFinished(() => (clearInterval(reading), void socket.destroy()));
      return state;
    };
    const steady = [await reader('127.0.8.1', 50 << 10), await reader('127.0.8.1', 50 << 10)];
    const drip = await reader('127.0.8.2', 6 << 10);
    await pause(6_000);
    expect(site.front.figures().cuts).toMatchObject({ stalled: 0, full: 0 });
    expect((await curl('-r', '0-999', site.base + path)).out.equals(BIG.subarray(0, 1000))).toBe(true);
    await eventually(() => [drip.isClosed, ...steady.map(({ isClosed }) => isClosed)]).toEqual([true, false, false]);
    expect(site.front.figures().cuts).toMatchObject({ stalled: 0, full: 1 });
  });

  it('of 4,000 by many addresses keeps none of eight machines from its file', { timeout: 120_000 }, async () => {
    const site = await open({ connections: 4_000 });
    const path = await site.publish(BIG);
    const guests: Awaited<ReturnType<typeof dial>>[] = [];
    // In parts, for the kernel queues no more than some hundred that are not accepted yet.
    while (guests.length < 4_000) {
      const at = guests.length;
      guests.push(...(await Promise.all(Array.from({ length: 200 }, (_, n) => dial(PORT, { from: `127.0.${10 + (n % 20)}.${1 + Math.floor((at + n) / 20) % 100}` })))));
      await eventually(() => site.front.figures().connections).toBe(guests.length);
    }
    await pause(QUIET_MS + 50);
    const fetched = await Promise.all(Array.from({ length: 8 }, () => curl(site.base + path)));
    expect(fetched.filter(({ out }) => out.equals(BIG))).toHaveLength(8);
    for (const { socket } of guests) socket.destroy();
    await eventually(() => site.front.figures().connections).toBe(0);
  });
});
