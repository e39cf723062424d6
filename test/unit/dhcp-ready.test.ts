// The reserve of checked addresses: how many it keeps, when it checks again, and what it never hands out. The clock is the test's.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Ip4, Mac } from '../../src/addr.ts';
import type { Verdict } from '../../src/dhcp/conflict.ts';
import { createReserve, type Reserve, type ReserveParts } from '../../src/dhcp/ready.ts';
import { createLog } from '../../src/log.ts';

const MINUTE = 60_000;
const MAC = '52:54:00:00:00:99';
const FREE: Verdict = { kind: 'free' };

let reserve: Reserve | undefined;
/** By the books. */
let taken: Set<Ip4>;
let checked: Ip4[];
let inUse: [Ip4, Mac][];
let logged: string;
let verdictOf: (ip: Ip4) => Verdict;

beforeEach(() => {
  vi.useFakeTimers();
  [taken, checked, inUse, logged, verdictOf] = [new Set(), [], [], '', () => FREE];
});
afterEach(() => {
  reserve?.stop();
  vi.useRealTimers();
});

const address = (n: number): Ip4 => `10.0.${n >> 8}.${n & 255}`;

/** Over a pool of a thousand addresses; each check takes 200 ms. */
function make(more: Partial<ReserveParts> = {}): Reserve {
  const pool = Array.from({ length: 1000 }, (_, n) => address(n));
  reserve = createReserve({
    next: (accept) => pool.find((ip) => !taken.has(ip) && accept(ip)),
    check: async (ip) => {
      checked.push(ip);
      await new Promise((resolve) => setTimeout(resolve, 200));
      return verdictOf(ip);
    },
    onInUse: (ip, mac) => void (taken.add(ip), inUse.push([ip, mac])),
    log: createLog('debug', { write: (line: string) => void (logged += line) }),
    now: Date.now,
    ...more,
  });
  return reserve;
}

const take = () => {
  const ip = reserve!.take(() => true);
  if (ip !== undefined) taken.add(ip);
  return ip;
};

describe('the reserve', () => {
  it('is filled ahead of time with 32 addresses', async () => {
    make();
    expect(take()).toBeUndefined();
    await vi.advanceTimersByTimeAsync(200);
    expect(make().status).toMatchObject({ ready: 0, checking: 32 });
    await vi.advanceTimersByTimeAsync(200);
    expect(reserve!.status).toMatchObject({ ready: 32, checking: 0, size: 32 });
  });

  it('hands each address out once, and replaces it in the background', async () => {
    make();
    await vi.advanceTimersByTimeAsync(200);
    const given = Array.from({ length: 10 }, take);
    expect(new Set(given).size).toBe(10);
    expect(reserve!.status).toMatchObject({ ready: 22, checking: 10 });
    await vi.advanceTimersByTimeAsync(200);
    expect(reserve!.status).toMatchObject({ ready: 32, checking: 0 });
    expect(new Set(checked).size).toBe(42);
  });

  it('never hands out what is in use, or what could not be asked for, and tells of the former', async () => {
    verdictOf = (ip) => (ip === address(1) ? { kind: 'in-use', mac: MAC } : ip === address(2) ? { kind: 'unknown', why: 'the card is down' } : FREE);
    make({ size: 4 });
    // After one that could not be asked for it waits a moment with the others.
    await vi.advanceTimersByTimeAsync(8000);
    expect([take(), take(), take(), take()]).toEqual([address(0), address(3), address(4), address(5)]);
    expect(inUse).toEqual([[address(1), MAC]]);
    expect(logged).toContain('the card is down');
  });

  it('tries what could not be asked for a minute later', async () => {
    verdictOf = () => ({ kind: 'unknown', why: 'the card is down' });
    make({ size: 4, next: (accept) => [address(0), address(1)].find(accept) });
    await vi.advanceTimersByTimeAsync(200);
    expect(reserve!.status).toMatchObject({ ready: 0, checking: 0 });
    verdictOf = () => FREE;
    await vi.advanceTimersByTimeAsync(2 * MINUTE);
    expect(reserve!.status).toMatchObject({ ready: 2 });
    expect(logged.trim().split('\n')).toHaveLength(1);
  });

  it('turns down for one client what another may have', async () => {
    make({ size: 3 });
    await vi.advanceTimersByTimeAsync(200);
    expect(reserve!.take((ip) => ip === address(2))).toBe(address(2));
    expect(reserve!.has(address(0))).toBe(true);
  });

  it('doubles each time it runs dry, up to its most, and shrinks in quiet times', async () => {
    make({ size: 4, mostSize: 16, maxAgeMs: 10 * MINUTE });
    const sizes = [];
    for (let i = 0; i < 4; i++) {
      while (take() !== undefined);
      sizes.push(reserve!.status.size);
      await vi.advanceTimersByTimeAsync(2_000);
    }
    expect(sizes).toEqual([8, 16, 16, 16]);
    await vi.advanceTimersByTimeAsync(35 * MINUTE);
    expect(reserve!.status).toMatchObject({ size: 4, ready: 4 });
  });

  it('checks again before a check is ten minutes old, and is never empty for it', async () => {
    make({ size: 4 });
    await vi.advanceTimersByTimeAsync(200);
    let least = Infinity;
    for (let i = 0; i < 30 * 60; i++) {
      await vi.advanceTimersByTimeAsync(1000);
      least = Math.min(least, reserve!.status.ready);
    }
    expect(least).toBe(4);
    const times = checked.filter((ip) => ip === address(0)).length;
    expect(times).toBeGreaterThanOrEqual(3);
    expect(times).toBeLessThanOrEqual(5);
  });

  it('drops an address that a later check finds in use', async () => {
    make({ size: 4 });
    await vi.advanceTimersByTimeAsync(200);
    verdictOf = (ip) => (ip === address(2) ? { kind: 'in-use', mac: MAC } : FREE);
    await vi.advanceTimersByTimeAsync(10 * MINUTE);
    expect(reserve!.has(address(2))).toBe(false);
    expect(inUse).toEqual([[address(2), MAC]]);
  });

  it('does not take an address in that was given out by another way while it was checked', async () => {
    make({ size: 4 });
    taken.add(address(1));
    reserve!.forget(address(1));
    await vi.advanceTimersByTimeAsync(1000);
    expect(reserve!.has(address(1))).toBe(false);
    expect(reserve!.status).toMatchObject({ ready: 4 });
  });

  it('says so when one machine answers for every address, as a router with proxy ARP does', async () => {
    verdictOf = () => ({ kind: 'in-use', mac: MAC });
    make();
    await vi.advanceTimersByTimeAsync(1000);
    expect(logged).toMatch(/one machine answers for every free address/);
  });

  it('asks for no more than 64 at once', async () => {
    make({ size: 200 });
    expect(reserve!.status.checking).toBe(64);
  });
});
