// A whole daemon on loopback, with a small image, an artifact and two nodes: what integration tests talk to.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { ImageRef } from '../../src/boot/profile.ts';
import { addArtifact } from '../../src/commands/artifact.ts';
import { readSettings } from '../../src/config/settings.ts';
import { startDaemon, type Daemon } from '../../src/daemon.ts';
import { createImageStore, imageDigest } from '../../src/images/manifest.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase } from '../../src/store/db.ts';
import { createEventStore, type Event } from '../../src/store/events.ts';
import { SERVER_IP } from './machine.ts';

export interface World {
  readonly dir: string;
  readonly profilesDir: string;
  readonly httpPort: number;
  readonly image: ImageRef;
  readonly macs: { readonly n1: string; readonly n2: string };
  readonly ips: { readonly n1: string; readonly n2: string };
  readonly daemon: Daemon;
  /** What the daemon logged so far, one JSON object a line. */
  log(): string;
  /** `body` is sent as JSON. */
  api<T = unknown>(path: string, method?: string, body?: unknown): Promise<T>;
  apiStatus(path: string, method?: string, body?: unknown): Promise<{ status: number; body: unknown }>;
  events(): Promise<readonly Event[]>;
  /** Ends the node's open boot, as a machine does that is switched off for good. */
  endOpenBoot(node: string): Promise<void>;
  /** Builds another image under the same name: `latest` moves, what boots does not. */
  publish(name: string, content: string): Promise<ImageRef>;
  stop(): Promise<void>;
}

export const HTTP_PORT = 8080;

/** The profile that all tests start from. */
export const PROFILE = `image: debian-k0s
cmdline: [console=ttyS0]
artifacts: { k0s: v1 }
nodes:
  n1: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11 }
  n2: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12 }
`;

export interface WorldOptions {
  readonly profiles?: Readonly<Record<string, string>>;
  readonly repos?: Readonly<Record<string, { readonly url: string }>>;
  /** Of the API on loopback; default none. */
  readonly apiPort?: number;
  /** null: no dynamic addresses. */
  readonly pool?: null;
  /** Default full. */
  readonly mode?: 'proxy' | 'full';
  /** Instead of the `dhcp:` section of all tests, as YAML. */
  readonly dhcp?: string;
  /** Default: none. */
  readonly tftp?: string;
  /** `loaders.dir`; default the daemon's own. */
  readonly loadersDir?: string;
  /** More of the `http:` section, as the inside of a YAML map. */
  readonly http?: string;
  /** The setting `reload`; default the daemon's own. */
  readonly reload?: string;
  /** Runs when image and artifact are there and the daemon is not. */
  readonly before?: (stateDir: string, image: ImageRef) => void | Promise<void>;
}

/** Needs to be root in a network namespace of its own: it binds the real ports on loopback. */
export async function startWorld(options: WorldOptions = {}): Promise<World> {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-world-'));
  const stateDir = join(dir, 'state');
  const profilesDir = join(dir, 'boot-profiles');
  mkdirSync(profilesDir);
  for (const [name, text] of Object.entries(options.profiles ?? { 'k0s-single.yaml': PROFILE })) writeFileSync(join(profilesDir, name), text);
  writeFileSync(
    join(dir, 'rackseed.yaml'),
    `stateDir: ./state
profiles: ./boot-profiles
dhcp: ${options.dhcp ?? `{ mode: ${options.mode ?? 'full'}, onConflict: ignore, subnets: [{ subnet: 127.0.0.0/8, serverIp: ${SERVER_IP}, conflictCheck: off${options.pool === null ? '' : ', pool: 127.0.1.1-127.0.1.100'} }] }`}
tftp: ${options.tftp ?? '{}'}
${options.loadersDir === undefined ? '' : `loaders: { dir: ${options.loadersDir} }\n`}http: { port: ${HTTP_PORT}${options.http ? `, ${options.http}` : ''} }
api: { port: ${options.apiPort ?? 0} }
user: null
${options.reload === undefined ? '' : `reload: ${options.reload}\n`}repos: ${JSON.stringify(options.repos ?? {})}
`,
  );
  const blobs = createBlobStore(stateDir);
  const images = createImageStore(stateDir);
  const publish = async (name: string, content: string): Promise<ImageRef> => {
    const [kernel, initrd, squashfs, uki] = await Promise.all(['kernel', 'initrd', 'squashfs', 'UKI'].map((what) => blobs.add(Readable.from([Buffer.from(`${what} of ${content}`)]))));
    const files = { arch: 'amd64' as const, kernel: kernel!, initrds: [initrd!], squashfs: squashfs! };
    const digest = imageDigest(files);
    await images.put({
      name,
      digest,
      arch: 'amd64',
      kernel: { ...kernel!, version: '6.12' },
      initrds: [initrd!],
      squashfs: { ...squashfs!, chunkSize: 4 << 20, chunks: [squashfs!.digest.slice(7)] },
      uki: { ...uki!, cmdline: '', signed: false },
      packages: [],
      input: digest,
      builder: 'test',
      builtAt: 0,
    });
    await images.tag(name, 'latest', digest);
    return { name, digest, ...files, uki: uki! };
  };
  const image = await publish('debian-k0s', 'the first build');
  writeFileSync(join(dir, 'k0s'), 'the k0s binary');
  await addArtifact({ stateDir, name: 'k0s', version: 'v1', file: join(dir, 'k0s') });

  await options.before?.(stateDir, image);
  const settings = readSettings(join(dir, 'rackseed.yaml'));
  let logged = '';
  const log = createLog('debug', { write: (line: string) => void (logged += line) });
  const daemon = await startDaemon(settings, log);

  const apiStatus = (path: string, method = 'GET', body?: unknown): Promise<{ status: number; body: unknown }> =>
    new Promise((resolve, reject) => {
      const request = httpRequest({ socketPath: settings.api.socket, path, method, agent: false, headers: body === undefined ? {} : { 'content-type': 'application/json' } }, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
      });
      request.on('error', reject);
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  const withDatabase = async <T>(use: (database: ReturnType<typeof openDatabase>) => Promise<T>): Promise<T> => {
    const database = openDatabase(join(stateDir, 'rackseed.db'));
    try {
      return await use(database);
    } finally {
      await database.close();
    }
  };

  return {
    dir,
    profilesDir,
    httpPort: HTTP_PORT,
    image,
    macs: { n1: '52:54:00:00:00:01', n2: '52:54:00:00:00:02' },
    ips: { n1: '127.0.0.11', n2: '127.0.0.12' },
    daemon,
    log: () => logged,
    apiStatus,
    api: async <T>(path: string, method?: string, body?: unknown) => (await apiStatus(path, method, body)).body as T,
    events: () => withDatabase((database) => createEventStore(database).list({ limit: 100 })),
    endOpenBoot: (node) =>
      withDatabase(async (database) => {
        const boots = createBootStore(database);
        const open = await boots.open(node);
        if (open) await boots.end(open.id, 'ready', Date.now());
      }),
    publish,
    async stop() {
      await daemon.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
