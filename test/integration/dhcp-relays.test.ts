// Subnets that no card of ours is on, behind real relays (dhcrelay, dnsmasq) and made-up ones: where answers go, option 82, link selection, renewals past the relay.
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ipOf, ips, messageOf, OPT, RELAY, subOptions, text, textOf, uint16s } from '../../src/dhcp/options.ts';
import { encode, NO_IP } from '../../src/dhcp/packet.ts';
import { cable, createNamespace, type Namespace } from '../../src/lab/network.ts';
import { ended, eventually, ip, openLink, said, script, startDnsmasq, startLan, watchOutput, type Lan, type Link, type Output } from './lan.ts';
import { machineOn, openSegment, type Heard, type Option, type Segment } from './segment.ts';

const SERVER = '192.168.9.1';
const RELAY_IP = '192.168.9.2';
/** Another relay on our link, made up. */
const SECOND_RELAY = '192.168.9.3';
const RELAY_MAC = '52:54:00:00:09:03';
const NODE = '52:54:00:00:00:01';
const POOLED = '52:54:00:00:00:02';
const ROM: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]];

let link: Link;
let clients: Namespace;
let lan: Lan;
let output: Output;
let dir: string;
let running: ChildProcess[];

beforeAll(async () => {
  link = await openLink('lan0', `${SERVER}/24`);
  clients = await createNamespace();
  // The relay: eth0 towards us, rack towards its machines; it routes too, as switches do.
  await cable({ ns: link.ns, name: 'rack' }, { ns: clients, name: 'eth0' });
  await link.ns.must(['ip', 'address', 'add', `${RELAY_IP}/24`, 'dev', 'eth0']);
  await link.ns.must(['ip', 'address', 'add', '10.88.0.1/24', 'dev', 'rack']);
  await link.ns.must(['sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward']);
  ip('route', 'add', '10.88.0.0/24', 'via', RELAY_IP);
});

afterAll(async () => {
  await link?.close();
  await clients?.close();
});

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-relays-'));
  script(join(dir, 'udhcpc'), `case $1 in bound|renew) ip address replace $ip/24 dev $interface; ip route replace default via $router; echo "$1 ip=$ip router=$router server=$serverid hostname=$hostname end" ;; esac`);
  running = [];
  lan = await startLan({
    nodes: { n1: { macs: [NODE], ip: '10.88.0.11' }, n2: { macs: [POOLED] } },
    dhcp: {
      interfaces: [{ name: 'lan0', mode: 'off' }],
      subnets: [
        { subnet: '10.88.0.0/24', relayed: true, mode: 'full', router: '10.88.0.1', pool: '10.88.0.100-10.88.0.109', leaseTime: '1h' },
        { subnet: '10.89.0.0/24', relayed: true, mode: 'full', router: '10.89.0.1', pool: '10.89.0.100-10.89.0.109', leaseTime: '1h' },
        { subnet: '10.90.0.0/24', relayed: true, mode: 'proxy' },
      ],
    },
  });
  output = watchOutput('lan0');
});

afterEach(async () => {
  for (const child of running) await ended(child);
  output.close();
  await lan.stop();
  await clients.run(['ip', 'address', 'flush', 'dev', 'eth0']);
  rmSync(dir, { recursive: true });
});

const dhcrelay = async (...more: string[]): Promise<void> => {
  const child = link.ns.spawn(['dhcrelay', '-4', '-d', '-id', 'rack', '-iu', 'eth0', ...more, SERVER], { stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  await said(child, /Sending on\s+Socket\/fallback/);
};

function udhcpc(mac: string): Promise<ChildProcess> {
  return clients.must(['ip', 'link', 'set', 'eth0', 'address', mac]).then(() => {
    const child = clients.spawn(['udhcpc', '-i', 'eth0', '-f', '-R', '-t', '5', '-T', '2', '-s', join(dir, 'udhcpc')], { stdio: ['ignore', 'pipe', 'pipe'] });
    running.push(child);
    return child;
  });
}

const RELAYS: readonly (readonly [string, () => Promise<void>])[] = [
  ['dhcrelay', () => dhcrelay()],
  ['dhcrelay that adds option 82', () => dhcrelay('-a')],
  ['dnsmasq\'s relay', async () => void running.push(await startDnsmasq(link.ns, dir, `--dhcp-relay=10.88.0.1,${SERVER}`, '--interface=rack', '--interface=eth0'))],
];

describe.each(RELAYS)('behind %s', (_name, start) => {
  it('a machine gets its reserved address, renews it by unicast past the relay, and releases it', async () => {
    await start();
    const child = await udhcpc(NODE);
    await said(child, new RegExp(`bound ip=10\\.88\\.0\\.11 router=10\\.88\\.0\\.1 server=${SERVER.replaceAll('.', '\\.')} hostname=n1 end`));
    expect(output.left()).toEqual([`2 from ${SERVER}:67 to 10.88.0.1:67`]);
    child.kill('SIGUSR1');
    await said(child, /renew ip=10\.88\.0\.11 .*end/);
    expect(output.left()).toContain(`1 from ${SERVER}:67 to 10.88.0.11:68`);
    expect(await lan.stored(({ leases }) => leases.at('10.88.0.11'))).toMatchObject({ mac: NODE, subnet: '10.88.0.0/24' });
    child.kill('SIGUSR2');
    // dhcrelay takes up what it routes as well: then the RELEASE comes twice.
    await eventually(() => lan.logged('dhcp: release').length).toBeGreaterThan(0);
    expect((await lan.stored(({ leases }) => leases.at('10.88.0.11')))!.expiresAt).toBeLessThanOrEqual(Date.now());
  });

  it('a machine from another network is told so through the relay', async () => {
    await start();
    const segment = await openSegment(clients, 'eth0');
    try {
      const machine = machineOn(segment, POOLED);
      const nak = await segment.ask(machine.packet('request', [[OPT.requestedIp, ips('10.50.0.7')]]));
      expect([messageOf(nak!.packet.options), textOf(nak!.packet.options, OPT.message), nak!.heard.to]).toEqual(['nak', '10.50.0.7 is not in 10.88.0.0/24', '255.255.255.255']);
      expect((await machine.dora()).ack.yiaddr).toBe('10.88.0.100');
    } finally {
      await segment.close();
    }
  });
});

describe('a relay of our own making', () => {
  let segment: Segment;
  let answers: Heard[];

  beforeEach(async () => {
    segment = await openSegment(link.ns, 'eth0');
    answers = [];
    segment.onDatagram((heard) => void answers.push(heard));
    segment.claim(SECOND_RELAY, RELAY_MAC);
  });
  afterEach(() => segment.close());

  const relayed = (giaddr: string, information: readonly (readonly [number, Uint8Array])[] = [[RELAY.circuitId, text('port 7')], [2, Uint8Array.of(9, 8, 7)]], own: readonly Option[] = []) => ({
    ...machineOn(segment, POOLED, own).packet('discover', [[OPT.relayAgent, subOptions(information)]], { giaddr, hops: 1 }),
  });
  const asRelay = { from: SECOND_RELAY, fromPort: 67, to: SERVER };

  it('gets option 82 back as it was, and as the last option', async () => {
    const discover = relayed('10.88.0.1');
    const offer = await segment.ask(discover, asRelay, 2_000);
    // Its answer goes to giaddr, which the real relay has: what we see of it is on its way there.
    expect([messageOf(offer!.packet.options), offer!.heard.to, offer!.heard.toPort]).toEqual(['offer', '10.88.0.1', 67]);
    expect([...offer!.packet.options].at(-1)).toEqual([OPT.relayAgent, discover.options.get(OPT.relayAgent)]);
    // On the wire too: nothing but the end marker and padding behind it.
    const bytes = Buffer.from(offer!.heard.bytes);
    const value = Buffer.from(discover.options.get(OPT.relayAgent)!);
    const at = bytes.indexOf(Buffer.concat([Buffer.of(OPT.relayAgent, value.length), value]));
    expect([...bytes.subarray(at + 2 + value.length)].filter((byte) => byte !== 0)).toEqual([255]);
  });

  it('says by link selection (RFC 3527) that its machine is elsewhere: the address is from there, the answer goes to the relay', async () => {
    const offer = await segment.ask(relayed(SECOND_RELAY, [[RELAY.linkSelection, ips('10.89.0.0')]]), asRelay);
    expect([offer!.packet.yiaddr, ipOf(offer!.packet.options, OPT.router), offer!.heard.to]).toEqual(['10.89.0.100', '10.89.0.1', SECOND_RELAY]);
    expect([...offer!.packet.options].at(-1)).toEqual([OPT.relayAgent, subOptions([[RELAY.linkSelection, ips('10.89.0.0')]])]);
    const select = { ...machineOn(segment, POOLED).packet('request', [[OPT.serverId, ips(SERVER)], [OPT.requestedIp, ips(offer!.packet.yiaddr)], [OPT.relayAgent, subOptions([[RELAY.linkSelection, ips('10.89.0.0')]])]], { giaddr: SECOND_RELAY, hops: 1 }) };
    expect(messageOf((await segment.ask(select, asRelay))!.packet.options)).toBe('ack');
    expect(await lan.stored(({ leases }) => leases.at('10.89.0.100'))).toMatchObject({ mac: POOLED, subnet: '10.89.0.0/24' });
  });

  it('in a subnet in proxy mode gets boot fields for a ROM, to giaddr, and nothing for a system', async () => {
    segment.claim('10.90.0.1', RELAY_MAC);
    ip('route', 'add', '10.90.0.0/24', 'via', SECOND_RELAY);
    try {
      const offer = await segment.ask(relayed('10.90.0.1', [], ROM), asRelay);
      expect([offer!.packet.yiaddr, offer!.packet.file, offer!.heard.to, offer!.heard.toPort]).toEqual([NO_IP, 'undionly.kpxe', '10.90.0.1', 67]);
      const before = answers.length;
      segment.send(POOLED, encode(relayed('10.90.0.1')) as Uint8Array, asRelay);
      await eventually(async () => (await lan.counters())['silent']).toBe(1);
      expect(answers).toHaveLength(before);
    } finally {
      ip('route', 'del', '10.90.0.0/24');
    }
  });

  it('from a network that we do not serve is ignored and counted, whatever it claims', async () => {
    const foreign = [relayed('10.99.0.1'), relayed('172.16.0.1', [[RELAY.linkSelection, ips('10.88.0.0')]]), relayed(SERVER), relayed('255.255.255.255'), relayed('127.0.0.1')];
    for (const packet of foreign) segment.send(RELAY_MAC, encode(packet) as Uint8Array, asRelay);
    await eventually(async () => (await lan.counters())['foreign']).toBe(foreign.length);
    expect([answers, output.left()]).toEqual([[], []]);
  });

  it('a machine on our own card, where only relays are heard, gets nothing', async () => {
    segment.send(POOLED, encode(machineOn(segment, POOLED).packet('discover')) as Uint8Array);
    await eventually(async () => (await lan.counters())['foreign']).toBe(1);
    expect(output.left()).toEqual([]);
  });
});
