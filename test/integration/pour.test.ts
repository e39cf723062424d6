// Bytes that go to a socket past Node: the peer has what was poured, whatever becomes of the memory that it was poured from.
import { once } from 'node:events';
import { createServer, createConnection, type AddressInfo, type Socket } from 'node:net';
import { execFileSync } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { plainSockets } from '../../src/net/libc.ts';
import { allocatePages, SLOT, type Slot } from '../../src/net/pages.ts';
import { openPour, type Pour } from '../../src/net/pour.ts';

let ours: Socket;
let peer: Socket;
let close: () => void;

beforeEach(async () => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  // It reads nothing before it is asked to.
  peer = createConnection({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' }).pause();
  [ours] = (await once(server, 'connection')) as [Socket];
  close = () => {
    ours.destroy();
    peer.destroy();
    server.close();
  };
});

afterEach(() => close());

/** A block of one slot, each 32-bit word of which tells where it is. */
function blockOf(seed: number) {
  const [slot] = allocatePages(1).slots;
  const fill = (from: number): void => {
    for (let at = 0; at < SLOT; at += 4) slot!.bytes.writeUInt32LE((at + from) >>> 0, at);
  };
  fill(seed);
  return { slot: slot!, fill };
}

const pour: Pour | undefined = openPour();
const pourInto = (slot: Slot, from: number, to: number, more: boolean): number => pour!((ours as unknown as { _handle: { fd: number } })._handle.fd, slot.address! + from, to - from, more);

async function readAll(): Promise<Buffer> {
  const parts: Buffer[] = [];
  peer.on('data', (part: Buffer) => parts.push(part));
  peer.resume();
  await once(peer, 'end');
  return Buffer.concat(parts);
}

describe.skipIf(plainSockets())('bytes that are poured', () => {
  it('are those that were there then, also when the slot was renewed and filled anew before the peer read any', async () => {
    const { slot, fill } = blockOf(7);
    const before = Buffer.from(slot.bytes);
    const taken = pourInto(slot, 0, SLOT, false);
    expect(taken).toBeGreaterThan(64 * 1024);
    slot.renew();
    fill(1_000_003);
    const whole = readAll();
    ours.end();
    const got = await whole;
    expect(got.length).toBe(taken);
    expect(got.equals(before.subarray(0, taken))).toBe(true);
  });

  it('stop where the socket is full, and what Node writes comes behind them', async () => {
    const { slot } = blockOf(3);
    let at = 0;
    for (let taken = 1; taken > 0 && at < SLOT; at += taken) taken = pourInto(slot, at, SLOT, true);
    const rest = slot.bytes.subarray(at);
    const whole = readAll();
    ours.write(rest);
    ours.end('end');
    const got = await whole;
    expect(got.subarray(0, SLOT).equals(slot.bytes)).toBe(true);
    expect(got.subarray(SLOT).toString()).toBe('end');
  });

  it('from any byte to any byte are right', async () => {
    const { slot } = blockOf(11);
    const ranges = [[1, 2], [4095, 4097], [5, 70_001], [131_071, 131_072], [SLOT - 3, SLOT]] as const;
    const whole = readAll();
    for (const [from, to] of ranges) {
      expect(pourInto(slot, from, to, false)).toBe(to - from);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    ours.end();
    expect((await whole).equals(Buffer.concat(ranges.map(([from, to]) => slot.bytes.subarray(from, to))))).toBe(true);
  });
});
