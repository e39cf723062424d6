// `npm run bench -- dhcp`: rackseed, Kea and dnsmasq in turn, in the same two namespaces, asked by perfdhcp and by our own generator.
import { join } from 'node:path';
import { dieWithUs, stop } from '../src/lab/child.ts';
import { generate, perfdhcp, type Generated, type Load } from './dhcp-generator.ts';
import { allServers, start, type How, type Running, type Server } from './dhcp-servers.ts';
import type { Measure, Outcome } from './report.ts';
import { compile, createSite, describeMachine, NET, type Site } from './site.ts';

export interface BenchOptions {
  readonly root: string;
  /** The built cli.js. */
  readonly cli: string;
  /** One short round: for whoever works on the benchmark, its figures are worth nothing. */
  readonly quick: boolean;
  /** Only these servers; all when empty. */
  readonly only: readonly string[];
  readonly say: (line: string) => void;
}

const RATES = [500, 1000, 2000, 4000] as const;
const BURST = 5000;
const LEASES = 100_000;
/** Machines in a run flat out, at most: nearly the pool. */
const MACHINES = 190_000;
/** Below this the generator is not clearly quicker than what it measures. */
const HEADROOM = 1.3;

const flat = (id: string, what: string): Measure => ({ id, group: 'flat out', what, unit: 'exchanges/s', better: 'higher', rounds: 'median' });
const measuresFor = (leases: string): readonly Measure[] => [
  flat('flat-out', 'four-way exchanges through a relay'),
  flat('flat-broadcast', 'four-way exchanges by broadcast'),
  flat('flat-renew', 'renewals by unicast'),
  { id: 'flat-p99', group: 'flat out', what: 'p99 of a four-way exchange through a relay', unit: 'ms', better: 'lower', rounds: 'median' },
  { id: 'cpu', group: 'CPU', what: 'of 10,000 four-way exchanges', unit: 'CPU s', better: 'lower', rounds: 'median' },
  { id: 'cpu-renew', group: 'CPU', what: 'of 10,000 renewals', unit: 'CPU s', better: 'lower', rounds: 'median' },
  ...[false, true].flatMap((renewals) =>
    RATES.flatMap((rate): Measure[] => {
      const [suffix, group] = renewals ? [`${rate}-renewals`, 'perfdhcp, half of them renewals'] : [String(rate), 'perfdhcp, four-way exchanges'];
      const at = `at ${rate.toLocaleString('en-US')}/s`;
      return [
        { id: `lost-${suffix}`, group, what: `lost ${at}`, unit: '%', better: 'lower', rounds: 'worst' },
        { id: `p50-${suffix}`, group, what: `p50 ${at}`, unit: 'ms', better: 'lower', rounds: 'median' },
        { id: `p99-${suffix}`, group, what: `p99 ${at}`, unit: 'ms', better: 'lower', rounds: 'median' },
      ];
    }),
  ),
  { id: 'burst', group: 'many', what: `answered of ${BURST.toLocaleString('en-US')} DISCOVERs at once`, unit: 'offers', better: 'higher', rounds: 'worst' },
  { id: 'memory', group: 'many', what: `resident memory with ${leases} leases`, unit: 'MB', better: 'lower', rounds: 'median' },
  { id: 'restart', group: 'many', what: `restart with ${leases} leases until the first OFFER`, unit: 's', better: 'lower', rounds: 'median' },
];

export async function benchDhcp({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  const known = allServers(root, cli);
  const stranger = only.find((name) => !known.some((server) => server.name.toLowerCase() === name.toLowerCase()));
  if (stranger) throw new Error(`no server ${stranger}; there are: ${known.map((server) => server.name).join(', ')}`);
  const servers = known.filter((server) => only.length === 0 || only.some((name) => name.toLowerCase() === server.name.toLowerCase()));
  const rounds = quick ? 1 : 3;
  const seconds = quick ? 2 : 4;
  const leases = quick ? LEASES / 10 : LEASES;
  const site = await createSite();
  try {
    compile(root, 'generator', site);
    compile(root, 'echo', site);
    const machine = describeMachine(site.dir);
    if (machine.loadAtStart > 0.5) say(`bench: the machine is busy (load ${machine.loadAtStart.toFixed(1)}): take no figure of this run for true`);
    const ceiling = await calibrate(site, seconds / 2);
    say(`bench: against the echo responder: ${Object.entries(ceiling).map(([id, rate]) => `${id} ${Math.round(rate)}/s`).join(', ')}`);
    const settled = new Map<Server, Settled>();
    for (const server of servers) {
      const best = await settle(server, site, quick ? 1 : 2);
      settled.set(server, best);
      say(`bench: ${server.name} ${server.version}: window ${best.window}${best.variant.what ? `, ${best.variant.what}` : ''} (${Math.round(best.perSecond)}/s)`);
    }
    const samples = new Map<string, Map<string, number[]>>(servers.map((server) => [server.name, new Map()]));
    const strained = new Set<string>();
    const failures: string[] = [];
    /** One measurement that fails leaves a gap, and the other minutes of figures are kept. */
    const attempt = (server: Server) => async (what: string, measure: () => Promise<void>) => {
      try {
        await measure();
      } catch (error) {
        failures.push(`${server.name}: ${what}: ${error instanceof Error ? error.message : String(error)}`);
        say(`bench: ${failures.at(-1)}`);
      }
    };
    for (let round = 1; round <= rounds; round++) {
      // Another one goes first in each round: whatever the machine does meanwhile hits each in turn.
      for (const server of [...servers.slice(round - 1), ...servers.slice(0, round - 1)]) {
        say(`bench: round ${round} of ${rounds}: ${server.name}`);
        const note = (id: string, value: number) => {
          const of = samples.get(server.name)!;
          of.set(id, [...(of.get(id) ?? []), value]);
        };
        await oneRound({ server, settled: settled.get(server)!, site, seconds, note, attempt: attempt(server), strain: (what) => strained.add(`${server.name} at ${what}`) });
      }
    }
    for (const server of servers.filter(({ fills }) => fills)) {
      say(`bench: ${server.name} with ${leases} leases`);
      await attempt(server)(`${leases} leases`, () => withManyLeases(server, settled.get(server)!, site, leases, (id, value) => samples.get(server.name)!.set(id, [value])));
    }
    const [first, ...rest] = servers.map((server) => server.name);
    return {
      subject: 'dhcp',
      measures: measuresFor(leases.toLocaleString('en-US')),
      samples,
      names: [first!, ...rest],
      notes: limits(ceiling, samples),
      machine,
      failures,
      how: {
        quick, rounds, ceiling: Object.fromEntries(Object.entries(ceiling).map(([id, rate]) => [id, Math.round(rate)])), perfdhcpFellShort: [...strained],
        servers: servers.map((server) => ({ name: server.name, version: server.version, window: settled.get(server)!.window, variant: settled.get(server)!.variant.what })),
      },
    };
  } finally {
    await site.close();
  }
}

type Flat = 'flat-out' | 'flat-broadcast' | 'flat-renew';

/** What the generator reaches when the answers cost nothing. */
async function calibrate(site: Site, seconds: number): Promise<Record<Flat, number>> {
  // It listens on all addresses, so that broadcasts reach it too.
  const child = site.servers.spawn(dieWithUs([join(site.dir, 'echo'), '0.0.0.0', NET.poolFrom]), { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    await generate(site, { mode: 'offer', window: 1, count: 1, seconds: 10, resend: 0.02 });
    const rate = async (load: Partial<Load>) => (await generate(site, { mode: 'dora', window: 128, seconds, warmup: 0.3, ...load })).perSecond;
    return { 'flat-out': await rate({}), 'flat-broadcast': await rate({ broadcast: true }), 'flat-renew': await rate({ mode: 'renew', count: 20_000 }) };
  } finally {
    await stop(child);
  }
}

function limits(ceiling: Record<Flat, number>, samples: ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>): Map<string, string> {
  return new Map(
    Object.entries(ceiling).flatMap(([id, rate]): [string, string][] => {
      const quickest = Math.max(0, ...[...samples.values()].flatMap((of) => of.get(id) ?? []));
      return rate < HEADROOM * quickest ? [[id, `the generator is the limit: ${Math.round(rate)}/s against the echo responder`]] : [];
    }),
  );
}

interface Settled extends Pick<How, 'variant'> {
  readonly window: number;
  readonly perSecond: number;
}

/** The variant and the number of exchanges at once with which this server is at its best on this machine. */
async function settle(server: Server, site: Site, seconds: number): Promise<Settled> {
  let best: Settled | undefined;
  for (const variant of server.variants) {
    for (const window of server.windows) {
      const { perSecond } = await fresh(server, site, { variant, broadcast: false }, () => generate(site, { mode: 'dora', window, warmup: seconds / 2, seconds }));
      if (!best || perSecond > best.perSecond) best = { variant, window, perSecond };
    }
  }
  return best!;
}

/** A server that has just started and knows no lease. */
async function fresh<T>(server: Server, site: Site, how: How, use: (running: Running) => Promise<T>): Promise<T> {
  const running = await start(server, site, how);
  try {
    return await use(running);
  } finally {
    await running.stop();
  }
}

interface Round {
  readonly server: Server;
  readonly settled: Settled;
  readonly site: Site;
  readonly seconds: number;
  readonly note: (id: string, value: number) => void;
  readonly attempt: (what: string, measure: () => Promise<void>) => Promise<void>;
  /** perfdhcp could not keep the rate itself. */
  readonly strain: (what: string) => void;
}

async function oneRound({ server, settled: { variant, window }, site, seconds, note, attempt, strain }: Round): Promise<void> {
  const relayed: How = { variant, broadcast: false };
  const cpuOf10k = ({ cpuSeconds, all }: Generated) => (cpuSeconds / Math.max(all, 1)) * 10_000;
  const phase = (what: string, how: How, use: (running: Running) => Promise<void>) => attempt(what, () => fresh(server, site, how, use));
  await phase('flat out', relayed, async ({ pid }) => {
    const result = await generate(site, { mode: 'dora', window, warmup: 1, seconds, count: MACHINES, watch: pid });
    note('flat-out', result.perSecond);
    note('flat-p99', result.p99Ms);
    note('cpu', cpuOf10k(result));
  });
  await phase('by broadcast', { variant, broadcast: true }, async () => {
    note('flat-broadcast', (await generate(site, { mode: 'dora', broadcast: true, window, warmup: 1, seconds: seconds - 1, count: MACHINES })).perSecond);
  });
  await phase('renewals', relayed, async ({ pid }) => {
    const result = await generate(site, { mode: 'renew', window, count: server.renewers, warmup: 0.5, seconds: seconds - 1, watch: pid });
    note('flat-renew', result.perSecond);
    note('cpu-renew', cpuOf10k(result));
  });
  await phase('burst', relayed, async () => note('burst', (await generate(site, { mode: 'burst', window: BURST, count: BURST, seconds: 10 })).exchanges));
  await phase('perfdhcp', relayed, async () => {
    for (const renewals of [false, true]) {
      for (const rate of RATES) {
        const result = await perfdhcp(site, { rate, seconds: seconds - 1, renewals });
        const suffix = renewals ? `${rate}-renewals` : String(rate);
        note(`lost-${suffix}`, result.lostPercent);
        note(`p50-${suffix}`, result.p50Ms);
        note(`p99-${suffix}`, result.p99Ms);
        if (!result.kept) strain(`${rate}/s${renewals ? ', half of them renewals' : ''}`);
      }
    }
  });
}

async function withManyLeases(server: Server, { variant, window }: Settled, site: Site, leases: number, note: (id: string, value: number) => void): Promise<void> {
  const how: How = { variant, broadcast: false };
  const running = await start(server, site, how);
  try {
    const { bound } = await generate(site, { mode: 'dora', window, count: leases, seconds: 90 });
    if (bound < leases) throw new Error(`it gave ${bound} of ${leases} leases in 90 s`);
    note('memory', running.memory() / 1e6);
  } finally {
    await running.stop();
  }
  const again = await start(server, site, how, { keep: true });
  note('restart', again.readyAfter);
  await again.stop();
}
