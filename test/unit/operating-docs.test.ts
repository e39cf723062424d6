// docs/OPERATING.md: settings that mean what they say, blocks that other servers' own checkers take, and a line for each counter, limit and metric that there is.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { parse } from 'yaml';
import { formatSubnet } from '../../src/addr.ts';
import { IMAGE_BYTES } from '../../src/http/blobs.ts';
import { CUTS, STATUS_CLASSES } from '../../src/http/counters.ts';
import { LIMITS as HTTP_LIMITS } from '../../src/http/listener.ts';
import { createMetrics, type TftpFigures } from '../../src/metrics.ts';
import { BACKLOG } from '../../src/net/listening-socket.ts';
import { FILE_CACHE_BYTES } from '../../src/tftp/file-cache.ts';
import { MOST_RINGS } from '../../src/tftp/rings.ts';
import { LIMITS as TFTP_LIMITS } from '../../src/tftp/server.ts';
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
    expect(Object.fromEntries(['dnsmasq', 'kea', 'isc', 'routeros', 'yaml'].map((language) => [language, blocksOf(language).length]))).toEqual({ dnsmasq: 2, kea: 1, isc: 1, routeros: 2, yaml: 3 });
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

it('the limits of files are those of the code', () => {
  const table = OPERATING.slice(OPERATING.indexOf('| limit | of |'), OPERATING.indexOf('\n\n', OPERATING.indexOf('| limit | of |')));
  const limits = [...table.matchAll(/^\| ([\d,]+)( MiB)? \|/gm)].map(([, number, mib]) => Number(number!.replaceAll(',', '')) * (mib ? 2 ** 20 : 1));
  const { http } = parseSettings('stateDir: /x', '/x/rackseed.yaml');
  expect(limits).toEqual([TFTP_LIMITS.transfers, TFTP_LIMITS.perIp, TFTP_LIMITS.ip6, FILE_CACHE_BYTES, MOST_RINGS, HTTP_LIMITS.connections, HTTP_LIMITS.connectionsOfPeer, http.maxStreams, IMAGE_BYTES, http.cacheBytes, BACKLOG]);
});

describe('metrics', () => {
  /** Each with one sample of each label. */
  const render = async () => {
    const tftp = { requests: 1, active: 1, complete: 1, aborted: 1, failed: 1, refused: 1, busy: 1, stopped: 1, duplicates: 1, malformed: 1, outside: 1, wrongTid: 1, threadDeaths: 1, faults: 1, resent: 1, bytes: 1 } satisfies TftpFigures;
    const harness = await startHarness({ subnets: [] });
    const ones = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, 1]));
    const outcomes = ones([...Object.keys(harness.counters), ...Object.keys(createInbox().counters)]);
    await harness.close();
    return createMetrics({
      http: () => ({ responses: ones(STATUS_CLASSES), cuts: ones(CUTS), sentBytes: 1, connections: 1, threadRestarts: 1 }),
      tftp: () => tftp,
      dhcp: () => ({ links: [{ link: 'eth0', mode: 'full', state: 'clear', offers: 1 }], counters: outcomes }),
      leases: () => 1,
      blobs: () => ({ rotten: 1, scrubbedBytes: 1 }),
      images: () => ({ streams: 1, waiting: 1 }),
      heldNodes: async () => 1,
      drift: async () => ({ rebootPending: 1, stepsPending: 1, unknown: 1 }),
    }).render();
  };
  /** The values of each label, by metric. */
  const read = (text: string): Map<string, { type: string; labels: Map<string, Set<string>> }> => {
    const metrics = new Map([...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name!, { type: type!, labels: new Map<string, Set<string>>() }]));
    for (const [, name, labels] of text.matchAll(/^(\w+)\{(.+)\} /gm)) {
      for (const [, label, value] of labels!.matchAll(/(\w+)="([^"]*)"/g)) {
        const of = metrics.get(name!)!.labels;
        of.set(label!, (of.get(label!) ?? new Set()).add(value!));
      }
    }
    return metrics;
  };

  it('have a row each, with type, labels and, where these are of few words, each of them', async () => {
    const rows = new Map([...OPERATING.matchAll(/^\| `(rackseed_\w+)` \| (counter|gauge)(?:, ([^|]+?))? \| (.*) \|$/gm)].map(([, name, type, labels, value]) => [name!, { type: type!, labels: [...(labels ?? '').matchAll(/`(\w+)`/g)].map(([, label]) => label!), value: value! }]));
    const metrics = read(await render());
    expect([...rows.keys()].sort()).toEqual([...metrics.keys()].sort());
    for (const [name, { type, labels }] of metrics) {
      const row = rows.get(name)!;
      expect([name, row.type, [...row.labels].sort()]).toEqual([name, type, [...labels.keys()].sort()]);
      // Those that have a table of their own are linked to it.
      if (row.value.includes('](#')) continue;
      for (const label of ['outcome', 'kind', 'class', 'state']) for (const value of labels.get(label) ?? []) expect(`${name}: ${row.value}`).toContain(`\`${value}\``);
    }
  });

  it('cuts have a row for each reason', () => {
    const table = OPERATING.slice(OPERATING.indexOf('| `why` | what |'), OPERATING.indexOf('\n\n', OPERATING.indexOf('| `why` | what |')));
    expect([...table.matchAll(/^\| `(\w+)` \|/gm)].map(([, why]) => why).filter((why) => why !== 'why')).toEqual([...CUTS]);
  });

  it('of the alerts are there, and their labels have such values', async () => {
    const metrics = read(await render());
    const rules = (parse(blocksOf('yaml').at(-1)!) as { groups: { rules: { alert: string; expr: string }[] }[] }).groups.flatMap((group) => group.rules);
    expect(rules.length).toBeGreaterThan(8);
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    for (const { alert, expr } of rules) {
      const used = [...expr.matchAll(/(rackseed_\w+)(?:\{(.*?)\})?/g)];
      expect([alert, used.length > 0]).toEqual([alert, true]);
      for (const [, name, matchers = ''] of used) {
        expect([alert, name, metrics.has(name!)]).toEqual([alert, name, true]);
        // A sum that only grows says nothing by itself.
        if (metrics.get(name!)!.type === 'counter') expect(expr).toMatch(new RegExp(`(?:increase|rate)\\(${name}(?:\\{[^}]*\\})?\\[`));
        for (const [, label, values] of matchers.matchAll(/(\w+)=~?"([^"]*)"/g)) {
          for (const value of values!.split('|')) {
            expect([alert, label, value, metrics.get(name!)!.labels.get(label!)?.has(value)]).toEqual([alert, label, value, true]);
          }
        }
      }
    }
  });
});

it('every file of packaging/systemd that it installs is there', () => {
  const block = blocksOf('sh').find((one) => one.includes('packaging/systemd'))!;
  for (const file of ['sysusers.conf', 'tmpfiles.conf', 'rackseed.service', 'add-card']) {
    expect(block).toContain(file);
    expect(readFileSync(new URL(`../../packaging/systemd/${file}`, import.meta.url), 'utf8')).not.toBe('');
  }
});
