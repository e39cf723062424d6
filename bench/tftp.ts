// `npm run bench -- tftp`: rackseed, tftpd-hpa, atftpd and dnsmasq in turn, in the same two namespaces, asked by our own client.
import { mkdirSync } from 'node:fs';
import type { BenchOptions } from './dhcp.ts';
import type { Measure, Outcome } from './report.ts';
import { compile, createSite, describeMachine, type Site } from './site.ts';
import { ceiling, download, filesDir, withDelay, withLoss, withoutOffload, writeFiles, type Download, type Downloaded } from './tftp-load.ts';
import { allServers, start, type Running, type Server } from './tftp-servers.ts';

const MANY = 50;
/** Below this the client is not clearly quicker than what it measures. */
const HEADROOM = 1.3;
/** A client that polls for so long before it sleeps, or one that sleeps at once: what suits a server better is tried first. */
const SPINS = [50, 0] as const;
/** Machines that fetch a file over the bad link at once: they wait nearly all the time, and their median is one measurement. */
const UNLUCKY = 15;
const LOSS_LIMIT_S = 120;
const ROUND_TRIP_MS = 50;

interface Case {
  readonly id: string;
  readonly clients: number;
  readonly blksize: number;
  readonly windowsize: number;
  /** The server's card does not cut bursts into packets. */
  readonly plainCard?: boolean;
}

const of = (clients: number, blksize: number, windowsize: number, plainCard = false): Case => ({
  id: `${clients === 1 ? 'one' : 'many'}-${blksize}${windowsize === 1 ? '' : `-w${windowsize}`}${plainCard ? '-plain' : ''}`, clients, blksize, windowsize, plainCard,
});
// 512: what a ROM gets that asks for nothing · 1428: curl's and the tests' · 1468: a full Ethernet frame; with windowsize 4 it is EDK2.
const CASES: readonly Case[] = [
  of(1, 512, 1), of(1, 1468, 1), of(1, 1468, 4), of(1, 1468, 16), of(1, 1468, 16, true), of(1, 1468, 64),
  of(MANY, 512, 1), of(MANY, 1428, 1), of(MANY, 1468, 1), of(MANY, 1468, 4), of(MANY, 1468, 16), of(MANY, 1468, 16, true),
];

const words = ({ clients, blksize, windowsize, plainCard }: Case) =>
  `${clients === 1 ? '1 client' : `${clients} clients`}, ${blksize}, ${windowsize === 1 ? 'lock-step' : `windowsize ${windowsize}`}${plainCard ? ', card without offload' : ''}`;

export const MEASURES: readonly Measure[] = [
  ...CASES.map((one): Measure => ({ id: one.id, group: 'throughput', what: words(one), unit: 'MB/s', better: 'higher', rounds: 'median' })),
  ...CASES.map((one): Measure => ({ id: `cpu-${one.id}`, group: 'CPU', what: words(one), unit: 'CPU s/GB', better: 'lower', rounds: 'median' })),
  { id: 'rack', group: 'a rack', what: `${MANY} clients fetch 1 MiB each at 1428, until the last has it`, unit: 's', better: 'lower', rounds: 'median' },
  { id: 'loss', group: '1 % loss each way', what: '1 MiB at 1428, lock-step', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'loss-w16', group: '1 % loss each way', what: '1 MiB at 1428, windowsize 16', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'delay', group: `${ROUND_TRIP_MS} ms there and back`, what: '1 MiB at 1468, lock-step', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'delay-w16', group: `${ROUND_TRIP_MS} ms there and back`, what: '1 MiB at 1468, windowsize 16', unit: 's', better: 'lower', rounds: 'median' },
  { id: 'delay-gain', group: `${ROUND_TRIP_MS} ms there and back`, what: 'windowsize 16 sooner than lock-step by', unit: 'times', better: 'higher', rounds: 'median' },
];

/** Of a server, settled before the rounds. */
interface Settled {
  readonly spin: { readonly one: number; readonly many: number };
  /** What it grants of windowsize 64; 1 when it knows no windows. */
  readonly windows: number;
}

export async function benchTftp({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  const known = allServers(root, cli);
  const stranger = only.find((name) => !known.some((server) => server.name === name.toLowerCase()));
  if (stranger) throw new Error(`no server ${stranger}; there are: ${known.map((server) => server.name).join(', ')}`);
  const wanted = known.filter((server) => only.length === 0 || only.some((name) => name.toLowerCase() === server.name));
  const rounds = quick ? 1 : 3;
  const seconds = quick ? 0.5 : 2;
  const lossLimit = quick ? 10 : LOSS_LIMIT_S;
  const site = await createSite();
  try {
    for (const name of ['tftp-client', 'tftp-blaster', 'udp-delay']) compile(root, name, site);
    mkdirSync(filesDir(site));
    writeFiles(site);
    const machine = describeMachine(site.dir);
    if (machine.loadAtStart > 0.5) say(`bench: the machine is busy (load ${machine.loadAtStart.toFixed(1)}): take no figure of this run for true`);
    const samples = new Map<string, Map<string, number[]>>(wanted.map((server) => [server.name, new Map()]));
    const failures: string[] = [];
    /** One measurement that fails leaves a gap, and the other minutes of figures are kept. */
    const attempt = async (server: Server, what: string, measure: () => Promise<void>): Promise<boolean> => {
      try {
        await measure();
        return true;
      } catch (error) {
        failures.push(`${server.name}: ${what}: ${error instanceof Error ? error.message : String(error)}`);
        say(`bench: not measured: ${failures.at(-1)}`);
        return false;
      }
    };
    const note = (server: Server, id: string, value: number) => {
      const figures = samples.get(server.name)!;
      figures.set(id, [...(figures.get(id) ?? []), value]);
    };
    const settled = new Map<Server, Settled>();
    for (const server of wanted) {
      await attempt(server, 'start', async () => {
        const best = await fresh(server, site, () => settle(site, quick ? 0.3 : 1));
        settled.set(server, best);
        say(`bench: ${server.name} ${server.version}: ${best.windows > 1 ? `grants windowsize ${best.windows}` : 'grants no windowsize'}; polled for ${best.spin.one} us by one client, ${best.spin.many} us by ${MANY}`);
      });
    }
    const servers = wanted.filter((server) => settled.has(server));
    const ceilings = new Map<string, number>();
    for (const one of CASES) ceilings.set(one.id, Math.max(...(await inTurn(SPINS, (spin) => ceiling(site, { ...loadOf(one), spin, seconds: seconds / 2 })))) / 1e6);
    say(`bench: against the blaster: ${[...ceilings].map(([id, rate]) => `${id} ${rate.toFixed(0)} MB/s`).join(', ')}`);
    for (let round = 1; round <= rounds; round++) {
      // Another one goes first in each round: whatever the machine does meanwhile hits each in turn.
      for (const server of [...servers.slice(round - 1), ...servers.slice(0, round - 1)]) {
        say(`bench: round ${round} of ${rounds}: ${server.name}`);
        const { spin, windows } = settled.get(server)!;
        for (const one of CASES.filter(({ windowsize }) => windowsize <= windows)) {
          await attempt(server, words(one), () =>
            fresh(server, site, async ({ pid }) => {
              const run = () => download(site, { ...loadOf(one), again: true, warmup: 0.3, seconds, spin: one.clients === 1 ? spin.one : spin.many, watch: pid });
              const result = asAsked(await (one.plainCard ? withoutOffload(site, run) : run()), one);
              note(server, one.id, result.bytesPerSecond / 1e6);
              note(server, `cpu-${one.id}`, result.cpuSeconds / (result.bytes / 1e9));
            }),
          );
        }
        await attempt(server, 'a rack', () =>
          fresh(server, site, async () => {
            const result = await download(site, { file: 'small', clients: MANY, blksize: 1428, windowsize: 1, seconds: 60, spin: spin.many });
            if (result.finished < MANY) throw new Error(`${result.finished} of ${MANY} have the file after a minute${result.error ? `: ${result.error}` : ''}`);
            note(server, 'rack', result.maxSeconds);
          }),
        );
      }
    }
    // These wait for timers, not for a processor: each server once, and no round more would tell more.
    const notes = limits(ceilings, samples);
    for (const server of servers) {
      const { windows } = settled.get(server)!;
      say(`bench: ${server.name} over a bad and over a long link`);
      for (const windowsize of [1, 16].filter((size) => size <= windows)) {
        const id = windowsize === 1 ? 'loss' : 'loss-w16';
        await attempt(server, `1 % loss, windowsize ${windowsize}`, () =>
          fresh(server, site, () =>
            withLoss(site, 100, async () => {
              const result = await download(site, { file: 'small', clients: UNLUCKY, blksize: 1428, windowsize, seconds: lossLimit });
              note(server, id, result.p50Seconds < 0 ? lossLimit : result.p50Seconds);
              if (result.p50Seconds < 0) notes.set(id, [notes.get(id), `${server.name}: ${result.finished} of ${UNLUCKY} had the file after ${lossLimit} s${result.error ? ` (${result.error})` : ''}`].filter(Boolean).join('; '));
            }),
          ),
        );
      }
      // Lock-step over a long link takes as long with any server: it is measured where there is a window to hold it against.
      if (windows < 16) continue;
      await attempt(server, 'a long link', () =>
        fresh(server, site, () =>
          withDelay(site, ROUND_TRIP_MS / 2, async (address) => {
            const [one, windowed] = await inTurn([1, 16], async (windowsize) => {
              const result = await download(site, { file: 'small', clients: 1, blksize: 1468, windowsize, seconds: 90, server: address });
              if (result.finished !== 1) throw new Error(result.error || 'not finished within 90 s');
              return result.p50Seconds;
            });
            note(server, 'delay', one!);
            note(server, 'delay-w16', windowed!);
            note(server, 'delay-gain', one! / windowed!);
          }),
        ),
      );
    }
    const [first, ...rest] = wanted.map((server) => server.name);
    return {
      subject: 'tftp', measures: MEASURES, samples, names: [first!, ...rest], notes, machine, failures,
      how: {
        quick, rounds, ceilings: Object.fromEntries([...ceilings].map(([id, rate]) => [id, Math.round(rate)])),
        servers: wanted.map((server) => ({ name: server.name, version: server.version, ...settled.get(server) })),
      },
    };
  } finally {
    await site.close();
  }
}

const loadOf = ({ clients, blksize, windowsize }: Case): Pick<Download, 'file' | 'clients' | 'blksize' | 'windowsize'> => ({ file: 'big', clients, blksize, windowsize });

/** A row belongs to the options it names: a server that granted less has not run it. */
function asAsked(result: Downloaded, { blksize, windowsize }: Case): Downloaded {
  if (result.failures > 0) throw new Error(`${result.failures} downloads failed, the first: ${result.error}`);
  if (result.bytes === 0) throw new Error('not a byte came');
  if (result.blksize !== blksize || result.windowsize !== windowsize) throw new Error(`it granted blksize ${result.blksize} and windowsize ${result.windowsize}`);
  return result;
}

async function settle(site: Site, seconds: number): Promise<Settled> {
  const bestOf = async (clients: number) => {
    const rates = await inTurn(SPINS, async (spin) => (await download(site, { file: 'big', clients, blksize: 1428, windowsize: 1, again: true, warmup: 0.2, seconds, spin })).bytesPerSecond);
    return SPINS[rates.indexOf(Math.max(...rates))]!;
  };
  const { windowsize } = await download(site, { file: 'small', clients: 1, blksize: 1428, windowsize: 64, seconds: 20 });
  return { windows: windowsize, spin: { one: await bestOf(1), many: await bestOf(MANY) } };
}

/** A server that has just started. */
async function fresh<T>(server: Server, site: Site, use: (running: Running) => Promise<T>): Promise<T> {
  const running = await start(server, site);
  let result: T;
  try {
    result = await use(running);
  } catch (error) {
    await running.stop().catch(() => {});
    throw error;
  }
  await running.stop();
  return result;
}

async function inTurn<T, R>(items: readonly T[], use: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of items) results.push(await use(item));
  return results;
}

function limits(ceilings: ReadonlyMap<string, number>, samples: Outcome['samples']): Map<string, string> {
  return new Map(
    [...ceilings].flatMap(([id, rate]): [string, string][] => {
      const quickest = Math.max(0, ...[...samples.values()].flatMap((figures) => figures.get(id) ?? []));
      return rate < HEADROOM * quickest ? [[id, `the client is the limit: ${Math.round(rate)} MB/s against the blaster`]] : [];
    }),
  );
}
