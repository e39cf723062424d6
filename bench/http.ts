// `npm run bench -- http`: rackseed and nginx in turn serve the same files to 1, 16 and 200 downloads at once, and rackseed leases addresses meanwhile.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { perfdhcp } from './dhcp-generator.ts';
import type { BenchOptions } from './dhcp.ts';
import { allHttpServers, HTTP_PORT, startHttp, type Blob, type HttpServer, type Running, type Variant } from './http-servers.ts';
import { writePattern } from './pattern.ts';
import type { Measure, Outcome } from './report.ts';
import { compile, createSite, describeMachine, NET, type Site } from './site.ts';

/** An image, and one that rackseed's cache (256 MiB by default) cannot hold. */
const IMAGE_BYTES = 150_000_000;
const BIG_BYTES = 600_000_000;
const FIRST_ADDRESS = '10.81.1.1';
const DHCP_RATE = 200;
/** The client's one loop may be busy for this share of the time; above, it is what is measured. */
const CLIENT_BUSY = 0.9;

interface Load {
  /** In the ids of its measures. */
  readonly id: string;
  readonly what: string;
  readonly group: string;
  readonly connections: number;
  readonly big?: boolean;
  /** The client reads the bytes into its memory, instead of dropping them in the kernel. */
  readonly copy?: boolean;
}

const IMAGE = 'an image of 150 MB';
const BIG = 'an image larger than the cache, 600 MB';
const COPIED = 'an image of 150 MB that the client, on the same cores, copies';
const LOADS: readonly Load[] = [
  { id: '1', what: '1 download', group: IMAGE, connections: 1 },
  { id: '16', what: '16 downloads', group: IMAGE, connections: 16 },
  { id: '200', what: '200 downloads', group: IMAGE, connections: 200 },
  { id: 'big-16', what: '16 downloads of 600 MB', group: BIG, connections: 16, big: true },
  { id: 'big-200', what: '200 downloads of 600 MB', group: BIG, connections: 200, big: true },
  { id: 'copied-16', what: '16 downloads, copied', group: COPIED, connections: 16, copy: true },
  { id: 'copied-200', what: '200 downloads, copied', group: COPIED, connections: 200, copy: true },
];

/** Exported for the test that holds them against targets.json. */
export const MEASURES: readonly Measure[] = [
  ...[IMAGE, BIG, COPIED].flatMap((group) => {
    const loads = LOADS.filter((load) => load.group === group);
    return [
      ...loads.map((load): Measure => ({ id: `wall-${load.id}`, group, what: `${load.what}: bytes a second`, unit: 'MB/s', better: 'higher', rounds: 'median' })),
      ...loads.map((load): Measure => ({ id: `cpu-${load.id}`, group, what: `${load.what}: bytes per CPU second of the server`, unit: 'MB/CPU s', better: 'higher', rounds: 'median' })),
      ...loads.filter(({ connections }) => connections > 1).map((load): Measure => ({ id: `slowest-${load.id}`, group, what: `${load.what}: the slowest one's share`, unit: '% of the mean', better: 'higher', rounds: 'median' })),
    ];
  }),
  { id: 'memory', group: 'beside it', what: 'resident memory at most', unit: 'MB', better: 'lower', rounds: 'worst' },
  { id: 'dhcp-p99', group: 'beside it', what: `p99 of ${DHCP_RATE} leases a second during 200 downloads`, unit: 'ms', better: 'lower', rounds: 'median' },
  { id: 'dhcp-lost', group: 'beside it', what: 'packets without an answer meanwhile', unit: '%', better: 'lower', rounds: 'worst' },
];

/** As http-client.c prints it. */
interface Downloaded {
  readonly seconds: number;
  readonly bytes: number;
  readonly completed: number;
  /** Answers 503 with a Retry-After, which the client followed. */
  readonly held: number;
  readonly slowestShare: number;
  /** Of the watched processes. */
  readonly cpuSeconds: number;
  readonly clientCpuSeconds: number;
}

export async function benchHttp({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  const known = allHttpServers(root, cli);
  const stranger = only.find((name) => !known.some((server) => server.name === name.toLowerCase()));
  if (stranger) throw new Error(`no server ${stranger}; there are: ${known.map((server) => server.name).join(', ')}`);
  const servers = known.filter((server) => only.length === 0 || only.some((name) => name.toLowerCase() === server.name));
  const rounds = quick ? 1 : 3;
  const seconds = quick ? 1 : 3;
  const site = await createSite();
  try {
    compile(root, 'http-client', site);
    const machine = describeMachine(site.dir);
    if (machine.loadAtStart > 0.5) say(`bench: the machine is busy (load ${machine.loadAtStart.toFixed(1)}): take no figure of this run for true`);
    const blobs = [blobOf(site, 'image', IMAGE_BYTES), blobOf(site, 'big', BIG_BYTES)] as const;
    const samples = new Map<string, Map<string, number[]>>(servers.map((server) => [server.name, new Map()]));
    const failures: string[] = [];
    const busiest = new Map<string, number>();
    const held = new Map<string, number>();
    const attempt = async (server: HttpServer, what: string, measure: () => Promise<void>) => {
      try {
        await measure();
      } catch (error) {
        failures.push(`${server.name}: ${what}: ${error instanceof Error ? error.message : String(error)}`);
        say(`bench: ${failures.at(-1)}`);
      }
    };
    const settled = new Map<HttpServer, Variant>();
    for (const server of servers) {
      await attempt(server, 'what it sends', async () => {
        const { variant, rate } = await settle(server, site, blobs, seconds);
        settled.set(server, variant);
        say(`bench: ${server.name} ${server.version}${variant.what ? `, ${variant.what}` : ''}: ${Math.round(rate / 1e6)} MB/s to 16; its bytes are right`);
      });
    }
    for (let round = 1; round <= rounds; round++) {
      // Another one goes first in each round: whatever the machine does meanwhile hits each in turn.
      for (const server of round % 2 ? servers : [...servers].reverse()) {
        const variant = settled.get(server);
        if (!variant) continue;
        say(`bench: round ${round} of ${rounds}: ${server.name}`);
        const note = (id: string, value: number) => {
          const of = samples.get(server.name)!;
          of.set(id, [...(of.get(id) ?? []), value]);
        };
        await attempt(server, 'start', async () => {
          const running = await startHttp(server, site, variant, blobs);
          try {
            for (const load of LOADS) {
              await attempt(server, `${load.what}, ${load.group}`, async () => {
                const result = await download(site, running, blobs[load.big ? 1 : 0], { connections: load.connections, copy: load.copy ?? false, seconds, warmup: quick ? 0.5 : 1 });
                note(`wall-${load.id}`, result.bytes / result.seconds / 1e6);
                note(`cpu-${load.id}`, result.bytes / result.cpuSeconds / 1e6);
                note(`slowest-${load.id}`, 100 * result.slowestShare);
                busiest.set(load.id, Math.max(busiest.get(load.id) ?? 0, result.clientCpuSeconds / result.seconds));
                held.set(server.name, (held.get(server.name) ?? 0) + result.held);
              });
            }
            if (server.name === 'rackseed') await attempt(server, 'leases during downloads', () => leasesMeanwhile(site, running, blobs[0], seconds, note));
            note('memory', running.peakMemory() / 1e6);
          } finally {
            await running.stop();
          }
        });
      }
    }
    const [first, ...rest] = servers.map((server) => server.name);
    return {
      subject: 'http', measures: MEASURES, samples, names: [first!, ...rest], notes: limits(busiest), machine, failures,
      how: {
        quick, rounds, clientBusy: Object.fromEntries([...busiest].map(([id, share]) => [id, Number(share.toFixed(2))])), held: Object.fromEntries(held),
        servers: servers.map((server) => ({ name: server.name, version: server.version, variant: settled.get(server)?.what ?? 'did not start' })),
      },
    };
  } finally {
    await site.close();
  }
}

function blobOf(site: Site, name: string, bytes: number): Blob {
  const file = join(site.dir, name);
  return { file, bytes, hex: writePattern(file, bytes, name) };
}

function limits(busiest: ReadonlyMap<string, number>): Map<string, string> {
  return new Map(
    [...busiest].flatMap(([id, share]) => (share < CLIENT_BUSY ? [] : [[`wall-${id}`, `the client is the limit: its loop was busy for ${Math.round(share * 100)} % of the time`] as const])),
  );
}

/** Sees that what it sends is right, and chooses the variant that is quickest with 16 downloads. */
async function settle(server: HttpServer, site: Site, blobs: readonly Blob[], seconds: number): Promise<{ readonly variant: Variant; readonly rate: number }> {
  let best: { variant: Variant; rate: number } | undefined;
  for (const variant of server.variants) {
    const running = await startHttp(server, site, variant, blobs);
    try {
      for (const blob of best ? [] : blobs) await check(site, blob);
      const { bytes, seconds: took } = await download(site, running, blobs[0]!, { connections: 16, copy: false, seconds, warmup: 0.5 });
      if (!best || bytes / took > best.rate) best = { variant, rate: bytes / took };
    } finally {
      await running.stop();
    }
  }
  return best!;
}

/** With curl, whole, and the second half by a Range as a download is resumed. */
async function check(site: Site, { hex, bytes }: Blob): Promise<void> {
  const url = `http://${NET.server}:${HTTP_PORT}/blobs/sha256/${hex}`;
  const half = Math.floor(bytes / 2);
  const digest = (curl: string) => site.run(['sh', '-c', `(${curl}) | sha256sum | cut -d' ' -f1`]);
  const whole = (await digest(`curl -sSf --interface 10.81.0.1 ${url}`)).trim();
  if (whole !== hex) throw new Error(`it sent other bytes than those of ${hex}: ${whole}`);
  const parts = (await digest(`curl -sSf --interface 10.81.0.1 -r 0-${half - 1} ${url}; curl -sSf --interface 10.81.0.1 -r ${half}- ${url}`)).trim();
  if (parts !== hex) throw new Error(`two halves of ${hex}, each by a Range, make ${parts}`);
}

interface Downloads {
  readonly connections: number;
  readonly copy: boolean;
  readonly seconds: number;
  readonly warmup: number;
}

async function download(site: Site, running: Running, { hex, bytes }: Blob, { connections, copy, seconds, warmup }: Downloads): Promise<Downloaded> {
  const argv = [join(site.dir, 'http-client'), '--server', NET.server, '--port', String(HTTP_PORT), '--path', `/blobs/sha256/${hex}`, '--size', String(bytes), '--first', FIRST_ADDRESS];
  argv.push('--connections', String(connections), '--seconds', String(seconds), '--warmup', String(warmup), ...(copy ? ['--copy'] : []), ...running.pids().flatMap((pid) => ['--watch', String(pid)]));
  const result = JSON.parse(await site.run(argv)) as Downloaded;
  if (result.bytes === 0) throw new Error(`not a byte arrived in ${result.seconds} s (${result.held} answers were 503)`);
  return result;
}

/** perfdhcp's machines get their addresses while the downloads of others fill the cores and the cable. */
async function leasesMeanwhile(site: Site, running: Running, blob: Blob, seconds: number, note: (id: string, value: number) => void): Promise<void> {
  const warmup = 1;
  const downloading = download(site, running, blob, { connections: 200, copy: false, seconds: seconds + 2, warmup });
  // A failure of it is thrown below; perfdhcp runs until then.
  downloading.catch(() => undefined);
  await sleep(warmup * 1000);
  const result = await perfdhcp(site, { rate: DHCP_RATE, seconds, renewals: false });
  await downloading;
  if (!result.kept) throw new Error('perfdhcp itself did not keep its rate beside the downloads');
  note('dhcp-p99', result.p99Ms);
  note('dhcp-lost', result.lostPercent);
}
