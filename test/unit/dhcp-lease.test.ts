// Which address a machine gets, and what is answered to a REQUEST.
import { describe, expect, it } from 'vitest';
import { parseRange, parseSubnet } from '../../src/addr.ts';
import { chooseAddress, judgeRequest, stateOf, subnetFor, type Addresses, type Candidate, type KnownLease } from '../../src/dhcp/lease.ts';
import { ips, OPT } from '../../src/dhcp/options.ts';
import { nodeNamed, NOW } from './boot-world.ts';
import { MAC, packetWith, subnet } from './dhcp-world.ts';

const OTHER = '52:54:00:00:00:02';
const SECOND_CARD = '52:54:00:00:00:99';
const { ip: _ip, ...bare } = nodeNamed('n1', { macs: [MAC, SECOND_CARD] });
const dynamic: Candidate = { node: bare, mac: MAC, booting: true };
const reserved: Candidate = { ...dynamic, node: { ...bare, ip: '10.77.0.11' } };
const lease = (ip: string, mac: string, more: Partial<KnownLease> = {}): KnownLease => ({ ip, mac, expiresAt: NOW + 1000, ...more });
const ended = { expiresAt: NOW - 1000 };
const declined = { declinedUntil: NOW + 1000 };
const from = (leases: readonly KnownLease[] = [], more: Partial<Addresses> = {}): Addresses => ({ subnet, leases, holds: new Map(), reserved: () => undefined, now: NOW, ...more });
const heldBy = (mac: string, ip: string, until = NOW + 1000) => ({ holds: new Map([[ip, { mac, until }]]) });
const full = ['100', '101', '102', '103'].map((n) => lease(`10.77.0.${n}`, `52:54:00:00:01:${n.slice(1)}`));

describe('chooseAddress', () => {
  it.each<[string, Addresses, Candidate, string | undefined, string]>([
    ['a reservation wins over an old lease and a wish', from([lease('10.77.0.101', MAC)]), reserved, '10.77.0.102', '10.77.0.11'],
    ['a reservation needs no pool', from([], { subnet: without('pool') }), reserved, undefined, '10.77.0.11'],
    ['the old lease comes back, though it ended', from([lease('10.77.0.102', MAC, ended)]), dynamic, '10.77.0.103', '10.77.0.102'],
    ['an old lease that is another\'s now does not', from([lease('10.77.0.102', OTHER)]), dynamic, undefined, '10.77.0.100'],
    ['a wish in the pool is granted', from(), dynamic, '10.77.0.103', '10.77.0.103'],
    ['a wish outside the pool is not', from(), dynamic, '10.77.0.9', '10.77.0.100'],
    ['a wish for the server\'s address is not', from([], { subnet: { ...subnet, pool: parseRange('10.77.0.1-10.77.0.9')! } }), dynamic, '10.77.0.1', '10.77.0.2'],
    ['a wish that is leased is not', from([lease('10.77.0.103', OTHER)]), dynamic, '10.77.0.103', '10.77.0.100'],
    ['a wish that is offered to another is not', from([], heldBy(OTHER, '10.77.0.103')), dynamic, '10.77.0.103', '10.77.0.100'],
    ['an offer of our own is offered again', from([], heldBy(MAC, '10.77.0.103')), dynamic, '10.77.0.103', '10.77.0.103'],
    ['an offer that ran out is nobody\'s', from([], heldBy(OTHER, '10.77.0.100', NOW)), dynamic, undefined, '10.77.0.100'],
    ['addresses reserved for others are passed over', from([], { reserved: (ip) => (ip === '10.77.0.100' ? 'n2' : undefined) }), dynamic, undefined, '10.77.0.101'],
    ['addresses in quarantine are passed over', from([lease('10.77.0.100', OTHER, { ...ended, ...declined })]), dynamic, undefined, '10.77.0.101'],
    ['an old address in quarantine is not given back', from([lease('10.77.0.100', MAC, declined)]), dynamic, undefined, '10.77.0.101'],
    ['a never used address comes before one whose lease ended', from([lease('10.77.0.100', OTHER, ended)]), dynamic, undefined, '10.77.0.101'],
    ['then the one that ended longest ago', from([...full.slice(0, 2), lease('10.77.0.102', OTHER, { expiresAt: NOW - 5 }), lease('10.77.0.103', OTHER, { expiresAt: NOW - 9 })]), dynamic, undefined, '10.77.0.103'],
    ['network and broadcast address are nobody\'s', from([], { subnet: { ...without('router'), subnet: parseSubnet('10.77.0.0/30')!, pool: parseRange('10.77.0.0-10.77.0.3')! } }), dynamic, undefined, '10.77.0.2'],
    ['the router\'s address is nobody\'s', from([], { subnet: { ...subnet, pool: parseRange('10.77.0.253-10.77.0.254')!, router: '10.77.0.253' } }), dynamic, undefined, '10.77.0.254'],
    ['a reservation that a stranger holds falls back to the pool', from([lease('10.77.0.11', OTHER)]), reserved, undefined, '10.77.0.100'],
    ['a booting machine takes its reservation over from its other card', from([lease('10.77.0.11', SECOND_CARD)]), reserved, undefined, '10.77.0.11'],
    ['a running system does not: both cards are in use', from([lease('10.77.0.11', SECOND_CARD)]), { ...reserved, booting: false }, undefined, '10.77.0.100'],
    ['a reservation in another subnet does not count here', from(), { ...reserved, node: { ...bare, ip: '10.78.0.11' } }, undefined, '10.77.0.100'],
  ])('%s', (_what, addresses, who, requested, ip) => {
    expect(chooseAddress(addresses, who, requested)).toEqual({ ip });
  });

  it.each<[string, Addresses, Candidate, RegExp]>([
    ['an exhausted pool', from(full), dynamic, /^the pool of 10\.77\.0\.0\/24 is exhausted$/],
    ['no pool at all', from([], { subnet: without('pool') }), dynamic, /^10\.77\.0\.0\/24 has no pool$/],
    ['a reservation in quarantine and no pool', from([lease('10.77.0.11', OTHER, declined)], { subnet: without('pool') }), reserved, /reserved address 10\.77\.0\.11 is in quarantine.*has no pool/],
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
    ['INIT-REBOOT with a free address of the pool', from(), dynamic, 'init-reboot', OURS, 'ack'],
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
    ['REBINDING an address of another server', from(), dynamic, 'renewing', '10.77.0.50', 'silent'],
  ])('%s', (_what, addresses, who, state, ip, kind) => {
    expect(judgeRequest(addresses, who, { state, ip }).kind).toBe(kind);
  });
});

describe('subnetFor', () => {
  const second = { ...subnet, subnet: parseSubnet('10.78.0.0/24')!, serverIp: '10.78.0.1' };
  const subnets = [subnet, second];
  it.each([
    ['the relay\'s', packetWith([], { giaddr: '10.78.0.2', ciaddr: '10.77.0.9' }), '10.77.0.11', second],
    ['none for a relay that we do not serve', packetWith([], { giaddr: '10.79.0.2' }), '10.77.0.11', undefined],
    ['the machine\'s own', packetWith([], { ciaddr: '10.78.0.9' }), '10.77.0.11', second],
    ['its reservation\'s', packetWith([]), '10.78.0.11', second],
    ['the first', packetWith([]), undefined, subnet],
    ['the first when neither address is in any', packetWith([], { ciaddr: '192.168.0.1' }), '192.168.0.2', subnet],
  ])('%s', (_what, packet, ip, expected) => {
    expect(subnetFor(subnets, packet, ip)).toBe(expected);
  });
});

function without(key: 'pool' | 'router') {
  const { [key]: _gone, ...rest } = subnet;
  return rest;
}
