// The HTTP servers that are measured: each started by us on the same files, watched by its processes, and ended by its own pid.
import { closeSync, copyFileSync, linkSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dieWithUs, ended, stop } from '../src/lab/child.ts';
import { NET, type Site } from './site.ts';
import { rackseedArgv, versionOf, written } from './start.ts';

export const HTTP_PORT = 8080;

/** A file by its digest, the same for each server: one inode, so that all of them have it in the page cache. */
export interface Blob {
  readonly hex: string;
  readonly bytes: number;
  readonly file: string;
}

export interface HttpServer {
  readonly name: 'rackseed' | 'nginx';
  readonly version: string;
  /** Ways to configure it that are tried against each other. */
  readonly variants: readonly Variant[];
  /** Writes its configuration into `state`, where its files are to be, and says how to start it. */
  prepare(state: string, variant: Variant): { readonly argv: readonly string[]; readonly files: string };
}

export interface Variant {
  readonly what: string;
  readonly words: Readonly<Record<string, string>>;
}

export interface Running {
  readonly pid: number;
  readonly state: string;
  /** The process and its workers. */
  pids(): number[];
  /** The most that was ever resident of all its processes, in bytes. What they share counts for each. */
  peakMemory(): number;
  memory(): number;
  /** Open file descriptors. */
  descriptors(): number;
  stop(): Promise<void>;
}

/** `cli` is the built dist/cli.js, `root` the tree that holds bench/peers. */
export function allHttpServers(root: string, cli: string): readonly HttpServer[] {
  return [
    {
      name: 'rackseed',
      version: versionOf(process.execPath, [cli, '--version']),
      variants: [{ what: '', words: {} }],
      prepare: (state) => ({ argv: rackseedArgv(root, cli, state, 'rackseed-files.yaml'), files: join(state, 'blobs/sha256') }),
    },
    {
      name: 'nginx',
      version: versionOf('nginx', ['-v']),
      variants: [
        { what: 'one accept queue', words: { LISTEN: '' } },
        { what: 'reuseport', words: { LISTEN: 'reuseport' } },
      ],
      prepare(state, { words }) {
        const config = written(root, 'nginx.conf', join(state, 'nginx.conf'), { ...words, STATE: state, FILES: state, CORES: String(availableParallelism()) });
        return { argv: ['nginx', '-c', config, '-p', state], files: join(state, 'blobs/sha256') };
      },
    },
  ];
}

/** Starts it with these files and nothing else in its state, and waits until it answers. */
export async function startHttp(server: HttpServer, site: Site, variant: Variant, blobs: readonly Blob[]): Promise<Running> {
  const state = join(site.dir, server.name);
  rmSync(state, { recursive: true, force: true });
  mkdirSync(state, { recursive: true });
  const { argv, files } = server.prepare(state, variant);
  mkdirSync(files, { recursive: true });
  for (const { file, hex } of blobs) linkSync(file, join(files, hex));
  return launch(server.name, argv, state, site, `/blobs/sha256/${blobs[0]?.hex ?? '0'.repeat(64)}`);
}

/** Runs a server in the servers' namespace until it answers at `path`, whatever it says; at most a minute. */
export async function launch(name: string, argv: readonly string[], state: string, site: Site, path: string): Promise<Running> {
  const said = join(state, 'said');
  const output = openSync(said, 'w');
  const child = site.servers.spawn(dieWithUs(argv), { stdio: ['ignore', output, output] });
  closeSync(output);
  const end = ended(child);
  let over: string | undefined;
  void end.then((line) => (over = line));
  const url = `http://${NET.server}:${HTTP_PORT}${path}`;
  for (const until = performance.now() + 60_000; ; ) {
    const answered = over === undefined && (await site.machines.run(['curl', '-s', '-o', '/dev/null', '-r', '0-0', '--interface', '10.81.0.1', url])).code === 0;
    if (answered) break;
    if (over !== undefined || performance.now() > until) {
      await stop(child);
      throw new Error(`${name} ${over === undefined ? 'did not answer within a minute' : `ended by itself (${over})`}; its last words:\n  ${readFileSync(said, 'utf8').trim().split('\n').slice(-5).join('\n  ')}`);
    }
    await sleep(50);
  }
  const pid = child.pid!;
  const pids = () => [pid, ...(name === 'rackseed' ? [] : readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number))];
  const kilobytes = (field: string) => pids().reduce((sum, one) => sum + Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync(`/proc/${one}/status`, 'utf8'))![1]), 0);
  return {
    pid,
    state,
    pids,
    peakMemory: () => kilobytes('VmHWM') * 1024,
    memory: () => kilobytes('VmRSS') * 1024,
    descriptors: () => readdirSync(`/proc/${pid}/fd`).length,
    async stop() {
      if (over !== undefined) {
        copyFileSync(said, '/dev/stderr');
        throw new Error(`${name} ended in the middle of a run: ${over}`);
      }
      await stop(child, 'SIGTERM', 30_000);
    },
  };
}

/** What the descriptors of a process are, by kind, such as `socket` or a path: to say which ones were left open. */
export function descriptorsByKind(pid: number): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const kind = readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:\[\d+\]$/, '');
      counts[kind] = (counts[kind] ?? 0) + 1;
    } catch {
      // It was closed meanwhile.
    }
  }
  return counts;
}
