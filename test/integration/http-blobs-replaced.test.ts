// A blob that is replaced, spoilt and edited all the time while machines fetch it with resume: every file that got finished is the digest's.
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync, truncateSync, unlinkSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { blobPath } from '../../src/boot/urls.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { BLOCK } from '../../src/http/block-cache.ts';
import { blobRoutes } from '../../src/http/blobs.ts';
import { createPumps, type Pumps } from '../../src/http/pumps.ts';
import { createHttp } from '../../src/http/server.ts';
import { createLog } from '../../src/log.ts';
import { plainSockets } from '../../src/net/libc.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { createVerifiedBlobs } from '../../src/store/verified.ts';
import { seededRandom } from '../mutate.ts';

const REPLACEMENTS = 1000;
const DOWNLOADS = 200;
/** Of them by busybox wget, which is what the initrd stage has. */
const BY_BUSYBOX = 20;
const AT_ONCE = 16;

const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1e9);
const random = seededRandom(seed);
/** From 0 to n - 1. */
const upTo = (n: number): number => Math.floor(random() * n);

const content = Buffer.from(Uint8Array.from({ length: 3_500_000 }, (_, i) => (i * 7 + (i >> 10)) & 255));
const digest = digestOfBytes(content);

let dir: string;
let blobs: BlobStore;
let app: FastifyInstance;
let pumps: Pumps;
let url: string;
let rotten = 0;
/** Downloads that were cut because their file changed. */
let caught = 0;
/** Bytes that went past Node. */
let pumped = 0;

/** What the kernel takes in advance of a connection, which else is all of the file: here it changes while there is more of it to be read. */
const SMALL = { tcp_wmem: '4096\t16384\t65536', tcp_rmem: '4096\t16384\t65536' };
const before = new Map<string, string>();

beforeAll(async () => {
  if (process.getuid?.() === 0) try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* up already, or not ours to set */ }
  for (const [name, value] of Object.entries(SMALL)) {
    const path = `/proc/sys/net/ipv4/${name}`;
    before.set(path, readFileSync(path, 'utf8'));
    writeFileSync(path, value);
  }
  dir = mkdtempSync(join(tmpdir(), 'rackseed-replaced-'));
  blobs = createBlobStore(dir);
  await blobs.add(Readable.from([content]));
  const log = createLog('warn', { write: (line) => void (/the blob's file|keeps changing/.test(line) && (caught += 1)) });
  const booter = { ask: async () => ({ decision: { kind: 'boot', bootSet: 'x' } as const }), seen: async () => undefined, release: async () => undefined };
  pumps = createPumps({ log, onSent: (bytes) => void (pumped += bytes) });
  // One block for all, of which a pump sends: the other downloads read small pieces of the file while it changes.
  const parts = { blobs: createVerifiedBlobs({ stateDir: dir, onRotten: () => void (rotten += 1) }), booter, log, pumps, cacheBytes: BLOCK };
  app = await createHttp('machines', log, async (instance) => void (await instance.register(blobRoutes, parts)));
  await app.listen({ host: '127.0.0.1', port: 0 });
  url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}${blobPath(digest)}`;
});
afterAll(async () => {
  await app.close();
  await pumps.close();
  for (const [path, value] of before) writeFileSync(path, value);
  rmSync(dir, { recursive: true, force: true });
});

/** Another file under the blob's name. */
function put(bytes: Buffer): void {
  writeFileSync(join(dir, 'next'), bytes);
  renameSync(join(dir, 'next'), blobs.path(digest));
}

/** One thing that may happen to the file; answers how long to leave it so, in milliseconds: the right bytes as long as it takes to begin some downloads. */
function disturb(): number {
  const path = blobs.path(digest);
  const right = (): void => put(content);
  const wrong = (): void => put(Buffer.from(content).fill(upTo(256), upTo(content.length), content.length));
  const edit = (): void => {
    const fd = openSync(path, 'r+');
    const at = upTo(content.length - 3);
    writeSync(fd, Buffer.alloc(Math.min(content.length - at, 3 + upTo(2_000_000)), 'rot'), 0, undefined, at);
    closeSync(fd);
    if (random() < 0.5) utimesSync(path, 1, 1);
  };
  const all = [right, right, right, right, right, wrong, edit, edit, edit, edit, edit, () => truncateSync(path, upTo(content.length)), () => put(content.subarray(0, upTo(content.length))), () => unlinkSync(path)];
  const now = all[upTo(all.length)]!;
  try {
    now();
  } catch (error) {
    // It is in quarantine already.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  return now === right || random() < 0.2 ? 30 + upTo(40) : upTo(4);
}

/** Fetches the blob as a machine does: connections break, and are resumed by Range from where they were. */
async function download(): Promise<Buffer> {
  let have: Buffer = Buffer.alloc(0);
  for (;;) {
    const headers = { connection: 'close', ...(have.length > 0 ? { range: `bytes=${have.length}-`, ...(random() < 0.5 ? { 'if-range': `"${digest}"` } : {}) } : {}) };
    const most = random() < 0.7 ? upTo(content.length) : Infinity;
    const answer = await new Promise<{ status: number; body: Buffer } | undefined>((resolve) => {
      const request = get(url, { headers }, (response: IncomingMessage) => {
        const chunks: Buffer[] = [];
        let size = 0;
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          if ((size += chunk.length) > most) request.destroy();
          else if (random() < 0.02) {
            response.pause();
            setTimeout(() => response.resume(), upTo(30));
          }
        });
        response.on('error', () => undefined);
        response.on('close', () => resolve({ status: response.statusCode!, body: Buffer.concat(chunks) }));
      });
      request.on('error', () => resolve(undefined));
    });
    if (answer?.status === 200) have = answer.body;
    else if (answer?.status === 206) have = Buffer.concat([have, answer.body]);
    else expect([undefined, 404]).toContain(answer?.status);
    if (have.length >= content.length) return have;
    await sleep(upTo(10));
  }
}

async function downloadByBusybox(name: string): Promise<Buffer> {
  const file = join(dir, name);
  for (;;) {
    await new Promise<void>((resolve) => {
      const wget = spawn('busybox', ['wget', '-q', '-c', '-O', file, url], { stdio: 'ignore' });
      const cutting = random() < 0.5 ? setTimeout(() => wget.kill('SIGKILL'), upTo(30)) : undefined;
      wget.once('close', () => {
        clearTimeout(cutting);
        resolve();
      });
    });
    const have = ((): Buffer => { try { return readFileSync(file); } catch { return Buffer.alloc(0); } })();
    if (have.length >= content.length) {
      unlinkSync(file);
      return have;
    }
    await sleep(upTo(10));
  }
}

it(`${DOWNLOADS} downloads with resume, while the file is replaced, cut, edited and removed ${REPLACEMENTS} times, from seed ${seed} (FUZZ_SEED)`, async () => {
  let replaced = 0;
  let finished = 0;
  let started = 0;
  const replacing = (async () => {
    while (replaced < REPLACEMENTS) {
      const rest = disturb();
      replaced += 1;
      await sleep(rest);
    }
    // So that the last downloads can end.
    put(content);
  })();
  const found: string[] = [];
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (started < DOWNLOADS || replaced < REPLACEMENTS) {
        const n = started++;
        const bytes = n < BY_BUSYBOX ? await downloadByBusybox(`by-busybox-${n}`) : await download();
        found.push(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);
        finished += 1;
      }
    }),
  );
  await replacing;
  expect(new Set(found)).toEqual(new Set([digest]));
  expect(found.length).toBeGreaterThanOrEqual(DOWNLOADS);
  expect(pumped).toBeGreaterThan(plainSockets() ? -1 : (DOWNLOADS * BLOCK) / 10);
  // Both ways of finding it out were needed.
  expect([rotten > 0, caught > 0], `${rotten} found at opening, ${caught} in the middle`).toEqual([true, true]);
}, 240_000);
