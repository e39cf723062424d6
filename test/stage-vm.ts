// One machine with the initrd stage, started by QEMU from kernel and initrd, and a server that gives it what a test says: config, and bytes that no daemon of ours would send.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface StageBoot {
  readonly kernel: string;
  readonly initrd: string;
  /** What config says beside who the node is, in order; a list is one line each. */
  readonly config: Readonly<Record<string, string | number | readonly string[] | undefined>>;
  /** Answers of GET by path, in order of asking when there are several. */
  readonly files: Readonly<Record<string, Buffer | readonly Buffer[]>>;
  /** More for the kernel's command line. */
  readonly cmdline?: string;
  readonly memoryMiB?: number;
  /** More for QEMU, such as a disk. */
  readonly more?: readonly string[];
  readonly accel?: 'kvm' | 'tcg';
  /** Ends the machine when this is on its console, or when the boot is over; seconds until it is given up. */
  readonly until?: RegExp;
  readonly limit?: number;
}

export interface StageRun {
  readonly console: string;
  /** `stage state`, and what was said with it. */
  readonly reports: readonly string[];
  /** GETs by path, how often. */
  readonly asked: Readonly<Record<string, number>>;
  /** Seconds since QEMU's start of each report. */
  readonly at: Readonly<Record<string, number>>;
}

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** Boots until `until`, `ready`, or `failed`; rejects with the console's end when none of them came in time. */
export async function bootStage(boot: StageBoot): Promise<StageRun> {
  const reports: string[] = [];
  const at: Record<string, number> = {};
  const asked: Record<string, number> = {};
  const started = performance.now();
  const config = Object.entries({ node: 'n1', hostname: 'n1', 'machine-id': 'ab'.repeat(16), ...boot.config })
    .flatMap(([key, value]) => (value === undefined ? [] : [value].flat().map((one) => `${key} ${one}\n`)))
    .join('');
  let over = false;
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url!, 'http://x');
    request.resume();
    if (pathname === '/enrol') return void response.writeHead(201).end(`boot B1\ntoken ${'cd'.repeat(32)}\n`);
    if (pathname === '/boots/B1/config') return void response.end(config);
    if (pathname === '/boots/B1/facts') return void response.end('{}');
    if (pathname === '/boots/B1/facts.env') return void response.end("RACKSEED_CONTRACT='1'\nRACKSEED_NODE='n1'\n");
    if (pathname === '/boots/B1/report') {
      const [stage, state, message] = ['stage', 'state', 'message'].map((name) => searchParams.get(name));
      reports.push(`${stage} ${state}${message ? `: ${message}` : ''}`);
      at[`${stage} ${state}`] = Math.round((performance.now() - started) / 100) / 10;
      over ||= state === 'failed' || (stage === 'ready' && state === 'ok');
      return void response.writeHead(204).end();
    }
    const file = [boot.files[pathname] ?? []].flat() as Buffer[];
    const bytes = file[Math.min(asked[pathname] ?? 0, file.length - 1)];
    asked[pathname] = (asked[pathname] ?? 0) + 1;
    if (!bytes) return void response.writeHead(404).end();
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(from ? 206 : 200, { 'content-length': bytes.length - from, ...(from ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}) }).end(bytes.subarray(from));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  // The user's network of QEMU: the host is 10.0.2.2, and no namespace is needed.
  const cmdline = `console=ttyS0 panic=-1 rackseed=http://10.0.2.2:${port} rackseed.boot=B1 rackseed.wait=3 ip=10.0.2.15::10.0.2.2:255.255.255.0:n1::off: ${boot.cmdline ?? ''}`;
  const accel = boot.accel ?? 'tcg';
  const qemu = spawn('qemu-system-x86_64', [
    ...['-machine', 'q35,graphics=off', '-accel', accel, '-cpu', accel === 'kvm' ? 'host' : 'max,-cx16', '-m', String(boot.memoryMiB ?? 1024), '-smp', '2', '-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-kernel', boot.kernel, '-initrd', boot.initrd, '-append', cmdline, '-netdev', 'user,id=n0', '-device', 'virtio-net-pci,netdev=n0,romfile='],
    ...(boot.more ?? []),
  ], { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  let ended = false;
  for (const stream of [qemu.stdout, qemu.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  qemu.on('close', () => (ended = true));
  try {
    const limit = Date.now() + (boot.limit ?? 180) * 1000;
    while (!ended && !over && !boot.until?.test(text)) {
      if (Date.now() > limit) throw new Error(`nothing came of it in time; its console ends with:\n${text.slice(-3000)}`);
      await sleep(100);
    }
    // What it says of the reboot, and that it does reboot, is part of it.
    for (let wait = 0; over && !ended && wait < 60; wait++) await sleep(100);
    return { console: text, reports, asked, at };
  } finally {
    qemu.kill('SIGKILL');
    if (!ended) await new Promise((resolve) => qemu.on('close', resolve));
    server.closeAllConnections();
    server.close();
  }
}
