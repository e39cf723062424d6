// A whole daemon as a process of its own, which may be killed, traced and started again on the same state; with a small image and two nodes.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import BetterSqlite3 from 'better-sqlite3';
import { ip4FromNumber, ip4ToNumber, type Ip4, type Mac } from '../../src/addr.ts';
import { readSettings } from '../../src/config/settings.ts';
import { createImageStore, imageDigest } from '../../src/images/manifest.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { openDatabase } from '../../src/store/db.ts';
import { buildTree, type BuiltTree } from '../built-tree.ts';
import { ip } from '../integration/lan.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
export const HTTP_PORT = 8080;
export const SUBNET = '127.0.0.0/8';
/** Of the leases that `dhcp` below gives, in seconds. */
export const LEASE_SECONDS = 3600;

/** Two reservations, no boot profile but one that boots a small image. */
export const NODES = {
  n1: { macs: ['52:54:00:00:00:01'], ip: '127.0.0.11' },
  n2: { macs: ['52:54:00:00:00:02'], ip: '127.0.0.12' },
};

/** Everybody who comes by the relay 127.0.0.2 gets an address of the pool of 16,000. */
export const ON_LOOPBACK = { mode: 'full', onConflict: 'ignore', serve: 'any', subnets: [{ subnet: SUBNET, serverIp: '127.0.0.1', pool: '127.1.0.1-127.1.63.254', leaseTime: `${LEASE_SECONDS}s`, conflictCheck: 'off' }] };

export interface Row {
  readonly ip: Ip4;
  readonly mac: Mac | null;
  readonly expiresAt: number;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Serving {
  readonly child: ChildProcess;
  /** From the start of the process to its word that it is up, in milliseconds. */
  readonly upAfterMs: number;
  log(): string;
  /** Those of its lines with this message. */
  logged(message: string): readonly Readonly<Record<string, any>>[];
  api<T = any>(path: string): Promise<{ readonly status: number; readonly body: T }>;
  /** Resolves when the process has ended. */
  readonly gone: Promise<Ended>;
  /** Sends the signal and waits. */
  end(signal: NodeJS.Signals): Promise<Ended>;
}

export interface StartOptions {
  /** What runs the daemon: a tracer, `unshare`. It must leave stdout alone and pass signals on, or be the daemon by exec. */
  readonly wrap?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Default true: resolves once it is up. */
  readonly wait?: boolean;
  /** Default false. The daemon's state, sockets, leases and DHCP server without the rest of it: it starts in a third of the time. No API, no nodes. */
  readonly core?: boolean;
}

export interface Site {
  readonly dir: string;
  readonly stateDir: string;
  readonly database: string;
  readonly tree: BuiltTree;
  start(options?: StartOptions): Promise<Serving>;
  /** The leases as another process reads them, which never writes to the files. */
  rows(): Row[];
  /** Makes the database with so many leases of the pool, as if they had been given out; the daemon must not run. */
  fill(count: number): Promise<Row[]>;
  /** Ends what still runs and removes all files. */
  remove(): Promise<void>;
}

/** As src/daemon.ts does it, with an empty generation. */
const CORE = `
import { createBooter } from './src/booter.js';
import { openDhcpSockets, planDhcp, startDhcp } from './src/daemon/dhcp.js';
import { openState } from './src/daemon/state.js';
import { createLog } from './src/log.js';
const [stateDir, settings] = process.argv.slice(2);
const dhcp = JSON.parse(settings);
const log = createLog('info');
const now = Date.now;
const stops = [];
const plan = planDhcp(dhcp, 'core');
const { database, nodes, leases, boots, events } = openState(stateDir, log, now, stops);
const generation = { id: 'none', nodes: {}, nodeByMac: {}, nodeByIp: {}, profiles: {}, bootSets: {} };
const booter = createBooter({ generation: () => generation, nodes, leases, boots, events, serveAt: plan.serveAt, log, now });
const sockets = await openDhcpSockets(plan, dhcp, { events, log, now }, stops);
await startDhcp({ plan, dhcp, sockets, httpPort: 8080, booter, leases, database, events, nodeOf: () => undefined, reserved: () => undefined, log, now }, stops);
log.info('rackseed is up');
process.once('SIGTERM', async () => {
  for (const stop of stops.reverse()) await stop();
  process.exit();
});
`;

/** The sources compiled as `rackseed serve` runs them. `change` answers the text of a file that is to differ. */
export function buildDaemon(change: (file: string, text: string) => string = (_, text) => text): BuiltTree {
  const tree = buildTree();
  for (const shared of ['migrations', 'images', 'post-boot', 'boot-profiles']) symlinkSync(join(ROOT, shared), join(tree.dir, shared));
  writeFileSync(join(tree.dir, 'package.json'), readFileSync(join(ROOT, 'package.json')));
  for (const file of readdirSync(join(tree.dir, 'src'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.js'))) {
    const path = join(tree.dir, 'src', file);
    const text = readFileSync(path, 'utf8');
    const changed = change(file, text);
    if (changed !== text) writeFileSync(path, changed);
  }
  return tree;
}

/** Needs to be root in a network namespace of its own. The state lies on the real disk, which /tmp may not be; `stateDir`: somewhere else. */
export async function openSite(tree: BuiltTree, options: { readonly dhcp?: object; readonly stateDir?: string; readonly nodes?: object } = {}): Promise<Site> {
  ip('link', 'set', 'lo', 'up');
  const dir = mkdtempSync('/var/tmp/rackseed-durability-');
  const stateDir = options.stateDir ?? join(dir, 'state');
  const database = join(stateDir, 'rackseed.db');
  const config = join(dir, 'rackseed.yaml');
  const profilesDir = join(dir, 'boot-profiles');
  mkdirSync(profilesDir);
  writeFileSync(config, JSON.stringify({ stateDir, profiles: profilesDir, dhcp: options.dhcp ?? ON_LOOPBACK, http: { port: HTTP_PORT }, api: { port: 0 }, user: null }));
  writeFileSync(join(profilesDir, 'system.yaml'), JSON.stringify({ image: 'system', nodes: options.nodes ?? NODES }));
  if (!options.stateDir) await publish(stateDir);
  const running = new Set<Serving>();

  return {
    dir,
    stateDir,
    database,
    tree,
    async start({ wrap = [], env = {}, wait = true, core = false } = {}) {
      const startedAt = performance.now();
      const [program, ...args] = dieWithUs([...wrap, process.execPath, ...(core ? [tree.program('core.js', CORE), stateDir, JSON.stringify(readSettings(config).dhcp)] : [join(tree.dir, 'src/cli.js'), 'serve', '--config', config])]);
      const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
      const gone = once(child, 'close').then(([code, signal]): Ended => ({ code: code as number | null, signal: signal as NodeJS.Signals | null }));
      let text = '';
      child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
      const up = new Promise<number>((resolve, reject) => {
        child.stdout.on('data', (chunk: Buffer) => {
          text += chunk.toString();
          if (text.includes('"rackseed is up"')) resolve(performance.now() - startedAt);
        });
        void gone.then(() => reject(new Error(`the daemon ended before it was up: ${text.slice(-3000)}`)));
      });
      // Whoever does not wait does not care.
      up.catch(() => undefined);
      const serving = {
        child,
        upAfterMs: 0,
        log: () => text,
        logged: (message: string) => text.split('\n').filter((line) => line.includes(JSON.stringify(message))).map((line) => JSON.parse(line) as Record<string, any>),
        api: (path: string) => get(join(stateDir, 'api.sock'), path),
        gone,
        end(signal: NodeJS.Signals) {
          if (child.exitCode === null && child.signalCode === null) child.kill(signal);
          return gone;
        },
      };
      running.add(serving);
      void gone.then(() => running.delete(serving));
      if (wait) serving.upAfterMs = await up;
      return serving;
    },
    rows() {
      const sqlite = new BetterSqlite3(database, { readonly: true });
      try {
        return rowsOf(sqlite);
      } finally {
        sqlite.close();
      }
    },
    async fill(count) {
      mkdirSync(stateDir, { recursive: true });
      await openDatabase(database).close();
      const rows = Array.from({ length: count }, (_, n): Row => ({ ip: ip4FromNumber(ip4ToNumber('127.1.0.1') + n), mac: `06:00:00:${hex(n >> 16)}:${hex(n >> 8)}:${hex(n)}`, expiresAt: Date.now() + LEASE_SECONDS * 1000 }));
      const sqlite = new BetterSqlite3(database);
      const insert = sqlite.prepare('INSERT INTO leases (ip, mac, holder, subnet, expires_at, hostname, client_id, started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)');
      sqlite.transaction(() => {
        for (const [n, { ip: address, mac, expiresAt }] of rows.entries()) insert.run(ip4ToNumber(address), mac, mac, SUBNET, expiresAt, `host-${n}`, `01${mac!.replaceAll(':', '')}`, Date.now());
      })();
      sqlite.close();
      return rows;
    },
    async remove() {
      for (const serving of [...running]) await serving.end('SIGKILL');
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The leases in an open database, quarantines too. */
export function rowsOf(sqlite: BetterSqlite3.Database): Row[] {
  const rows = sqlite.prepare('SELECT ip, mac, expires_at FROM leases').raw().all() as [number, Mac | null, number][];
  return rows.map(([n, mac, expiresAt]) => ({ ip: ip4FromNumber(n), mac, expiresAt }));
}

/** A GET over a Unix socket. */
export function get(socketPath: string, path: string): Promise<{ status: number; body: any }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, path, agent: false }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
    });
    request.on('error', reject);
    request.end();
  });
}

/** Puts the image that the profile names into a state directory. */
export async function publish(stateDir: string): Promise<void> {
  const blobs = createBlobStore(stateDir);
  const [kernel, initrd, squashfs] = await Promise.all(['kernel', 'initrd', 'squashfs'].map((what) => blobs.add(Readable.from([Buffer.from(what)]))));
  const files = { arch: 'amd64' as const, kernel: kernel!, initrds: [initrd!], squashfs: squashfs! };
  const digest = imageDigest(files);
  const images = createImageStore(stateDir);
  await images.put({
    name: 'system', digest, arch: 'amd64', kernel: { ...kernel!, version: '6.12' }, initrds: [initrd!], squashfs: { ...squashfs!, chunkSize: 4 << 20, chunks: [squashfs!.digest.slice(7)] },
    packages: [], input: digest, builder: 'test', builtAt: 0,
  });
  await images.tag('system', 'latest', digest);
}

function hex(byte: number): string {
  return (byte & 255).toString(16).padStart(2, '0');
}
