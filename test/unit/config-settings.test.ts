// rackseed.yaml: what it means, and every way to get it wrong with its place.
import { describe, expect, test } from 'vitest';
import { ip4ToNumber, parseSubnet } from '../../src/addr.ts';
import { servesUnlisted } from '../../src/config/dhcp-settings.ts';
import { FaultsError, formatFault } from '../../src/errors.ts';
import { parseSettings, readSettings } from '../../src/config/settings.ts';

const GOOD = `stateDir: state
dhcp:
  mode: full
  interfaces: [br0, { name: eth1, mode: off, serve: any }]
  subnets:
    - subnet: 10.77.0.0/24
      serverIp: 10.77.0.1
      pools:
        - { range: [10.77.0.180-10.77.0.199, 10.77.0.100-10.77.0.149], labels: { rack: 7 } }
        - range: 10.77.0.150-10.77.0.179
          profiles: [k0s-single]
      exclude: [10.77.0.150, 10.77.0.120-10.77.0.129]
      router: 10.77.0.2
      dns: [10.77.0.1]
      leaseTime: 90s
      options: { ntp-servers: [10.77.0.5], interface-mtu: 1400 }
    - subnet: 10.78.0.0/24
      relayed: true
      serverIp: 10.9.9.9
      pool: 10.78.0.10-10.78.0.20
      conflictCheck: off
repos:
  site: { url: https://git.example.org/site.git, refresh: 2h }
`;
const range = (from: string, to: string) => ({ first: ip4ToNumber(from), last: ip4ToNumber(to) });

function faultsOf(text: string): string[] {
  try {
    parseSettings(text, '/etc/rackseed/rackseed.yaml');
  } catch (error) {
    if (error instanceof FaultsError && error.code === 'CONFIG_INVALID') return error.faults.map((fault) => formatFault(fault).replaceAll('/etc/rackseed/', ''));
    throw error;
  }
  return [];
}

describe('settings', () => {
  test('paths are relative to the file, durations are seconds, machines are served where their subnets are unless it says where', () => {
    const settings = parseSettings(GOOD, '/etc/rackseed/rackseed.yaml');
    expect(settings).toMatchObject({ stateDir: '/etc/rackseed/state', profilesDir: '/etc/rackseed/boot-profiles', http: { port: 8080 }, api: { socket: '/etc/rackseed/state/api.sock' }, repos: { site: { refreshSeconds: 7200 } } });
    expect(settings.http).not.toHaveProperty('listen');
    expect(parseSettings('http: { listen: [10.77.0.1] }', '/x').http.listen).toEqual(['10.77.0.1']);
  });

  test('subnets: exclusions are cut out of the pools, ranges sorted, what is not written is absent', () => {
    const { dhcp } = parseSettings(GOOD, '/etc/rackseed/rackseed.yaml');
    expect(dhcp.interfaces).toEqual([{ name: 'br0' }, { name: 'eth1', mode: 'off', serve: 'any' }]);
    expect(dhcp.subnets).toEqual([
      {
        subnet: parseSubnet('10.77.0.0/24'),
        serverIp: '10.77.0.1',
        relayed: false,
        pools: [
          { ranges: [range('10.77.0.100', '10.77.0.119'), range('10.77.0.130', '10.77.0.149'), range('10.77.0.180', '10.77.0.199')], labels: { rack: '7' } },
          { ranges: [range('10.77.0.151', '10.77.0.179')], profiles: ['k0s-single'] },
        ],
        router: '10.77.0.2',
        dns: ['10.77.0.1'],
        leaseSeconds: 90,
        options: { 26: { hex: '0578' }, 42: { hex: '0a4d0005' } },
        conflictCheck: true,
      },
      { subnet: parseSubnet('10.78.0.0/24'), serverIp: '10.9.9.9', relayed: true, pools: [{ ranges: [range('10.78.0.10', '10.78.0.20')] }], dns: [], leaseSeconds: 43_200, options: {}, conflictCheck: false },
    ]);
  });

  test.each([
    ['on', true],
    ['off', false],
    ['true', true],
    ['false', false],
  ])('conflictCheck: %s is %s', (text, checked) => {
    expect(parseSettings(GOOD.replace('conflictCheck: off', `conflictCheck: ${text}`), '/x').dhcp.subnets[1]!.conflictCheck).toBe(checked);
  });

  test.each([
    ['', undefined],
    ['user: null', null],
    ['user: ~', null],
    ['user: dhcpd', 'dhcpd'],
  ])('%j: whether a user was written is kept', (text, user) => {
    expect(parseSettings(text, '/x').user).toBe(user);
    expect('user' in parseSettings(text, '/x')).toBe(text !== '');
  });

  test.each(['', '# nothing\n'])('a file with nothing in it (%j) has every default and no card to listen on', (text) => {
    expect(parseSettings(text, '/x/rackseed.yaml')).toMatchObject({ stateDir: '/var/lib/rackseed', dhcp: { mode: 'proxy', serve: 'known', interfaces: [], onConflict: 'refuse', otherServers: [], subnets: [] }, tftp: { enabled: true }, logLevel: 'info' });
  });

  test('a full subnet without a pool is right: its nodes have addresses of their own', () => {
    expect(parseSettings('dhcp: { mode: full, subnets: [{ subnet: 10.77.0.0/24 }] }', '/x').dhcp.subnets[0]!.pools).toEqual([]);
  });

  test('a mode of the interface counts for its subnet, so that a pool there is right', () => {
    expect(faultsOf('dhcp: { interfaces: [{ name: br0, mode: full }], subnets: [{ subnet: 10.77.0.0/24, interface: br0, pool: 10.77.0.100-10.77.0.199 }] }')).toEqual([]);
    expect(faultsOf('dhcp: { interfaces: [{ name: br0, mode: full }], subnets: [{ subnet: 10.77.0.0/24, pool: 10.77.0.100-10.77.0.199 }] }')).toEqual([]);
  });

  test('addresses outside of all subnets may be right only where a card serves its own', () => {
    const of = (text: string) => servesUnlisted(parseSettings(`dhcp: ${text}`, '/x').dhcp);
    expect([of('{ interfaces: [eth0] }'), of('{ interfaces: [{ name: eth0, mode: off }] }'), of('{ interfaces: [eth0], subnets: [{ subnet: 10.0.0.0/8, interface: eth0 }] }'), of('{}')]).toEqual([true, false, false, false]);
  });

  test('a missing file says what to write and how to try without one', () => {
    expect(() => readSettings('/nowhere/rackseed.yaml')).toThrow(expect.objectContaining({ code: 'CONFIG_MISSING', hint: expect.stringContaining('npm run lab') as string }) as Error);
  });

  test.each([
    ['a misspelt key', 'stateDir', 'statedir', 'rackseed.yaml:1:1: unknown key statedir (did you mean stateDir?)'],
    ['a misspelt key inside a list', 'leaseTime', 'leastTime', 'rackseed.yaml:15:7: unknown key leastTime (did you mean leaseTime?)'],
    ['a misspelt key of an interface', 'mode: off', 'mdoe: off', 'rackseed.yaml:4:35: unknown key mdoe (did you mean mode?)'],
    ['a misspelt key of a pool', 'profiles:', 'profile:', 'rackseed.yaml:11:11: unknown key profile (did you mean profiles?)'],
    ['a misspelt key of a repository', 'refresh', 'refesh', 'rackseed.yaml:23:50: unknown key refesh (did you mean refresh?)'],
    ['a mode that is none', 'mode: full', 'mode: on', 'rackseed.yaml:3:9: dhcp.mode: must be off or proxy or full, not on'],
    ['a mode of an interface that is none', 'mode: off', 'mode: quiet', 'rackseed.yaml:4:41: dhcp.interfaces.1.mode: must be off or proxy or full, not quiet'],
    ['whom to serve, wrongly', 'serve: any', 'serve: all', 'rackseed.yaml:4:53: dhcp.interfaces.1.serve: must be known or discovered or any, not all'],
    ['an interface that is a number', '[br0', '[7', 'rackseed.yaml:4:16: dhcp.interfaces.0: must be the name of a card, or { name, mode, serve }'],
    ['an interface with a slash', '[br0', '[br/0', 'rackseed.yaml:4:16: dhcp.interfaces.0: not the name of a card, such as eth0'],
    ['an interface twice', 'eth1', 'br0', 'rackseed.yaml:4:21: interface br0 stands twice, also at rackseed.yaml:4:16'],
    ['an unknown way out of a conflict', '  interfaces', '  onConflict: fight\n  interfaces', 'rackseed.yaml:4:15: dhcp.onConflict: must be refuse or proxy or ignore, not fight'],
    ['another server that is no address', '  interfaces', '  otherServers: [dhcp1]\n  interfaces', 'rackseed.yaml:4:18: dhcp.otherServers.0: not an IPv4 address, such as 10.77.0.1'],
    ['host bits in a subnet', '10.77.0.0/24', '10.77.0.5/24', 'rackseed.yaml:6:15: dhcp.subnets.0.subnet: not a subnet, such as 10.77.0.0/24 (host bits must be zero)'],
    ['our address outside of the subnet', 'serverIp: 10.77.0.1', 'serverIp: 10.79.0.1', 'rackseed.yaml:7:17: serverIp 10.79.0.1 is not in 10.77.0.0/24 (relayed: true, if its machines reach us through a relay)'],
    ['the broadcast address as ours', 'serverIp: 10.77.0.1', 'serverIp: 10.77.0.255', 'rackseed.yaml:7:17: serverIp 10.77.0.255 is not in 10.77.0.0/24'],
    ['a router outside of the subnet', 'router: 10.77.0.2', 'router: 10.78.0.2', 'rackseed.yaml:13:15: router 10.78.0.2 is not in 10.77.0.0/24'],
    ['a subnet on a card and behind a relay', '      relayed', '      interface: br0\n      relayed', 'rackseed.yaml:18:18: interface and relayed: true contradict each other (a relayed subnet lies on none of our cards)'],
    ['a subnet in another mode than its card', '      router', '      interface: eth1\n      mode: full\n      router', 'rackseed.yaml:14:13: mode full, but interface eth1 is off, at rackseed.yaml:4:41 (name the mode in one place only)'],
    ['a pool in proxy mode', '      conflictCheck', '      mode: proxy\n      conflictCheck', 'rackseed.yaml:20:13: mode proxy gives no addresses, so pool has no meaning (write mode: full, or take it away)'],
    ['a pool that ends before it starts', '150-10.77.0.179', '179-10.77.0.150', 'rackseed.yaml:10:18: dhcp.subnets.0.pools.1.range: not a range, such as 10.77.0.100-10.77.0.199'],
    ['a range of a list that ends before it starts', '100-10.77.0.149', '149-10.77.0.100', 'rackseed.yaml:9:46: dhcp.subnets.0.pools.0.range.1: not a range, such as 10.77.0.100-10.77.0.199'],
    ['a pool without a range', 'range: 10.77.0.150-10.77.0.179\n          ', '', 'rackseed.yaml:10:11: dhcp.subnets.0.pools.1.range: missing'],
    ['a list of no ranges', '[10.77.0.180-10.77.0.199, 10.77.0.100-10.77.0.149]', '[]', 'rackseed.yaml:9:20: dhcp.subnets.0.pools.0.range: needs at least one range'],
    ['a pool that leaves the subnet', '78.0.20', '79.0.20', 'rackseed.yaml:20:13: pool 10.78.0.10-10.79.0.20 is not in 10.78.0.0/24'],
    ['a pool with the broadcast address', '78.0.20', '78.0.255', 'rackseed.yaml:20:13: pool 10.78.0.10-10.78.0.255 is not in 10.78.0.0/24'],
    ['a pool that contains the router', '10.77.0.2\n', '10.77.0.160\n', 'rackseed.yaml:10:18: pool 10.77.0.150-10.77.0.179 contains router 10.77.0.160, which no machine can have (exclude: [10.77.0.160])'],
    ['pools that overlap', '10.77.0.150-', '10.77.0.149-', 'rackseed.yaml:10:18: pool 10.77.0.149-10.77.0.179 overlaps 10.77.0.100-10.77.0.149, at rackseed.yaml:9:46'],
    ['a pool in both forms', '      exclude', '      pool: 10.77.0.20-10.77.0.30\n      exclude', 'rackseed.yaml:9:9: pool is the short form of pools: write one of them, also at rackseed.yaml:12:13'],
    ['an exclusion of all', '10.77.0.150, ', '10.77.0.140-10.77.0.179, ', 'rackseed.yaml:10:18: exclude leaves no address of pool 10.77.0.150-10.77.0.179'],
    ['an exclusion outside of the subnet', '10.77.0.150, ', '10.79.0.150, ', 'rackseed.yaml:12:17: exclude 10.79.0.150 is not in 10.77.0.0/24'],
    ['an exclusion that is no address', '10.77.0.150, ', 'all, ', 'rackseed.yaml:12:17: dhcp.subnets.0.exclude.0: neither an IPv4 address nor a range, such as 10.77.0.100-10.77.0.199'],
    ['a label that is a list', 'rack: 7', 'rack: [7]', 'rackseed.yaml:9:88: dhcp.subnets.0.pools.0.labels.rack: must be one value, not a list'],
    ['no profile for a pool', '[k0s-single]', '[]', 'rackseed.yaml:11:21: dhcp.subnets.0.pools.1.profiles: needs at least one profile'],
    ['a duration without meaning', '90s', 'soon', 'rackseed.yaml:15:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['a duration of nothing', '90s', '0s', 'rackseed.yaml:15:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['a negative duration', '90s', '-5', 'rackseed.yaml:15:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['a lease that ends before it is used', '90s', '9s', 'rackseed.yaml:15:18: dhcp.subnets.0.leaseTime: a lease lasts 10s at least'],
    ['a domain that is none', '      router', '      domain: rack..test\n      router', 'rackseed.yaml:13:15: dhcp.subnets.0.domain: not a domain name, such as rack.example'],
    ['an unknown option', 'ntp-servers', 'ntp-sever', 'rackseed.yaml:16:18: unknown option ntp-sever (did you mean ntp-servers?)'],
    ['an option without a value', '1400', '', 'rackseed.yaml:16:60: dhcp.subnets.0.options.interface-mtu: has no value'],
    ['one option by name and by number', '1400', '1400, 26: { type: uint16, value: 1400 }', 'rackseed.yaml:16:65: option 26 is set twice, also at rackseed.yaml:16:44'],
    ['options that are a list', '{ ntp-servers: [10.77.0.5], interface-mtu: 1400 }', '[42]', 'rackseed.yaml:16:16: dhcp.subnets.0.options: must be a map, such as { key: value }, not a list'],
    ['a conflict check that is neither on nor off', 'conflictCheck: off', 'conflictCheck: maybe', 'rackseed.yaml:21:22: dhcp.subnets.1.conflictCheck: must be on or off'],
    ['relayed that is text', 'relayed: true', 'relayed: yes', 'rackseed.yaml:18:16: dhcp.subnets.1.relayed: must be true or false, not yes'],
    ['one key twice', 'repos:', 'stateDir: x\nrepos:', 'rackseed.yaml:22:1: key stateDir stands twice in one map, also at rackseed.yaml:1:1'],
    ['a repository name with a slash', '  site:', '  ../site:', 'rackseed.yaml:23:3: repos.../site: not a repository name: lower-case letters, digits and . _ -'],
    ['a section with nothing in it', 'repos:', 'tftp:\nrepos:', 'rackseed.yaml:22:6: tftp: empty'],
    ['a user that is forgotten', 'repos:', 'user:\nrepos:', 'rackseed.yaml:22:6: user: empty (user: null stays root)'],
    ['a user that can be none', 'repos:', 'user: "a b"\nrepos:', 'rackseed.yaml:22:7: user: not the name of a user'],
    ['two subnets that overlap', '10.78.0.0/24', '10.76.0.0/14', 'rackseed.yaml:17:15: subnet 10.76.0.0/14 overlaps 10.77.0.0/24, at rackseed.yaml:6:15'],
  ])('%s is told with its place', (_what, from, to, fault) => {
    expect(GOOD).toContain(from);
    expect(faultsOf(GOOD.replace(from, () => to))).toEqual([fault]);
  });

  test('all faults are told at once', () => {
    expect(faultsOf('stateDir: [x]\nhttp: { port: 0 }\nfoo: 1\n')).toHaveLength(3);
    expect(faultsOf('dhcp: { mode: full, interfaces: [a, a], subnets: [{ subnet: 10.0.0.0/24, serverIp: 10.1.0.1, pool: 10.2.0.1-10.2.0.2, options: { foo: 1 } }] }')).toHaveLength(4);
  });
});
