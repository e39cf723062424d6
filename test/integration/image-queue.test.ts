// Ten machines want an image of which three may have it at once: the initrd stage's own download by busybox, the real route, Booter and database.
import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createAdmission } from '../../src/boot/admission.ts';
import type { BootSet } from '../../src/boot/profile.ts';
import { blobPath } from '../../src/boot/urls.ts';
import { createBooter, type Booter } from '../../src/booter.ts';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { blobRoutes } from '../../src/http/blobs.ts';
import { createHttp } from '../../src/http/server.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore } from '../../src/store/events.ts';
import { createLeaseStore } from '../../src/store/leases.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { createVerifiedBlobs } from '../../src/store/verified.ts';
import { bootSet as smallSet, generationOf, nodeNamed } from '../unit/boot-world.ts';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const IMAGE = randomBytes((16 << 20) + 1);
const DIGEST = digestOfBytes(IMAGE);
const bootSet: BootSet = { ...smallSet, image: { ...smallSet.image, squashfs: { digest: DIGEST, size: IMAGE.length } } };
const MACHINES = 10;
/** Each machine reaches the server at an address of its own, and then has that address itself: so the kernel chooses for addresses of `lo`. */
const ipOf = (n: number) => `10.78.4.${n}`;
const nodes = Array.from({ length: MACHINES }, (_, i) => nodeNamed(`n${i + 1}`, { macs: [`52:54:00:78:04:${String(i + 1).padStart(2, '0')}`], ip: ipOf(i + 1) }));
const world = generationOf(...nodes);
const generation = { ...world, bootSets: Object.fromEntries(Object.keys(world.bootSets).map((digest) => [digest, bootSet])) };

let dir: string;
let bin: string;
let database: Database;
let app: FastifyInstance;
let port: number;
/** How long a slot is kept once its bytes are out: 16 MiB over loopback take too short a time for a queue. */
let lingerMs: number;
/** No slot is given back before so many machines have asked. */
let askers: number;
let first: string[];
let admitted: string[];
/** Slots that are taken now, and the most that were at once. */
let slots: { taken: number; most: number };
let ranges: [string, string][];
let cutOnce: ((ip: string, socket: Socket) => boolean) | undefined;

beforeAll(async () => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  for (let n = 1; n <= MACHINES; n++) execFileSync('ip', ['address', 'add', `${ipOf(n)}/32`, 'dev', 'lo']);
  bin = mkdtempSync(join(tmpdir(), 'rackseed-busybox-'));
  execFileSync('busybox', ['--install', '-s', bin]);
});
afterAll(() => {
  for (let n = 1; n <= MACHINES; n++) execFileSync('ip', ['address', 'del', `${ipOf(n)}/32`, 'dev', 'lo']);
  rmSync(bin, { recursive: true, force: true });
});
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-queue-'));
  [first, admitted, ranges, slots, cutOnce, askers] = [[], [], [], { taken: 0, most: 0 }, undefined, 0];
});
afterEach(async () => {
  await app.close();
  await database.close();
  rmSync(dir, { recursive: true, force: true });
});

async function serve(maxStreams: number): Promise<void> {
  database = openDatabase(join(dir, 'db'));
  const log = createLog('error', { write: () => true });
  const booter = createBooter({
    generation: () => generation,
    nodes: createNodeStore(database),
    leases: createLeaseStore(database),
    boots: createBootStore(database),
    events: createEventStore(database),
    admission: createAdmission(maxStreams),
    log,
    now: Date.now,
  });
  // The last slots of a test are given back after it.
  const own = slots;
  const watched: Pick<Booter, 'ask' | 'seen' | 'release'> = {
    seen: booter.seen,
    async ask(request) {
      const answer = await booter.ask(request);
      const name = answer.node?.name ?? 'nobody';
      if (!first.includes(name)) first.push(name);
      if (answer.ticket === undefined) return answer;
      admitted.push(name);
      own.most = Math.max(own.most, ++own.taken);
      return answer;
    },
    async release(ticket, how) {
      await sleep(how === 'cut' ? 0 : lingerMs, undefined, { ref: false });
      while (first.length < askers) await sleep(10, undefined, { ref: false });
      own.taken--;
      await booter.release(ticket, how);
    },
  };
  const blobs = createBlobStore(dir);
  await blobs.add(Readable.from([IMAGE]));
  const verified = createVerifiedBlobs({ stateDir: dir, onRotten: () => undefined });
  app = await createHttp('machines', log, async (instance) => {
    instance.addHook('onRequest', (request, _reply, done) => {
      const { socket } = request;
      const ip = socket.remoteAddress ?? '';
      ranges.push([ip, request.headers.range ?? '']);
      if (cutOnce?.(ip, socket)) {
        const before = socket.bytesWritten;
        const watch = (): void => void (socket.destroyed ? undefined : socket.bytesWritten > before + (1 << 20) ? socket.destroy() : setImmediate(watch));
        watch();
      }
      done();
    });
    await instance.register(blobRoutes, { blobs: verified, booter: watched, log, cacheBytes: 256 << 20 });
  });
  await app.listen({ host: '0.0.0.0', port: 0 });
  port = (app.server.address() as AddressInfo).port;
}

/** The stage's download on machine `n`: its exit code, its reason and what its console showed. */
async function fetchOn(n: number, setting = ':'): Promise<{ code: string; why: string; console: string; whole: boolean }> {
  const home = join(dir, `machine${n}`);
  mkdirSync(join(home, 'stage', 'image'), { recursive: true });
  const parts = ['say', 'cmdline', 'request', 'fetch', 'cache', 'integrity'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
  const script = `read_url "http://${ipOf(n)}:${port}"; squashfs_url=$url${blobPath(DIGEST)}; squashfs_digest=${hexOf(DIGEST)}; squashfs_size=${IMAGE.length}; ${setting}; fetch; echo "$?"; echo "$why"`;
  const stall = execFileSync('busybox', { encoding: 'utf8' }).startsWith('BusyBox v1.35') ? { STALL: '' } : {};
  const env = { ...stall, PATH: bin, LIB, ANSWER: join(home, 'answer'), STAGE: join(home, 'stage'), CONSOLE: join(home, 'console'), KMSG: join(home, 'kmsg'), WGET_ERR: join(home, 'wget.err') };
  const [code = '', why = ''] = await new Promise<string[]>((resolve, reject) =>
    execFile(join(bin, 'ash'), ['-c', `${parts}; ${script}`], { env, timeout: 55_000 }, (error, stdout, stderr) => (error ? reject(new Error(stderr)) : resolve(stdout.split('\n')))),
  );
  return { code, why, console: readFileSync(join(home, 'console'), 'utf8'), whole: code === '0' && readFileSync(join(home, 'stage', 'image', `${hexOf(DIGEST)}.squashfs`)).equals(IMAGE) };
}

describe('the queue for images', () => {
  it('lets ten machines have one image, three at a time, and shows each its place', async () => {
    lingerMs = 3000;
    await serve(3);
    // One asks after the other, and no stream ends before all have asked.
    askers = MACHINES;
    const fetches: ReturnType<typeof fetchOn>[] = [];
    for (let n = 1; n <= MACHINES; n++) {
      fetches.push(fetchOn(n));
      while (first.length < n) await sleep(10);
    }
    const done = await Promise.all(fetches);
    expect(first).toEqual(nodes.map(({ name }) => name));
    expect(done.map(({ whole }) => whole)).toEqual(nodes.map(() => true));
    expect(slots.most).toBe(3);
    expect(admitted).toHaveLength(MACHINES);
    // Who is after them is not in order: streams are shorter here than the sleep of those who wait, so slots are lent.
    expect(new Set(admitted.slice(0, 3))).toEqual(new Set(first.slice(0, 3)));
    const last = done.at(-1)!;
    expect(last.console).toMatch(/^rackseed: waiting: place 7 \[/m);
    expect(last.console).toMatch(/squashfs of 16777217 bytes is here and verified/);
    const places = [...last.console.matchAll(/waiting: place (\d)/g)].map(([, place]) => Number(place));
    expect(places).toEqual([...places].sort((a, b) => b - a));
    // `sleep` of those who wait differs, so some ask while others before them sleep: by then it is known how long a stream takes.
    expect(done.map((one) => one.console).join('')).toMatch(/^rackseed: waiting: place \d, about \d+ s \[/m);
    for (const lucky of done.slice(0, 3)) expect(lucky.console).not.toContain('waiting');
  });

  it('goes on with a machine whose connection broke before one that waits, by Range and without a second slot', async () => {
    lingerMs = 0;
    await serve(1);
    let release: () => void = () => undefined;
    const wasCut = new Promise<void>((resolve) => void (release = resolve));
    cutOnce = (ip, socket) => {
      if (ip !== ipOf(1)) return false;
      cutOnce = undefined;
      socket.once('close', release);
      return true;
    };
    const broken = fetchOn(1);
    await Promise.race([wasCut, broken]);
    const [one, two] = await Promise.all([broken, fetchOn(2)]);
    expect([one.whole, two.whole]).toEqual([true, true]);
    expect(one.console).toMatch(/^rackseed: download broke at [1-9]\d* of 16777217 bytes/m);
    expect(ranges.filter(([ip]) => ip === ipOf(1)).map(([, range]) => range)).toEqual(['', expect.stringMatching(/^bytes=[1-9]\d*-$/)]);
    expect(two.console).toMatch(/^rackseed: waiting: place [12]/m);
    expect(admitted).toEqual(['n1', 'n1', 'n2']);
    expect(slots.most).toBe(1);
  });
});
