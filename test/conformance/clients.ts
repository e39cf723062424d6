// DHCP clients of the conformance tests: packets as RFC 2131 table 5 has them, and a world without sockets to send them in.
import { expect, onTestFinished } from 'vitest';
import { parseRange, parseSubnet, type Ip4, type Mac } from '../../src/addr.ts';
import type { Node } from '../../src/boot/node.ts';
import { ips, message, messageOf, OPT, text, uint16s, type MessageName } from '../../src/dhcp/options.ts';
import type { Packet } from '../../src/dhcp/packet.ts';
import type { Pool, ServedSubnet } from '../../src/dhcp/subnet.ts';
import type { Ingress } from '../../src/dhcp/transport.ts';
import { nodeNamed } from '../unit/boot-world.ts';
import { startHarness, type Harness, type HarnessOptions, type Sent } from '../unit/dhcp-harness.ts';
import { packetWith, subnet } from '../unit/dhcp-world.ts';

export const SERVER = subnet.serverIp;
export const BROADCAST = { address: '255.255.255.255', port: 68 };
/** 10.77.0.0/24 on lan0, pool .100 to .103, lease time one hour, every client is served. */
export const lan: ServedSubnet = { ...subnet, serve: 'any' };
/** 10.88.0.0/24 behind a relay at 10.88.0.1; no card of ours is on it. */
export const far: ServedSubnet = { ...without(lan, 'link', 'router'), subnet: parseSubnet('10.88.0.0/24')!, pools: [pool('10.88.0.100-10.88.0.103')], router: '10.88.0.1' };
export const RELAY = '10.88.0.1';

export type Option = readonly [tag: number, value: Uint8Array];

export interface Client {
  readonly mac: Mac;
  packet(type: MessageName, options?: readonly Option[], more?: Partial<Packet>): Packet;
  /** Each answers the one packet that was sent because of it, or undefined for silence. */
  discover(options?: readonly Option[], more?: Partial<Packet>, from?: Partial<Ingress>): Promise<Sent | undefined>;
  select(ip: Ip4, options?: readonly Option[], more?: Partial<Packet>): Promise<Sent | undefined>;
  initReboot(ip: Ip4, options?: readonly Option[], more?: Partial<Packet>): Promise<Sent | undefined>;
  /** RENEWING and REBINDING: one goes to our address, the other to all; the bytes are the same. */
  renew(ip: Ip4, options?: readonly Option[], more?: Partial<Packet>): Promise<Sent | undefined>;
  release(ip: Ip4, options?: readonly Option[]): Promise<Sent | undefined>;
  decline(ip: Ip4, options?: readonly Option[]): Promise<Sent | undefined>;
  inform(ip: Ip4, options?: readonly Option[], more?: Partial<Packet>): Promise<Sent | undefined>;
  /** DISCOVER and REQUEST; the address of the ACK. */
  lease(options?: readonly Option[]): Promise<Ip4>;
}

/** Closed when its test is over. */
export async function worldWith(options: Partial<HarnessOptions> = {}): Promise<Harness> {
  const world = await startHarness({ subnets: [lan], ...options });
  onTestFinished(() => world.close());
  return world;
}

/** Machine 52:54:00:00:00:<n>; `own` goes into each of its packets. */
export function clientOf(world: Harness, n: number, own: readonly Option[] = [], header: Partial<Packet> = {}): Client {
  const packet: Client['packet'] = (type, options = [], more = {}) => packetWith([[OPT.messageType, message(type)], ...own, ...options], { chaddr: chaddrOf(n), xid: n, ...header, ...more });
  const tell = async (what: Packet, from?: Partial<Ingress>): Promise<Sent | undefined> => {
    const sent = await world.hear(what, from);
    expect(sent.length).toBeLessThanOrEqual(1);
    return sent[0];
  };
  const client: Client = {
    mac: macOf(n),
    packet,
    discover: (options, more, from) => tell(packet('discover', options, more), from),
    select: (ip, options = [], more) => tell(packet('request', [server(), wish(ip), ...options], more)),
    initReboot: (ip, options = [], more) => tell(packet('request', [wish(ip), ...options], more)),
    renew: (ip, options, more) => tell(packet('request', options, { ciaddr: ip, ...more }), { from: ip }),
    release: (ip, options = [server()]) => tell(packet('release', options, { ciaddr: ip }), { from: ip }),
    decline: (ip, options = [server()]) => tell(packet('decline', [wish(ip), ...options])),
    inform: (ip, options, more) => tell(packet('inform', options, { ciaddr: ip, ...more }), { from: ip }),
    async lease(options) {
      const offer = await client.discover(options);
      const ack = offer && (await client.select(offer.packet.yiaddr, options));
      expect(kindOf(ack)).toBe('ack');
      return ack!.packet.yiaddr;
    },
  };
  return client;
}

export const server = (ip: Ip4 = SERVER): Option => [OPT.serverId, ips(ip)];
export const wish = (ip: Ip4): Option => [OPT.requestedIp, ips(ip)];
export const asking = (...tags: readonly number[]): Option => [OPT.parameterList, Uint8Array.from(tags)];
export const maxSize = (bytes: number): Option => [OPT.maxSize, uint16s(bytes)];
/** What a BIOS ROM says of itself: such a machine is on its way up. */
export const bios: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]];

export function macOf(n: number): Mac {
  return `52:54:00:00:00:${n.toString(16).padStart(2, '0')}`;
}

export function chaddrOf(n: number): Uint8Array {
  return Uint8Array.of(0x52, 0x54, 0, 0, 0, n, ...new Uint8Array(10));
}

/** The node of machine n, without a reservation unless it is given one. */
export function nodeOf(n: number, more: Partial<Node> = {}): Node {
  return { ...without(nodeNamed(`n${n}`), 'ip'), macs: [macOf(n)], ...more };
}

export function pool(range: string, more: Partial<Pool> = {}): Pool {
  return { ranges: [parseRange(range)!], ...more };
}

/** `silence`, or the message and the address that it gives. */
export function kindOf(sent: Sent | undefined): MessageName | 'silence' {
  return sent ? messageOf(sent.packet.options)! : 'silence';
}

export function gistOf(sent: Sent | undefined): string {
  return sent ? `${kindOf(sent)} ${sent.packet.yiaddr}` : 'silence';
}

export function without<T extends object, K extends keyof T>(value: T, ...keys: readonly K[]): Omit<T, K> {
  return Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key as K))) as Omit<T, K>;
}
