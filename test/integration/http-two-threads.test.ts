// Two HTTP threads on one socket: both serve, what one knows the other knows, and one that dies leaves nothing behind but its own connections.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import type { StageDetail } from '../../src/boot/timeline.ts';
import type { Answer, Booter } from '../../src/booter.ts';
import { digestOfBytes } from '../../src/digest.ts';
import type { FromThread } from '../../src/http/thread-messages.ts';
import { BACKLOG } from '../../src/net/listening-socket.ts';
import { curl, dial, openSite, type Site } from './front.ts';

const PORT = 8190;
const TLS_PORT = 8553;
const BIG = randomBytes(24 << 20);
const KERNEL = randomBytes(3_000_000);
const BOOT = '01JTWOTHREADS';

let dir: string;
let site: Site | undefined;
const seen: [boot: string, stage: string, detail: StageDetail | undefined][] = [];
const bootSet = { image: { kernel: { digest: digestOfBytes(KERNEL), size: KERNEL.length }, initrds: [], squashfs: { digest: digestOfBytes('none'), size: 4 } } };
const booter = {
  ask: async () => ({ decision: { kind: 'boot', bootSet: digestOfBytes('x') }, boot: { id: BOOT }, bootSet }) as unknown as Answer,
  seen: async (...stage: [string, string, StageDetail?]) => void seen.push([stage[0], stage[1], stage[2]]),
  session: async () => undefined,
  release: async () => undefined,
} as unknown as Booter;

beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-two-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
afterEach(async () => {
  await site?.stop();
  site = undefined;
  seen.length = 0;
});

const eventually = (look: () => unknown) => expect.poll(look, { timeout: 20_000, interval: 20 });
const open = async (more: Parameters<typeof openSite>[0] = {}): Promise<Site> => (site = await openSite({ port: PORT, threads: 2, booter, ...more }));
const loader = 'GET /loaders/undionly.kpxe HTTP/1.1\r\nhost: x\r\n\r\n';

/** Does this while one thread is kept from coming up, so that only the other one can have served it; resolves when both listen. */
async function without<T>(index: number, act: () => Promise<T>): Promise<T> {
  const { workers } = site!.front;
  await workers[index]!.terminate();
  // To load what it needs takes a thread far longer than this.
  const down = setInterval(() => void workers[index]?.terminate(), 5);
  try {
    return await act();
  } finally {
    clearInterval(down);
    while (workers[index]) await sleep(1);
    while (!workers[index]) await sleep(1);
    const next: Worker = workers[index]!;
    await new Promise<void>((resolve) => next.on('message', ({ kind }: FromThread) => kind === 'listening' && resolve()));
  }
}

it('a rack that powers on at once finds room in the queue of connections that nobody has taken yet', async () => {
  await open();
  const listening = execFileSync('ss', ['-Hltn', `sport = :${PORT}`], { encoding: 'utf8' });
  // State, Recv-Q, Send-Q: for a listening socket the most that may wait.
  expect(listening.trim().split(/\s+/)[2]).toBe(String(Math.min(BACKLOG, Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')))));
});

it('both serve, what they count adds up, and one that dies takes its own connections only', async () => {
  const { front } = await open();
  const clients: Awaited<ReturnType<typeof dial>>[] = [];
  for (let n = 0; n < 40; n++) {
    const client = await dial(PORT);
    client.socket.write(loader);
    await once(client.socket, 'data');
    clients.push(client);
  }
  await eventually(() => front.figures()).toMatchObject({ responses: { '2xx': 40 }, connections: 40 });
  expect(front.figures().sentBytes).toBeGreaterThan(40 * 70_000);
  await front.workers[0]!.terminate();
  await eventually(() => front.figures().connections).toBeLessThan(40);
  const left = front.figures().connections;
  expect(left).toBeGreaterThan(0);
  await eventually(() => clients.filter(({ socket }) => !socket.destroyed).length).toBe(left);
  // Those of the other one are served as if nothing was.
  for (const { socket } of clients.filter((client) => !client.socket.destroyed)) {
    socket.write(loader);
    await once(socket, 'data');
  }
  await eventually(() => front.figures().responses['2xx']).toBe(40 + left);
  await eventually(() => front.figures().threadRestarts).toBe(1);
  for (const { socket } of clients) socket.destroy();
  await eventually(() => front.figures().connections).toBe(0);
});

it('a TLS session that one began goes on in the other', async () => {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=two', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', join(dir, 'key'), '-out', join(dir, 'crt')], { stdio: 'ignore' });
  const [cert, key] = [readFileSync(join(dir, 'crt'), 'utf8'), readFileSync(join(dir, 'key'), 'utf8')];
  await open({ tls: { port: TLS_PORT, cert, key } });
  let ticket: Buffer | undefined;
  const talk = async (): Promise<TLSSocket> => {
    const socket = connectTls({ host: '127.0.0.1', port: TLS_PORT, ca: cert, ...(ticket ? { session: ticket } : {}) });
    socket.on('error', () => undefined).on('session', (session) => (ticket = session));
    await once(socket, 'secureConnect');
    socket.write(loader);
    await once(socket, 'data');
    return socket;
  };
  const first = await without(0, talk);
  expect(first.isSessionReused()).toBe(false);
  // By TLS 1.3 it comes behind the handshake.
  await eventually(() => ticket).toBeDefined();
  const second = await without(1, talk);
  expect(second.isSessionReused()).toBe(true);
  await eventually(() => first.destroyed).toBe(true);
  expect(second.destroyed).toBe(false);
  second.destroy();
});

/** What this process has read, from whatever, in bytes. */
const bytesRead = () => Number(/^rchar: (\d+)/m.exec(readFileSync('/proc/self/io', 'utf8'))![1]);

it('a blob that one has verified is not hashed again by the other, nor by the one that takes its place', async () => {
  const { publish, base } = await open();
  const path = await publish(BIG);
  const cost = async (index: number): Promise<number> =>
    without(index, async () => {
      const before = bytesRead();
      expect((await curl('--head', base + path)).out.toString()).toContain('200 OK');
      return bytesRead() - before;
    });
  expect(await cost(0)).toBeGreaterThan(BIG.length);
  expect(await cost(1)).toBeLessThan(BIG.length / 4);
  expect(await cost(0)).toBeLessThan(BIG.length / 4);
});

it('a kernel that one sent the beginning of and the other one the rest is seen, once, and only when all of it went out', async () => {
  const { publish, base } = await open();
  const url = `${base}${await publish(KERNEL)}?boot=${BOOT}`;
  const part = async (index: number, range: string) => without(index, () => curl('-r', range, url));
  const head = await part(0, '0-999999');
  expect(seen).toEqual([]);
  const rest = await part(1, '1000000-');
  expect(Buffer.concat([head.out, rest.out]).equals(KERNEL)).toBe(true);
  await eventually(() => seen).toEqual([[BOOT, 'kernel', { bytes: KERNEL.length, durationMs: expect.any(Number) }]]);
});

it('a kernel whose download was cut and went on from where it was is seen', async () => {
  const { publish } = await open({ threads: 1 });
  // More than the kernel takes at once of a connection that nobody reads from.
  const path = `${await publish(BIG)}?boot=${BOOT}`;
  bootSet.image.kernel = { digest: digestOfBytes(BIG), size: BIG.length };
  const { socket } = await dial(PORT);
  socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  const got = chunk.length - (chunk.indexOf('\r\n\r\n') + 4);
  socket.resetAndDestroy();
  await eventually(() => site!.front.figures().connections).toBe(0);
  expect(seen).toEqual([]);
  expect((await curl('-r', `${got}-`, site!.base + path)).out.equals(BIG.subarray(got))).toBe(true);
  await eventually(() => seen).toEqual([[BOOT, 'kernel', expect.objectContaining({ bytes: BIG.length })]]);
});

/** Processes named git that this process started and that are not gone, zombies included. */
function gits(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      const [, name, state, parent] = /^\d+ \((.*)\) (\w) (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))!;
      return name === 'git' && state !== undefined && Number(parent) === process.pid;
    } catch {
      return false;
    }
  });
}

it("the programs of a thread that dies in the middle of a clone are ended, and none stays as a zombie", async () => {
  const repo = join(dir, 'big.git');
  const git = (...args: string[]) => execFileSync('git', ['-C', repo, ...args], { encoding: 'utf8', env: { ...process.env, GIT_AUTHOR_NAME: 'x', GIT_AUTHOR_EMAIL: 'x@x', GIT_COMMITTER_NAME: 'x', GIT_COMMITTER_EMAIL: 'x@x' } }).trim();
  execFileSync('git', ['init', '-q', '--bare', repo]);
  writeFileSync(join(dir, 'file'), randomBytes(32 << 20));
  const blob = git('hash-object', '-w', join(dir, 'file'));
  const tree = execFileSync('git', ['-C', repo, 'mktree'], { input: `100644 blob ${blob}\tfile\n`, encoding: 'utf8' }).trim();
  const commit = git('commit-tree', '-m', 'x', tree);
  git('update-ref', 'refs/heads/main', commit);
  const { front } = await open({ repos: { dir: () => repo, environment: () => ({ PATH: process.env.PATH }), status: () => [{ name: 'big' }] as never } });
  const others = gits();
  const body = `0032want ${commit}\n00000009done\n`;
  const clients = await Promise.all(Array.from({ length: 4 }, () => dial(PORT)));
  for (const { socket } of clients) {
    socket.write(`POST /git/big.git/git-upload-pack HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-git-upload-pack-request\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    await once(socket, 'data');
    socket.pause();
  }
  expect(gits().length).toBe(others.length + 4);
  await Promise.all(front.workers.map((worker) => worker!.terminate()));
  await eventually(() => gits()).toEqual(others);
  for (const { socket } of clients) socket.destroy();
});
