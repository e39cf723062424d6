// `kill -9` in the middle of lease writes, again and again: what was acknowledged is there, and nothing is given twice.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { BuiltTree } from '../built-tree.ts';
import { seededRandom } from '../mutate.ts';
import { buildDaemon, openSite, type Site } from './site.ts';
import { brokenPromises, openCrowd, type Crowd } from './traffic.ts';

/** A start of the whole daemon costs a second of CPU, one of its core a third. */
const WHOLE = process.env.RACKSEED_FULL === '1' ? 50 : 5;
const AT_ONCE = 64;
const SAMPLE = 10;

let tree: BuiltTree;
let site: Site;
let crowd: Crowd;

beforeAll(() => {
  tree = buildDaemon();
});
afterAll(() => tree?.remove());
beforeEach(async () => {
  site = await openSite(tree);
  crowd = await openCrowd({ machines: 6_000, seed: 1 });
});
afterEach(async () => {
  await crowd?.close();
  await site?.remove();
});

it.each([
  [50, 'the DHCP server with its state', true],
  [WHOLE, 'the whole daemon', false],
] as const)('%i kills of %s under load: no acknowledged lease is lost, no address is given twice', { timeout: 900_000 }, async (kills, what, core) => {
  const random = seededRandom(2);
  const ups: number[] = [];
  let busy = 0;
  for (let kill = 0; kill <= kills; kill++) {
    // Some die while they start: what recovers the WAL of the last one is killed in it.
    if (kill % 5 === 4) {
      const starting = await site.start({ core, wait: false });
      await sleep((ups[0]! * (2 + random() * 8)) / 10);
      await starting.end('SIGKILL');
    }
    const daemon = await site.start({ core });
    ups.push(daemon.upAfterMs);
    expect(brokenPromises(crowd.claims.values(), site.rows()), `after kill ${kill}`).toEqual([]);
    const claims = [...crowd.claims.values()];
    for (let n = 0; n < SAMPLE && claims.length > 0; n++) {
      const claim = claims[Math.floor(random() * claims.length)]!;
      expect(await crowd.confirm(claim, n % 2 ? 'renew' : 'init-reboot'), `${claim.ip} of ${claim.mac} after kill ${kill}`).toBe('ack');
    }
    if (kill === kills) {
      await daemon.end('SIGTERM');
      break;
    }
    const before = crowd.counts.acks;
    crowd.go(AT_ONCE);
    await expect.poll(() => crowd.counts.acks, { timeout: 60_000, interval: 5 }).toBeGreaterThan(before);
    await sleep(random() * 300);
    if (crowd.waiting > 0) busy++;
    await daemon.end('SIGKILL');
    await crowd.halt();
    expect(daemon.logged('dhcp: datagram not answered')).toEqual([]);
  }
  expect(crowd.wrongs).toEqual([]);
  // The test is none if the daemon had nothing to do when it died.
  expect(busy).toBeGreaterThan(kills / 2);
  ups.sort((a, b) => a - b);
  console.log(`kill -9 of ${what}: ${kills} kills, ${busy} with requests under way; ${crowd.counts.acks} ACKs, ${crowd.counts.releases} releases, ${crowd.claims.size} leases held at the end; a start takes ${Math.round(ups[ups.length >> 1]!)} ms`);
});
