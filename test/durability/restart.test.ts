// A daemon that is started on 100,000 leases: it serves them right, after a clean end and after none. How long a start takes is printed.
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { BuiltTree } from '../built-tree.ts';
import { buildDaemon, get, ON_LOOPBACK, openSite, type Row, type Serving, type Site } from './site.ts';
import { brokenPromises, openCrowd, type Crowd } from './traffic.ts';

const LEASES = 100_000;
const SAMPLE = 50;
const STARTS = process.env.RACKSEED_FULL === '1' ? 10 : 3;
const DHCP = { ...ON_LOOPBACK, subnets: ON_LOOPBACK.subnets.map((subnet) => ({ ...subnet, pool: '127.1.0.1-127.2.255.254' })) };

let tree: BuiltTree;
let site: Site;
let crowd: Crowd;

beforeAll(() => {
  tree = buildDaemon();
});
afterAll(() => tree?.remove());
beforeEach(async () => {
  site = await openSite(tree, { dhcp: DHCP });
  crowd = await openCrowd({ machines: 1_000, seed: 7 });
});
afterEach(async () => {
  await crowd?.close();
  await site?.remove();
});

/** Asks until it answers; milliseconds from the call on. */
async function until(answered: () => Promise<boolean>, since: number): Promise<number> {
  while (!(await answered().catch(() => false))) await new Promise((resolve) => setTimeout(resolve, 10));
  return performance.now() - since;
}

it(`${LEASES} leases: each start serves what was there, whoever asks`, { timeout: 600_000 }, async () => {
  const rows = await site.fill(LEASES);
  const times: { up: number; ready: number; renewed: number }[] = [];
  let daemon: Serving;
  for (let n = 0; n < STARTS; n++) {
    const since = performance.now();
    daemon = await site.start();
    const ready = await until(async () => (await get(join(site.stateDir, 'api.sock'), '/readyz')).status === 200, since);
    const first = claimOf(rows[n]!);
    const renewed = await until(async () => (await crowd.confirm(first, 'renew')) === 'ack', since);
    times.push({ up: Math.round(daemon.upAfterMs), ready: Math.round(ready), renewed: Math.round(renewed) });
    for (let k = 0; k < SAMPLE; k++) {
      const row = rows[(k * 1999 + n * 7) % LEASES]!;
      expect(await crowd.confirm(claimOf(row), k % 2 ? 'renew' : 'init-reboot'), row.ip).toBe('ack');
    }
    // Another machine gets none of them.
    await crowd.acks(200, 16);
    await daemon.end(n % 2 ? 'SIGKILL' : 'SIGTERM');
  }
  daemon = await site.start();
  expect(crowd.wrongs).toEqual([]);
  const now = site.rows();
  expect(brokenPromises([...rows.map(claimOf), ...crowd.claims.values()], now)).toEqual([]);
  expect(new Set(now.map(({ mac }) => mac)).size).toBe(now.length);
  console.log(`restart with ${LEASES} leases, milliseconds from the start of the process: ${JSON.stringify(times)}`);
});

function claimOf({ ip, mac, expiresAt }: Row) {
  return { ip, mac: mac!, expiresAt };
}
