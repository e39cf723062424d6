// The machines' HTTP server as the daemon starts it, threads and all, with a Booter of the test's own, blobs, loaders and the shipped repository.
import { execFile, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { BootRequest } from '../../src/boot/request.ts';
import type { Answer, Booter } from '../../src/booter.ts';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { startFront, type Front, type FrontParts } from '../../src/http/front.ts';
import { loadLoaders } from '../../src/loaders.ts';
import { createLog } from '../../src/log.ts';
import { createRepos, type Repos } from '../../src/postboot/repos.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';

export const LOADER = Buffer.alloc(70_000, 'loader');
/** Outside of everything that is served, in a file beside the state directory. */
export const SECRET = 'nobody-may-read-this-outside-secret';

export interface Site {
  readonly dir: string;
  readonly port: number;
  readonly front: Front;
  readonly asked: BootRequest[];
  /** Tickets of image slots, as they came back. */
  readonly released: string[];
  readonly logged: Readonly<Record<string, unknown>>[];
  /** What the Booter answers; it may throw. */
  answer: () => Promise<Answer>;
  readonly base: string;
  /** Adds a blob and answers its path. */
  publish(bytes: Buffer): Promise<string>;
  stop(): Promise<void>;
}

export async function openSite(more: Partial<FrontParts> = {}): Promise<Site> {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-front-'));
  const [stateDir, loadersDir] = [join(dir, 'state'), join(dir, 'loaders')];
  mkdirSync(loadersDir);
  writeFileSync(join(loadersDir, 'undionly.kpxe'), LOADER);
  writeFileSync(join(dir, 'secret'), SECRET);
  writeFileSync(join(loadersDir, 'secret'), SECRET);
  const blobs = createBlobStore(stateDir);
  const logged: Record<string, unknown>[] = [];
  const log = createLog('debug', { write: (line: string) => void logged.push(JSON.parse(line) as Record<string, unknown>) });
  const repos: Repos = createRepos({ stateDir, shippedDir: SHIPPED.postBoot, repos: {}, log, now: Date.now });
  await repos.start();
  const asked: BootRequest[] = [];
  const released: string[] = [];
  const never = async (): Promise<never> => Promise.reject(new Error('not in this test'));
  const booter: Booter = {
    ask: async (request) => (asked.push(request), site.answer()),
    seen: async () => undefined,
    leased: never,
    enrol: async () => ({ kind: 'refused', why: 'nobody enrols here' }),
    session: async () => undefined,
    report: never,
    release: async (ticket) => void released.push(ticket),
  };
  const port = more.port ?? 8080;
  let front: Front;
  try {
    front = await startFront({ listen: ['127.0.0.1'], port, stateDir, cacheBytes: 256 << 20, booter, loaders: await loadLoaders(loadersDir), repos, onRotten: () => undefined, log, ...more });
  } catch (error) {
    await repos.stop();
    rmSync(dir, { recursive: true, force: true });
    throw error;
  }
  const site: Site = {
    dir,
    port,
    front,
    asked,
    released,
    logged,
    answer: async () => ({ decision: { kind: 'boot', bootSet: digestOfBytes('x') } }),
    base: `http://127.0.0.1:${port}`,
    publish: async (bytes) => `/blobs/sha256/${hexOf((await blobs.add(Readable.from([bytes]))).digest)}`,
    async stop() {
      await front.stop();
      await repos.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return site;
}

/** curl's exit code and what it printed. */
export function curl(...args: string[]): Promise<{ readonly code: number; readonly out: Buffer }> {
  return new Promise((resolve) => execFile('curl', ['-sS', ...args], { encoding: 'buffer', maxBuffer: 1 << 28 }, (error, stdout) => resolve({ code: error ? Number(error.code) : 0, out: stdout })));
}

/** A connected TCP socket that collects what it is told. */
export async function dial(port: number, { from, to = '127.0.0.1' }: { readonly from?: string; readonly to?: string } = {}): Promise<{ readonly socket: Socket; text(): string; readonly closed: Promise<void> }> {
  const socket = connect({ host: to, port, ...(from ? { localAddress: from } : {}) });
  const chunks: Buffer[] = [];
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  // A reset may come before this end knows that it is connected.
  await Promise.race([once(socket, 'connect').catch(() => closed), closed]);
  return { socket, text: () => Buffer.concat(chunks).toString('latin1'), closed };
}

/** Writes these bytes and answers all that came until the server closed, or was silent for so long. */
export async function say(port: number, bytes: string | Uint8Array, { silenceMs = 2_000, ...options }: { readonly silenceMs?: number; readonly from?: string } = {}): Promise<string> {
  const { socket, text, closed } = await dial(port, options);
  socket.setTimeout(silenceMs, () => socket.destroy());
  socket.write(bytes);
  await closed;
  return text();
}
