// Which address a machine gets, and what is answered to a REQUEST.
import { describe, expect, it } from 'vitest';
import { parseRange, parseSubnet, type Ip4 } from '../../src/addr.ts';
import { createAddressBook, type KnownLease } from '../../src/dhcp/book.ts';
import { chooseAddress, judgeRequest, stateOf, subnetFor, type Addresses, type Candidate } from '../../src/dhcp/lease.ts';
import { ips, OPT, subOptions } from '../../src/dhcp/options.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import { nodeNamed, NOW } from './boot-world.ts';
import { MAC, packetWith, subnet } from './dhcp-world.ts';

const OTHER = '52:54:00:00:00:02';
const SECOND_CARD = '52:54:00:00:00:99';
const { ip: _ip, ...bare } = nodeNamed('n1', { macs: [MAC, SECOND_CARD] });
const dynamic: Candidate = { node: bare, mac: MAC, holder: 'n1', booting: true };
const reserved: Candidate = { ...dynamic, node: { ...bare, ip: '10.77.0.11' } };
const stranger: Candidate = { node: undefined, mac: MAC, holder: MAC, booting: false };
/** Of node n1 on one of its cards; another's MAC is its own holder. */
const lease = (ip: string, mac: string, more: Partial<KnownLease> = {}): KnownLease => ({ ip, mac, holder: mac === MAC || mac === SECOND_CARD ? 'n1' : mac, expiresAt: NOW + 1000, ...more });
const ended = { expiresAt: NOW - 1000 };
const declined = { declinedUntil: NOW + 1000 };
type Held = readonly [ip: Ip4, mac: string, until?: number];
const heldBy = (mac: string, ip: Ip4, until?: number): { held: readonly Held[] } => ({ held: [[ip, mac, until ?? NOW + 1000]] });
function from(leases: readonly KnownLease[] = [], { held = [], ...more }: Partial<Addresses> & { readonly held?: readonly Held[] } = {}): Addresses {
  const where = more.subnet ?? subnet;
  const book = createAddressBook(where.pools, leases);
  for (const [ip, mac, until = NOW + 1000] of held) book.hold(ip, { mac, holder: mac === MAC ? 'n1' : mac, until });
  return { subnet: where, book, reserved: () => undefined, now: NOW, ...more };
}
const pooled = (...ranges: readonly string[]): ServedSubnet => ({ ...subnet, pools: ranges.map((range) => ({ ranges: [parseRange(range)!] })) });
const noPool: ServedSubnet = { ...subnet, pools: [] };
const forDisks: ServedSubnet = { ...subnet, pools: [{ ...subnet.pools[0]!, profiles: ['disk'] }] };
const full = ['100', '101', '102', '103'].map((n) => lease(`10.77.0.${n}`, `52:54:00:00:01:${n.slice(1)}`));

describe('chooseAddress', () => {
  it.each<[string, Addresses, Candidate, string | undefined, string]>([
    ['a reservation wins over an old lease and a wish', from([lease('10.77.0.101', MAC)]), reserved, '10.77.0.102', '10.77.0.11'],
    ['a reservation needs no pool', from([], { subnet: noPool }), reserved, undefined, '10.77.0.11'],
    ['the old lease comes back, though it ended', from([lease('10.77.0.102', MAC, ended)]), dynamic, '10.77.0.103', '10.77.0.102'],
    ['an old lease that is another\'s now does not', from([lease('10.77.0.102', OTHER)]), dynamic, undefined, '10.77.0.100'],
    ['a wish in the pool is granted', from(), dynamic, '10.77.0.103', '10.77.0.103'],
    ['a wish outside the pool is not', from(), dynamic, '10.77.0.9', '10.77.0.100'],
    ['a wish for the server\'s address is not', from([], { subnet: pooled('10.77.0.1-10.77.0.9') }), dynamic, '10.77.0.1', '10.77.0.2'],
    ['a wish that is leased is not', from([lease('10.77.0.103', OTHER)]), dynamic, '10.77.0.103', '10.77.0.100'],
    ['a wish that is offered to another is not', from([], heldBy(OTHER, '10.77.0.103')), dynamic, '10.77.0.103', '10.77.0.100'],
    ['an offer of our own is offered again', from([], heldBy(MAC, '10.77.0.103')), dynamic, '10.77.0.103', '10.77.0.103'],
    ['an offer that ran out is nobody\'s', from([], heldBy(OTHER, '10.77.0.100', NOW)), dynamic, undefined, '10.77.0.100'],
    ['addresses reserved for others are passed over', from([], { reserved: (ip) => (ip === '10.77.0.100' ? 'n2' : undefined) }), dynamic, undefined, '10.77.0.101'],
    ['addresses in quarantine are passed over', from([lease('10.77.0.100', OTHER, { ...ended, ...declined })]), dynamic, undefined, '10.77.0.101'],
    ['an old address in quarantine is not given back', from([lease('10.77.0.100', MAC, declined)]), dynamic, undefined, '10.77.0.101'],
    ['a never used address comes before one whose lease ended', from([lease('10.77.0.100', OTHER, ended)]), dynamic, undefined, '10.77.0.101'],
    ['then the one that ended longest ago', from([...full.slice(0, 2), lease('10.77.0.102', OTHER, { expiresAt: NOW - 5 }), lease('10.77.0.103', OTHER, { expiresAt: NOW - 9 })]), dynamic, undefined, '10.77.0.103'],
    ['network and broadcast address are nobody\'s', from([], { subnet: { ...withoutRouter(pooled('10.77.0.0-10.77.0.3')), subnet: parseSubnet('10.77.0.0/30')! } }), dynamic, undefined, '10.77.0.2'],
    ['the router\'s address is nobody\'s', from([], { subnet: { ...pooled('10.77.0.253-10.77.0.254'), router: '10.77.0.253' } }), dynamic, undefined, '10.77.0.254'],
    ['a reservation that a stranger holds falls back to the pool', from([lease('10.77.0.11', OTHER)]), reserved, undefined, '10.77.0.100'],
    ['a booting machine takes its reservation over from its other card', from([lease('10.77.0.11', SECOND_CARD)]), reserved, undefined, '10.77.0.11'],
    ['an address that it was offered before, though it says no wish now', from([], heldBy(MAC, '10.77.0.102')), dynamic, undefined, '10.77.0.102'],
    ['the next pool when the first is used up', from([lease('10.77.0.100', OTHER)], { subnet: pooled('10.77.0.100-10.77.0.100', '10.77.0.120-10.77.0.121') }), dynamic, undefined, '10.77.0.120'],
    ['an address that is offered to a stranger, when there is no other', from(full.slice(1), heldBy(OTHER, '10.77.0.100')), dynamic, undefined, '10.77.0.100'],
    ['its lease that goes on, though nothing new is given out', from([lease('10.77.0.102', MAC)], { noNew: 'a foreign server' }), dynamic, undefined, '10.77.0.102'],
    ['its reservation, though nothing new is given out', from([], { noNew: 'a foreign server' }), reserved, undefined, '10.77.0.11'],
    ['a checked address, where addresses are checked', from([], { checked: (_pool, accept) => ['10.77.0.101', '10.77.0.103'].find((ip) => ip === '10.77.0.103' && accept(ip)) }), dynamic, '10.77.0.102', '10.77.0.103'],
    ['its own checked offer again', from([], { ...heldBy(MAC, '10.77.0.102'), checked: () => '10.77.0.103' }), dynamic, '10.77.0.102', '10.77.0.102'],
    ['a lease that its card took before it was a node', from([lease('10.77.0.102', MAC, { holder: MAC })]), dynamic, undefined, '10.77.0.102'],
    ['a reservation in another subnet does not count here', from(), { ...reserved, node: { ...bare, ip: '10.78.0.11' } }, undefined, '10.77.0.100'],
  ])('%s', (_what, addresses, who, requested, ip) => {
    expect(chooseAddress(addresses, who, requested)).toEqual({ ip });
  });

  it.each<[string, Addresses, Candidate, RegExp]>([
    ['an exhausted pool', from(full), dynamic, /^the pool of 10\.77\.0\.0\/24 is exhausted$/],
    ['no pool at all', from([], { subnet: noPool }), dynamic, /^10\.77\.0\.0\/24 has no pool$/],
    ['a reservation in quarantine and no pool', from([lease('10.77.0.11', OTHER, declined)], { subnet: noPool }), reserved, /reserved address 10\.77\.0\.11 is in quarantine.*has no pool/],
    ['a lease that goes on on another card of a running node', from([lease('10.77.0.100', SECOND_CARD)]), { ...dynamic, booting: false }, /^n1 has 10\.77\.0\.100 on its card 52:54:00:00:00:99$/],
    ['a reservation that another card of a running node uses', from([lease('10.77.0.11', SECOND_CARD)]), { ...reserved, booting: false }, /on its card 52:54:00:00:00:99$/],
    ['a pool that is for others', from([], { subnet: forDisks }), dynamic, /^no pool of 10\.77\.0\.0\/24 is for this machine$/],
    ['a stranger when the last address is offered to another', from(full.slice(1), heldBy(OTHER, '10.77.0.100')), stranger, /exhausted/],
    ['nothing new just now', from([], { noNew: 'a foreign server' }), dynamic, /^a foreign server$/],
    ['an old lease of an old snapshot, and nothing checked', from([lease('10.77.0.100', MAC, ended)], { cautious: true, checked: () => undefined }), dynamic, /reserve of checked addresses/],
    ['a reservation elsewhere and a full pool', from(full), { ...reserved, node: { ...bare, ip: '10.78.0.11' } }, /10\.78\.0\.11 is not in this subnet.*exhausted/],
  ])('%s is a refusal that says so', (_what, addresses, who, why) => {
    expect(chooseAddress(addresses, who)).toEqual({ why: expect.stringMatching(why) });
  });
});

describe('the state of a client (RFC 2131 table 4)', () => {
  const server = [OPT.serverId, ips('10.77.0.1')] as const;
  const wish = [OPT.requestedIp, ips('10.77.0.11')] as const;
  it.each([
    ['server id and wish: SELECTING', packetWith([server, wish]), { state: 'selecting', ip: '10.77.0.11', server: '10.77.0.1' }],
    ['server id and ciaddr: SELECTING as some clients renew', packetWith([server], { ciaddr: '10.77.0.11' }), { state: 'selecting', ip: '10.77.0.11', server: '10.77.0.1' }],
    ['wish alone: INIT-REBOOT', packetWith([wish]), { state: 'init-reboot', ip: '10.77.0.11' }],
    ['ciaddr alone: RENEWING or REBINDING', packetWith([], { ciaddr: '10.77.0.11' }), { state: 'renewing', ip: '10.77.0.11' }],
    ['no address at all: not a REQUEST', packetWith([server]), undefined],
    ['nothing at all: not a REQUEST', packetWith([]), undefined],
  ])('%s', (_what, packet, state) => {
    expect(stateOf(packet)).toEqual(state);
  });
});

describe('judgeRequest', () => {
  const OURS = '10.77.0.100';
  it.each<[string, Addresses, Candidate, 'selecting' | 'init-reboot' | 'renewing', string, 'ack' | 'nak' | 'silent']>([
    ['SELECTING what was offered', from([], heldBy(MAC, OURS)), dynamic, 'selecting', OURS, 'ack'],
    ['SELECTING after the offer ran out, still free', from(), dynamic, 'selecting', OURS, 'ack'],
    ['SELECTING its reservation', from(), reserved, 'selecting', '10.77.0.11', 'ack'],
    ['SELECTING what another machine got meanwhile', from([lease(OURS, OTHER)]), dynamic, 'selecting', OURS, 'nak'],
    ['SELECTING what is offered to another', from([], heldBy(OTHER, OURS)), dynamic, 'selecting', OURS, 'nak'],
    ['SELECTING what was never in the pool', from(), dynamic, 'selecting', '10.77.0.50', 'nak'],
    ['INIT-REBOOT with its lease', from([lease(OURS, MAC)]), dynamic, 'init-reboot', OURS, 'ack'],
    ['INIT-REBOOT with a free address of the pool and no record', from(), dynamic, 'init-reboot', OURS, 'silent'],
    ['INIT-REBOOT on the wrong subnet', from(), dynamic, 'init-reboot', '192.168.1.5', 'nak'],
    ['INIT-REBOOT with another\'s lease', from([lease(OURS, OTHER)]), dynamic, 'init-reboot', OURS, 'nak'],
    ['INIT-REBOOT with another\'s reservation', from([], { reserved: () => 'n2' }), dynamic, 'init-reboot', OURS, 'nak'],
    ['INIT-REBOOT with an address that we never gave', from(), dynamic, 'init-reboot', '10.77.0.50', 'silent'],
    ['RENEWING its lease', from([lease(OURS, MAC)]), dynamic, 'renewing', OURS, 'ack'],
    ['RENEWING a lease outside today\'s pool', from([lease('10.77.0.50', MAC)]), dynamic, 'renewing', '10.77.0.50', 'ack'],
    ['RENEWING a pool address though it has a reservation now: a running node keeps its address', from([lease(OURS, MAC)]), { ...reserved, booting: false }, 'renewing', OURS, 'ack'],
    ['RENEWING on the wrong subnet', from(), dynamic, 'renewing', '192.168.1.5', 'nak'],
    ['RENEWING the server\'s own address', from(), dynamic, 'renewing', '10.77.0.1', 'nak'],
    ['RENEWING what is in quarantine', from([lease(OURS, MAC, declined)]), dynamic, 'renewing', OURS, 'nak'],
    ['INIT-REBOOT with a free address of the pool, having a lease of another', from([lease('10.77.0.101', MAC)]), dynamic, 'init-reboot', OURS, 'nak'],
    ['SELECTING by the second card of a running node', from([lease('10.77.0.101', SECOND_CARD)]), { ...dynamic, booting: false }, 'selecting', OURS, 'nak'],
    ['RENEWING by the second card of a running node', from([lease('10.77.0.101', SECOND_CARD)]), { ...dynamic, booting: false }, 'renewing', OURS, 'nak'],
    ['SELECTING by the second card of a node that boots', from([lease('10.77.0.101', SECOND_CARD)]), dynamic, 'selecting', OURS, 'ack'],
    ['SELECTING what was not offered, from a pool that is for others', from([], { subnet: forDisks }), dynamic, 'selecting', OURS, 'nak'],
    ['SELECTING without an offer while nothing new is given out', from([], { noNew: 'a foreign server' }), dynamic, 'selecting', OURS, 'nak'],
    ['SELECTING what was offered before that', from([], { ...heldBy(MAC, OURS), noNew: 'a foreign server' }), dynamic, 'selecting', OURS, 'ack'],
    ['RENEWING without a record while nothing new is given out', from([], { noNew: 'a foreign server' }), dynamic, 'renewing', OURS, 'silent'],
    ['SELECTING without an offer after a snapshot: who has it is not known', from([], { cautious: true }), dynamic, 'selecting', OURS, 'nak'],
    ['RENEWING without a record after a snapshot: it may just be lost', from([], { cautious: true }), dynamic, 'renewing', OURS, 'ack'],
    ['REBINDING an address of another server', from(), dynamic, 'renewing', '10.77.0.50', 'silent'],
  ])('%s', (_what, addresses, who, state, ip, kind) => {
    expect(judgeRequest(addresses, who, { state, ip }).kind).toBe(kind);
  });
});

describe('subnetFor', () => {
  const second: ServedSubnet = { ...subnet, subnet: parseSubnet('10.78.0.0/24')!, serverIp: '10.78.0.1' };
  const { link: _link, ...third } = { ...subnet, subnet: parseSubnet('10.88.0.0/24')!, serverIp: '10.77.0.1' };
  const subnets = [subnet, second, third];
  const here = { link: 'lan0', port: 67, from: '0.0.0.0', fromPort: 68 } as const;
  const at = (ip: string) => [OPT.relayAgent, subOptions([[5, ips(ip)]])] as const;
  it.each([
    ['the relay\'s', packetWith([], { giaddr: '10.78.0.2', ciaddr: '10.77.0.9' }), here, '10.77.0.11', second],
    ['none for a relay that we do not serve', packetWith([], { giaddr: '10.79.0.2' }), here, '10.77.0.11', undefined],
    ['the one that its relay names', packetWith([at('10.88.0.0')], { giaddr: '10.78.0.2' }), here, undefined, third],
    ['none when its relay names one that we do not serve', packetWith([at('10.89.0.0')], { giaddr: '10.78.0.2' }), here, undefined, undefined],
    ['none when a foreign giaddr names one of ours', packetWith([at('10.88.0.0')], { giaddr: '10.79.0.2' }), here, undefined, undefined],
    ['the named one when giaddr itself sent it', packetWith([at('10.88.0.0')], { giaddr: '10.79.0.2' }), { ...here, from: '10.79.0.2' }, undefined, third],
    ['the machine\'s own', packetWith([], { ciaddr: '10.78.0.9' }), here, '10.77.0.11', second],
    ['a relayed one of a machine that renews past its relay', packetWith([], { ciaddr: '10.88.0.9' }), { ...here, from: '10.88.0.9' }, undefined, third],
    ['the link\'s when somebody else sent that', packetWith([], { ciaddr: '10.88.0.9' }), { ...here, from: '10.77.0.9' }, undefined, subnet],
    ['its reservation\'s', packetWith([]), here, '10.78.0.11', second],
    ['the first', packetWith([]), here, undefined, subnet],
    ['the first when neither address is in any', packetWith([], { ciaddr: '192.168.0.1' }), here, '192.168.0.2', subnet],
    ['none on a link that we do not serve', packetWith([]), { ...here, link: 'lan7' }, '10.77.0.11', undefined],
  ])('%s', (_what, packet, from, ip, expected) => {
    expect(subnetFor(subnets, packet, from, ip)).toBe(expected);
  });
});

function withoutRouter({ router: _gone, ...rest }: ServedSubnet): ServedSubnet {
  return rest;
}
