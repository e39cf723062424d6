// Where TFTP listens and whom it answers: what `tftp:` in rackseed.yaml means beside the subnets of DHCP.
import { describe, expect, test } from 'vitest';
import { parseIp6, parseSubnet, subnet6Contains, subnet6Of, subnetOf } from '../../src/addr.ts';
import type { Node } from '../../src/boot/node.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { blockSizeFor, tftpPlaces } from '../../src/daemon/tftp.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import { FaultsError, formatFault } from '../../src/errors.ts';

const FILE = '/etc/rackseed/rackseed.yaml';
const tftpOf = (yaml: string) => parseSettings(`tftp: ${yaml}`, FILE).tftp;

function faultsOf(yaml: string): string[] {
  try {
    tftpOf(yaml);
  } catch (error) {
    if (error instanceof FaultsError) return error.faults.map(formatFault);
    throw error;
  }
  return [];
}

describe('an IPv6 address', () => {
  test.each([
    ['FD00:77:0:0:0:0:0:1', 'fd00:77::1'],
    ['fd00:77::1', 'fd00:77::1'],
    ['::', '::'],
    ['::1', '::1'],
    ['::ffff:10.0.0.1', '::ffff:a00:1'],
    ['fe80::1%eth0', undefined],
    ['fd00:77::1::2', undefined],
    ['fd00:77', undefined],
    ['fd00:77::1]/x', undefined],
    ['10.0.0.1', undefined],
    ['1:2:3:4:5:6:7:8:9', undefined],
    ['', undefined],
  ])('%s is %s', (text, ip) => {
    expect(parseIp6(text)).toBe(ip);
  });

  test.each<[string, number, string, boolean]>([
    ['fd00:77::1', 64, 'fd00:77::ffff', true],
    ['fd00:77::1', 64, 'fd00:77:0:1::1', false],
    ['fd00:77::1', 128, 'fd00:77::1', true],
    ['fd00:77::1', 128, 'fd00:77::2', false],
    ['fd00:77::1', 61, 'fd00:77:0:7::', true],
    ['fd00:77::1', 61, 'fd00:77:0:8::', false],
    ['2001:db8:1:2:3:4:5:6', 112, '2001:db8:1:2:3:4:5:ffff', true],
    ['fd00::', 1, '7fff::', false],
    ['fd00::', 1, '8000::', true],
  ])('%s/%i has %s inside: %s', (ip, prefix, other, inside) => {
    expect(subnet6Contains(subnet6Of(ip, prefix), other)).toBe(inside);
  });
});

describe('tftp:', () => {
  test('without a word: on, where DHCP serves, with blocks for MTU 1500', () => {
    expect(tftpOf('{}')).toEqual({ enabled: true, blockSize: 1468 });
  });

  test('addresses with and without prefix', () => {
    expect(tftpOf('{ listen: [10.77.0.1, 10.78.0.1/24, "FD00:77::1/64"] }').listen).toEqual([
      { ip: '10.77.0.1' },
      { ip: '10.78.0.1', subnet: { network: 0x0a4e0000, prefix: 24 } },
      { ip: 'fd00:77::1', subnet: subnet6Of('fd00:77::', 64) },
    ]);
  });

  test.each([
    ['{ listen: [fd00:77::1] }', 'needs its prefix'],
    ['{ listen: ["fe80::1/64"] }', 'is link-local'],
    ['{ listen: ["::/64"] }', 'must be an address of this machine'],
    ['{ listen: ["ff02::1/64"] }', 'must be an address of this machine'],
    ['{ listen: ["::ffff:10.0.0.1/64"] }', 'is an IPv4 address in the clothes of IPv6'],
    ['{ listen: ["fd00:77::1/129"] }', 'not between 1 and 128'],
    ['{ listen: ["fd00:77::1/0"] }', 'not between 1 and 128'],
    ['{ listen: [0.0.0.0] }', 'must be an address of this machine'],
    ['{ listen: [239.0.0.1] }', 'must be an address of this machine'],
    ['{ listen: [10.77.0.1/33] }', 'not between 1 and 32'],
    ['{ listen: [10.77.0.1/0] }', 'not between 1 and 32'],
    ['{ listen: [eth0] }', 'not an IPv4 address, nor an IPv6 address with its prefix'],
    ['{ listen: [] }', 'needs at least one address'],
    ['{ listen: [10.77.0.1, 10.77.0.1/24] }', '10.77.0.1 stands twice'],
    ['{ listen: ["fd00:0::1/64", "fd00::1/64"] }', 'fd00::1 stands twice'],
    ['{ blockSize: 511 }', 'blockSize'],
    ['{ blockSize: 65465 }', 'blockSize'],
    ['{ blocksize: 1468 }', 'blockSize'],
  ])('%s is a fault: %s', (yaml, words) => {
    const faults = faultsOf(yaml);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toContain(words);
    expect(faults[0]).toMatch(/^\/etc\/rackseed\/rackseed\.yaml:1:\d+: /);
  });
});

describe('who is answered', () => {
  const subnet = (text: string, more: Partial<ServedSubnet> = {}): ServedSubnet => ({ subnet: parseSubnet(text)!, mode: 'full', serve: 'known', serverIp: '10.77.0.1', link: 'br0', pools: [], dns: [], leaseSeconds: 60, options: {}, conflictCheck: false, ...more });
  const mtu = (bytes: number) => ({ 26: { hex: bytes.toString(16).padStart(4, '0') } });
  const plan = (...subnets: ServedSubnet[]) => ({ subnets, serverIps: ['10.77.0.1'], links: [] });
  const { link: _link, ...relayed } = subnet('10.78.0.0/24', { serve: 'any' });

  test('every subnet that DHCP serves, relayed ones too, each as it says, at our address towards it', () => {
    expect(tftpPlaces(tftpOf('{}'), plan(subnet('10.77.0.0/24'), relayed), 'known', FILE)).toEqual({
      listen: ['10.77.0.1'],
      served: [
        { subnet: parseSubnet('10.77.0.0/24'), serve: 'known', blockSize: 1468 },
        { subnet: parseSubnet('10.78.0.0/24'), serve: 'any', blockSize: 1468 },
      ],
      links: [],
    });
  });

  test.each<[string, number, string, number]>([
    ['no more than the MTU that its machines are told', 1400, '{}', 1368],
    ['no more than is set', 1400, '{ blockSize: 1024 }', 1024],
    ['no more than is set, in a subnet of larger frames', 9000, '{}', 1468],
    ['larger frames where both say so', 9000, '{ blockSize: 8968 }', 8968],
    ["never less than a client without options gets, RFC 1350's 512", 300, '{}', 512],
  ])('blocks are %s', (_what, bytes, yaml, blockSize) => {
    expect(tftpPlaces(tftpOf(yaml), plan(subnet('10.77.0.0/24', { options: mtu(bytes) })), 'known', FILE).served![0]!.blockSize).toBe(blockSize);
  });

  test.each<[string, Node['dhcpOptions'], string, number]>([
    ['what it is told of its MTU, less the headers', mtu(1400), '10.77.0.11', 1368],
    ['by IPv6 20 bytes less', mtu(1400), 'fd00:77::11', 1348],
    ["never less than RFC 1350's 512", mtu(300), '10.77.0.11', 512],
    ['anything, when it is told nothing', undefined, '10.77.0.11', Infinity],
    ['anything, when it is told other things', { 42: { hex: '0a4d0001' } }, '10.77.0.11', Infinity],
  ])('a node may get in a block %s', (_what, dhcpOptions, peer, blockSize) => {
    const node: Node = { name: 'n1', macs: [], labels: {}, vars: {}, exit: 'exit', profile: 'p', source: 'yaml', ...(dhcpOptions ? { dhcpOptions } : {}) };
    expect(blockSizeFor(node, peer)).toBe(blockSize);
  });

  test('peers of an address with a prefix, as dhcp.serve says, and blocks of 20 bytes less by IPv6', () => {
    const places = tftpPlaces(tftpOf('{ listen: [10.77.0.1, 10.79.0.1/24, "fd00:77::1/64"] }'), plan(subnet('10.77.0.0/24')), 'discovered', FILE);
    expect(places.listen).toEqual(['10.77.0.1', '10.79.0.1', 'fd00:77::1']);
    expect(places.served!.slice(1)).toEqual([
      { subnet: subnetOf('10.79.0.1', 24), serve: 'discovered', blockSize: 1468 },
      { subnet: subnet6Of('fd00:77::1', 64), serve: 'discovered', blockSize: 1448 },
    ]);
  });

  test('without DHCP an address needs its prefix, or nobody would be answered there', () => {
    const nothing = { subnets: [], serverIps: [], links: [] };
    expect(() => tftpPlaces(tftpOf('{ listen: [10.77.0.1] }'), nothing, 'known', FILE)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', hint: expect.stringContaining('10.77.0.1/24') }));
    expect(tftpPlaces(tftpOf('{ listen: [10.77.0.1/24] }'), nothing, 'known', FILE).served).toHaveLength(1);
    expect(tftpPlaces(tftpOf('{}'), nothing, 'known', FILE)).toEqual({ listen: [], served: [], links: [] });
  });
});
