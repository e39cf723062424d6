// The DHCP server with real clients on real links: a boot LAN, a second card that has the default route, and a relay.
import { execFileSync, type ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ip4ToNumber, parseMac, parseRange, parseSubnet } from '../../src/addr.ts';
import { createBooter } from '../../src/booter.ts';
import { ips, message, messageOf, OPT, textOf, type MessageName } from '../../src/dhcp/options.ts';
import { decode, encode, type Packet } from '../../src/dhcp/packet.ts';
import { createDhcpServer, type DhcpServer } from '../../src/dhcp/server.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore } from '../../src/store/events.ts';
import { createLeaseStore, type LeaseStore } from '../../src/store/leases.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { generationOf, nodeNamed } from '../unit/boot-world.ts';
import { packetWith } from '../unit/dhcp-world.ts';

const RESERVED = '52:54:00:00:00:01';
const DYNAMIC = ['52:54:00:00:00:02', '52:54:00:00:00:03', '52:54:00:00:00:04'] as const;
const STRANGER = '52:54:00:00:00:66';
const ROM = '52:54:00:00:00:10';

const { ip: _ip, ...dynamic } = nodeNamed('n2');
const generation = generationOf(
  nodeNamed('n1', { macs: [RESERVED], ip: '10.77.0.11' }),
  ...DYNAMIC.map((mac, i) => ({ ...dynamic, name: `n${i + 2}`, macs: [mac] })),
  nodeNamed('rom', { macs: [ROM], ip: '10.77.0.20' }),
);
const subnet = {
  subnet: parseSubnet('10.77.0.0/24')!,
  serverIp: '10.77.0.1',
  router: '10.77.0.254',
  pool: parseRange('10.77.0.100-10.77.0.101')!,
  dns: ['10.77.0.53'],
  leaseSeconds: 3600,
};

const ip = (...argv: string[]) => execFileSync('ip', argv, { encoding: 'utf8' });

let lan: Namespace;
let office: Namespace;
let dir: string;
let database: Database;
let leases: LeaseStore;
let boots: BootStore;
let server: DhcpServer;
let logged: string[];

beforeAll(async () => {
  ip('link', 'set', 'lo', 'up');
  [lan, office] = [await createNamespace(), await createNamespace()];
  for (const [name, peer, address] of [['lan0', lan, '10.77.0.1/24'], ['wan0', office, '192.168.5.2/24']] as const) {
    ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid));
    ip('address', 'add', address, 'dev', name);
    ip('link', 'set', name, 'up');
    await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
  }
  // A relay of the test's own, on the server's side of the link.
  ip('address', 'add', '10.77.0.2/24', 'dev', 'lan0');
  // The wrong card: everything without a better route leaves here.
  ip('route', 'add', 'default', 'via', '192.168.5.1');
});

afterAll(async () => {
  await Promise.all([lan.close(), office.close()]);
  for (const link of ['lan0', 'wan0']) execFileSync('sh', ['-c', `ip link del ${link} 2>/dev/null || true`]);
});

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-dhcp-'));
  // Prints what the client was told, and sets the address as a client's script should.
  writeFileSync(join(dir, 'script'), '#!/bin/sh\ncase $1 in bound|renew) ip address replace "$ip/$mask" dev "$interface";; deconfig) ip address flush dev "$interface";; esac\necho "$1 ip=$ip router=$router dns=$dns hostname=$hostname siaddr=$siaddr file=$boot_file lease=$lease"\n');
  writeFileSync(join(dir, 'dhclient-script'), '#!/bin/sh\necho "$reason ip=$new_ip_address hostname=$new_host_name router=$new_routers"\n');
  for (const file of ['script', 'dhclient-script']) chmodSync(join(dir, file), 0o755);
  database = openDatabase(join(dir, 'db'));
  leases = createLeaseStore(database);
  boots = createBootStore(database);
  logged = [];
  const log = createLog('debug', { write: (line: string) => void logged.push(line) });
  const now = Date.now;
  const booter = createBooter({ generation: () => generation, nodes: createNodeStore(database), leases, boots, events: createEventStore(database), log, now });
  server = createDhcpServer({ subnets: [subnet], httpPort: 8080, booter, leases, reserved: (address) => generation.nodeByIp[address], log, now });
  await server.start();
});

afterEach(async () => {
  await server.stop();
  database.close();
  await lan.run(['ip', 'address', 'flush', 'dev', 'eth0']);
  rmSync(dir, { recursive: true });
});

/** The far end of the boot LAN gets this MAC. */
async function become(mac: string): Promise<void> {
  await lan.must(['ip', 'link', 'set', 'eth0', 'address', mac]);
}

function udhcpc(...more: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return lan.run(['udhcpc', '-i', 'eth0', '-f', '-n', '-q', '-t', '2', '-T', '1', '-s', join(dir, 'script'), ...more], { timeoutMs: 20_000 });
}

const WATCH = `table netdev watch {
  set seen { type ipv4_addr . ipv4_addr . inet_service; flags dynamic; size 1000; counter; }
  chain in { type filter hook ingress device eth0 priority 0; udp sport 67 update @seen { ip saddr . ip daddr . udp dport }; }
}`;

/** Counts what a DHCP server sends over a link, by addresses: in the kernel, because tcpdump cannot drop its group in a user namespace. */
async function watch(ns: Namespace): Promise<{ seen(): Promise<string[]> }> {
  const ran = await ns.run(['nft', '-f', '-'], { input: WATCH });
  expect(ran.stderr).toBe('');
  return {
    async seen() {
      const listed = JSON.parse(await ns.must(['nft', '-j', 'list', 'set', 'netdev', 'watch', 'seen'])) as { nftables: { set?: { elem?: { elem: { val: { concat: unknown[] }; counter: { packets: number } } }[] } }[] };
      await ns.must(['nft', 'delete', 'table', 'netdev', 'watch']);
      return listed.nftables.flatMap(({ set }) => set?.elem ?? []).map(({ elem }) => `${elem.counter.packets} from ${elem.val.concat[0]} to ${elem.val.concat[1]}:${elem.val.concat[2]}`);
    },
  };
}

/** Waits for what is certain to come, however slow the machine. */
function eventually<T>(look: () => T | Promise<T>) {
  return expect.poll(look, { timeout: 15_000, interval: 20 });
}

async function said(child: ChildProcess, stream: 'stdout' | 'stderr', what: RegExp): Promise<void> {
  let text = '';
  for await (const chunk of child[stream]!.iterator({ destroyOnReturn: false })) {
    text += String(chunk);
    if (what.test(text)) return;
  }
  throw new Error(`the program ended without ${what}: ${text}`);
}

describe('a machine on the boot LAN', () => {
  it('gets its reserved address by udhcpc, out of the card that has not the default route', async () => {
    await become(RESERVED);
    const [onLan, onOffice] = [await watch(lan), await watch(office)];
    const { code, stdout } = await udhcpc();
    expect(code).toBe(0);
    expect(stdout).toContain('bound ip=10.77.0.11 router=10.77.0.254 dns=10.77.0.53 hostname=n1 siaddr= file= lease=3600');
    expect(await onLan.seen()).toEqual(['2 from 10.77.0.1 to 255.255.255.255:68']);
    expect(await onOffice.seen()).toEqual([]);
    expect(await leases.at('10.77.0.11')).toMatchObject({ mac: RESERVED, subnet: '10.77.0.0/24' });
    expect(server.counters).toMatchObject({ received: 2, offers: 1, acks: 1, failed: 0 });
  });

  it('gets its reserved address by dhclient', async () => {
    await become(RESERVED);
    const child = lan.spawn(['dhclient', '-4', '-1', '-d', '-sf', join(dir, 'dhclient-script'), '-lf', join(dir, 'leases'), '-pf', join(dir, 'pid'), '-cf', '/dev/null', 'eth0'], { stdio: ['ignore', 'pipe', 'pipe'] });
    try {
      await said(child, 'stdout', /BOUND ip=10\.77\.0\.11 hostname=n1 router=10\.77\.0\.254/);
    } finally {
      child.kill();
      await once(child, 'exit');
    }
  });

  it('renews by unicast and releases', async () => {
    await become(DYNAMIC[0]);
    const child = lan.spawn(['udhcpc', '-i', 'eth0', '-f', '-R', '-t', '2', '-T', '1', '-s', join(dir, 'script')], { stdio: ['ignore', 'pipe', 'pipe'] });
    try {
      await said(child, 'stdout', /bound ip=10\.77\.0\.100/);
      const onLan = await watch(lan);
      child.kill('SIGUSR1');
      await said(child, 'stdout', /renew ip=10\.77\.0\.100/);
      expect(await onLan.seen()).toEqual(['1 from 10.77.0.1 to 10.77.0.100:68']);
      child.kill('SIGUSR2');
      await eventually(() => server.counters.releases).toBe(1);
      expect((await leases.at('10.77.0.100'))!.expiresAt).toBeLessThanOrEqual(Date.now());
    } finally {
      child.kill();
      await once(child, 'exit');
    }
  });

  it('that finds its address in use gets another one, and the first is in quarantine', async () => {
    await become(DYNAMIC[0]);
    ip('address', 'add', '10.77.0.100/32', 'dev', 'lan0');
    try {
      const { stdout } = await udhcpc('-a', '-A', '1', '-t', '3');
      expect(stdout).toContain('bound ip=10.77.0.101');
      expect(server.counters.declines).toBe(1);
      expect((await leases.at('10.77.0.100'))!.declinedUntil).toBeGreaterThan(Date.now() + 23 * 3600_000);
    } finally {
      ip('address', 'del', '10.77.0.100/32', 'dev', 'lan0');
    }
  });

  it('that is in no profile gets no packet at all', async () => {
    await become(STRANGER);
    const [onLan, onOffice] = [await watch(lan), await watch(office)];
    expect((await udhcpc()).code).not.toBe(0);
    expect([await onLan.seen(), await onOffice.seen()]).toEqual([[], []]);
    expect(server.counters).toMatchObject({ received: 2, silent: 2, offers: 0, acks: 0, naks: 0 });
    expect(await leases.list()).toEqual([]);
  });

  it('that runs our initrd stage gets the base URL', async () => {
    await become(RESERVED);
    const { stdout } = await udhcpc('-V', 'rackseed-initrd', '-O', 'bootfile');
    expect(stdout).toMatch(/bound ip=10\.77\.0\.11 .*siaddr=10\.77\.0\.1 file=http:\/\/10\.77\.0\.1:8080 /);
  });
});

describe('through a relay', () => {
  let relay: Socket;
  const inbox: Packet[] = [];

  beforeEach(async () => {
    inbox.length = 0;
    relay = createSocket({ type: 'udp4', reuseAddr: true });
    relay.on('message', (bytes) => inbox.push(decode(bytes)));
    relay.bind(67, '10.77.0.2');
    await once(relay, 'listening');
  });
  afterEach(() => void relay.close());

  const chaddrOf = (mac: string) => Uint8Array.of(...parseMac(mac)!.split(':').map((pair) => Number.parseInt(pair, 16)), ...new Uint8Array(10));
  function tell(type: MessageName, mac: string, options: readonly [number, Uint8Array][] = [], more: Partial<Packet> = {}): void {
    const packet = packetWith([[OPT.messageType, message(type)], [OPT.relayAgent, Uint8Array.of(1, 1, 7)], ...options], { giaddr: '10.77.0.2', chaddr: chaddrOf(mac), ...more });
    relay.send(encode(packet) as Uint8Array, 67, '10.77.0.1');
  }
  const answers = async (count: number) => {
    await eventually(() => inbox.length).toBe(count);
    return inbox;
  };

  it('a machine\'s DISCOVER is answered to the relay, with option 82 as it came', async () => {
    tell('discover', RESERVED);
    const [offer] = await answers(1);
    expect([messageOf(offer!.options), offer!.yiaddr, offer!.giaddr]).toEqual(['offer', '10.77.0.11', '10.77.0.2']);
    expect([...offer!.options].at(-1)).toEqual([OPT.relayAgent, Uint8Array.of(1, 1, 7)]);
  });

  it('two machines that ask at once are offered two addresses, and a third one of a pool of two is refused with the reason', async () => {
    for (const mac of DYNAMIC) tell('discover', mac);
    await eventually(() => server.counters.refused).toBe(1);
    const offered = (await answers(2)).map((offer) => offer.yiaddr).sort((a, b) => ip4ToNumber(a) - ip4ToNumber(b));
    expect(offered).toEqual(['10.77.0.100', '10.77.0.101']);
    expect(logged.filter((line) => line.includes('the pool of 10.77.0.0/24 is exhausted'))).toHaveLength(1);
  });

  it('choosing another server frees the address that we offered', async () => {
    tell('discover', DYNAMIC[0]);
    await answers(1);
    tell('request', DYNAMIC[0], [[OPT.serverId, ips('10.77.0.9')], [OPT.requestedIp, ips('10.77.0.200')]]);
    await eventually(() => server.counters.silent).toBe(1);
    tell('discover', DYNAMIC[1]);
    expect((await answers(2))[1]!.yiaddr).toBe('10.77.0.100');
  });

  it('the loser of a race for an address gets a NAK', async () => {
    await leases.take({ ip: '10.77.0.100', mac: STRANGER, subnet: '10.77.0.0/24', expiresAt: Date.now() + 60_000 }, Date.now());
    tell('request', DYNAMIC[0], [[OPT.serverId, ips('10.77.0.1')], [OPT.requestedIp, ips('10.77.0.100')]]);
    const [nak] = await answers(1);
    expect([messageOf(nak!.options), textOf(nak!.options, OPT.message)]).toEqual(['nak', `10.77.0.100 is leased to ${STRANGER}`]);
    expect(await leases.at('10.77.0.100')).toMatchObject({ mac: STRANGER });
  });

  it('nobody but its holder can decline or release an address', async () => {
    tell('request', DYNAMIC[0], [[OPT.requestedIp, ips('10.77.0.100')]]);
    await answers(1);
    tell('decline', DYNAMIC[1], [[OPT.requestedIp, ips('10.77.0.100')]]);
    tell('release', DYNAMIC[1], [], { ciaddr: '10.77.0.100' });
    await eventually(() => server.counters.ignored).toBe(2);
    const lease = await leases.at('10.77.0.100');
    expect([lease!.mac, lease!.expiresAt > Date.now(), lease!.declinedUntil]).toEqual([DYNAMIC[0], true, undefined]);
  });

  it('INFORM gets the options and no lease', async () => {
    // It has its address, so the answer goes there; the relay's own address stands in for it.
    tell('inform', RESERVED, [], { ciaddr: '10.77.0.2' });
    const [ack] = await answers(1);
    expect([messageOf(ack!.options), ack!.yiaddr, ack!.options.has(OPT.leaseTime)]).toEqual(['ack', '0.0.0.0', false]);
    expect(await leases.list()).toEqual([]);
  });

  it('a real iPXE ROM\'s packets write down discover, offer and lease, and the boot knows its address', async () => {
    const captured = (what: string) => decode(Uint8Array.from(Buffer.from(readFileSync(new URL(`../golden/dhcp/qemu_virtio-bios_ipxe-${what}.hex`, import.meta.url), 'utf8').replace(/\s/g, ''), 'hex')));
    const through = (packet: Packet) => relay.send(encode({ ...packet, giaddr: '10.77.0.2' }) as Uint8Array, 67, '10.77.0.1');
    through(captured('discover'));
    const [offer] = await answers(1);
    expect(offer!.file).toBe('http://10.77.0.1:8080/script/52-54-00-00-00-10');
    const request = captured('request');
    request.options.set(OPT.serverId, ips('10.77.0.1')).set(OPT.requestedIp, ips(offer!.yiaddr));
    through(request);
    await answers(2);
    await eventually(async () => (await boots.open('rom'))?.stages.map((stage) => stage.name)).toEqual(['discover', 'offer', 'lease']);
    expect(await boots.open('rom')).toMatchObject({ ip: '10.77.0.20', mac: ROM });
  });

  it('a running system\'s DHCP writes no stage and starts no boot', async () => {
    tell('request', RESERVED, [[OPT.requestedIp, ips('10.77.0.11')]]);
    await answers(1);
    expect(await boots.list({ limit: 5 })).toEqual([]);
  });

  it('garbage is counted and the next machine is served', async () => {
    const junk = [Buffer.alloc(0), Buffer.alloc(240), Buffer.alloc(1400, 255), encode(packetWith([], { op: 2 })) as Uint8Array, encode(packetWith([])) as Uint8Array];
    for (const bytes of junk) relay.send(bytes, 67, '10.77.0.1');
    tell('discover', RESERVED);
    await answers(1);
    expect(server.counters).toMatchObject({ received: 6, malformed: 3, ignored: 2, offers: 1, failed: 0 });
  });
});

describe('start', () => {
  const parts = () => ({ httpPort: 1, booter: undefined as never, leases, reserved: () => undefined, log: createLog('silent'), now: Date.now });

  it('an address that no card has is PORT_UNAVAILABLE, and leaves nothing open', async () => {
    const other = createDhcpServer({ subnets: [{ ...subnet, serverIp: '10.99.0.1' }], ...parts() });
    await expect(other.start()).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: expect.stringContaining('10.99.0.1:67') });
    await server.stop();
    const alone = createSocket('udp4');
    alone.bind(67);
    await once(alone, 'listening');
    alone.close();
  });

  it('a port that another server keeps for itself is PORT_UNAVAILABLE and says how to find it', async () => {
    await server.stop();
    const holder = createSocket('udp4');
    holder.bind(67);
    await once(holder, 'listening');
    try {
      await expect(server.start()).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', hint: expect.stringContaining('ss -ulpn') });
    } finally {
      holder.close();
    }
  });
});
