// A damaged database under a whole daemon: put aside, the newest snapshot taken, everybody told, and nobody's address given to another meanwhile.
import { closeSync, existsSync, openSync, readdirSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Mac } from '../../src/addr.ts';
import { ips, messageOf, OPT } from '../../src/dhcp/options.ts';
import { encode } from '../../src/dhcp/packet.ts';
import type { BuiltTree } from '../built-tree.ts';
import { eventually, openLink, type Link } from '../integration/lan.ts';
import { machineOn, openSegment, type Machine, type Segment } from '../integration/segment.ts';
import { buildDaemon, openSite, type Serving, type Site } from './site.ts';

/** conflictCheck: off, and all the same no address is given out unchecked once leases may be missing. */
const DHCP = { onConflict: 'ignore', serve: 'any', subnets: [{ subnet: '10.77.0.0/24', mode: 'full', router: '10.77.0.254', leaseTime: '1h', pool: '10.77.0.100-10.77.0.105', conflictCheck: 'off' }] };
const STATIC_IP = '10.77.0.102';

const macOf = (n: number): Mac => `52:54:00:77:00:${n.toString(16).padStart(2, '0')}`;

let tree: BuiltTree;
let link: Link;
let segment: Segment;
let site: Site;

beforeAll(() => {
  tree = buildDaemon();
});
afterAll(() => tree?.remove());
beforeEach(async () => {
  link = await openLink('lan0', '10.77.0.1/24');
  segment = await openSegment(link.ns, 'eth0');
  site = await openSite(tree, { dhcp: DHCP, nodes: {} });
});
afterEach(async () => {
  await site?.remove();
  await segment?.close();
  await link?.close();
});

const machine = (n: number): Machine => machineOn(segment, macOf(n));
const snapshotsOf = () => readdirSync(join(site.stateDir, 'snapshots')).filter((name) => name.startsWith('rackseed-'));
const events = () => {
  const sqlite = new BetterSqlite3(site.database, { readonly: true });
  try {
    return (sqlite.prepare("SELECT detail FROM events WHERE kind = 'database-recovered'").pluck().all() as string[]).map((detail) => JSON.parse(detail) as unknown);
  } finally {
    sqlite.close();
  }
};

/** The first machine has a lease that the snapshot knows, the second has one since; answers their addresses. Stopped at the end. */
async function live(): Promise<[first: string, second: string]> {
  const one = await site.start();
  const first = (await machine(1).dora()).ack.yiaddr;
  await one.end('SIGTERM');
  rmSync(join(site.stateDir, 'snapshots'), { recursive: true, force: true });
  // It takes one at once.
  const two = await site.start();
  await eventually(() => existsSync(join(site.stateDir, 'snapshots')) && snapshotsOf().length).toBe(1);
  const second = (await machine(2).dora()).ack.yiaddr;
  expect((await two.end('SIGTERM')).code).toBe(0);
  return [first, second];
}

function overwrite(file: string, from: number, to: number): void {
  const fd = openSync(file, 'r+');
  for (let at = from; at < to; at += 512) writeSync(fd, Buffer.alloc(512, 0xa5), 0, 512, at);
  closeSync(fd);
}

/** The page where the table of leases begins. */
function leasePage(file: string): number {
  const sqlite = new BetterSqlite3(file, { readonly: true });
  try {
    return sqlite.prepare("SELECT rootpage FROM sqlite_schema WHERE name = 'leases'").pluck().get() as number;
  } finally {
    sqlite.close();
  }
}

/** What machines get that ask one after the other, until two of them got nothing. */
async function takeAll(): Promise<string[]> {
  const given: string[] = [];
  for (let n = 20, failed = 0; failed < 2; n++) {
    // The reserve of checked addresses may just be filled: as a client does, again and again.
    const got = await machine(n).dora(3, 2_000).catch(() => undefined);
    if (got) given.push(got.ack.yiaddr);
    else failed++;
  }
  return given.sort();
}

/** The answer to a renewal: `ack`, `nak`, or nothing to any of three. */
async function renew(n: number, ip: string): Promise<[answer: string | undefined, ip: string] | undefined> {
  for (let tries = 0; tries < 3; tries++) {
    const answer = await segment.ask(machine(n).packet('request', [], { ciaddr: ip }), { from: ip, to: '10.77.0.1' }, 4_000);
    if (answer) return [messageOf(answer.packet.options), answer.packet.yiaddr];
  }
  return undefined;
}

describe('a database that was damaged while the daemon was down', () => {
  const DAMAGE: readonly [what: string, damage: (file: string) => void][] = [
    ['its header is overwritten', (file) => overwrite(file, 0, 512)],
    ['a page in its middle is overwritten', (file) => overwrite(file, (leasePage(file) - 1) * 4096, leasePage(file) * 4096)],
    ['it was cut off', (file) => truncateSync(file, 5 * 4096 + 100)],
  ];

  it.each(DAMAGE)('%s: it is put aside, the newest snapshot taken, and log and events say so', { timeout: 120_000 }, async (_what, damage) => {
    const [first] = await live();
    const [snapshot] = snapshotsOf();
    const size = statSync(site.database).size;
    damage(site.database);
    const daemon = await site.start();
    const [line] = daemon.logged('the database was damaged: it was put aside, and the newest good snapshot taken');
    expect(line).toMatchObject({ level: 50, from: join(site.stateDir, 'snapshots', snapshot!), why: expect.stringMatching(/./) as string });
    const put = basename(line!['corrupt'] as string);
    expect(put).toMatch(/^rackseed\.db\.corrupt-\d{8}T\d{6}Z$/);
    expect(statSync(join(site.stateDir, put)).size).toBe(_what === 'it was cut off' ? 5 * 4096 + 100 : size);
    expect(events()).toEqual([expect.objectContaining({ corrupt: line!['corrupt'], from: line!['from'], why: line!['why'] })]);
    expect((await daemon.api('/readyz')).status).toBe(200);
    // What the snapshot knows holds on.
    expect(await renew(1, first)).toEqual(['ack', first]);
    // A healthy one is left alone.
    await daemon.end('SIGTERM');
    const again = await site.start();
    expect(again.log()).not.toContain('the database was damaged');
    expect(events()).toHaveLength(1);
  });

  it('addresses that the snapshot does not know of are looked for on the link, with conflictCheck off', { timeout: 180_000 }, async () => {
    const [first, second] = await live();
    segment.claim(STATIC_IP, macOf(99));
    overwrite(site.database, 0, 512);
    const daemon = await site.start();
    expect(site.rows().map(({ ip }) => ip)).toEqual([first]);
    const given = await takeAll();
    const all = [100, 101, 102, 103, 104, 105].map((last) => `10.77.0.${last}`);
    expect(given).toEqual(all.filter((ip) => ip !== first && ip !== second && ip !== STATIC_IP));
    expect(daemon.logged('dhcp: a free address is in use by a machine that did not get it here').map(({ ip }) => ip as string).sort()).toEqual([second, STATIC_IP].sort());
    // Who has it keeps it: its lease is not in the snapshot, and yet its own.
    expect(await renew(2, second)).toEqual(['ack', second]);
  });

  it('without the damage nobody is looked for: conflictCheck: off is what it says, and the test can tell', { timeout: 120_000 }, async () => {
    await live();
    segment.claim(STATIC_IP, macOf(99));
    const daemon = await site.start();
    expect(await takeAll()).toContain(STATIC_IP);
    expect(daemon.logged('dhcp: a free address is in use by a machine that did not get it here')).toEqual([]);
  });

  it('with no snapshot it starts empty, says so, and looks for addresses all the same', { timeout: 180_000 }, async () => {
    const [first, second] = await live();
    rmSync(join(site.stateDir, 'snapshots'), { recursive: true });
    overwrite(site.database, 0, 512);
    const daemon = await site.start();
    const [line] = daemon.logged('the database was damaged: it was put aside, and there is no good snapshot: it starts empty');
    expect(line).toMatchObject({ level: 50, corrupt: expect.stringContaining('.corrupt-') as string });
    expect(line).not.toHaveProperty('from');
    expect(site.rows()).toEqual([]);
    expect(events()).toEqual([expect.not.objectContaining({ from: expect.anything() as unknown })]);
    const given = await takeAll();
    expect(given).toHaveLength(4);
    expect(given).not.toContain(first);
    expect(given).not.toContain(second);
  });
});

describe('a database that is damaged under the running daemon', () => {
  /** Changes the file as another process would, so that what the daemon has in memory does not count any more. */
  function damageInUse(): void {
    const sqlite = new BetterSqlite3(site.database);
    sqlite.exec("INSERT INTO events (at, kind, detail) VALUES (1, 'test', '{}')");
    const page = leasePage(site.database);
    overwrite(site.database, (page - 1) * 4096, page * 4096);
    sqlite.close();
  }

  it.each<[who: string, touch: (daemon: Serving) => Promise<unknown>]>([
    ['a person asks for the leases', (daemon) => daemon.api('/api/leases').catch(() => undefined)],
    ['a machine asks for an address', async () => {
      const one = machine(50);
      segment.send(one.mac, encode(one.packet('request', [[OPT.requestedIp, ips('10.77.0.104')], [OPT.serverId, ips('10.77.0.1')]])) as Uint8Array);
    }],
  ])('when %s the daemon ends as failed, nothing is acknowledged, and the next start recovers', { timeout: 120_000 }, async (_who, touch) => {
    await live();
    const daemon = await site.start();
    let acks = 0;
    segment.onDatagram(({ bytes }) => void (bytes[0] === 2 && acks++));
    damageInUse();
    await touch(daemon);
    // Its exit code is what makes a supervisor start it again.
    const { code } = await daemon.gone;
    expect(code, daemon.log().slice(-2000)).not.toBe(0);
    expect(daemon.logged('the database is damaged: rackseed stops, and recovers when it is started again')).toHaveLength(1);
    expect(acks).toBe(0);
    const again = await site.start();
    expect(again.logged('the database was damaged: it was put aside, and the newest good snapshot taken')).toHaveLength(1);
    await again.end('SIGTERM');
  });
});
