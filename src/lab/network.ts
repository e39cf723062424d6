// Network namespaces that die with us: each is held open by a child that lives as long as our end of its pipe.
import { execFile, spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { AppError } from '../errors.ts';

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Namespace {
  /** The process that holds the namespace; `/proc/<pid>/ns/net` names it. */
  readonly pid: number;
  /** The command line that runs `argv` inside. */
  wrap(argv: readonly string[]): string[];
  /** Runs a program inside and waits for it; any exit code is an answer. */
  run(argv: readonly string[], options?: { readonly timeoutMs?: number; readonly input?: string }): Promise<Ran>;
  /** As run, but an exit code other than 0 is a LAB_UNAVAILABLE error with the program's last line. */
  must(argv: readonly string[]): Promise<string>;
  spawn(argv: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Ends the holder; the kernel then removes the namespace with every link in it. Programs still inside keep it alive: end them first. */
  close(): Promise<void>;
}

/**
 * A fresh network namespace with `lo` up and nothing else. An ordinary user gets it inside a user namespace of their own, where
 * they are root; namespaces that shall be joined by a cable then share one, so the later ones are made `within` the first. Nothing is left behind even when we are killed: the holder reads our pipe and ends with it.
 */
export async function createNamespace(within?: Namespace): Promise<Namespace> {
  const rootless = process.getuid?.() !== 0;
  const make = ['unshare', ...(rootless && !within ? ['--user', '--map-root-user'] : []), '--net', '--', 'sh', '-c', 'ip link set lo up && echo held && exec cat'];
  const [program, ...args] = within ? within.wrap(make) : make;
  const holder = spawn(program!, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let complaint = '';
  holder.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
  const held = await Promise.race([
    once(holder.stdout, 'data').then(() => true),
    once(holder, 'exit').then(() => false),
    once(holder, 'error').then(([error]) => ((complaint = String(error)), false)),
  ]);
  if (!held || holder.pid === undefined) {
    throw new AppError('LAB_UNAVAILABLE', `no network namespace can be made here: ${complaint.trim() || 'unshare failed'}`, 'needs iproute2 and util-linux, and root or unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)');
  }
  const pid = holder.pid;
  const enter = ['nsenter', `--target=${pid}`, ...(rootless ? ['--user', '--preserve-credentials'] : []), '--net', '--'];
  const wrap = (argv: readonly string[]) => [...enter, ...argv];
  const run: Namespace['run'] = (argv, options) =>
    new Promise((resolve) => {
      const [file, ...args] = wrap(argv);
      const child = execFile(file!, args, { timeout: options?.timeoutMs ?? 60_000, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
        resolve({ code: error ? (typeof error.code === 'number' ? error.code : 255) : 0, stdout, stderr });
      });
      // A program that ends without reading its input closes the pipe on us; its exit code is the answer, not EPIPE.
      child.stdin?.on('error', () => {});
      child.stdin?.end(options?.input ?? '');
    });
  return {
    pid,
    wrap,
    run,
    async must(argv) {
      const ran = await run(argv);
      if (ran.code !== 0) throw new AppError('LAB_UNAVAILABLE', `${argv.join(' ')}: ${ran.stderr.trim().split('\n').at(-1) || `exit ${ran.code}`}`);
      return ran.stdout;
    },
    spawn(argv, options = {}) {
      const [file, ...args] = wrap(argv);
      return spawn(file!, args, options);
    },
    async close() {
      if (holder.exitCode !== null || holder.signalCode !== null) return;
      const gone = once(holder, 'exit');
      holder.stdin.end();
      await gone;
    },
  };
}

/** Joins two namespaces with a cable: a veth pair, one end in each, both up. */
export async function cable(a: { readonly ns: Namespace; readonly name: string }, b: { readonly ns: Namespace; readonly name: string }): Promise<void> {
  await a.ns.must(['ip', 'link', 'add', a.name, 'type', 'veth', 'peer', 'name', b.name, 'netns', String(b.ns.pid)]);
  await a.ns.must(['ip', 'link', 'set', a.name, 'up']);
  await b.ns.must(['ip', 'link', 'set', b.name, 'up']);
}
