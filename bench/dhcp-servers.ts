// The DHCP servers that are measured: each is started anew with nothing in its state, watched from outside, and ended by its own pid.
import { copyFileSync, mkdirSync, openSync, closeSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { dieWithUs, ended, stop } from '../src/lab/child.ts';
import { generate } from './dhcp-generator.ts';
import type { Site } from './site.ts';
import { rackseedArgv, versionOf, written } from './start.ts';

export type ServerName = 'rackseed' | 'Kea' | 'dnsmasq';

export interface Server {
  readonly name: ServerName;
  readonly version: string;
  /** How many machines can renew in turn without one of them doing so several times a second. */
  readonly renewers: number;
  /** How many exchanges at once it is tried with; its best is then its window. */
  readonly windows: readonly number[];
  /** Ways to configure it that are tried against each other; the first is Debian's default. */
  readonly variants: readonly Variant[];
  /** Whether it can be filled with 100,000 leases within minutes. */
  readonly fills: boolean;
  /** Writes its configuration into `state` and says how to start it. */
  prepare(state: string, how: How): { readonly argv: readonly string[]; readonly env?: NodeJS.ProcessEnv };
}

export interface Variant {
  readonly what: string;
  readonly words: Readonly<Record<string, string>>;
}

export interface How {
  readonly variant: Variant;
  /** Directly attached machines without an address, instead of those behind a relay. */
  readonly broadcast: boolean;
}

export interface Running {
  /** From the start of the program to its first OFFER, in seconds. */
  readonly readyAfter: number;
  readonly pid: number;
  /** Resident memory, in bytes. */
  memory(): number;
  stop(): Promise<void>;
}

const PLAIN: Variant = { what: '', words: {} };

/** `cli` is the built dist/cli.js, `root` the tree that holds bench/peers. */
export function allServers(root: string, cli: string): readonly Server[] {
  return [
    {
      name: 'rackseed',
      version: versionOf(process.execPath, [cli, '--version']),
      renewers: 20_000,
      windows: [32, 64, 128, 256, 512],
      variants: [PLAIN],
      fills: true,
      prepare: (state) => ({ argv: rackseedArgv(root, cli, state, 'rackseed.yaml') }),
    },
    {
      name: 'Kea',
      version: versionOf('kea-dhcp4', ['-v']),
      renewers: 20_000,
      windows: [32, 64, 128],
      variants: [
        { what: 'one thread', words: { THREADED: 'false', THREADS: '0' } },
        { what: `${availableParallelism()} threads`, words: { THREADED: 'true', THREADS: String(availableParallelism()) } },
      ],
      fills: true,
      prepare(state, { variant, broadcast }) {
        const config = written(root, 'kea-dhcp4.conf', join(state, 'kea-dhcp4.conf'), { ...variant.words, STATE: state, SOCKETS: broadcast ? 'raw' : 'udp' });
        // Its usual directories belong to a Kea that the machine may run for itself.
        return { argv: ['kea-dhcp4', '-c', config], env: { KEA_PIDFILE_DIR: state, KEA_LOCKFILE_DIR: state } };
      },
    },
    {
      name: 'dnsmasq',
      version: versionOf('dnsmasq', ['--version']),
      renewers: 500,
      windows: [16, 64],
      variants: [PLAIN],
      // It writes its whole lease file at each change, and reading 20,000 leases took it 20 s, four times as many 16 times as long.
      fills: false,
      prepare: (state) => ({ argv: ['dnsmasq', '--keep-in-foreground', `--conf-file=${written(root, 'dnsmasq.conf', join(state, 'dnsmasq.conf'), { STATE: state })}`] }),
    },
  ];
}

let machinesAsked = 0;

/** Starts it and waits for its first OFFER, at most a minute. `keep`: with the state of the run before. */
export async function start(server: Server, site: Site, how: How, { keep = false }: { readonly keep?: boolean } = {}): Promise<Running> {
  const state = join(site.dir, server.name);
  if (!keep) rmSync(state, { recursive: true, force: true });
  mkdirSync(state, { recursive: true });
  const { argv, env } = server.prepare(state, how);
  const said = join(state, 'said');
  const output = openSync(said, 'w');
  const began = performance.now();
  const child = site.servers.spawn(dieWithUs(argv), { stdio: ['ignore', output, output], env: { ...process.env, ...env } });
  closeSync(output);
  const end = ended(child).then((line) => ({ line }));
  // A machine that no run uses, and another one each time: the answer must not come from what it remembers.
  const first = generate(site, { mode: 'offer', broadcast: how.broadcast, window: 1, count: 1, first: 0xff000000 + machinesAsked++, seconds: 60, resend: 0.02 });
  const ready = await Promise.race([first, end]);
  if ('line' in ready || ready.exchanges !== 1) {
    await stop(child);
    const last = readFileSync(said, 'utf8').trim().split('\n').slice(-5).join('\n  ');
    throw new Error(`${server.name} ${'line' in ready ? `ended by itself (${ready.line})` : 'made no offer within a minute'}; its last words:\n  ${last}`);
  }
  return {
    readyAfter: (performance.now() - began) / 1000,
    pid: child.pid!,
    memory: () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))![1]) * 1024,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) {
        copyFileSync(said, '/dev/stderr');
        throw new Error(`${server.name} ended in the middle of a run: ${(await end).line}`);
      }
      await stop(child, 'SIGTERM', 30_000);
    },
  };
}
