// `rackseed lab`: builds what is missing, boots VMs over our own DHCP, TFTP, HTTP and Git in a network of their own, and shows each stage.
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { BlobRef } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import type { BuildResult } from '../images/build.ts';
import type { ImageManifest } from '../images/manifest.ts';
import { attachConsole, consoleTail } from '../lab/console.ts';
import { readFirmware, type LabFirmware } from '../lab/firmware.ts';
import { buildLabImage, LAB_IMAGE } from '../lab/image.ts';
import { checkLab, startLab, type Lab } from '../lab/lab.ts';
import { releaseFrom, STANDIN, type Release } from '../lab/site.ts';
import type { NodeReport } from '../lab/stages.ts';
import { probeAccel } from '../lab/vm.ts';
import { reportOf, watchBoots, type Machine } from '../lab/watch.ts';
import { progressBar } from './progress.ts';

export interface LabCommandOptions {
  readonly nodes: number;
  readonly firmware: string;
  /** End when each node is ready or failed. */
  readonly once?: boolean;
  /** Nothing but JSON on stdout, one value a line. */
  readonly json?: boolean;
  /** Seconds until each node must be ready. */
  readonly timeout: number;
  /** false: the user starts the machines. */
  readonly vm: boolean;
  /** MiB of each machine. */
  readonly memory?: number;
  readonly k0s?: string;
  readonly sha256?: string;
  readonly state?: string;
  /** Keep the run's directory: logs, consoles, database. */
  readonly keep?: boolean;
  /** Join the terminal to this node of a running lab instead. */
  readonly console?: string;
}

/** Where the words go; `waiting` is a line that the next one replaces. */
export interface LabIo {
  readonly print: (text: string) => void;
  readonly say: (line: string) => void;
  readonly waiting: (text: string) => void;
  readonly color: boolean;
}

export interface LabResult {
  readonly nodes: readonly NodeReport[];
  readonly standin: boolean;
  readonly k0s: string;
  readonly accel: string;
  readonly api: string;
  readonly profilesDir: string;
  readonly image: { readonly name: string; readonly digest: Digest; readonly kernel: BlobRef; readonly initrd: BlobRef; readonly squashfs: BlobRef };
  /** Milliseconds: the image (0 when it was there), from the lab's start to the daemon's readiness, and the whole. */
  readonly timings: { readonly imageMs: number; readonly daemonReadyMs: number; readonly totalMs: number };
}

/** Resolves when the lab is gone again. LAB_FAILED when a node did not get ready (`--once`), LAB_UNAVAILABLE when the machine cannot. */
export async function labCommand(options: LabCommandOptions, io: LabIo = terminal(options.json ?? false)): Promise<void> {
  // An ordinary user's PATH on Debian leaves out where ip and dnsmasq are.
  process.env['PATH'] = `${process.env['PATH'] ?? ''}:/usr/local/sbin:/usr/sbin:/sbin`;
  const state = resolve(options.state ?? process.env['RACKSEED_LAB_STATE'] ?? defaultState());
  if (options.console !== undefined) return joinConsole(state, options.console);
  const began = Date.now();
  const firmware = readFirmware(options.firmware);
  if (!(options.timeout > 0)) throw new AppError('USAGE', '--timeout is not a number of seconds', 'such as --timeout 600');
  if (options.memory !== undefined && !(Number.isInteger(options.memory) && options.memory >= 512)) throw new AppError('USAGE', '--memory is not a number of MiB from 512', 'such as --memory 2048');
  await checkLab({ nodes: options.nodes, firmware, vms: options.vm });
  const release = options.k0s === undefined ? STANDIN : releaseFrom(options.k0s, options.sha256);

  const stopped = new AbortController();
  const onSignal = () => stopped.abort();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  // Repeated signals change nothing: npm and the terminal both send them, and closing takes about a second.
  for (const signal of signals) process.on(signal, onSignal);
  io.say(banner(release));
  let lab: Lab | undefined;
  try {
    const built = await ensureImage(state, firmware, io, stopped.signal);
    const image = built.manifest;
    const imageMs = built.unchanged ? 0 : Date.now() - began;
    const accel = await probeAccel();
    const starting = Date.now();
    const bar = progressBar(`k0s ${release.version}`);
    lab = await startLab({ state, nodes: options.nodes, firmware, memoryMiB: options.memory ?? (release.standin ? 2048 : 4096), accel, release, signal: stopped.signal, onProgress: (done, total) => (total === undefined ? io.waiting(`k0s ${release.version}: ${Math.round(done / 1024 / 1024)} MiB`) : bar.onProgress(done, total)) }).finally(bar.stop);
    io.waiting('');
    const daemonReadyMs = Date.now() - starting;
    const result = await boot(lab, options, io, stopped.signal, (nodes) => ({
      nodes,
      standin: release.standin,
      k0s: release.version,
      accel,
      api: lab!.apiUrl,
      profilesDir: lab!.site.profilesDir,
      image: sizesOf(image),
      timings: { imageMs, daemonReadyMs, totalMs: Date.now() - began },
    }));
    await judge(result, options, io, lab);
  } finally {
    await lab?.close({ keep: options.keep ?? false });
    for (const signal of signals) process.off(signal, onSignal);
    if (lab && options.keep) io.say(`kept: ${lab.site.dir}`);
    io.say(banner(release));
  }
}

/** Builds the image unless it is there with the inputs of this checkout. */
async function ensureImage(state: string, firmware: LabFirmware, io: LabIo, signal: AbortSignal): Promise<BuildResult> {
  const began = Date.now();
  let shown: string | undefined;
  const built = await buildLabImage(firmware, state, {
    signal,
    onProgress({ phase, fraction, message }) {
      if (phase !== shown) io.say(`image ${LAB_IMAGE}: ${phase}`);
      shown = phase;
      const filled = Math.round(fraction * 24);
      io.waiting(`[${'#'.repeat(filled)}${'-'.repeat(24 - filled)}] ${Math.round(fraction * 100)}% ${message ?? phase}`);
    },
  });
  io.waiting('');
  if (!built.unchanged) io.say(`image ${LAB_IMAGE}: built in ${Math.round((Date.now() - began) / 1000)} s`);
  return built;
}

function sizesOf({ name, digest, kernel, initrds, squashfs }: ImageManifest): LabResult['image'] {
  const blob = ({ digest, size }: BlobRef): BlobRef => ({ digest, size });
  return { name, digest, kernel: blob(kernel), initrd: blob(initrds[0]!), squashfs: blob(squashfs) };
}

async function boot(lab: Lab, options: LabCommandOptions, io: LabIo, signal: AbortSignal, resultOf: (nodes: NodeReport[]) => LabResult): Promise<LabResult> {
  if (!options.vm) {
    if (options.json) io.print(`${JSON.stringify({ qemu: lab.nodes.map((node) => ({ node: node.name, line: lab.qemuLine(node) })), api: lab.apiUrl })}\n`);
    else for (const node of lab.nodes) io.say(`boot ${node.name} from another terminal with:\n\n${lab.qemuLine(node)}\n`);
    io.say(`API: ${lab.apiUrl}/api/nodes · stop: Ctrl-C`);
  }
  const machines = lab.nodes.map((node): Machine => (options.vm ? { node, vm: lab.powerOn(node) } : { node }));
  const how = { say: io.say, waiting: io.waiting, color: io.color, signal };
  const outcome = await watchBoots(lab, machines, { ...how, untilSettled: true, timeoutMs: options.vm || options.once ? options.timeout * 1000 : 0 });
  io.waiting('');
  const late = outcome === 'timeout' ? `not ready after ${options.timeout} s` : outcome === 'interrupted' ? 'stopped before it was ready' : undefined;
  const reports = machines.map(reportOf).map((report): NodeReport => (late && report.state !== 'ready' && !report.why ? { ...report, why: late } : report));
  const result = resultOf(reports);
  if (options.json) io.print(`${JSON.stringify(result)}\n`);
  if (options.once || outcome === 'interrupted') return result;
  for (const report of reports) if (report.why) io.say(`${report.name}: ${report.why}`);
  for (const line of howTo(lab, options)) io.say(line);
  await watchBoots(lab, machines, { ...how, untilSettled: false, timeoutMs: 0 });
  io.waiting('');
  io.say('stopping');
  return result;
}

function howTo(lab: Lab, options: LabCommandOptions): string[] {
  const again = options.state === undefined ? '' : ` --state ${options.state}`;
  return [
    '',
    `API:      ${lab.apiUrl}/api/nodes   (curl works; it is forwarded from the lab's own network)`,
    ...(options.vm ? [`console:  npm run lab -- --console n1${again}   (Ctrl-] leaves it; everything so far: ${lab.nodes.map((node) => join(lab.site.dir, `console-${node.name}.log`))[0]})`] : []),
    `profiles: ${lab.site.profilesDir}   (move a node's line to another file, then reboot it)`,
    `log:      ${lab.daemon.log}`,
    'stop:     Ctrl-C',
    '',
  ];
}

/** With --once: a node that did not get ready is an error, after the last that its machine and the daemon said. */
async function judge(result: LabResult, options: LabCommandOptions, io: LabIo, lab: Lab): Promise<void> {
  const bad = result.nodes.filter((node) => node.state !== 'ready');
  if (!options.once || bad.length === 0) return;
  for (const node of bad) {
    const tail = options.vm ? await consoleTail(join(lab.site.dir, `console-${node.name}.log`), 15) : [];
    if (tail.length > 0) io.say([`last lines of ${node.name}'s console:`, ...tail.map((line) => `  | ${line}`)].join('\n'));
  }
  const first = bad[0]!;
  const reached = first.stages.at(-1)?.name ?? 'nothing';
  throw new AppError(
    'LAB_FAILED',
    `${bad.length} of ${result.nodes.length} nodes did not get ready: ${first.name}: ${first.why ?? first.state} (last stage: ${reached})`,
    options.keep ? `logs and consoles: ${lab.site.dir}` : 'run it again with --keep to have its logs and consoles',
  );
}

function banner(release: Release): string {
  return release.standin
    ? `rackseed lab: k0s is a STAND-IN here (${release.version}), a small program with k0s' command line; this is not a test of k0s itself`
    : `rackseed lab: k0s ${release.version}, checked against the sha256 that you gave`;
}

async function joinConsole(state: string, node: string): Promise<void> {
  // A lab that was killed leaves its directory until the next one; its process id tells.
  const runs = (await readdir(join(state, 'run')).catch(() => [])).filter((run) => existsSync(`/proc/${run}`));
  const sockets: string[] = [];
  for (const run of runs) for (const file of await readdir(join(state, 'run', run)).catch(() => [])) if (file === `console-${node}.sock`) sockets.push(join(state, 'run', run, file));
  if (sockets.length !== 1) throw new AppError('NODE_UNKNOWN', sockets.length === 0 ? `no running lab in ${state} has a machine ${node}` : `several labs in ${state} have a machine ${node}`, 'was the lab started with another --state?');
  process.stderr.write('console: Ctrl-] leaves it\n');
  await attachConsole(sockets[0]!, process.stdin as import('node:tty').ReadStream, process.stdout);
}

function defaultState(): string {
  if (process.getuid?.() === 0) return '/var/lib/rackseed-lab';
  return join(process.env['XDG_STATE_HOME'] || join(homedir(), '.local/state'), 'rackseed-lab');
}

/** With --json all that is for people goes to stderr. Colors only on a terminal, and not with NO_COLOR (no-color.org: set and not empty). */
export function terminal(json: boolean, to: Pick<NodeJS.Process, 'stdout' | 'stderr' | 'env'> = process): LabIo {
  const stream = json ? to.stderr : to.stdout;
  const live = Boolean(stream.isTTY);
  let transient = false;
  const erase = () => {
    if (transient) stream.write('\r\u001b[K');
    transient = false;
  };
  return {
    print: (text) => void to.stdout.write(text),
    say(line) {
      erase();
      stream.write(`${line}\n`);
    },
    waiting(text) {
      if (!live) return;
      erase();
      if (text !== '') transient = stream.write(text.slice(0, (stream.columns ?? 80) - 1)) || true;
    },
    color: live && !to.env['NO_COLOR'],
  };
}
