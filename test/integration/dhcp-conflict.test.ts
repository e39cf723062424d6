// The conflict check and the reserve on a real link, with machines that have an address nobody gave them, and without root.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ip4FromNumber, ip4ToNumber, type Ip4 } from '../../src/addr.ts';
import { createConflictCheck, type ConflictCheck } from '../../src/dhcp/conflict.ts';
import { createReserve, type Reserve } from '../../src/dhcp/ready.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';

const OURS = '10.77.0.1';
const MAC = '52:54:00:00:00:99';
const OTHER_MAC = '52:54:00:00:00:98';
const NOBODY = 65_534;

const ip = (...argv: string[]) => execFileSync('ip', argv, { encoding: 'utf8' });
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const setting = (name: string, value: number) => execFileSync('sh', ['-c', `echo ${value} > /proc/sys/net/ipv4/neigh/lan0/${name}`]);

let lan: Namespace;
let check: ConflictCheck;

beforeAll(async () => {
  ip('link', 'set', 'lo', 'up');
  lan = await createNamespace();
  ip('link', 'add', 'lan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(lan.pid));
  ip('address', 'add', `${OURS}/24`, 'dev', 'lan0');
  ip('link', 'set', 'lan0', 'up');
  await lan.must(['ip', 'link', 'set', 'eth0', 'address', MAC]);
  await lan.must(['ip', 'link', 'set', 'eth0', 'up']);
  // Linux takes 5 + 3 s to give an old entry up; here 1 s + 0.6 s.
  setting('delay_first_probe_time', 1);
  setting('retrans_time_ms', 200);
});

afterAll(async () => {
  execFileSync('sh', ['-c', 'ip link del lan0 2>/dev/null || true']);
  await lan?.close();
});

beforeEach(() => {
  ip('neighbour', 'flush', 'all');
  check = createConflictCheck();
  process.seteuid!(NOBODY);
});

afterEach(async () => {
  process.seteuid!(0);
  await check.close();
  await lan.must(['ip', 'address', 'flush', 'dev', 'eth0']);
  await lan.must(['ip', 'link', 'set', 'eth0', 'address', MAC]);
});

/** Machines of the link use these addresses from now on. Root is needed for it. */
async function use(...addresses: Ip4[]): Promise<void> {
  await asRoot(async () => {
    for (const address of addresses) await lan.must(['ip', 'address', 'add', `${address}/24`, 'dev', 'eth0']);
  });
}

async function asRoot<T>(work: () => T | Promise<T>): Promise<T> {
  process.seteuid!(0);
  try {
    return await work();
  } finally {
    process.seteuid!(NOBODY);
  }
}

const ask = (address: Ip4) => check.ask('lan0', address, OURS);
const entries = () => readFileSync('/proc/self/net/arp', 'utf8').trim().split('\n').length - 1;

describe('the conflict check, as a user without rights', () => {
  it('an address that a machine uses is in use, with its MAC', async () => {
    await use('10.77.0.50');
    expect(await ask('10.77.0.50')).toEqual({ kind: 'in-use', mac: MAC });
  });

  it('an address that nobody answers for is free', async () => {
    expect(await ask('10.77.0.51')).toEqual({ kind: 'free' });
  });

  it('an address of our own is in use, though the kernel never asks for it', async () => {
    expect(await ask(OURS)).toMatchObject({ kind: 'in-use' });
  });

  it('an address whose last user has left is free, once the kernel has given its old entry up', async () => {
    await use('10.77.0.52');
    expect(await ask('10.77.0.52')).toMatchObject({ kind: 'in-use' });
    await asRoot(async () => {
      await lan.must(['ip', 'address', 'flush', 'dev', 'eth0']);
      // As it is a minute after it was last used, for days.
      ip('neighbour', 'change', '10.77.0.52', 'dev', 'lan0', 'nud', 'stale');
    });
    expect(await ask('10.77.0.52')).toEqual({ kind: 'free' });
  });

  it('an old entry of a machine that is still there is believed', async () => {
    await use('10.77.0.53');
    await ask('10.77.0.53');
    await asRoot(() => ip('neighbour', 'change', '10.77.0.53', 'dev', 'lan0', 'nud', 'stale'));
    expect(await ask('10.77.0.53')).toEqual({ kind: 'in-use', mac: MAC });
  });

  it('an old entry does not hide another machine that has the address now', async () => {
    await use('10.77.0.54');
    await ask('10.77.0.54');
    await asRoot(async () => {
      await lan.must(['ip', 'link', 'set', 'eth0', 'address', OTHER_MAC]);
      ip('neighbour', 'change', '10.77.0.54', 'dev', 'lan0', 'lladdr', MAC, 'nud', 'stale');
    });
    expect(await ask('10.77.0.54')).toEqual({ kind: 'in-use', mac: OTHER_MAC });
  });

  it('200 at once: those in use are found, the others are free, and the neighbour table is not overrun', async () => {
    const used = ['10.77.0.60', '10.77.0.120', '10.77.0.250'];
    await use(...used);
    let most = 0;
    const watching = setInterval(() => (most = Math.max(most, entries())), 20);
    const all = Array.from({ length: 200 }, (_, i) => `10.77.0.${i + 55}`);
    const verdicts = await Promise.all(all.map(ask));
    clearInterval(watching);
    expect(all.filter((_ip, i) => verdicts[i]!.kind === 'in-use')).toEqual(used);
    expect(verdicts.filter((verdict) => verdict.kind === 'free')).toHaveLength(197);
    expect(most).toBeLessThan(512);
  });

  it('who cannot be asked is neither free nor in use', async () => {
    expect(await check.ask('lan0', '10.99.0.1', OURS)).toMatchObject({ kind: 'unknown', why: expect.stringContaining('ENETUNREACH') as string });
    expect(await check.ask('lan0', '10.77.0.55', '10.77.0.2')).toMatchObject({ kind: 'unknown', why: expect.stringContaining('EADDRNOTAVAIL') as string });
    expect(await check.ask('lan9', '10.77.0.55', OURS)).toMatchObject({ kind: 'unknown', why: expect.stringContaining('lan9 is down') as string });
    await asRoot(() => ip('link', 'set', 'lan0', 'arp', 'off'));
    expect(await ask('10.77.0.55')).toMatchObject({ kind: 'unknown', why: expect.stringContaining('without ARP') as string });
    await asRoot(() => ip('link', 'set', 'lan0', 'arp', 'on'));
    expect(await ask('10.77.0.55')).toEqual({ kind: 'free' });
  });

  it('survives that its own address goes and comes back', async () => {
    expect(await ask('10.77.0.55')).toEqual({ kind: 'free' });
    await asRoot(() => ip('address', 'del', `${OURS}/24`, 'dev', 'lan0'));
    expect(await ask('10.77.0.56')).toMatchObject({ kind: 'unknown' });
    await asRoot(() => ip('address', 'add', `${OURS}/24`, 'dev', 'lan0'));
    expect(await ask('10.77.0.56')).toEqual({ kind: 'free' });
  });
});

describe('the reserve of a pool of twenty addresses', () => {
  const POOL = Array.from({ length: 20 }, (_, i) => ip4FromNumber(ip4ToNumber('10.77.0.100') + i));
  let reserve: Reserve | undefined;
  afterEach(() => reserve?.stop());

  it('never hands out one that another machine uses, and says who does', async () => {
    const used = ['10.77.0.101', '10.77.0.110', '10.77.0.119'];
    await use(...used);
    const given = new Set<Ip4>();
    const found = new Map<Ip4, string>();
    reserve = createReserve({
      next: (accept) => POOL.find((address) => !given.has(address) && !found.has(address) && accept(address)),
      check: ask,
      onInUse: (address, mac) => void found.set(address, mac),
      log: createLog('silent'),
      now: Date.now,
    });
    await reserve.settled();
    for (let address = reserve.take(() => true); address !== undefined; address = reserve.take(() => true)) given.add(address);
    await reserve.settled();
    expect([...given].sort()).toEqual(POOL.filter((address) => !used.includes(address)));
    expect([...found].sort()).toEqual(used.map((address) => [address, MAC]));
  });

  it('finds a machine that took an address which was free before, when it checks again', async () => {
    const found: Ip4[] = [];
    reserve = createReserve({ next: (accept) => POOL.find((address) => !found.includes(address) && accept(address)), check: ask, onInUse: (address) => void found.push(address), log: createLog('silent'), now: Date.now, maxAgeMs: 4_000, size: 5 });
    await reserve.settled();
    expect(reserve.has('10.77.0.102')).toBe(true);
    await use('10.77.0.102');
    for (const end = Date.now() + 30_000; !found.includes('10.77.0.102') && Date.now() < end; ) await pause(100);
    expect(found).toEqual(['10.77.0.102']);
    expect(reserve.has('10.77.0.102')).toBe(false);
  });
});
