// Somebody else's LAN: in the default configuration nothing that is not a known PXE machine gets a packet, and what is unknown is shown to people.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createSocket } from 'node:dgram';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Ip4, Mac } from '../../src/addr.ts';
import { ipOf, ips, messageOf, OPT, text, textOf, uint16s, uint32, type MessageName } from '../../src/dhcp/options.ts';
import { BROADCAST_FLAG, encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { seededRandom } from '../mutate.ts';
import { eventually, openLink, profileOf, startLan, watchOutput, type Lan, type Link } from './lan.ts';
import { machineOn, openSegment, type Machine, type Option, type Segment } from './segment.ts';

const MESSAGES = 10_000;
const SERVER = '192.168.1.20';
const NODE = '52:54:00:77:00:01';
/** Whose installed systems take part in the office's traffic: many, so that the limit of packets a machine hides nothing. */
const INSTALLED = Array.from({ length: 100 }, (_, n) => `52:54:00:77:01:${n.toString(16).padStart(2, '0')}`);
const STRANGER = '52:54:00:77:00:66';
const UUID = Uint8Array.from([0, ...Buffer.from('00112233445566778899aabbccddeeff', 'hex')]);
const UEFI: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00007:UNDI:003016')], [OPT.clientArch, uint16s(7)], [OPT.clientUuid, UUID]];

let link: Link;
let segment: Segment;
let lan: Lan | undefined;

beforeEach(async () => {
  link = await openLink('lan0', `${SERVER}/24`);
  segment = await openSegment(link.ns, 'eth0');
});

afterEach(async () => {
  await lan?.stop();
  lan = undefined;
  await segment.close();
  await link.close();
});

const VENDORS = ['MSFT 5.0', 'android-dhcp-13', 'dhcpcd-9.4.1:Linux-6.1', 'udhcp 1.35.0', 'Cisco AP c1130', 'systemd', 'HPJetDirect', 'PXE', 'pxeclient', 'HTTPServer', 'xPXEClient', ''];
const TYPES: readonly MessageName[] = ['discover', 'request', 'decline', 'release', 'inform'];

/** What phones, printers, PCs, relays and broken things say on a LAN; none of them a PXE ROM or an iPXE. */
function officeTraffic(random: () => number): { readonly mac: Mac; readonly bytes: Uint8Array; readonly from: Ip4; readonly fromPort: number; readonly to: Ip4; readonly toPort: number } {
  const below = (end: number) => Math.floor(random() * end);
  const pick = <T>(of: readonly T[]): T => of[below(of.length)]!;
  // One of twenty is a node of ours whose installed system asks, as all others do.
  const mac = below(20) === 0 ? pick(INSTALLED) : `02:00:5e:${[below(256), below(256), below(256)].map((byte) => byte.toString(16).padStart(2, '0')).join(':')}`;
  const own: Ip4 = `192.168.1.${30 + below(200)}`;
  const vendor = pick(VENDORS);
  const options: Option[] = vendor ? [[OPT.vendorClass, text(vendor)]] : [];
  if (below(2)) options.push([OPT.parameterList, Uint8Array.of(1, 3, 6, 15, 26, 28, 42, 51, 54, 66, 67, 150)]);
  if (below(2)) options.push([OPT.hostName, text(`pc-${below(1000)}`)]);
  if (below(4) === 0) options.push([OPT.clientArch, uint16s(7)]);
  if (below(3) === 0) options.push([OPT.maxSize, uint16s(1500)], [OPT.leaseTime, uint32(86_400)]);
  if (below(10) === 0) options.push([OPT.userClass, text('RRAS.Microsoft')]);
  const machine = machineOn(segment, mac, options);
  const addressed = { from: own, to: pick([SERVER, '255.255.255.255', '192.168.1.255']) };
  const unaddressed = { from: NO_IP, to: '255.255.255.255' };
  const sent = (packet: Packet, way: { from: Ip4; to: Ip4 }, toPort = 67) => ({ mac, bytes: encode(packet) as Uint8Array, ...way, fromPort: 68, toPort });
  const flags = below(2) ? BROADCAST_FLAG : 0;
  const server: Option = [OPT.serverId, ips(pick([SERVER, '192.168.1.1', '192.168.1.2']))];
  const wish: Option = [OPT.requestedIp, ips(own)];
  switch (below(14)) {
    case 0:
    case 1:
      return sent(machine.packet('discover', below(2) ? [wish] : [], { flags }), unaddressed);
    case 2:
      return sent(machine.packet('request', [wish, server], { flags }), unaddressed);
    case 3:
      return sent(machine.packet('request', [wish], { flags }), unaddressed);
    case 4:
      return sent(machine.packet('request', [], { ciaddr: own }), addressed);
    case 5:
      return sent(machine.packet('inform', [], { ciaddr: own }), addressed);
    case 6:
      return sent(machine.packet('release', [server], { ciaddr: own }), addressed);
    case 7:
      return sent(machine.packet('decline', [wish, server]), unaddressed);
    case 8: {
      // Plain BOOTP: no message type, at times no cookie.
      const bytes = encode({ ...machine.packet('discover'), options: new Map() }) as Uint8Array;
      if (below(2)) bytes.fill(0, 236, 240);
      return { mac, bytes, ...unaddressed, fromPort: 68, toPort: 67 };
    }
    case 9:
      // Through a relay of the office, and what its server says to that relay.
      return sent({ ...machine.packet('discover', [], { giaddr: pick(['192.168.1.1', '10.20.0.1', SERVER]), hops: 1 }), op: below(4) ? 1 : 2 }, addressed);
    case 10:
      return sent(machine.packet(pick(TYPES), [wish, server], { ciaddr: pick([NO_IP, own]) }), addressed, 4011);
    case 11: {
      const bytes = encode(machine.packet(pick(TYPES), [wish])) as Uint8Array;
      for (let left = 1 + below(6); left > 0; left--) bytes[below(44)] = below(256);
      // The machine that is asked for stays no ROM: the options are as they were.
      return { mac, bytes: bytes.slice(0, below(2) ? bytes.length : below(bytes.length)), ...addressed, fromPort: 68, toPort: pick([67, 4011]) };
    }
    case 12:
      // Other hardware, other operations, other message types.
      return sent({ ...machine.packet('discover', [[OPT.messageType, Uint8Array.of(pick([0, 2, 5, 6, 9, 10, 13, 200]))]]), htype: pick([1, 6, 32]), hlen: pick([6, 0, 16]) }, unaddressed);
    default:
      return { mac, bytes: Uint8Array.from({ length: below(1_400) }, () => below(256)), ...addressed, fromPort: 1 + below(65_000), toPort: pick([67, 4011]) };
  }
}

const proxied = (machine: Machine, type: 'discover' | 'request', timeoutMs?: number, from?: Ip4) =>
  type === 'discover'
    ? segment.ask(machine.packet('discover'), {}, timeoutMs)
    : segment.ask(machine.packet('request', [], { ciaddr: from! }), { from: from!, to: SERVER, toPort: 4011 }, timeoutMs);

describe('an office LAN in the default configuration', () => {
  it(`${MESSAGES} mixed messages of machines that do not boot from the network: not one packet leaves our card`, { timeout: 300_000 }, async () => {
    lan = await startLan({ dhcp: { interfaces: ['lan0'] }, nodes: { n1: { macs: [NODE] }, ...Object.fromEntries(INSTALLED.map((mac, n) => [`installed${n}`, { macs: [mac] }])) } });
    const output = watchOutput('lan0');
    try {
      const random = seededRandom(20_261_122);
      for (let n = 0; n < MESSAGES; n++) {
        const { mac, bytes, ...way } = officeTraffic(random);
        segment.send(mac, bytes, way);
        // Not one of them is lost in a full buffer: each hundred is dealt with before the next.
        if (n % 100 === 99) await eventually(() => lan!.heard()).toBe(n + 1);
      }
      // The last word, and the only one that is answered: it shows that somebody listens.
      const offer = await proxied(machineOn(segment, NODE, UEFI), 'discover', 30_000);
      expect([messageOf(offer!.packet.options), offer!.packet.yiaddr, textOf(offer!.packet.options, OPT.vendorClass)]).toEqual(['offer', NO_IP, 'PXEClient']);
      const counters = await lan.counters();
      console.log(`office LAN: ${MESSAGES} messages: ${Object.entries(counters).flatMap(([name, count]) => (count > 0 ? [`${name} ${count}`] : [])).join(', ')}; left: ${output.left().join('; ')}`);
      // Everything that left: UDP of any port, ICMP (port unreachable too) and every other IP protocol.
      expect(output.left()).toEqual([`1 from ${SERVER}:67 to 255.255.255.255:68`]);
      expect(counters).toMatchObject({ proxied: 1, limited: 0, overrun: 0, stale: 0, failed: 0 });
      expect(await lan.api('/api/discovered')).toEqual({ machines: [] });
      await lan.stored(async ({ leases, boots }) => expect([await leases.list(), (await boots.list({ limit: 10 })).map(({ mac }) => mac)]).toEqual([[], [NODE]]));
    } finally {
      output.close();
    }
  });

  it('a machine whose option 60 starts with PXEClient, but that no profile names, gets no packet and is shown to people', async () => {
    lan = await startLan({ dhcp: { interfaces: ['lan0'] } });
    const output = watchOutput('lan0');
    try {
      const machine = machineOn(segment, STRANGER, UEFI);
      for (let n = 0; n < 3; n++) segment.send(STRANGER, encode(machine.packet('discover')) as Uint8Array);
      await expect.poll(() => lan!.api('/api/discovered'), { timeout: 15_000 }).toMatchObject({
        machines: [{ mac: STRANGER, uuid: '33221100-5544-7766-8899-aabbccddeeff', vendorClass: 'PXEClient:Arch:00007:UNDI:003016', arch: 'amd64', firmware: 'uefi', count: 3, firstAt: expect.any(Number) as number, lastAt: expect.any(Number) as number }],
      });
      expect(output.left()).toEqual([]);
    } finally {
      output.close();
    }
  });

  it('added to a profile, it boots at its next DISCOVER', async () => {
    lan = await startLan({ dhcp: { interfaces: ['lan0'] } });
    const machine = machineOn(segment, STRANGER, UEFI);
    segment.send(STRANGER, encode(machine.packet('discover')) as Uint8Array);
    await expect.poll(() => lan!.api('/api/discovered'), { timeout: 15_000 }).toMatchObject({ machines: [{ mac: STRANGER }] });
    await lan.profile(profileOf({ n7: { macs: [STRANGER] } }));
    expect(await lan.api('/api/discovered')).toEqual({ machines: [] });
    const offer = await proxied(machine, 'discover');
    expect([offer!.packet.yiaddr, ipOf(offer!.packet.options, OPT.serverId), offer!.packet.file]).toEqual([NO_IP, SERVER, '']);
    segment.claim('192.168.1.77', STRANGER);
    const ack = await proxied(machine, 'request', undefined, '192.168.1.77');
    expect([messageOf(ack!.packet.options), ack!.packet.file, ack!.packet.siaddr, ack!.heard.from, ack!.heard.fromPort]).toEqual(['ack', 'snponly.efi', SERVER, SERVER, 4011]);
    await lan.stored(async ({ boots }) => expect(await boots.open('n7')).toMatchObject({ mac: STRANGER, ip: '192.168.1.77' }));
  });
});

describe('serve: discovered', () => {
  it('an unknown PXE machine gets the loader, and its screen says what to add; added, it boots at its next DHCP', async () => {
    lan = await startLan({ dhcp: { serve: 'discovered', onConflict: 'ignore', subnets: [{ subnet: '192.168.1.0/24', mode: 'full', pool: '192.168.1.100-192.168.1.109', conflictCheck: 'off' }] } });
    const rom = machineOn(segment, STRANGER, UEFI);
    const { ack } = await rom.dora();
    expect([ack.file, ack.siaddr]).toEqual(['snponly.efi', SERVER]);
    const ipxe = machineOn(segment, STRANGER, [...UEFI, [OPT.userClass, text('iPXE')], [OPT.ipxe, Uint8Array.of(19, 1, 1, 36, 1, 1)]]);
    const { ack: second } = await ipxe.dora();
    const url = `http://${SERVER}:8080/script/52-54-00-77-00-66`;
    expect(textOf(second.options, OPT.bootFile)).toBe(url);
    // A system that no profile names is no machine that boots.
    expect(await machineOn(segment, '52:54:00:77:00:67').discover(500)).toBeUndefined();

    // curl has that address: the made-up machine cannot speak TCP.
    segment.disown(second.yiaddr);
    await link.ns.must(['ip', 'address', 'add', `${second.yiaddr}/24`, 'dev', 'eth0']);
    const fetch = () => link.ns.must(['curl', '-sSf', '--max-time', '20', url]);
    expect(await fetch()).toMatch(new RegExp(`#!ipxe[^]*add ${STRANGER} under nodes in boot-profiles/`));
    await lan.profile(profileOf({ n7: { macs: [STRANGER] } }));
    const { ack: third } = await ipxe.dora();
    expect(third.yiaddr).toBe(second.yiaddr);
    expect(textOf(third.options, OPT.bootFile)).toBe(url);
    expect(await fetch()).toMatch(/#!ipxe[^]*kernel/);
    await lan.stored(async ({ boots }) => expect((await boots.open('n7'))!.stages.map(({ name }) => name)).toEqual(expect.arrayContaining(['discover', 'offer', 'lease'])));
  });
});

describe('serve: any', () => {
  it('a system that no profile names gets an address and nothing about booting', async () => {
    lan = await startLan({ dhcp: { serve: 'any', onConflict: 'ignore', subnets: [{ subnet: '192.168.1.0/24', mode: 'full', pool: '192.168.1.100-192.168.1.109', conflictCheck: 'off' }] } });
    const { ack } = await machineOn(segment, STRANGER).dora();
    expect([ack.yiaddr, ack.siaddr, ack.file, ack.options.has(OPT.bootFile)]).toEqual([expect.stringMatching(/^192\.168\.1\.10\d$/), NO_IP, '', false]);
  });
});

describe('without an interface', () => {
  it('nothing binds: ports 67 and 4011 are free for anybody, alone', async () => {
    lan = await startLan({ dhcp: {} });
    for (const port of [67, 4011]) {
      const alone = createSocket('udp4');
      alone.bind({ port, exclusive: true });
      await once(alone, 'listening');
      alone.close();
      await once(alone, 'close');
    }
    expect(execFileSync('ss', ['-ulnH'], { encoding: 'utf8' })).toBe('');
  });
});
