// A whole daemon with links to network namespaces, in which real clients, relays and servers or made-up machines are.
import { execFileSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect } from 'vitest';
import { readSettings } from '../../src/config/settings.ts';
import { startDaemon, type Daemon } from '../../src/daemon.ts';
import { createImageStore, imageDigest } from '../../src/images/manifest.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase } from '../../src/store/db.ts';
import { createLeaseStore, type LeaseStore } from '../../src/store/leases.ts';

export const HTTP_PORT = 8080;

export interface Link {
  /** Our own end. */
  readonly name: string;
  /** The far end: a namespace whose card is called eth0. */
  readonly ns: Namespace;
  close(): Promise<void>;
}

/** A cable from a card of ours, which gets the address (`10.77.0.1/24`), to a namespace of its own. */
export async function openLink(name: string, address?: string): Promise<Link> {
  ip('link', 'set', 'lo', 'up');
  const ns = await createNamespace();
  ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(ns.pid));
  if (address) ip('address', 'add', address, 'dev', name);
  ip('link', 'set', name, 'up');
  await ns.must(['ip', 'link', 'set', 'eth0', 'up']);
  return {
    name,
    ns,
    async close() {
      execFileSync('sh', ['-c', `ip link del ${name} 2>/dev/null || true`]);
      await ns.close();
    },
  };
}

export function ip(...argv: string[]): string {
  return execFileSync('ip', argv, { encoding: 'utf8' });
}

export interface Lan {
  readonly dir: string;
  /** What the daemon logged so far, one JSON object a line. */
  log(): string;
  /** Those of its lines with this message. */
  logged(message: string): readonly Readonly<Record<string, unknown>>[];
  api<T = unknown>(path: string, method?: string): Promise<T>;
  /** The DHCP server's, by name; all of them but `received` and `unsent` say what became of a datagram. */
  counters(): Promise<Readonly<Record<string, number>>>;
  /** Datagrams that were dealt with so far. */
  heard(): Promise<number>;
  /** Reads the daemon's database beside it. */
  stored<T>(read: (stores: { readonly leases: LeaseStore; readonly boots: BootStore }) => Promise<T>): Promise<T>;
  /** Writes this profile and has it loaded. */
  profile(text: string): Promise<void>;
  /** Stops it, and starts another one on the same state. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export interface LanOptions {
  /** `dhcp:` of rackseed.yaml. */
  readonly dhcp: object;
  /** `nodes:` of the one profile, which boots an image from this daemon. */
  readonly nodes?: object;
  /** Default debug. */
  readonly level?: 'debug' | 'info' | 'warn';
}

/** Needs to be root in a network namespace of its own: it binds the real ports. */
export async function startLan({ dhcp, nodes = {}, level = 'debug' }: LanOptions): Promise<Lan> {
  ip('link', 'set', 'lo', 'up');
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-lan-'));
  const stateDir = join(dir, 'state');
  const profilesDir = join(dir, 'boot-profiles');
  mkdirSync(profilesDir);
  writeFileSync(join(dir, 'rackseed.yaml'), JSON.stringify({ stateDir, profiles: profilesDir, dhcp, http: { port: HTTP_PORT }, api: { port: 0 }, user: null }));
  await publish(stateDir, 'system');
  const writeProfile = (text: string): void => writeFileSync(join(profilesDir, 'system.yaml'), text);
  writeProfile(profileOf(nodes));
  let logged = '';
  const log = createLog(level, { write: (line: string) => void (logged += line) });
  const settings = readSettings(join(dir, 'rackseed.yaml'));
  let daemon: Daemon;
  try {
    daemon = await startDaemon(settings, log);
  } catch (error) {
    rmSync(dir, { recursive: true, force: true });
    throw error;
  }
  const lan: Lan = {
    dir,
    log: () => logged,
    logged: (message) => logged.split('\n').filter((line) => line.includes(JSON.stringify(message))).map((line) => JSON.parse(line) as Record<string, unknown>),
    api: <T>(path: string, method = 'GET') =>
      new Promise<T>((resolve, reject) => {
        const request = httpRequest({ socketPath: settings.api.socket, path, method, agent: false }, (response) => {
          let text = '';
          response.on('data', (chunk: Buffer) => (text += chunk.toString()));
          response.on('end', () => resolve(JSON.parse(text) as T));
        });
        request.on('error', reject);
        request.end();
      }),
    counters: async () => (await lan.api<{ counters: Record<string, number> }>('/api/dhcp')).counters,
    async heard() {
      const { received: _received, unsent: _unsent, ...ends } = await lan.counters();
      return Object.values(ends).reduce((sum, count) => sum + count, 0);
    },
    async stored(read) {
      const database = openDatabase(join(stateDir, 'rackseed.db'));
      try {
        return await read({ leases: createLeaseStore(database), boots: createBootStore(database) });
      } finally {
        await database.close();
      }
    },
    async profile(text) {
      writeProfile(text);
      await daemon.reload('test');
    },
    async restart() {
      await daemon.stop();
      daemon = await startDaemon(settings, log);
    },
    async stop() {
      await daemon.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return lan;
}

/** A profile file with these nodes. */
export function profileOf(nodes: object): string {
  return JSON.stringify({ image: 'system', nodes });
}

async function publish(stateDir: string, name: string): Promise<void> {
  const blobs = createBlobStore(stateDir);
  const [kernel, initrd, squashfs] = await Promise.all(['kernel', 'initrd', 'squashfs'].map((what) => blobs.add(Readable.from([Buffer.from(what)]))));
  const files = { arch: 'amd64' as const, kernel: kernel!, initrds: [initrd!], squashfs: squashfs! };
  const digest = imageDigest(files);
  const images = createImageStore(stateDir);
  await images.put({
    name, digest, arch: 'amd64', kernel: { ...kernel!, version: '6.12' }, initrds: [initrd!], squashfs: { ...squashfs!, chunkSize: 4 << 20, chunks: [squashfs!.digest.slice(7)] },
    packages: [], input: digest, builder: 'test', builtAt: 0,
  });
  await images.tag(name, 'latest', digest);
}

/** Waits for what is certain to come, however slow the machine. */
export function eventually<T>(look: () => T | Promise<T>) {
  return expect.poll(look, { timeout: 30_000, interval: 20 });
}

export interface Output {
  /** What left since: `<count> from <ip>:<port> to <ip>:<port>` of each UDP flow, `<count> icmps`, `<count> others` (ICMP, other IP). */
  left(): string[];
  /** All of it. */
  packets(): number;
  close(): void;
}

/** Counts in the kernel what leaves by a card of ours, whoever sends it; ARP is no IP packet and not counted. */
export function watchOutput(card: string): Output {
  const table = `out_${card}`;
  execFileSync('nft', ['-f', '-'], {
    input: `table ip ${table} {
      set udps { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic; size 65000; counter; }
      counter icmps { }
      counter others { }
      chain out {
        type filter hook output priority 0;
        oifname != "${card}" accept
        meta l4proto udp update @udps { ip saddr . udp sport . ip daddr . udp dport } accept
        meta l4proto icmp counter name icmps accept
        counter name others
      }
    }`,
  });
  const listed = () => (JSON.parse(execFileSync('nft', ['-j', 'list', 'table', 'ip', table], { encoding: 'utf8' })) as { nftables: Record<string, any>[] }).nftables;
  const counts = (): [number, string][] =>
    listed().flatMap(({ set, counter }): [number, string][] => {
      if (counter) return counter['packets'] > 0 ? [[counter['packets'] as number, counter['name'] as string]] : [];
      return ((set?.['elem'] ?? []) as { elem: { val: { concat: unknown[] }; counter: { packets: number } } }[]).map(({ elem: { val, counter: { packets } } }) => [packets, `from ${val.concat[0]}:${val.concat[1]} to ${val.concat[2]}:${val.concat[3]}`]);
    });
  return {
    left: () => counts().map(([count, what]) => `${count} ${what}`).sort(),
    packets: () => counts().reduce((sum, [count]) => sum + count, 0),
    close: () => void execFileSync('nft', ['delete', 'table', 'ip', table]),
  };
}

/** Resolves with the match once the program has said it on either stream; an error when it ends before. */
export function said(child: ChildProcess, what: RegExp, timeoutMs = 30_000): Promise<RegExpExecArray> {
  let text = '';
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => done(new Error(`not within ${timeoutMs} ms: ${what}; but: ${text}`)), timeoutMs);
    const hear = (chunk: Buffer): void => {
      text += chunk.toString();
      const found = what.exec(text);
      if (found) done(found);
    };
    const exited = (): void => done(new Error(`the program ended without ${what}: ${text}`));
    function done(result: RegExpExecArray | Error): void {
      clearTimeout(timer);
      child.stdout?.off('data', hear);
      child.stderr?.off('data', hear);
      child.off('close', exited);
      // What nobody reads must still flow, or the program stops at a full pipe.
      child.stdout?.resume();
      child.stderr?.resume();
      if (result instanceof Error) reject(result);
      else resolve(result);
    }
    child.stdout?.on('data', hear);
    child.stderr?.on('data', hear);
    child.once('close', exited);
  });
}

export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const gone = once(child, 'exit');
  child.kill();
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000);
  await gone;
  clearTimeout(timer);
}

/** An executable file of this text. */
export function script(file: string, text: string): string {
  writeFileSync(file, `#!/bin/sh\n${text}\n`);
  chmodSync(file, 0o755);
  return file;
}

/** dnsmasq as the LAN's DHCP server or relay; resolves once it serves. */
export async function startDnsmasq(ns: Namespace, dir: string, ...args: string[]): Promise<ChildProcess> {
  const all = ['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--port=0', '--user=', '--group=', '--pid-file=', `--dhcp-leasefile=${join(dir, `dnsmasq-${ns.pid}.leases`)}`, ...args];
  const child = ns.spawn(all, { stdio: ['ignore', 'pipe', 'pipe'] });
  await said(child, /IP range|relay from/);
  return child;
}

/** Kea on eth0 or the named card; resolves once it serves. */
export async function startKea(ns: Namespace, dir: string, config: object): Promise<ChildProcess> {
  const file = join(dir, `kea-${ns.pid}.json`);
  writeFileSync(file, JSON.stringify({ Dhcp4: { 'lease-database': { type: 'memfile', persist: false }, loggers: [{ name: 'kea-dhcp4', severity: 'INFO', output_options: [{ output: 'stdout', flush: true }] }], ...config } }));
  const child = ns.spawn(['kea-dhcp4', '-c', file], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, KEA_PIDFILE_DIR: dir, KEA_LOCKFILE_DIR: dir } });
  await said(child, /DHCP4_STARTED/);
  return child;
}
