// docs/OPERATING.md: settings that mean what they say, blocks that other servers' own checkers take, and a line for each counter that there is.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { formatSubnet } from '../../src/addr.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { createInbox } from '../../src/dhcp/inbox.ts';
import { resolveLinks, type Card } from '../../src/dhcp/links.ts';
import { conflictError } from '../../src/dhcp/lookout.ts';
import { blocksOf, iscConfig, keaConfig, OPERATING } from '../operating-blocks.ts';
import { startHarness } from './dhcp-harness.ts';

let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-operating-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a copy: Debian's AppArmor profiles hold for the paths of the packages, and would keep the programs from our directory. */
function check(context: TestContext, program: string, config: string, argv: (file: string) => readonly string[]): { readonly status: number | null; readonly said: string } {
  const original = `/usr/sbin/${program}`;
  if (!existsSync(original)) context.skip(`${program} is not installed`);
  const copy = join(dir, program);
  copyFileSync(original, copy);
  const file = join(dir, `${program}.conf`);
  writeFileSync(file, config);
  const { status, stdout, stderr } = spawnSync(copy, argv(file), { encoding: 'utf8', env: { ...process.env, KEA_LOCKFILE_DIR: 'none', KEA_PIDFILE_DIR: dir } });
  return { status, said: `${stdout}${stderr}` };
}

const dnsmasq = (context: TestContext, config: string) => check(context, 'dnsmasq', config, (file) => ['--test', `--conf-file=${file}`]);
const kea = (context: TestContext, config: string) => check(context, 'kea-dhcp4', config, (file) => ['-t', file]);
const isc = (context: TestContext, config: string) => check(context, 'dhcpd', config, (file) => ['-t', '-4', '-cf', file]);

describe('blocks for other servers', () => {
  it('are there for each of them', () => {
    expect(Object.fromEntries(['dnsmasq', 'kea', 'isc', 'routeros', 'yaml'].map((language) => [language, blocksOf(language).length]))).toEqual({ dnsmasq: 2, kea: 1, isc: 1, routeros: 2, yaml: 2 });
  });

  it('dnsmasq --test takes both, and finds a mistake in one', (context) => {
    for (const block of blocksOf('dnsmasq')) expect(dnsmasq(context, block)).toMatchObject({ status: 0 });
    expect(dnsmasq(context, blocksOf('dnsmasq')[0]!.replace('dhcp-match', 'dhcp-mach'))).toMatchObject({ status: 1 });
  });

  it('kea-dhcp4 -t takes its own, and finds a mistake in it', (context) => {
    const [block] = blocksOf('kea');
    const taken = kea(context, keaConfig(block!));
    expect(taken.status, taken.said).toBe(0);
    expect(kea(context, keaConfig(block!.replace('not member(', 'not membre(')))).toMatchObject({ status: 1 });
  });

  it('dhcpd -t takes its own, alone and beside a subnet, and finds a mistake in it', (context) => {
    const [block] = blocksOf('isc');
    for (const config of [block!, iscConfig(block!)]) {
      const taken = isc(context, config);
      expect(taken.status, taken.said).toBe(0);
    }
    expect(isc(context, block!.replace('elsif', 'elseif'))).toMatchObject({ status: 1 });
  });
});

describe('settings', () => {
  const CARDS: Card[] = [{ name: 'eth0', addresses: [{ address: '192.168.1.20', prefix: 24 }] }];
  it.each([
    ['the first: a proxy on the card of the default route', 0, ['192.168.1.0/24 proxy 192.168.1.20 eth0 known'], 'eth0 proxy'],
    ['behind relays: one full, one proxied, and nothing on the card itself', 1, ['10.1.0.0/24 full 192.168.1.20 - known', '10.2.0.0/24 proxy 192.168.1.20 - known'], 'eth0 off'],
  ])('%s', (_what, index, subnets, link) => {
    const resolved = resolveLinks(parseSettings(blocksOf('yaml')[index]!, '/etc/rackseed/rackseed.yaml').dhcp, CARDS, 'eth0');
    if ('fault' in resolved) throw new Error(resolved.fault);
    expect(resolved.subnets.map((one) => `${formatSubnet(one.subnet)} ${one.mode} ${one.serverIp} ${one.link ?? '-'} ${one.serve}`)).toEqual(subnets);
    expect(resolved.links.map(({ name, mode }) => `${name} ${mode}`)).toEqual([link]);
  });
});

it('the refusal beside another server is quoted as it is', () => {
  const { message, hint, code } = conflictError([{ link: 'eth0', ip: '192.168.1.1', mac: '52:54:00:aa:bb:cc' }]);
  expect(OPERATING).toContain(`rackseed: ${message}\n  hint: ${hint} [${code}]\n`);
});

it('the table of counters has a line for each, in the order of `dhcp status`', async () => {
  const harness = await startHarness({ subnets: [] });
  try {
    const table = OPERATING.slice(OPERATING.indexOf('| counter | counts |'));
    expect([...table.matchAll(/^\| `([a-z]+)` \|/gm)].map(([, name]) => name)).toEqual([...Object.keys(harness.counters), ...Object.keys(createInbox().counters)]);
  } finally {
    await harness.close();
  }
});

it('every file of packaging/systemd that it installs is there', () => {
  const block = blocksOf('sh').find((one) => one.includes('packaging/systemd'))!;
  for (const file of ['sysusers.conf', 'tmpfiles.conf', 'rackseed.service', 'add-card']) {
    expect(block).toContain(file);
    expect(readFileSync(new URL(`../../packaging/systemd/${file}`, import.meta.url), 'utf8')).not.toBe('');
  }
});
