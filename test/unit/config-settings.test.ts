// rackseed.yaml: what it means, and every way to get it wrong with its place.
import { describe, expect, test } from 'vitest';
import { FaultsError, formatFault } from '../../src/errors.ts';
import { parseSettings, readSettings } from '../../src/config/settings.ts';

const GOOD = `stateDir: state
dhcp:
  mode: full
  subnets:
    - subnet: 10.77.0.0/24
      serverIp: 10.77.0.1
      pool: 10.77.0.100-10.77.0.199
      router: 10.77.0.2
      dns: [10.77.0.1]
      leaseTime: 90s
repos:
  site: { url: https://git.example.org/site.git, refresh: 2h }
`;

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
  test('paths are relative to the file, durations are seconds, machines are served at each serverIp', () => {
    const settings = parseSettings(GOOD, '/etc/rackseed/rackseed.yaml');
    expect(settings).toMatchObject({ stateDir: '/etc/rackseed/state', profilesDir: '/etc/rackseed/boot-profiles', http: { port: 8080, listen: ['10.77.0.1'] }, api: { socket: '/etc/rackseed/state/api.sock' }, repos: { site: { refreshSeconds: 7200 } } });
    expect(settings.dhcp.subnets[0]).toMatchObject({ serverIp: '10.77.0.1', router: '10.77.0.2', leaseSeconds: 90, pool: { first: 0x0a4d0064, last: 0x0a4d00c7 } });
  });

  test.each(['', '# nothing\n'])('a file with nothing in it (%j) has every default and no DHCP', (text) => {
    expect(parseSettings(text, '/x/rackseed.yaml')).toMatchObject({ stateDir: '/var/lib/rackseed', dhcp: { mode: 'off', subnets: [] }, tftp: { enabled: true }, logLevel: 'info' });
  });

  test('a missing file says what to write and how to try without one', () => {
    expect(() => readSettings('/nowhere/rackseed.yaml')).toThrow(expect.objectContaining({ code: 'CONFIG_MISSING', hint: expect.stringContaining('npm run lab') as string }) as Error);
  });

  test.each([
    ['a misspelt key', 'stateDir', 'statedir', 'rackseed.yaml:1:1: unknown key statedir (did you mean stateDir?)'],
    ['a misspelt key inside a list', 'leaseTime', 'leastTime', 'rackseed.yaml:10:7: unknown key leastTime (did you mean leaseTime?)'],
    ['a misspelt key of a repository', 'refresh', 'refesh', 'rackseed.yaml:12:50: unknown key refesh (did you mean refresh?)'],
    ['a mode that is none', 'full', 'proxy', 'rackseed.yaml:3:9: dhcp.mode: must be off or full, not proxy'],
    ['host bits in a subnet', '10.77.0.0/24', '10.77.0.5/24', 'rackseed.yaml:5:15: dhcp.subnets.0.subnet: not a subnet, such as 10.77.0.0/24 (host bits must be zero)'],
    ['a subnet without its own address', '      serverIp: 10.77.0.1\n', '', 'rackseed.yaml:5:7: dhcp.subnets.0.serverIp: missing'],
    ['our address outside of the subnet', 'serverIp: 10.77.0.1', 'serverIp: 10.78.0.1', 'rackseed.yaml:6:17: serverIp 10.78.0.1 is not in 10.77.0.0/24'],
    ['the broadcast address as ours', 'serverIp: 10.77.0.1', 'serverIp: 10.77.0.255', 'rackseed.yaml:6:17: serverIp 10.77.0.255 is not in 10.77.0.0/24'],
    ['a router outside of the subnet', 'router: 10.77.0.2', 'router: 10.78.0.2', 'rackseed.yaml:8:15: router 10.78.0.2 is not in 10.77.0.0/24'],
    ['a pool that ends before it starts', '100-10.77.0.199', '199-10.77.0.100', 'rackseed.yaml:7:13: dhcp.subnets.0.pool: not a range, such as 10.77.0.100-10.77.0.199'],
    ['a pool that leaves the subnet', '0.199', '1.199', 'rackseed.yaml:7:13: pool 10.77.0.100-10.77.1.199 is not in 10.77.0.0/24'],
    ['a pool that contains the router', '10.77.0.2\n', '10.77.0.150\n', 'rackseed.yaml:7:13: pool 10.77.0.100-10.77.0.199 contains router 10.77.0.150, which no machine can have'],
    ['a duration without meaning', '90s', 'soon', 'rackseed.yaml:10:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['a duration of nothing', '90s', '0s', 'rackseed.yaml:10:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['a negative duration', '90s', '-5', 'rackseed.yaml:10:18: dhcp.subnets.0.leaseTime: not a duration, such as 90s, 30m, 12h or 7d'],
    ['one key twice', 'repos:', 'stateDir: x\nrepos:', 'rackseed.yaml:11:1: key stateDir stands twice in one map, also at rackseed.yaml:1:1'],
    ['full DHCP without a subnet', GOOD.slice(GOOD.indexOf('  subnets'), GOOD.indexOf('repos')), '', 'rackseed.yaml:3:9: dhcp.mode full needs at least one of dhcp.subnets'],
    ['a repository name with a slash', '  site:', '  ../site:', "rackseed.yaml:12:3: repos.../site: not a repository name: lower-case letters, digits and . _ -"],
    ['a section with nothing in it', 'repos:', 'tftp:\nrepos:', 'rackseed.yaml:11:6: tftp: empty'],
    ['two subnets that overlap', 'repos:', '    - { subnet: 10.77.0.0/16, serverIp: 10.77.0.3 }\nrepos:', 'rackseed.yaml:11:17: subnet 10.77.0.0/16 overlaps 10.77.0.0/24, at rackseed.yaml:5:15'],
  ])('%s is told with its place', (_what, from, to, fault) => {
    expect(GOOD).toContain(from);
    expect(faultsOf(GOOD.replace(from, to))).toEqual([fault]);
  });

  test('all faults are told at once', () => {
    expect(faultsOf('stateDir: [x]\nhttp: { port: 0 }\nfoo: 1\n')).toHaveLength(3);
  });
});
