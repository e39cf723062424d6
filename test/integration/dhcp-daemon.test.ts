// The whole daemon as a DHCP server: another server that appears after it, what it tells Prometheus, and serving with hardly any rights.
import { spawnSync, type ChildProcess } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Ip4, Mac } from '../../src/addr.ts';
import { dhcpStatus } from '../../src/commands/dhcp.ts';
import type { DhcpLink } from '../../src/http/dhcp.ts';
import { ipOf, ips, messageOf, OPT, text, uint16s } from '../../src/dhcp/options.ts';
import { decode, encode, type Packet } from '../../src/dhcp/packet.ts';
import { openDatabase } from '../../src/store/db.ts';
import { createEventStore, type Event } from '../../src/store/events.ts';
import type { BuiltTree } from '../built-tree.ts';
import { buildDaemon, openSite, type Serving, type Site } from '../durability/site.ts';
import { ended, eventually, ip, openLink, profileOf, startDnsmasq, startLan, watchOutput, type Lan, type Link, type Output } from './lan.ts';
import { machineOn, openSegment, type Machine, type Option, type Segment, type Way } from './segment.ts';

const SYSTEMD = new URL('systemd.py', import.meta.url).pathname;

const OURS = '10.77.0.1';
const THEIRS = '10.77.0.9';
const THEIR_MAC = '52:54:00:00:00:99';
const NODE = '52:54:00:77:00:01';
const NODE_IP = '10.77.0.11';
const UEFI: readonly Option[] = [[OPT.maxSize, uint16s(1472)], [OPT.clientArch, uint16s(7)], [OPT.vendorClass, text('PXEClient:Arch:00007:UNDI:003016')]];
const POOLED = { subnet: '10.77.0.0/24', mode: 'full', pool: '10.77.0.100-10.77.0.109', conflictCheck: 'off' };

interface Told {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

function ask(stateDir: string, path: string, method = 'GET'): Promise<Told> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath: join(stateDir, 'api.sock'), path, method, agent: false }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString()));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', text: body }));
    });
    request.on('error', reject);
    request.end();
  });
}

interface Metric {
  readonly type: string;
  readonly help: string;
  /** Labels as they stand in the text, `a="b",c="d"`, to the value. */
  readonly samples: Map<string, number>;
}

/** Reads what Prometheus would, and no more: a line that is not of its text format is an error. */
async function scrape(stateDir: string): Promise<Record<string, Metric>> {
  const metrics: Record<string, Metric> = {};
  for (const line of (await ask(stateDir, '/metrics')).text.split('\n').filter(Boolean)) {
    const [, word, name, rest] = /^# (HELP|TYPE) (\w+) (.+)$/.exec(line) ?? [];
    if (word === 'HELP') metrics[name!] = { help: rest!, type: '', samples: new Map() };
    else if (word === 'TYPE') metrics[name!] = { ...metrics[name!]!, type: rest! };
    else {
      const [, of, labels = '', value] = /^(\w+)(?:\{((?:\w+="[^"\\]*",?)*)\})? (-?[\d.e+]+)$/.exec(line) ?? [];
      if (of === undefined || metrics[of] === undefined || metrics[of].samples.has(labels)) throw new Error(`not a sample: ${line}`);
      metrics[of].samples.set(labels, Number(value));
    }
  }
  return metrics;
}

const send = (segment: Segment, machine: Machine, packet: Packet, way?: Way) => segment.send(machine.mac, encode(packet) as Uint8Array, way);

describe('on a bridge', () => {
  const dhcp = { onConflict: 'refuse', serve: 'any', subnets: [{ ...POOLED, interface: 'br0' }] };
  const nodes = { n1: { macs: [NODE], ip: NODE_IP } };
  let server: Link;
  let clients: Link;
  let dir: string;
  let output: Output;
  let segment: Segment;
  let lan: Lan | undefined;
  let other: Link | undefined;
  let dnsmasq: ChildProcess | undefined;
  /** Added to the clock by which the lookout goes, in milliseconds. */
  let later: number;

  beforeAll(async () => {
    ip('link', 'set', 'lo', 'up');
    ip('link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
    ip('address', 'add', `${OURS}/24`, 'dev', 'br0');
    ip('link', 'set', 'br0', 'up');
    [server, clients] = [await openLink('dd0'), await openLink('dd1')];
    for (const { name } of [server, clients]) ip('link', 'set', name, 'master', 'br0');
    await server.ns.must(['ip', 'link', 'set', 'eth0', 'address', THEIR_MAC]);
    await server.ns.must(['ip', 'address', 'add', `${THEIRS}/24`, 'dev', 'eth0']);
  });

  afterAll(async () => {
    for (const link of [server, clients]) await link?.close();
    ip('link', 'del', 'br0');
  });

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-daemon-'));
    const now = performance.now.bind(performance);
    later = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now() + later);
    output = watchOutput('br0');
    segment = await openSegment(clients.ns, 'eth0');
  });

  afterEach(async () => {
    await lan?.stop();
    lan = undefined;
    if (dnsmasq) await ended(dnsmasq);
    dnsmasq = undefined;
    await segment.close();
    await other?.close();
    other = undefined;
    output.close();
    vi.restoreAllMocks();
    rmSync(dir, { recursive: true });
  });

  const stateDir = () => join(lan!.dir, 'state');
  const linkNow = async () => (await lan!.api<{ links: DhcpLink[] }>('/api/dhcp')).links[0]!;
  const counted = async (name: string) => (await lan!.counters())[name]!;
  const served = () => output.left().filter((line) => / from 10\.77\.0\.1:(67|4011) /.test(line));
  const renewal = (machine: Machine) => machine.packet('request', [], { ciaddr: machine.ip! });
  const byUnicast = (machine: Machine, toPort = 67): Way => ({ from: machine.ip!, to: OURS, toPort });
  const ready = async () => JSON.parse((await ask(stateDir(), '/readyz')).text) as { ready: boolean; reasons: { what: string }[] };
  async function events(): Promise<readonly Event[]> {
    const database = openDatabase(join(stateDir(), 'rackseed.db'));
    try {
      return (await createEventStore(database).list({ limit: 20 })).filter(({ kind }) => kind.startsWith('dhcp-'));
    } finally {
      await database.close();
    }
  }

  it('a server that appears after us: no new dynamic offers at once, then no packet of ours, and an operator resumes when it is gone', { timeout: 180_000 }, async () => {
    lan = await startLan({ dhcp, nodes });
    const node = machineOn(segment, NODE, UEFI);
    const guest = machineOn(segment, '02:00:00:00:00:02');
    const late = machineOn(segment, '02:00:00:00:00:03');
    expect((await node.dora()).ack.yiaddr).toBe(NODE_IP);
    expect((await guest.dora()).ack.yiaddr).toMatch(/^10\.77\.0\.10\d$/);
    const onBoot = () => node.packet('request', [[OPT.serverId, ips(OURS)]], { ciaddr: NODE_IP });
    expect(messageOf((await segment.ask(onBoot(), byUnicast(node, 4011)))!.packet.options)).toBe('ack');
    expect(await linkNow()).toMatchObject({ link: 'br0', mode: 'full', state: 'clear', overheard: 0, offers: 0 });
    expect(await ready()).toEqual({ ready: true, reasons: [] });

    // Only a minute after the last look is the next one taken: at the first REQUEST then. dnsmasq's own check of an address leaves us 3 s until it offers one.
    later = 61_000;
    dnsmasq = await startDnsmasq(server.ns, dir, '--interface=eth0', '--dhcp-range=10.77.0.50,10.77.0.80,1h');
    const taker = machineOn(segment, '02:00:00:00:00:04');
    const theirs = await offerOf(THEIRS, taker.packet('discover'));
    expect(messageOf((await taker.select(theirs))!.options)).toBe('ack');
    const tookAt = performance.now();
    await eventually(async () => (await linkNow()).state).toBe('suspended');
    console.log(`daemon: suspended ${Math.round(performance.now() - tookAt)} ms after the ACK of the other server`);
    const refused = await counted('refused');
    send(segment, late, late.packet('discover'));
    // Who has an address keeps it, by reservation or lease.
    expect((await node.dora()).ack.yiaddr).toBe(NODE_IP);
    expect(messageOf((await segment.ask(renewal(guest), byUnicast(guest)))!.packet.options)).toBe('ack');
    await eventually(() => counted('refused')).toBe(refused + 1);
    expect(lan.logged('dhcp: refused')).toMatchObject([{ mac: late.mac, why: expect.stringContaining(THEIRS) as string }]);

    await eventually(async () => (await linkNow()).state).toBe('stopped');
    console.log(`daemon: stopped after ${Math.round(performance.now() - tookAt)} ms`);
    const [packets, silent] = [served(), await counted('silent')];
    send(segment, node, node.packet('discover'));
    send(segment, node, node.packet('request', [[OPT.requestedIp, ips(NODE_IP)]]));
    send(segment, node, node.packet('inform', [], { ciaddr: NODE_IP }), byUnicast(node));
    send(segment, node, onBoot(), byUnicast(node, 4011));
    send(segment, guest, renewal(guest), byUnicast(guest));
    send(segment, guest, guest.packet('request', [[OPT.requestedIp, ips('10.77.0.200')]]));
    send(segment, late, late.packet('discover'));
    await eventually(() => counted('silent')).toBe(silent + 7);
    expect(served()).toEqual(packets);
    expect(packets).not.toEqual([]);

    const who = new RegExp(`${THEIRS.replaceAll('.', '\\.')} \\(${THEIR_MAC}\\)`);
    expect(await linkNow()).toMatchObject({ state: 'stopped', why: expect.stringMatching(who) as string, overheard: 1 });
    expect(await events()).toMatchObject([
      { kind: 'dhcp-rival-found', detail: { link: 'br0', server: THEIRS, mac: THEIR_MAC } },
      { kind: 'dhcp-rival-suspected', detail: { link: 'br0', server: THEIRS } },
    ]);
    expect((await ready()).reasons).toEqual([{ what: expect.stringMatching(who) as string, fatal: false }]);
    const metrics = await scrape(stateDir());
    expect(Object.fromEntries(metrics['rackseed_dhcp_link_state']!.samples)).toEqual({ 'link="br0",mode="full",state="clear"': 0, 'link="br0",mode="full",state="suspended"': 0, 'link="br0",mode="full",state="stopped"': 1 });
    expect(metrics['rackseed_dhcp_foreign_offers_total']!.samples.get('link="br0"')).toBeGreaterThan(0);
    const url = `unix:${join(stateDir(), 'api.sock')}`;
    expect(await dhcpStatus({ url, output: 'table' })).toMatch(/^br0 +full +stopped .*another DHCP server answered: 10\.77\.0\.9 \(52:54:00:00:00:99\).*rackseed dhcp resume/m);

    await ended(dnsmasq);
    expect(await lan.api('/api/dhcp/resume', 'POST')).toMatchObject({ resumed: ['br0'], links: [{ state: 'suspended' }] });
    expect((await node.dora()).ack.yiaddr).toBe(NODE_IP);
    await eventually(async () => (await linkNow()).state).toBe('clear');
    expect((await late.dora()).ack.yiaddr).toMatch(/^10\.77\.0\.10\d$/);
    expect(await ready()).toEqual({ ready: true, reasons: [] });
    expect((await events()).map(({ kind }) => kind)).toEqual(['dhcp-resumed', 'dhcp-rival-found', 'dhcp-rival-suspected']);
  });

  it('/metrics has the names and labels that are documented, and its counters move by what was sent', { timeout: 120_000 }, async () => {
    other = await openLink('wan0', '10.79.0.1/24');
    lan = await startLan({ dhcp: { ...dhcp, serve: 'known', interfaces: ['wan0'] }, nodes });
    const { status, type } = await ask(stateDir(), '/metrics');
    expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    const before = await scrape(stateDir());
    const labelsOf = ({ samples }: Metric) => [...new Set([...samples.keys()].map((labels) => [...labels.matchAll(/(\w+)=/g)].map(([, name]) => name).join(' ')))];
    expect(Object.fromEntries(Object.entries(before).map(([name, metric]) => [name, [metric.type, ...labelsOf(metric)].join(' ').trim()]))).toEqual(documentedMetrics());
    expect([...before['rackseed_dhcp_packets_total']!.samples.keys()].sort()).toEqual(Object.keys(await lan.counters()).map((outcome) => `outcome="${outcome}"`).sort());
    const states = (link: string, mode: string, is: string) => Object.fromEntries(['clear', 'suspended', 'stopped'].map((state) => [`link="${link}",mode="${mode}",state="${state}"`, Number(state === is)]));
    expect(Object.fromEntries(before['rackseed_dhcp_link_state']!.samples)).toEqual({ ...states('wan0', 'proxy', 'clear'), ...states('br0', 'full', 'clear') });
    // Where nobody looks there is nothing to count.
    expect(Object.fromEntries(before['rackseed_dhcp_foreign_offers_total']!.samples)).toEqual({ 'link="br0"': 0 });
    expect(before['rackseed_dhcp_leases']!.samples.get('')).toBe(0);

    const node = machineOn(segment, NODE);
    const stranger = machineOn(segment, '02:00:00:00:00:05');
    expect(await node.dora()).toMatchObject({ sent: 2 });
    send(segment, stranger, stranger.packet('discover'));
    send(segment, stranger, stranger.packet('request', [[OPT.serverId, ips(THEIRS)], [OPT.requestedIp, ips('10.77.0.50')]]));
    // BOOTP without the magic cookie, and what is too short for either.
    segment.send(stranger.mac, Uint8Array.of(1, 1, 6, ...new Uint8Array(25), 2, 0, 0, 0, 0, 5, ...new Uint8Array(266)));
    segment.send(stranger.mac, new Uint8Array(100));
    const moved = async () => {
      const { samples } = (await scrape(stateDir()))['rackseed_dhcp_packets_total']!;
      return Object.fromEntries([...samples].flatMap(([labels, count]) => (count === before['rackseed_dhcp_packets_total']!.samples.get(labels) ? [] : [[labels, count - before['rackseed_dhcp_packets_total']!.samples.get(labels)!]])));
    };
    await eventually(moved).toEqual({ 'outcome="received"': 5, 'outcome="offers"': 1, 'outcome="acks"': 1, 'outcome="silent"': 2, 'outcome="malformed"': 1, 'outcome="ignored"': 1 });
    const after = await scrape(stateDir());
    expect(after['rackseed_dhcp_leases']!.samples.get('')).toBe(1);
    expect(Object.fromEntries(after['rackseed_dhcp_link_state']!.samples)).toEqual({ ...states('wan0', 'proxy', 'clear'), ...states('br0', 'full', 'suspended') });
  });

  /** That server's offer to this DISCOVER, whoever else makes one. */
  async function offerOf(from: Ip4, discover: Packet): Promise<Packet> {
    let found: Packet | undefined;
    segment.onDatagram(({ bytes }) => {
      const packet = bytes[0] === 2 ? decode(bytes) : undefined;
      if (packet?.xid === discover.xid && ipOf(packet.options, OPT.serverId) === from) found = packet;
    });
    segment.send(Buffer.from(discover.chaddr.subarray(0, 6)).toString('hex').match(/../g)!.join(':'), encode(discover) as Uint8Array);
    await eventually(() => found).toBeDefined();
    return found!;
  }
});

/** Somebody without rights who is on every Debian. */
const [name, , uid, gid] = readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':')).find(([user]) => user === 'nobody')!;
const asUser = ['--reuid', uid!, '--regid', gid!, '--clear-groups'];
/** A checkout in root's home is closed to others, and a user namespace may not have this user. */
const canRun = spawnSync('setpriv', [...asUser, 'test', '-r', new URL('../../node_modules/better-sqlite3/package.json', import.meta.url).pathname]).status === 0;
if (!canRun) console.warn(`daemon: ${name} cannot read this checkout: what runs as ${name} is left out`);

describe.skipIf(!canRun)('with hardly any rights', () => {
  const SERVER = '10.78.0.1';
  const RESERVED = '10.78.0.11';
  const dhcp = { onConflict: 'refuse', serve: 'any', subnets: [{ subnet: '10.78.0.0/24', interface: 'lan0', mode: 'full', pool: '10.78.0.100-10.78.0.109' }] };
  const nodes = { n1: { macs: [NODE], ip: RESERVED } };
  const NO_CAPABILITY = '0000000000000000';
  /** CAP_NET_BIND_SERVICE is number 10. */
  const BIND_ONLY = '0000000000000400';
  const withBind = ['setpriv', ...asUser, '--inh-caps', '-all,+net_bind_service', '--ambient-caps', '-all,+net_bind_service', '--bounding-set', '-all,+net_bind_service', '--'];
  const withNothing = ['setpriv', ...asUser, '--inh-caps', '-all', '--bounding-set', '-all', '--'];
  const withSockets = ['python3', SYSTEMD, 'dhcp-lan0=lan0=67,pxe-lan0=lan0=4011,tftp-lan0=lan0=69,client-lan0=lan0=68', uid!, gid!];

  let tree: BuiltTree;
  let link: Link;
  let site: Site;
  let segment: Segment;

  beforeAll(async () => {
    tree = buildDaemon();
    link = await openLink('lan0', `${SERVER}/24`);
    await link.ns.must(['ip', 'link', 'set', 'eth0', 'address', NODE]);
  });
  afterAll(async () => {
    await link?.close();
    tree?.remove();
  });
  beforeEach(async () => {
    segment = await openSegment(link.ns, 'eth0');
    site = await openSite(tree, { dhcp, nodes });
    chmodSync(site.dir, 0o755);
  });
  afterEach(async () => {
    await site.remove();
    await segment.close();
    await link.ns.must(['ip', 'address', 'flush', 'dev', 'eth0']);
  });

  /** Writes other settings than the site's; `give`: the state is the user's from the start. */
  function configure(more: object, give: boolean): void {
    writeFileSync(join(site.dir, 'rackseed.yaml'), JSON.stringify({ stateDir: site.stateDir, profiles: join(site.dir, 'boot-profiles'), dhcp, api: { port: 0 }, ...more }));
    if (!give) return;
    for (const path of [site.stateDir, ...readdirSync(site.stateDir, { recursive: true, encoding: 'utf8' }).map((file) => join(site.stateDir, file))]) chownSync(path, Number(uid), Number(gid));
  }

  /** Who the process is, of each of its threads; all the same. */
  function rightsOf({ child }: Serving): Record<string, string> {
    const threads = readdirSync(`/proc/${child.pid}/task`).map((thread) => {
      const status = readFileSync(`/proc/${child.pid}/task/${thread}/status`, 'utf8');
      return Object.fromEntries(['Uid', 'Gid', 'CapPrm', 'CapEff', 'CapAmb'].map((word) => [word, new RegExp(`^${word}:\\s*(.*)$`, 'm').exec(status)![1]!.replaceAll('\t', ' ')]));
    });
    expect(threads.length).toBeGreaterThan(1);
    for (const thread of threads) expect(thread).toEqual(threads[0]);
    return threads[0]!;
  }
  const rights = (capabilities: string) => ({ Uid: Array(4).fill(uid).join(' '), Gid: Array(4).fill(gid).join(' '), CapPrm: capabilities, CapEff: capabilities, CapAmb: capabilities });

  /** A machine of the pool and the node get addresses, which stand in the database by then, and the node its loader and script. */
  async function serves(guest: Mac, port: number): Promise<void> {
    const [strange, node] = [machineOn(segment, guest), machineOn(segment, NODE, UEFI)];
    const { ack } = await strange.dora();
    expect(ack.yiaddr).toMatch(/^10\.78\.0\.10\d$/);
    expect(site.rows()).toContainEqual(expect.objectContaining({ ip: ack.yiaddr, mac: guest }));
    const boot = await node.dora();
    expect([boot.ack.yiaddr, boot.ack.file]).toEqual([RESERVED, 'snponly.efi']);
    expect(site.rows()).toContainEqual(expect.objectContaining({ ip: RESERVED, mac: NODE }));
    segment.disown(RESERVED);
    await link.ns.must(['ip', 'address', 'replace', `${RESERVED}/24`, 'dev', 'eth0']);
    const loader = join(site.dir, 'loader');
    const fetched = await link.ns.run(['curl', '--silent', '--show-error', '--max-time', '30', '--output', loader, `tftp://${SERVER}/snponly.efi`]);
    expect(fetched).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(loader).equals(readFileSync('/usr/lib/ipxe/snponly.efi'))).toBe(true);
    const script = await link.ns.run(['curl', '--silent', '--show-error', '--max-time', '30', `http://${SERVER}:${port}/script/${NODE.replaceAll(':', '-')}`]);
    expect(script).toMatchObject({ code: 0, stdout: expect.stringMatching(/^#!ipxe\n[^]*\bkernel\b/) as string });
    await link.ns.must(['ip', 'address', 'flush', 'dev', 'eth0']);
  }

  const readiness = async () => {
    const { status, text: body } = await ask(site.stateDir, '/readyz');
    return { status, ...(JSON.parse(body) as object) };
  };
  const loud = (serving: Serving, level: number) => serving.log().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as { level: number; msg: string }).filter((line) => line.level >= level);
  const FRESH = { status: 200, ready: true, reasons: [] };
  const CLEAN = { code: 0, signal: null };

  it(`started by root it becomes ${name}, and serves, reloads, outlives its card's changes, stops and starts again without a right`, { timeout: 240_000 }, async () => {
    configure({ user: name, http: { port: 8080 } }, false);
    const first = await site.start();
    expect(rightsOf(first)).toEqual(rights(NO_CAPABILITY));
    expect(first.logged('root is given up')).toMatchObject([{ user: name, uid: Number(uid), gid: Number(gid) }]);
    expect(await readiness()).toEqual(FRESH);
    await serves('02:00:00:00:01:01', 8080);

    ip('link', 'set', 'lan0', 'down');
    ip('link', 'set', 'lan0', 'up');
    await serves('02:00:00:00:01:02', 8080);
    ip('address', 'del', `${SERVER}/24`, 'dev', 'lan0');
    ip('address', 'add', `${SERVER}/24`, 'dev', 'lan0');
    await serves('02:00:00:00:01:03', 8080);

    const added = machineOn(segment, '52:54:00:77:00:02');
    writeFileSync(join(site.dir, 'boot-profiles/system.yaml'), profileOf({ ...nodes, n2: { macs: [added.mac], ip: '10.78.0.12' } }));
    expect(await ask(site.stateDir, '/api/reload', 'POST')).toMatchObject({ status: 200 });
    expect((await added.dora()).ack.yiaddr).toBe('10.78.0.12');
    expect(rightsOf(first)).toEqual(rights(NO_CAPABILITY));
    expect(loud(first, 50)).toEqual([]);

    // Killed: what was acknowledged is still so, and root is nowhere in the way of who comes next.
    await first.end('SIGKILL');
    const owners = [site.stateDir, ...readdirSync(site.stateDir, { recursive: true, encoding: 'utf8' }).map((file) => join(site.stateDir, file))].map((path) => statSync(path));
    expect(owners.filter((stat) => stat.uid !== Number(uid) || stat.gid !== Number(gid))).toEqual([]);
    const lease = site.rows().find(({ mac }) => mac === '02:00:00:00:01:03')!;
    const second = await site.start();
    const guest = machineOn(segment, '02:00:00:00:01:03');
    const again = await segment.ask(guest.packet('request', [[OPT.requestedIp, ips(lease.ip)]]));
    expect([messageOf(again!.packet.options), again!.packet.yiaddr]).toEqual(['ack', lease.ip]);
    expect(await second.end('SIGTERM')).toEqual(CLEAN);
    expect(loud(second, 50)).toEqual([]);
  });

  it('started by root a low port for HTTP is refused, with both ways out', { timeout: 120_000 }, async () => {
    configure({ user: name, http: { port: 80 } }, false);
    const serving = await site.start({ wait: false });
    expect(await serving.gone).toEqual({ code: 69, signal: null });
    expect(serving.log()).toMatch(/HTTP cannot listen on 10\.78\.0\.1:80: EACCES[^]*a higher one, or user: null/);
  });

  it(`${name} with CAP_NET_BIND_SERVICE alone has all ports, 68 and 80 too`, { timeout: 120_000 }, async () => {
    configure({ http: { port: 80 } }, true);
    const serving = await site.start({ wrap: withBind });
    expect(rightsOf(serving)).toEqual(rights(BIND_ONLY));
    // Only what is more than net.core.rmem_max cannot be had.
    expect(loud(serving, 40).map(({ msg }) => msg).filter((msg) => !msg.includes('receive buffer is small'))).toEqual([]);
    expect(await readiness()).toEqual(FRESH);
    await serves('02:00:00:00:02:01', 80);
    expect(await serving.end('SIGTERM')).toEqual(CLEAN);
  });

  it(`${name} with CAP_NET_BIND_SERVICE alone refuses a link with another server`, { timeout: 120_000 }, () => refuses(withBind));

  it(`${name} with sockets from systemd and no capability serves`, { timeout: 120_000 }, async () => {
    configure({ http: { port: 8080 } }, true);
    const serving = await site.start({ wrap: withSockets });
    expect(rightsOf(serving)).toEqual(rights(NO_CAPABILITY));
    expect(loud(serving, 40).map(({ msg }) => msg).filter((msg) => !msg.includes('receive buffer is small'))).toEqual([]);
    expect(await readiness()).toEqual(FRESH);
    await serves('02:00:00:00:03:01', 8080);
    expect(await serving.end('SIGTERM')).toEqual(CLEAN);
  });

  it(`${name} with sockets from systemd and no capability refuses a link with another server`, { timeout: 120_000 }, () => refuses(withSockets));

  it(`${name} with neither is told what the ports need`, { timeout: 120_000 }, async () => {
    configure({ http: { port: 8080 } }, true);
    const serving = await site.start({ wrap: withNothing, wait: false });
    expect(await serving.gone).toEqual({ code: 69, signal: null });
    expect(serving.log()).toMatch(/port 67 of lan0 \(EACCES\)[^]*CAP_NET_BIND_SERVICE/);
  });

  async function refuses(wrap: readonly string[]): Promise<void> {
    configure({ http: { port: 8080 } }, true);
    await link.ns.must(['ip', 'address', 'add', '10.78.0.9/24', 'dev', 'eth0']);
    const dnsmasq = await startDnsmasq(link.ns, site.dir, '--interface=eth0', '--dhcp-range=10.78.0.50,10.78.0.80,1h');
    try {
      const serving = await site.start({ wrap, wait: false });
      expect(await serving.gone).toEqual({ code: 69, signal: null });
      expect(serving.log()).toContain(`another DHCP server answers where rackseed would give out addresses: 10.78.0.9 (${NODE}) on lan0`);
      expect(serving.log()).not.toContain('port 68 cannot be had');
    } finally {
      await ended(dnsmasq);
    }
  }
});

/** Type and labels by name, from the table for operators. */
function documentedMetrics(): Record<string, string> {
  const rows = [...readFileSync(new URL('../../docs/OPERATING.md', import.meta.url), 'utf8').matchAll(/^\| `(rackseed_\w+)` \| ([^|]+) \|/gm)];
  return Object.fromEntries(rows.map(([, name, kind]) => [name!, kind!.replace(/[`,]/g, '').trim()]));
}
