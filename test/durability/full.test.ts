// A whole daemon on a full disk: nodes boot, strangers get silence and never a false ACK, and all goes on by itself when there is room again.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { messageOf } from '../../src/dhcp/options.ts';
import type { BuiltTree } from '../built-tree.ts';
import { createMachine, createRelay, type Machine, type Relay } from '../integration/machine.ts';
import { eventually } from '../integration/lan.ts';
import { buildDaemon, get, HTTP_PORT, openSite, publish, type Serving, type Site } from './site.ts';
import { fillDisk } from '../full-disk.ts';

/** In a mount namespace of the daemon's own, which ends with it; what was published before goes in. */
const ON_TMPFS = 'mount -t tmpfs -o size=128m,mode=750 rackseed-test "$0" && cp -a "$1/." "$0" && shift && exec "$@"';
const FULL = 'the disk is nearly full: dynamic addresses are not given out';

let tree: BuiltTree;
let stateDir: string;
let site: Site;
let relay: Relay;
let daemon: Serving;
/** The state directory as the daemon has it. */
let inside: string;

beforeAll(() => {
  tree = buildDaemon();
});
afterAll(() => tree?.remove());
beforeEach(async () => {
  stateDir = mkdtempSync('/var/tmp/rackseed-full-');
  site = await openSite(tree, { stateDir });
  const seed = join(site.dir, 'seed');
  await publish(seed);
  daemon = await site.start({ wrap: ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', ON_TMPFS, stateDir, seed] });
  inside = `/proc/${daemon.child.pid}/root${stateDir}`;
  relay = await createRelay();
});
afterEach(async () => {
  await relay?.close();
  await site?.remove();
  rmdirSync(stateDir);
});

async function run(argv: readonly string[]): Promise<void> {
  await once(spawn(argv[0]!, argv.slice(1), { stdio: 'inherit' }), 'exit');
}

const api = async (path: string) => (await get(join(inside, 'api.sock'), path)).body;
const reasons = async (): Promise<string[]> => ((await api('/readyz')) as { reasons: { what: string }[] }).reasons.map(({ what }) => what);
const leases = async () => ((await api('/api/leases')) as { leases: { ip: string; mac: string; expiresAt: number }[] }).leases;
const machine = (mac: string): Machine => createMachine(relay, mac, HTTP_PORT);

/** From power-on to the agent's last word. */
async function boot(node: Machine): Promise<void> {
  await node.dora('rom');
  await node.dora('ipxe');
  const script = await node.http('GET', `/script/${node.mac}`);
  const id = /rackseed\.boot=(\w+)/.exec(script.text)![1]!;
  // Stages are written behind their answers, and a real machine needs seconds from its script to its initrd.
  await eventually(async () => ((await api(`/api/boots/${id}`)) as { stages: { name: string }[] }).stages.map(({ name }) => name)).toContain('script');
  const enrolled = await node.http('POST', '/enrol', { body: `mac ${node.mac}\n` });
  expect(enrolled.status, enrolled.text).toBe(201);
  const token = /^token ([0-9a-f]{64})$/m.exec(enrolled.text)![1]!;
  const reported = await node.http('POST', `/boots/${id}/report?stage=ready&state=ok`, { headers: { authorization: `Bearer ${token}` } });
  expect(reported.status, reported.text).toBeLessThan(300);
}

it('a node boots to ready, a stranger gets silence and every ACK has its row; without a restart all goes on once there is room', { timeout: 180_000 }, async () => {
  const [early, offered, late] = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03'].map(machine) as [Machine, Machine, Machine];
  await early.dora('os');
  const offer = (await offered.discover('os'))!;
  expect(await reasons()).toEqual([]);
  fillDisk(join(inside, 'filler'));
  await eventually(reasons).toContain(FULL);

  const n1 = machine('52:54:00:00:00:01');
  await boot(n1);
  expect(n1.ip).toBe('127.0.0.11');
  expect(await api('/api/nodes/n1')).toMatchObject({ boot: { state: 'ready' } });

  for (let tries = 0; tries < 3; tries++) expect(await late.discover('os', 700)).toBeUndefined();
  // Who has an address keeps it, and an offer from before holds: out of the reserve, and written.
  const renewed = (await early.discover('os'))!;
  const from = Date.now();
  expect(messageOf((await early.request('os', renewed))!.options)).toBe('ack');
  expect(messageOf((await offered.request('os', offer))!.options)).toBe('ack');
  const rows = await leases();
  expect(rows.find(({ mac }) => mac === early.mac)).toMatchObject({ ip: early.ip });
  expect(rows.find(({ mac }) => mac === early.mac)!.expiresAt).toBeGreaterThanOrEqual(from + 3600_000);
  expect(rows.find(({ mac }) => mac === offered.mac)).toMatchObject({ ip: offer.yiaddr });
  expect(rows.filter(({ mac }) => mac === late.mac)).toEqual([]);
  expect((await get(join(inside, 'api.sock'), '/readyz')).status).toBe(200);

  const { pid } = daemon.child;
  rmSync(join(inside, 'filler'));
  await eventually(reasons).toEqual([]);
  await late.dora('os');
  expect((await leases()).map(({ mac }) => mac)).toContain(late.mac);
  expect([daemon.child.pid, daemon.child.exitCode]).toEqual([pid, null]);
  expect(daemon.logged('dhcp: datagram not answered')).toEqual([]);
});

it('with the reserve used up too, nothing is acknowledged that is not written, but for an address that is a node\'s alone', { timeout: 180_000 }, async () => {
  const early = machine('02:00:00:00:00:01');
  await early.dora('os');
  const offers = await Promise.all(Array.from({ length: 40 }, async (_, n) => {
    const one = machine(`02:00:00:00:01:${n.toString(16).padStart(2, '0')}`);
    return { one, offer: (await one.discover('os'))! };
  }));
  fillDisk(join(inside, 'filler'));
  // Another process eats what is left inside the files, and keeps them from being cut: the daemon finds nothing.
  const eat = tree.program('eat.js', `
    import BetterSqlite3 from 'better-sqlite3';
    const sqlite = new BetterSqlite3(process.argv[2]);
    const eat = sqlite.prepare('INSERT INTO reserve (bytes) VALUES (zeroblob(?))');
    for (const size of [1 << 20, 1 << 16, 3000, 1]) {
      try {
        for (;;) eat.run(size);
      } catch (error) {
        if (error.code !== 'SQLITE_FULL') throw error;
      }
    }
    // Left as after a crash: closing would give room back.
    process.kill(process.pid, 'SIGKILL');
  `);
  await run(['nsenter', '--mount', `--target=${daemon.child.pid}`, '--', process.execPath, eat, join(stateDir, 'rackseed.db')]);
  const answers = await Promise.all(offers.map(async ({ one, offer }) => ({ mac: one.mac, ack: await one.request('os', offer) })));
  const written = new Set((await leases()).map(({ mac }) => mac));
  const acked = answers.filter(({ ack }) => ack && messageOf(ack.options) === 'ack');
  expect(acked.filter(({ mac }) => !written.has(mac))).toEqual([]);
  // The test is none if there was room for all.
  expect(acked.length).toBeLessThan(offers.length);
  expect(answers.filter(({ ack }) => ack && messageOf(ack.options) === 'nak')).toEqual([]);
  const n1 = machine('52:54:00:00:00:01');
  await n1.dora('os');
  expect(n1.ip).toBe('127.0.0.11');
  expect(daemon.logged('dhcp: lease not written, no answer').length).toBeGreaterThan(0);
});
