// `npm run bench -- storm`: 1,000 machines are switched on within a second and boot, from their ROM's DISCOVER to `ready`; who watches is the server's kernel, too.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import BetterSqlite3 from 'better-sqlite3';
import { createImageStore, imageDigest } from '../src/images/manifest.ts';
import { createBlobStore } from '../src/store/blobs.ts';
import type { BenchOptions } from './dhcp.ts';
import { descriptorsByKind, launch, type Running } from './http-servers.ts';
import { writePattern } from './pattern.ts';
import type { Measure, Outcome } from './report.ts';
import { compile, createSite, describeMachine, NET, type Site } from './site.ts';
import { rackseedArgv, versionOf } from './start.ts';

const NODES = 1000;
/** What Debian's kernel and our initrd have; of the image, 20 MiB. */
const SIZES = { kernel: 8 << 20, initrd: 1 << 20, image: 20 << 20 } as const;
const LOADERS = '/usr/lib/ipxe';
/** The last node boots alone before the storm: what a daemon opens once and keeps belongs to the base. */
const ALONE = NODES;
/** Connections of machines that are done are closed within this. */
const SETTLES_MS = 20_000;

const one = (id: string, group: string, what: string, unit: string, rounds: 'median' | 'worst' = 'median', better: 'higher' | 'lower' = 'lower'): Measure => ({ id, group, what, unit, better, rounds });
/** Exported for the test that holds them against targets.json. */
export const MEASURES: readonly Measure[] = [
  one('failures', 'nothing is lost', 'machines that were not ready', 'machines', 'worst'),
  one('recorded', 'nothing is lost', 'boots that rackseed recorded as ready', 'boots', 'worst', 'higher'),
  one('drops', 'nothing is lost', "dropped by the kernel in the server's namespace", 'packets', 'worst'),
  one('resent', 'nothing is lost', 'sent again by machines (DHCP, TFTP)', 'packets', 'worst'),
  one('retries', 'nothing is lost', 'HTTP requests that had to be repeated', 'requests', 'worst'),
  one('dhcp-p99', 'time', 'p99 of a DHCP exchange', 'ms'),
  one('dhcp-max', 'time', 'slowest DHCP exchange', 'ms', 'worst'),
  one('loader', 'time', 'the slowest machine has its loader', 's'),
  one('ready', 'time', 'the slowest machine is ready', 's'),
  one('rate', 'time', 'bytes a second, all in all', 'MB/s', 'median', 'higher'),
  one('held', 'time', 'answers 503 with Retry-After', 'answers'),
  one('memory', 'resources', 'resident memory at most', 'MB', 'worst'),
  one('cpu', 'resources', 'of one machine', 'CPU ms'),
  one('descriptors', 'resources', 'more descriptors open than before', 'descriptors', 'worst'),
];

/** As storm.c prints it. */
interface Stormed {
  readonly nodes: number;
  readonly done: number;
  readonly failed: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly dhcpP50Ms: number;
  readonly dhcpP99Ms: number;
  readonly dhcpMaxMs: number;
  readonly dhcpResent: number;
  readonly tftpResent: number;
  readonly held: number;
  readonly resumed: number;
  readonly retries: number;
  readonly scriptHolds: number;
  readonly clientCpuSeconds: number;
  /** Seconds after its start when a step was entered: of the mean machine, and of the slowest. */
  readonly reached: Readonly<Record<string, readonly [mean: number, slowest: number]>>;
  /** Why machines failed, of the first eight. */
  readonly reasons: readonly string[];
}

interface Files {
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
}

export async function benchStorm({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  if (only.length > 0) throw new Error('storm has rackseed only');
  const rounds = quick ? 1 : 3;
  const count = quick ? NODES / 10 : NODES;
  const site = await createSite();
  try {
    compile(root, 'storm', site);
    const machine = describeMachine(site.dir);
    if (machine.loadAtStart > 0.5) say(`bench: the machine is busy (load ${machine.loadAtStart.toFixed(1)}): take no figure of this run for true`);
    const files: Files = { kernel: join(site.dir, 'kernel'), initrd: join(site.dir, 'initrd'), image: join(site.dir, 'image') };
    for (const [name, bytes] of Object.entries(SIZES)) writePattern(files[name as keyof Files], bytes, name);
    const samples = new Map<string, number[]>();
    const failures: string[] = [];
    const stormed: Pick<Stormed, 'reached' | 'reasons'>[] = [];
    for (let round = 1; round <= rounds; round++) {
      say(`bench: round ${round} of ${rounds}: ${count} machines`);
      try {
        const result = await oneStorm({ root, cli, site, files, count, say, note: (id, value) => samples.set(id, [...(samples.get(id) ?? []), value]) });
        stormed.push({ reached: result.reached, reasons: result.reasons });
      } catch (error) {
        failures.push(`rackseed: round ${round}: ${error instanceof Error ? error.message : String(error)}`);
        say(`bench: ${failures.at(-1)}`);
      }
    }
    return {
      subject: 'storm', measures: MEASURES, samples: new Map([['rackseed', samples]]), names: ['rackseed'], notes: new Map(), machine, failures,
      how: { quick, rounds, nodes: count, bytes: SIZES, withinSeconds: 1, stormed, servers: [{ name: 'rackseed', version: versionOf(process.execPath, [cli, '--version']) }] },
    };
  } finally {
    await site.close();
  }
}

interface Storm {
  readonly root: string;
  readonly cli: string;
  readonly site: Site;
  readonly files: Files;
  readonly count: number;
  readonly say: (line: string) => void;
  readonly note: (id: string, value: number) => void;
}

async function oneStorm({ root, cli, site, files, count, say, note }: Storm): Promise<Stormed> {
  const state = join(site.dir, 'rackseed');
  rmSync(state, { recursive: true, force: true });
  mkdirSync(state, { recursive: true });
  await publish(state, files);
  const argv = rackseedArgv(root, cli, state, 'rackseed-files.yaml');
  writeFileSync(join(state, 'profiles/storm.yaml'), JSON.stringify({ image: 'storm', nodes: nodes() }));
  const running = await launch('rackseed', argv, state, site, '/');
  try {
    const alone = await storm(site, files, { count: 1, first: ALONE });
    if (alone.done !== 1) throw new Error(`one machine alone did not boot, a storm would say nothing: ${alone.reasons.join('; ')}`);
    const before = { drops: await drops(site), descriptors: running.descriptors(), kinds: descriptorsByKind(running.pid), cpu: cpuSeconds(running.pid) };
    let most = 0;
    const sampling = setInterval(() => (most = Math.max(most, running.memory())), 50);
    const result = await storm(site, files, { count, first: 0 }).finally(() => clearInterval(sampling));
    for (const reason of result.reasons) say(`bench: ${reason}`);
    const left = await settled(running, before.descriptors);
    if (left > 0) say(`bench: descriptors before ${JSON.stringify(before.kinds)}, after ${JSON.stringify(descriptorsByKind(running.pid))}`);
    const after = await drops(site);
    for (const [what, dropped] of Object.entries(after)) if (dropped > before.drops[what]!) say(`bench: ${what}: ${dropped - before.drops[what]!}`);
    note('failures', result.nodes - result.done);
    note('recorded', readyBoots(state) - 1);
    note('drops', sum(after) - sum(before.drops));
    note('resent', result.dhcpResent + result.tftpResent);
    note('retries', result.retries);
    note('dhcp-p99', result.dhcpP99Ms);
    note('dhcp-max', result.dhcpMaxMs);
    note('loader', result.reached['ipxe discover']?.[1] ?? NaN);
    note('ready', result.reached['done']?.[1] ?? NaN);
    note('rate', result.bytes / result.seconds / 1e6);
    note('held', result.held);
    // The kernel's own high-water mark knows what fell between two samples.
    note('memory', Math.max(most, running.peakMemory()) / 1e6);
    note('cpu', ((cpuSeconds(running.pid) - before.cpu) / count) * 1000);
    note('descriptors', left);
    return result;
  } finally {
    await running.stop();
  }
}

function storm(site: Site, files: Files, { count, first }: { readonly count: number; readonly first: number }): Promise<Stormed> {
  const argv = [join(site.dir, 'storm'), '--card', NET.theirCard, '--count', String(count), '--first', String(first), '--bios', join(LOADERS, 'undionly.kpxe'), '--uefi', join(LOADERS, 'snponly.efi')];
  return site.run([...argv, ...Object.entries(files).flatMap(([name, file]) => [`--${name}`, file])]).then((said) => JSON.parse(said) as Stormed);
}

/** As storm.c numbers them. */
function nodes(): Record<string, { readonly macs: readonly string[]; readonly ip: string }> {
  const hex = (byte: number) => byte.toString(16).padStart(2, '0');
  return Object.fromEntries(
    Array.from({ length: NODES + 1 }, (_, n) => [`n${n}`, { macs: [`02:53:00:00:${hex(n >> 8)}:${hex(n & 255)}`], ip: `10.81.${4 + Math.floor(n / 250)}.${(n % 250) + 1}` }]),
  );
}

/** The stand-in image, as `rackseed image build` would leave it in the state directory. */
async function publish(stateDir: string, files: Files): Promise<void> {
  const blobs = createBlobStore(stateDir);
  const [kernel, initrd, squashfs] = [await blobs.add(files.kernel), await blobs.add(files.initrd), await blobs.add(files.image)];
  const content = { arch: 'amd64' as const, kernel, initrds: [initrd], squashfs };
  const digest = imageDigest(content);
  const images = createImageStore(stateDir);
  await images.put({
    name: 'storm', digest, arch: 'amd64', kernel: { ...kernel, version: '6.12' }, initrds: [initrd], squashfs: { ...squashfs, chunkSize: SIZES.image, chunks: [squashfs.digest.slice('sha256:'.length)] },
    packages: [], input: digest, builder: 'bench', builtAt: 0,
  });
  await images.tag('storm', 'latest', digest);
}

/** How many descriptors more than before are open, once that no longer falls. */
async function settled(running: Running, before: number): Promise<number> {
  for (const until = performance.now() + SETTLES_MS; running.descriptors() > before && performance.now() < until; ) await sleep(250);
  return Math.max(0, running.descriptors() - before);
}

/** What the kernel of the servers' namespace dropped since that began: full receive buffers, full accept queues, and packets on the cable. */
async function drops(site: Site): Promise<Readonly<Record<string, number>>> {
  const [snmp, netstat, card] = [await site.servers.must(['cat', '/proc/net/snmp']), await site.servers.must(['cat', '/proc/net/netstat']), await site.servers.must(['cat', '/proc/net/dev'])];
  const columns = new RegExp(`^\\s*${NET.card}:(.*)$`, 'm').exec(card)![1]!.trim().split(/\s+/).map(Number);
  return {
    'UDP receive buffer full': counter(snmp, 'Udp', 'RcvbufErrors'),
    'UDP send buffer full': counter(snmp, 'Udp', 'SndbufErrors'),
    'accept queue full': counter(netstat, 'TcpExt', 'ListenDrops'),
    'SYN queue full': counter(netstat, 'TcpExt', 'TCPReqQFullDrop'),
    'backlog of a socket full': counter(netstat, 'TcpExt', 'TCPBacklogDrop'),
    // proc(5): received, dropped is the fourth column; sent, the twelfth.
    'cable, received': columns[3]!,
    'cable, sent': columns[11]!,
  };
}

/** Two lines a protocol: names, then numbers. */
function counter(table: string, protocol: string, name: string): number {
  const [names, numbers] = table.split('\n').filter((line) => line.startsWith(`${protocol}: `)).map((line) => line.split(' '));
  const at = names?.indexOf(name) ?? -1;
  if (at < 0) throw new Error(`this kernel counts no ${protocol} ${name}`);
  return Number(numbers![at]);
}

function sum(counters: Readonly<Record<string, number>>): number {
  return Object.values(counters).reduce((all, value) => all + value, 0);
}

/** proc(5): user and system time of all threads; in USER_HZ, which is 100 on each Linux that Node runs on. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Of the daemon's own record, read as another process reads it. */
function readyBoots(state: string): number {
  const database = new BetterSqlite3(join(state, 'rackseed.db'), { readonly: true });
  try {
    return (database.prepare("SELECT count(*) AS ready FROM boots WHERE state = 'ready'").get() as { ready: number }).ready;
  } finally {
    database.close();
  }
}
