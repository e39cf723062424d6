// Where a benchmark runs: two network namespaces joined by a cable, and a directory on a disk; all of it is gone when we are.
import { spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { arch, availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { dieWithUs } from '../src/lab/child.ts';
import { cable, createNamespace, type Namespace } from '../src/lab/network.ts';

/** The server's card and address, and those of the machines, which are all behind one card of their own namespace. */
export const NET = { card: 'srv0', server: '10.80.0.1', theirCard: 'gen0', theirs: '10.80.0.2', prefix: 14, poolFrom: '10.81.0.0' } as const;

/**
 * Linux's own congestion control, on the servers' routes, for all of them. A machine whose default is BBR, as some hosting companies have it, paces each connection
 * by a timer at what it takes for the path's rate; over a veth pair that is 2 to 10 GB/s from one run to the next, whoever serves.
 */
const CONGESTION = 'cubic';
/** The pool: routed to the machines' card, and local there, so that a unicast to any of them needs no ARP of its own. */
const POOL_ROUTES = ['10.81.0.0/16', '10.82.0.0/15'];

export interface Site {
  readonly servers: Namespace;
  readonly machines: Namespace;
  /** Empty at first; on a disk, because a lease that is durable on a tmpfs proves nothing. */
  readonly dir: string;
  /** Runs a program among the machines to its end. An Error with its last line unless it exits with one of `codes`. */
  run(argv: readonly string[], codes?: readonly number[]): Promise<string>;
  close(): Promise<void>;
}

export async function createSite(): Promise<Site> {
  // Debian mounts /tmp as a tmpfs where it likes; /var/tmp is kept over a reboot, so it is on a disk.
  const dir = mkdtempSync(join(process.env['RACKSEED_BENCH_DIR'] ?? '/var/tmp', 'rackseed-bench-'));
  const remove = () => rmSync(dir, { recursive: true, force: true });
  process.once('exit', remove);
  const servers = await createNamespace();
  const machines = await createNamespace(servers);
  await cable({ ns: servers, name: NET.card }, { ns: machines, name: NET.theirCard });
  await servers.must(['ip', 'address', 'add', `${NET.server}/${NET.prefix}`, 'dev', NET.card]);
  await machines.must(['ip', 'address', 'add', `${NET.theirs}/${NET.prefix}`, 'dev', NET.theirCard]);
  for (const route of POOL_ROUTES) {
    await servers.must(['ip', 'route', 'add', route, 'via', NET.theirs, 'congctl', CONGESTION]);
    await machines.must(['ip', 'route', 'add', 'local', route, 'dev', 'lo']);
  }
  return {
    servers,
    machines,
    dir,
    async run(argv, codes = [0]) {
      const child = machines.spawn(dieWithUs(argv), { stdio: ['ignore', 'pipe', 'pipe'] });
      const [said, complained, [code]] = await Promise.all([read(child.stdout!), read(child.stderr!), once(child, 'close') as Promise<[number | null]>]);
      if (code === null || !codes.includes(code)) throw new Error(`${argv.join(' ')}: exit ${code}: ${complained.trim().split('\n').at(-1)}`);
      return said;
    },
    async close() {
      await machines.close();
      await servers.close();
      process.off('exit', remove);
      remove();
    },
  };
}

async function read(stream: NonNullable<ChildProcess['stdout']>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** The command line that makes `program` of bench/<name>.c. */
export function compilerArgv(root: string, name: string, program: string, ...more: readonly string[]): readonly [cc: string, ...args: string[]] {
  return ['cc', '-O2', ...more, '-o', program, join(root, 'bench', `${name}.c`)];
}

/** Compiles bench/<name>.c into the site; the path of the program. An Error with the compiler's words. */
export function compile(root: string, name: string, site: Site): string {
  const program = join(site.dir, name);
  const [cc, ...args] = compilerArgv(root, name, program);
  const { status, stderr, error } = spawnSync(cc, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`cc ${name}.c: ${error?.message ?? stderr}`);
  return program;
}

const TMPFS = 0x01021994;

/** What the figures belong to: processor, kernel, disk. `fsyncMs` is the median of 100 writes of 4 KiB, each with its fdatasync. */
export function describeMachine(dir: string) {
  const cpu = cpus()[0]?.model ?? 'unknown';
  const [load = 0] = loadavg();
  return {
    cpus: availableParallelism(), cpu, arch: arch(), memoryGiB: Math.round(totalmem() / 2 ** 30), kernel: release(), node: process.version,
    disk: statfsSync(dir).type === TMPFS ? 'tmpfs: nothing here is durable' : 'a file system on a disk',
    fsyncMs: fsyncMs(join(dir, 'fsync')),
    receiveBufferMax: Number(readFileSync('/proc/sys/net/core/rmem_max', 'utf8')),
    loadAtStart: load,
  };
}

function fsyncMs(file: string): number {
  const block = Buffer.alloc(4096, 1);
  const fd = openSync(file, 'w');
  const times = Array.from({ length: 100 }, () => {
    const start = performance.now();
    writeSync(fd, block);
    fdatasyncSync(fd);
    return performance.now() - start;
  });
  closeSync(fd);
  rmSync(file);
  return Number(times.sort((a, b) => a - b)[50]!.toFixed(3));
}
