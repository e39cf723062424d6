// Proxy mode beside a real DHCP server: systems get everything from it and nothing from us, machines that boot get its address and our boot file.
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Ip4, Mac } from '../../src/addr.ts';
import { ipOf, ips, messageOf, OPT, text, textOf, uint16s, userClasses } from '../../src/dhcp/options.ts';
import { decode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { ended, eventually, ip, openLink, said, script, startDnsmasq, startKea, startLan, watchOutput, type Lan, type Link, type Output } from './lan.ts';
import { machineOn, openSegment, type Option, type Segment, type Way } from './segment.ts';

const OURS = '10.77.0.1';
const THEIRS = '10.77.0.9';
const NODE = '52:54:00:77:00:01';
const UUID = Uint8Array.from([0, ...Buffer.from('00112233445566778899aabbccddeeff', 'hex')]);
const asked: Option = [OPT.parameterList, Uint8Array.of(1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135)];
const UEFI: readonly Option[] = [[OPT.maxSize, uint16s(1472)], asked, [OPT.clientUuid, UUID], [94, Uint8Array.of(1, 3, 16)], [OPT.clientArch, uint16s(7)], [OPT.vendorClass, text('PXEClient:Arch:00007:UNDI:003016')]];
const BIOS: readonly Option[] = [[OPT.maxSize, uint16s(1260)], asked, [OPT.clientUuid, UUID], [94, Uint8Array.of(1, 2, 1)], [OPT.clientArch, uint16s(0)], [OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')]];
const HTTP_BOOT: readonly Option[] = [[OPT.maxSize, uint16s(1472)], asked, [OPT.clientUuid, UUID], [94, Uint8Array.of(1, 3, 16)], [OPT.clientArch, uint16s(0x10)], [OPT.vendorClass, text('HTTPClient:Arch:00016:UNDI:003001')]];
const IPXE: readonly Option[] = [...BIOS, [OPT.userClass, userClasses('iPXE')], [OPT.ipxe, Uint8Array.of(19, 1, 1, 24, 1, 1)]];

let server: Link;
let clients: Link;
let lan: Lan | undefined;
let dir: string;
let running: ChildProcess[];
let output: Output;

beforeAll(async () => {
  ip('link', 'set', 'lo', 'up');
  ip('link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
  ip('address', 'add', `${OURS}/24`, 'dev', 'br0');
  ip('link', 'set', 'br0', 'up');
  [server, clients] = [await openLink('px0'), await openLink('px1')];
  for (const { name } of [server, clients]) ip('link', 'set', name, 'master', 'br0');
  await server.ns.must(['ip', 'address', 'add', `${THEIRS}/24`, 'dev', 'eth0']);
});

afterAll(async () => {
  for (const link of [server, clients]) await link?.close();
  ip('link', 'del', 'br0');
});

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-proxy-'));
  script(join(dir, 'udhcpc'), '[ "$1" = bound ] && echo "bound ip=$ip by $serverid file=$boot_file end"; exit 0');
  script(join(dir, 'dhclient'), '[ "$reason" = PREINIT ] && ip link set $interface up; echo "$reason ip=$new_ip_address by $new_dhcp_server_identifier end"');
  writeFileSync(join(dir, 'dhclient.conf'), '');
  running = [];
  output = watchOutput('br0');
});

afterEach(async () => {
  output.close();
  await lan?.stop();
  lan = undefined;
  for (const child of running) await ended(child);
  rmSync(dir, { recursive: true });
});

const dnsmasq = async () => void running.push(await startDnsmasq(server.ns, dir, '--interface=eth0', '--dhcp-range=10.77.0.50,10.77.0.80,1h', '--no-ping'));
const kea = async () => void running.push(await startKea(server.ns, dir, { 'interfaces-config': { interfaces: ['eth0'] }, subnet4: [{ subnet: '10.77.0.0/24', pools: [{ pool: '10.77.0.50 - 10.77.0.80' }] }] }));
const beside = async (nodes: object = {}) => (lan = await startLan({ dhcp: { interfaces: ['br0'] }, nodes }));

/** Both offers to one DISCOVER, the other server's and ours. */
async function offers(segment: Segment, discover: Packet): Promise<{ theirs: Packet; ours: Packet }> {
  const heard = new Map<Ip4, Packet>();
  segment.onDatagram(({ bytes }) => {
    const packet = bytes[0] === 2 ? decode(bytes) : undefined;
    if (packet?.xid === discover.xid) heard.set(ipOf(packet.options, OPT.serverId)!, packet);
  });
  await segment.ask(discover);
  await eventually(() => [...heard.keys()].sort()).toEqual([OURS, THEIRS]);
  return { theirs: heard.get(THEIRS)!, ours: heard.get(OURS)! };
}

describe.each([['dnsmasq', dnsmasq], ['Kea', kea]] as const)('beside %s', (_name, startServer) => {
  it('udhcpc and dhclient get their address from it, and not one packet from us', async () => {
    await beside({ n1: { macs: [NODE] } });
    await startServer();
    // A node of ours whose installed system asks, and a stranger.
    for (const mac of [NODE, '52:54:00:77:00:66']) {
      await clients.ns.must(['ip', 'link', 'set', 'eth0', 'address', mac]);
      const { stdout } = await clients.ns.run(['udhcpc', '-i', 'eth0', '-f', '-n', '-q', '-t', '5', '-T', '2', '-s', join(dir, 'udhcpc')], { timeoutMs: 30_000 });
      expect(stdout).toMatch(/bound ip=10\.77\.0\.\d+ by 10\.77\.0\.9 file= end/);
      const child = clients.ns.spawn(['dhclient', '-4', '-1', '-d', '-sf', join(dir, 'dhclient'), '-lf', join(dir, `${mac}.leases`), '-pf', join(dir, 'pid'), '-cf', join(dir, 'dhclient.conf'), 'eth0'], { stdio: ['ignore', 'pipe', 'pipe'] });
      running.push(child);
      await said(child, /BOUND ip=10\.77\.0\.\d+ by 10\.77\.0\.9 end/);
      await ended(child);
    }
    expect(output.left()).toEqual([]);
    expect(await lan!.counters()).toMatchObject({ proxied: 0, offers: 0, acks: 0, naks: 0, failed: 0 });
  });

  const KINDS = [
    ['a UEFI ROM', UEFI, 'PXEClient', '', 'snponly.efi'],
    ['a BIOS ROM', BIOS, 'PXEClient', 'undionly.kpxe', 'undionly.kpxe'],
    ['an iPXE', IPXE, 'PXEClient', `http://${OURS}:8080/script/52-54-00-77-00-01`, `http://${OURS}:8080/script/52-54-00-77-00-01`],
  ] as const;
  it.each(KINDS)('%s gets an address from it and the boot file from us: in the OFFER, or on port 4011', async (_kind, own, vendorClass, offered, acknowledged) => {
    await beside({ n1: { macs: [NODE] } });
    await startServer();
    const segment = await openSegment(clients.ns, 'eth0');
    try {
      const rom = machineOn(segment, NODE, own);
      const { theirs, ours } = await offers(segment, rom.packet('discover'));
      expect([theirs.yiaddr, theirs.file]).toEqual([expect.stringMatching(/^10\.77\.0\.[5-8]\d$/), '']);
      expect([ours.yiaddr, ours.siaddr, textOf(ours.options, OPT.vendorClass), ours.file, ours.options.has(OPT.leaseTime)]).toEqual([NO_IP, OURS, vendorClass, offered, false]);
      // UEFI takes an offer with option 43 for one with boot servers of its own (TRAPS 1.1).
      expect(ours.options.has(OPT.vendorSpecific)).toBe(own === BIOS);
      expect(ours.options.get(OPT.clientUuid)).toEqual(UUID);
      const ack = await rom.select(theirs);
      expect([messageOf(ack!.options), ipOf(ack!.options, OPT.serverId)]).toEqual(['ack', THEIRS]);
      const address = ack!.yiaddr;
      const way: Way = { from: address, to: OURS, toPort: 4011 };
      const boot = await segment.ask(rom.packet('request', [[OPT.serverId, ips(OURS)]], { ciaddr: address }), way);
      expect([messageOf(boot!.packet.options), boot!.packet.file, boot!.packet.yiaddr, boot!.heard.fromPort, boot!.heard.to]).toEqual(['ack', acknowledged, NO_IP, 4011, address]);
      expect(output.left()).toEqual([`1 from ${OURS}:4011 to ${address}:68`, `1 from ${OURS}:67 to 255.255.255.255:68`]);
      // The address that the other server gave is known here: it is the boot's.
      await lan!.stored(async ({ boots, leases }) => {
        expect(await boots.open('n1')).toMatchObject({ mac: NODE, ip: address });
        expect(await leases.list()).toEqual([]);
      });
    } finally {
      await segment.close();
    }
  });

  it('UEFI HTTP Boot gets the URL in our OFFER', async () => {
    await beside({ n1: { macs: [NODE] } });
    await startServer();
    const segment = await openSegment(clients.ns, 'eth0');
    try {
      const { ours } = await offers(segment, machineOn(segment, NODE, HTTP_BOOT).packet('discover'));
      expect([textOf(ours.options, OPT.vendorClass), ours.yiaddr, textOf(ours.options, OPT.bootFile)]).toEqual(['HTTPClient', NO_IP, expect.stringMatching(/^http:\/\/10\.77\.0\.1:8080\/.*snponly\.efi$/)]);
    } finally {
      await segment.close();
    }
  });
});

describe('the capture of a real ROM', () => {
  it.each(['qemu_e1000-bios_ipxe', 'qemu_rtl8139-bios_ipxe', 'qemu_virtio-bios_ipxe'])('%s: its DISCOVER is offered its script beside dnsmasq, its REQUEST to the other server tells us its address', async (name) => {
    const captured = (what: string) => decode(Uint8Array.from(Buffer.from(readFileSync(new URL(`../golden/dhcp/${name}-${what}.hex`, import.meta.url), 'utf8').replace(/\s/g, ''), 'hex')));
    const discover = captured('discover');
    const mac: Mac = Buffer.from(discover.chaddr.subarray(0, 6)).toString('hex').match(/../g)!.join(':');
    await beside({ rom: { macs: [mac] } });
    await dnsmasq();
    const segment = await openSegment(clients.ns, 'eth0');
    try {
      const { theirs, ours } = await offers(segment, discover);
      expect([ours.yiaddr, ours.file]).toEqual([NO_IP, `http://${OURS}:8080/script/${mac.replaceAll(':', '-')}`]);
      const request = captured('request');
      request.options.set(OPT.serverId, ips(THEIRS)).set(OPT.requestedIp, ips(theirs.yiaddr));
      expect(messageOf((await segment.ask(request))!.packet.options)).toBe('ack');
      await eventually(() => lan!.stored(({ boots }) => boots.open('rom'))).toMatchObject({ mac, ip: theirs.yiaddr });
      expect(output.left()).toEqual([`1 from ${OURS}:67 to 255.255.255.255:68`]);
    } finally {
      await segment.close();
    }
  });
});

describe('full mode where another server is already', () => {
  const full = { mode: 'full', subnets: [{ subnet: '10.77.0.0/24', interface: 'br0', pool: '10.77.0.100-10.77.0.109' }] };

  it('refuses to start, and names the other one', async () => {
    await kea();
    await expect(startLan({ dhcp: full })).rejects.toMatchObject({ code: 'DHCP_CONFLICT', message: expect.stringMatching(/10\.77\.0\.9 \(([0-9a-f]{2}:){5}[0-9a-f]{2}\) on br0/) as string, hint: expect.stringContaining('mode: proxy') as string });
    // Nothing was answered, and nothing is left open.
    expect(output.left().filter((line) => / from 10\.77\.0\.1:67 /.test(` ${line}`))).toEqual([]);
    await startLan({ dhcp: { interfaces: ['br0'] } }).then((again) => again.stop());
  });

  it('with onConflict: proxy it serves the link as a proxy', async () => {
    await dnsmasq();
    lan = await startLan({ dhcp: { ...full, onConflict: 'proxy' }, nodes: { n1: { macs: [NODE] } } });
    const segment = await openSegment(clients.ns, 'eth0');
    try {
      const { theirs, ours } = await offers(segment, machineOn(segment, NODE, BIOS).packet('discover'));
      expect([theirs.yiaddr, ours.yiaddr, ours.file]).toEqual([expect.stringMatching(/^10\.77\.0\.[5-8]\d$/), NO_IP, 'undionly.kpxe']);
    } finally {
      await segment.close();
    }
  });

  it('a welcome one is no reason', async () => {
    await dnsmasq();
    lan = await startLan({ dhcp: { ...full, otherServers: [THEIRS] }, nodes: { n1: { macs: [NODE] } } });
    const segment = await openSegment(clients.ns, 'eth0');
    try {
      // The reserve of checked addresses is just being filled.
      await expect.poll(async () => {
        const packet = machineOn(segment, NODE).packet('discover');
        const both = new Set<Ip4>();
        segment.onDatagram(({ bytes }) => void (bytes[0] === 2 && decode(bytes).xid === packet.xid && both.add(decode(bytes).yiaddr)));
        await segment.ask(packet, {}, 2_000);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return [...both].filter((address) => address.startsWith('10.77.0.10')).length;
      }, { timeout: 20_000, interval: 500 }).toBe(1);
    } finally {
      await segment.close();
    }
  });
});
