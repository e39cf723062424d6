// Settings against the cards of a machine: what is served where, and what is refused with what to do about it.
import { describe, expect, test } from 'vitest';
import { formatSubnet, parseSubnet } from '../../src/addr.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { bestDefaultRoute } from '../../src/dhcp/cards.ts';
import { resolveLinks, type Card } from '../../src/dhcp/links.ts';

const card = (name: string, ...addresses: string[]): Card => ({ name, addresses: addresses.map((text) => ({ address: text.split('/')[0]!, prefix: Number(text.split('/')[1]) })) });
/** A machine with the office on eth0, where its default route leads, and a boot LAN on br0; nothing is plugged into eth2. */
const CARDS = [card('lo', '127.0.0.1/8'), card('eth0', '192.168.1.20/24'), card('br0', '10.77.0.1/24', '10.88.0.1/16'), card('eth2')];

function resolve(yaml: string, cards: readonly Card[] = CARDS) {
  const resolved = resolveLinks(parseSettings(`dhcp: ${yaml}`, '/etc/rackseed.yaml').dhcp, cards, 'eth0');
  if ('fault' in resolved) return { fault: `${resolved.fault} (${resolved.hint})` };
  return {
    links: resolved.links,
    subnets: resolved.subnets.map(({ subnet, mode, serve, serverIp, link }) => `${formatSubnet(subnet)} ${mode} ${serve} ${serverIp} ${link ?? 'relayed'}`),
  };
}

describe('what is served', () => {
  test('nothing, where nothing is listed', () => {
    expect(resolve('{ mode: full }')).toEqual({ links: [], subnets: [] });
  });

  test.each([
    ['a listed card serves its own subnet as a proxy', '{ interfaces: [eth0] }', ['192.168.1.0/24 proxy known 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'proxy', serverIps: ['192.168.1.20'] }]],
    ['a card with two subnets serves both', '{ serve: discovered, interfaces: [br0] }', ['10.77.0.0/24 proxy discovered 10.77.0.1 br0', '10.88.0.0/16 proxy discovered 10.88.0.1 br0'], [{ name: 'br0', mode: 'proxy', serverIps: ['10.77.0.1', '10.88.0.1'] }]],
    ['an entry of a card has a mode and guests of its own', '{ mode: full, interfaces: [{ name: eth0, mode: proxy, serve: any }] }', ['192.168.1.0/24 proxy any 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'proxy', serverIps: ['192.168.1.20'] }]],
    ['a card that is off only listens', '{ interfaces: [{ name: eth0, mode: off }] }', [], [{ name: 'eth0', mode: 'off', serverIps: ['192.168.1.20'] }]],
    ['mode off of all is off', '{ mode: off, subnets: [{ subnet: 10.77.0.0/24 }, { subnet: 10.99.0.0/24 }] }', [], []],
    ['a subnet is found by its card', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24, interface: br0 }] }', ['10.77.0.0/24 full known 10.77.0.1 br0'], [{ name: 'br0', mode: 'full', serverIps: ['10.77.0.1'] }]],
    ['a subnet is found by our address', '{ mode: full, subnets: [{ subnet: 10.88.0.0/24, serverIp: 10.88.0.1 }] }', ['10.88.0.0/24 full known 10.88.0.1 br0'], [{ name: 'br0', mode: 'full', serverIps: ['10.88.0.1'] }]],
    ['a subnet is found by the card that has an address in it', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24 }] }', ['10.77.0.0/24 full known 10.77.0.1 br0'], [{ name: 'br0', mode: 'full', serverIps: ['10.77.0.1'] }]],
    ["a subnet takes its card's mode and guests", '{ interfaces: [{ name: br0, mode: full, serve: any }], subnets: [{ subnet: 10.77.0.0/24 }] }', ['10.77.0.0/24 full any 10.77.0.1 br0'], [{ name: 'br0', mode: 'full', serverIps: ['10.77.0.1'] }]],
    ['a full subnet makes its card full when its entry says nothing', '{ interfaces: [br0], subnets: [{ subnet: 10.77.0.0/24, mode: full, serve: any }] }', ['10.77.0.0/24 full any 10.77.0.1 br0'], [{ name: 'br0', mode: 'full', serverIps: ['10.77.0.1'] }]],
    ['an entry in mode off takes one subnet of a card out', '{ interfaces: [br0], subnets: [{ subnet: 10.77.0.0/24, mode: off }] }', ['10.88.0.0/16 proxy known 10.88.0.1 br0'], [{ name: 'br0', mode: 'proxy', serverIps: ['10.88.0.1'] }]],
    ['an entry for another card does not describe the own subnet of this one', '{ interfaces: [eth0], subnets: [{ subnet: 192.168.1.0/24, mode: off, interface: br0 }] }', ['192.168.1.0/24 proxy known 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'proxy', serverIps: ['192.168.1.20'] }]],
    ['full on the card of the default route, named by the subnet', '{ mode: full, subnets: [{ subnet: 192.168.1.0/24, interface: eth0 }] }', ['192.168.1.0/24 full known 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'full', serverIps: ['192.168.1.20'] }]],
    ['full on the card of the default route, listed', '{ mode: full, interfaces: [eth0], subnets: [{ subnet: 192.168.1.0/24 }] }', ['192.168.1.0/24 full known 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'full', serverIps: ['192.168.1.20'] }]],
    ['proxy on the card of the default route needs no naming', '{ subnets: [{ subnet: 192.168.1.0/24 }] }', ['192.168.1.0/24 proxy known 192.168.1.20 eth0'], [{ name: 'eth0', mode: 'proxy', serverIps: ['192.168.1.20'] }]],
    ['a relayed subnet is told the first address that we listen on', '{ interfaces: [{ name: br0, mode: off }], subnets: [{ subnet: 10.1.0.0/24, mode: full, relayed: true }] }', ['10.1.0.0/24 full known 10.77.0.1 relayed'], [{ name: 'br0', mode: 'off', serverIps: ['10.77.0.1', '10.88.0.1'] }]],
    ['a relayed subnet beside a boot LAN', '{ mode: full, subnets: [{ subnet: 10.1.0.0/24, relayed: true }, { subnet: 10.77.0.0/24, interface: br0 }] }', ['10.77.0.0/24 full known 10.77.0.1 br0', '10.1.0.0/24 full known 10.77.0.1 relayed'], [{ name: 'br0', mode: 'full', serverIps: ['10.77.0.1'] }]],
    ['a relayed subnet with an address of a card that is not listed', '{ interfaces: [{ name: eth0, mode: off }], subnets: [{ subnet: 10.1.0.0/24, mode: full, relayed: true, serverIp: 10.77.0.1 }] }', ['10.1.0.0/24 full known 10.77.0.1 relayed'], [{ name: 'eth0', mode: 'off', serverIps: ['192.168.1.20', '10.77.0.1'] }]],
    ['a card without an address may listen for relays', '{ interfaces: [{ name: eth2, mode: off }], subnets: [{ subnet: 10.1.0.0/24, mode: full, relayed: true, serverIp: 10.77.0.1 }] }', ['10.1.0.0/24 full known 10.77.0.1 relayed'], [{ name: 'eth2', mode: 'off', serverIps: ['10.77.0.1'] }]],
    ['of two cards in one subnet the listed one counts', '{ mode: full, interfaces: [eth1], subnets: [{ subnet: 10.77.0.0/24 }] }', ['10.77.0.0/24 full known 10.77.0.7 eth1'], [{ name: 'eth1', mode: 'full', serverIps: ['10.77.0.7'] }], [...CARDS, card('eth1', '10.77.0.7/24')]],
  ])('%s', (_what, yaml, subnets, links, cards: readonly Card[] = CARDS) => {
    expect(resolve(yaml, cards)).toEqual({ subnets, links });
  });

  test('all that an entry says comes along', () => {
    const { dhcp } = parseSettings('dhcp: { mode: full, subnets: [{ subnet: 10.77.0.0/24, pool: 10.77.0.100-10.77.0.199, router: 10.77.0.2, dns: [10.77.0.3], domain: rack.test, leaseTime: 1h }] }', '/x');
    const resolved = resolveLinks(dhcp, CARDS);
    const { pools } = dhcp.subnets[0]!;
    expect(resolved).toMatchObject({ subnets: [{ subnet: parseSubnet('10.77.0.0/24'), mode: 'full', serve: 'known', serverIp: '10.77.0.1', link: 'br0', pools, router: '10.77.0.2', dns: ['10.77.0.3'], domain: 'rack.test', leaseSeconds: 3600, options: {}, conflictCheck: true }] });
  });

  test('addresses behind a relay are never looked for', () => {
    const resolved = resolveLinks(parseSettings('dhcp: { mode: full, interfaces: [{ name: br0, mode: off }], subnets: [{ subnet: 10.1.0.0/24, relayed: true }] }', '/x').dhcp, CARDS);
    expect(resolved).toMatchObject({ subnets: [{ conflictCheck: false }] });
  });
});

describe('what is refused', () => {
  test.each([
    ['a card that is not there', '{ interfaces: [eth7] }', 'this machine has no card eth7 (it has lo, eth0, br0, eth2)'],
    ['a card of a subnet that is not there', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24, interface: br1 }] }', 'this machine has no card br1 (it has lo, eth0, br0, eth2)'],
    ['a listed card without an address', '{ interfaces: [eth2] }', 'eth2 has no IPv4 address, so nothing can be served there (ip address add <our address>/24 dev eth2; or mode: off, to listen there for relays only)'],
    ['a card without an address for its subnet', '{ mode: full, subnets: [{ subnet: 10.1.0.0/24, interface: br0 }] }', 'br0 has no address in 10.1.0.0/24, br0 has 10.77.0.1/24 and 10.88.0.1/16 (ip address add <our address>/24 dev br0)'],
    ['a card without the address that the subnet names', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24, interface: br0, serverIp: 10.77.0.9 }] }', 'br0 has no address 10.77.0.9, br0 has 10.77.0.1/24 and 10.88.0.1/16 (ip address add 10.77.0.9/24 dev br0)'],
    ['a subnet that no card is on', '{ mode: full, subnets: [{ subnet: 10.1.0.0/24 }] }', 'no card of this machine has an address in 10.1.0.0/24: lo has 127.0.0.1/8, eth0 has 192.168.1.20/24, br0 has 10.77.0.1/24 and 10.88.0.1/16, eth2 has none (ip address add <our address>/24 dev <card>; or relayed: true where relays bring its machines)'],
    ['an address that no card holds', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24, serverIp: 10.77.0.9 }] }', 'no card of this machine has an address 10.77.0.9: lo has 127.0.0.1/8, eth0 has 192.168.1.20/24, br0 has 10.77.0.1/24 and 10.88.0.1/16, eth2 has none (ip address add 10.77.0.9/24 dev <card>; or relayed: true where relays bring its machines)'],
    ['a subnet that two cards are on', '{ mode: full, subnets: [{ subnet: 10.77.0.0/24 }] }', 'br0 and eth1 both have an address in 10.77.0.0/24 (write interface: br0 (or the other) in the subnet 10.77.0.0/24)', [...CARDS, card('eth1', '10.77.0.7/24')]],
    ['full on the card of the default route', '{ mode: full, subnets: [{ subnet: 192.168.1.0/24 }] }', "subnet 192.168.1.0/24 would be served in full mode on eth0, the card of this machine's default route (that is mostly somebody else's LAN, and a second DHCP server breaks it. If it is meant, write interface: eth0 in the subnet; if not, mode: proxy)"],
    ['full on the card of the default route, by our address', '{ mode: full, interfaces: [br0], subnets: [{ subnet: 192.168.1.0/24, serverIp: 192.168.1.20 }] }', "subnet 192.168.1.0/24 would be served in full mode on eth0, the card of this machine's default route (that is mostly somebody else's LAN, and a second DHCP server breaks it. If it is meant, write interface: eth0 in the subnet; if not, mode: proxy)"],
    ['a full card without an entry for its subnet', '{ mode: full, interfaces: [eth0] }', 'eth0 is in mode full, and no entry of dhcp.subnets says which addresses of 192.168.1.0/24 it may give (write under dhcp.subnets: { subnet: 192.168.1.0/24, interface: eth0, mode: full, pool: <first>-<last> })'],
    ['two modes on one card', '{ subnets: [{ subnet: 10.77.0.0/24, mode: full }, { subnet: 10.88.0.0/16, mode: proxy }] }', 'br0 would be full for 10.77.0.0/24 and proxy for 10.88.0.0/16 (one link has one mode: a machine without an address cannot say which subnet it means)'],
    ['a subnet in another mode than the card on which it turns out to lie', '{ interfaces: [{ name: br0, mode: off }], subnets: [{ subnet: 10.77.0.0/24, mode: full }] }', 'subnet 10.77.0.0/24 is full, but it lies on br0, which dhcp.interfaces has as off (name the mode in one place only)'],
    ['a pool on a card that turns out to be a proxy', '{ interfaces: [{ name: br0, mode: proxy }], subnets: [{ subnet: 10.77.0.0/24, pool: 10.77.0.5-10.77.0.9 }] }', 'subnet 10.77.0.0/24 has a pool, and mode proxy gives no addresses (write mode: full, or take the pool away)'],
    ['relays that nobody hears', '{ mode: full, subnets: [{ subnet: 10.1.0.0/24, relayed: true }] }', 'subnet 10.1.0.0/24 is reached through relays, and no card is listed to hear them on (list the card that relays reach: dhcp.interfaces: [{ name: <card>, mode: off }] listens there for relays only)'],
    ['a relayed subnet that a card of ours is on', '{ interfaces: [br0], subnets: [{ subnet: 10.77.0.0/24, mode: full, relayed: true }] }', 'subnet 10.77.0.0/24 says relayed: true, but br0 has 10.77.0.1 in it (take relayed: true away, or br0 out of dhcp.interfaces)'],
    ['an address for relayed machines that is not ours', '{ interfaces: [{ name: br0, mode: off }], subnets: [{ subnet: 10.1.0.0/24, mode: full, relayed: true, serverIp: 10.5.0.1 }] }', 'serverIp 10.5.0.1 of relayed subnet 10.1.0.0/24 is no address of this machine: lo has 127.0.0.1/8, eth0 has 192.168.1.20/24, br0 has 10.77.0.1/24 and 10.88.0.1/16, eth2 has none (ip address add 10.5.0.1/32 dev lo, or name one of those)'],
    ['a relayed subnet that no address of ours is left for', '{ interfaces: [{ name: eth2, mode: off }], subnets: [{ subnet: 10.1.0.0/24, mode: full, relayed: true }] }', 'subnet 10.1.0.0/24 has no serverIp, and eth2 has no address to stand in for it (ip address add <our address>/24 dev eth2)'],
  ])('%s', (_what, yaml, fault, cards: readonly Card[] = CARDS) => {
    expect(resolve(yaml, cards)).toEqual({ fault });
  });
});

describe('the default route', () => {
  const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT';
  const line = (name: string, destination: string, flags: string, metric: number, mask: string) => `${name}\t${destination}\t0101A8C0\t${flags}\t0\t0\t${metric}\t${mask}\t0\t0\t0   `;
  test.each([
    ['is the one with all zeros', [line('eth0', '0001A8C0', '0001', 0, '00FFFFFF'), line('eth1', '00000000', '0003', 0, '00000000')], 'eth1'],
    ['of two is the one with the lower metric', [line('wlan0', '00000000', '0003', 600, '00000000'), line('eth0', '00000000', '0003', 100, '00000000')], 'eth0'],
    ['that rejects leads nowhere', [line('*', '00000000', '0200', 0, '00000000')], undefined],
    ['is not half of the world', [line('tun0', '00000000', '0003', 0, '00000080')], undefined],
    ['may be missing', [], undefined],
  ])('%s', (_what, lines, name) => {
    expect(bestDefaultRoute([HEAD, ...lines, ''])).toBe(name);
  });
});
