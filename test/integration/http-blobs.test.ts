// The blob route as machines meet it: a real fastify on loopback, the real blob store, curl as the peer.
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { BootSet } from '../../src/boot/profile.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import type { Boot, StageDetail } from '../../src/boot/timeline.ts';
import { blobPath } from '../../src/boot/urls.ts';
import type { Answer } from '../../src/booter.ts';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { blobRoutes } from '../../src/http/blobs.ts';
import { createPumps, type Pumps } from '../../src/http/pumps.ts';
import { byteRange } from '../../src/http/range.ts';
import { createHttp } from '../../src/http/server.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { createVerifiedBlobs } from '../../src/store/verified.ts';

describe('byteRange', () => {
  it.each([
    ['nothing asked for', undefined, undefined],
    ['a range inside', 'bytes=2-5', { first: 2, last: 5 }],
    ['one byte', 'bytes=0-0', { first: 0, last: 0 }],
    ['an open range', 'bytes=4-', { first: 4, last: 9 }],
    ['a range that ends behind the end', 'bytes=4-99', { first: 4, last: 9 }],
    ['the last bytes', 'bytes=-3', { first: 7, last: 9 }],
    ['more last bytes than there are', 'bytes=-99', { first: 0, last: 9 }],
    ['the unit in capitals (RFC 9110 14.1)', 'Bytes=1-2', { first: 1, last: 2 }],
    ['a start at the end', 'bytes=10-', 'unsatisfiable'],
    ['a start that no number can hold', `bytes=${'9'.repeat(400)}-`, 'unsatisfiable'],
    ['no last bytes', 'bytes=-0', 'unsatisfiable'],
    ['several ranges', 'bytes=0-1,4-5', undefined],
    ['a range that ends before it starts', 'bytes=5-2', undefined],
    ['another unit', 'lines=0-1', undefined],
    ['no numbers', 'bytes=-', undefined],
    ['letters', 'bytes=a-b', undefined],
  ] as const)('reads %s', (_what, header, expected) => {
    expect(byteRange(header, 10)).toEqual(expected);
  });

  it('can satisfy no range of an empty blob', () => {
    expect([byteRange('bytes=0-', 0), byteRange('bytes=-1', 0)]).toEqual(['unsatisfiable', 'unsatisfiable']);
  });
});

describe('the blob route', () => {
  const kernel = Buffer.from(Array.from({ length: 3_000_001 }, (_, i) => (i * 7 + (i >> 8)) & 255));
  const [first, last, big] = [Buffer.from('first initrd'), Buffer.from('last initrd'), Buffer.alloc(64 << 20, 'squashfs')];
  const BOOT = '01JXBOOT00000000000000000A';
  const refOf = (bytes: Buffer) => ({ digest: digestOfBytes(bytes), size: bytes.length });
  const bootSet: BootSet = {
    image: { name: 'debian', digest: digestOfBytes('image'), arch: 'amd64', kernel: refOf(kernel), initrds: [refOf(first), refOf(last)], squashfs: refOf(big) },
    cmdline: [], root: { state: 'none' }, artifacts: {}, vars: {},
  };
  const boot: Boot = { id: BOOT, node: 'n1', mac: '52:54:00:00:00:01', state: 'open', startedAt: 0, profile: 'p', generation: 'g', stages: [] };
  const known: Answer = { decision: { kind: 'boot', bootSet: 'x' }, boot, bootSet };
  const ETAG = `"${digestOfBytes(kernel)}"`;

  // The route's whole view of the Booter: what it was asked, what it answers, what it was told.
  let answer: Answer = known;
  const asked: BootRequest[] = [];
  const seen: (readonly [string, string, StageDetail | undefined])[] = [];
  const released: (readonly [string, string | undefined])[] = [];
  const rotten: (readonly [string, string])[] = [];
  const booter = {
    ask: async (request: BootRequest) => (asked.push(request), answer),
    seen: async (id: string, stage: string, detail?: StageDetail) => void seen.push([id, stage, detail]),
    release: async (ticket: string, how?: string) => void released.push([ticket, how]),
  };

  let dir: string;
  let blobs: BlobStore;
  let app: FastifyInstance;
  let pumps: Pumps;
  let base: string;
  let logged: string[];

  beforeAll(async () => {
    if (process.getuid?.() === 0) try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* up already, or not ours to set */ }
    dir = mkdtempSync(join(tmpdir(), 'rackseed-http-blobs-'));
    blobs = createBlobStore(dir);
    for (const bytes of [kernel, first, last, big]) await blobs.add(Readable.from([bytes]));
    logged = [];
    const log = createLog('debug', { write: (line) => void logged.push(line) });
    const verified = createVerifiedBlobs({ stateDir: dir, onRotten: (digest, why) => void rotten.push([digest, why]) });
    pumps = createPumps({ log });
    app = await createHttp('machines', log, async (instance) => void (await instance.register(blobRoutes, { blobs: verified, booter, log, pumps, cacheBytes: 16 << 20 })));
    await app.listen({ host: '127.0.0.1', port: 0 });
    base = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  });
  afterAll(async () => {
    await app.close();
    await pumps.close();
    rmSync(dir, { recursive: true, force: true });
  });
  beforeEach(() => {
    answer = known;
    asked.splice(0);
    seen.splice(0);
    released.splice(0);
    rotten.splice(0);
    logged.splice(0);
  });

  const curl = (...args: readonly string[]) =>
    new Promise<{ code: number; body: Buffer }>((resolve) => {
      execFile('curl', ['-sS', '--noproxy', '*', '--max-time', '30', ...args], { encoding: 'buffer', maxBuffer: 1 << 27 }, (error, body) => resolve({ code: error ? Number(error.code) : 0, body }));
    });
  /** Status, header fields by lower-case name, and body. */
  async function get(path: string, ...args: readonly string[]) {
    const { code, body } = await curl('-i', ...args, base + path);
    const split = body.indexOf('\r\n\r\n');
    const [statusLine = '', ...lines] = body.subarray(0, split).toString().split('\r\n');
    const headers = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]));
    return { code, status: Number(statusLine.split(' ')[1]), headers, body: body.subarray(split + 4) };
  }
  const KERNEL = blobPath(digestOfBytes(kernel), BOOT);
  /** Files below the blob directory that this process has open. */
  const openBlobs = (digest?: string) =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try { return readlinkSync(`/proc/self/fd/${fd}`).startsWith(digest ? blobs.path(digest) : join(dir, 'blobs')); } catch { return false; }
    });

  it('sends the bytes with all that a cache and a resuming client need, and tells the kernel stage', async () => {
    const { status, headers, body } = await get(KERNEL);
    expect(status).toBe(200);
    expect(body.equals(kernel)).toBe(true);
    expect(headers).toMatchObject({
      etag: ETAG, 'content-length': String(kernel.length), 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream', 'cache-control': 'public, max-age=31536000, immutable',
    });
    expect(asked).toEqual([{ via: 'http', ip: '127.0.0.1', bootId: BOOT }]);
    await vi.waitFor(() => expect(seen).toEqual([[BOOT, 'kernel', { bytes: kernel.length, durationMs: expect.any(Number) }]]));
  });

  it('answers HEAD as GET without the bytes, whatever range it names, and tells no stage', async () => {
    const { status, headers, body } = await get(KERNEL, '-I', '-H', 'Range: bytes=0-5');
    expect([status, headers['content-length'], headers['etag'], body.length]).toEqual([200, String(kernel.length), ETAG, 0]);
    await get(blobPath(digestOfBytes(big), BOOT), '-r', '0-0');
    expect(seen).toEqual([]);
  });

  it('is resumed by curl -C - to identical bytes; the stage is told once all bytes went out, in whatever parts', async () => {
    const file = join(dir, 'resumed');
    expect((await curl('-r', '0-1234566', '-o', file, base + KERNEL)).code).toBe(0);
    await get(KERNEL, '-r', '-1');
    await get(KERNEL, '-r', '500-2000000');
    expect(seen).toEqual([]);
    expect((await curl('-C', '-', '-o', file, base + KERNEL)).code).toBe(0);
    expect(readFileSync(file).equals(kernel)).toBe(true);
    await vi.waitFor(() => expect(seen).toHaveLength(1));
    await get(KERNEL, '-r', '0-2999999');
    expect(seen).toHaveLength(1);
  });

  it('sends a part as 206 and says which', async () => {
    const { status, headers, body } = await get(KERNEL, '-r', '600000-1400000');
    expect([status, headers['content-range'], headers['content-length']]).toEqual([206, `bytes 600000-1400000/${kernel.length}`, '800001']);
    expect(body.equals(kernel.subarray(600_000, 1_400_001))).toBe(true);
  });

  it('says 416 with the size for a range behind the end', async () => {
    const { status, headers, body } = await get(KERNEL, '-r', `${kernel.length}-`);
    expect([status, headers['content-range']]).toEqual([416, `bytes */${kernel.length}`]);
    expect(body.toString()).toMatch(/^REQUEST_INVALID: [^\n]+\n$/);
  });

  it('sends the whole when several ranges are asked for', async () => {
    const { status, body } = await get(KERNEL, '-r', '0-1,5-6');
    expect([status, body.equals(kernel)]).toEqual([200, true]);
  });

  it.each([
    ['the ETag', ETAG, 206],
    ['another ETag', '"sha256:other"', 200],
    ['the ETag as a weak one', `W/${ETAG}`, 200],
    ['a date', 'Wed, 21 Oct 2015 07:28:00 GMT', 200],
  ])('honours a Range under If-Range with %s accordingly', async (_what, ifRange, expected) => {
    const { status, body } = await get(KERNEL, '-r', '0-9', '-H', `If-Range: ${ifRange}`);
    expect([status, body.length]).toEqual([expected, expected === 206 ? 10 : kernel.length]);
  });

  it.each([ETAG, `W/${ETAG}`, `"a", ${ETAG}`, '*'])('says 304 for If-None-Match: %s', async (tag) => {
    const { status, headers, body } = await get(KERNEL, '-H', `If-None-Match: ${tag}`);
    expect([status, headers['etag'], body.length]).toEqual([304, ETAG, 0]);
    expect(seen).toEqual([]);
  });

  it('sends the whole for an If-None-Match with another ETag', async () => {
    expect((await get(KERNEL, '-H', 'If-None-Match: "sha256:other"')).status).toBe(200);
  });

  it('tells the initrd stage when the last of several is through, and none for the squashfs', async () => {
    await get(blobPath(digestOfBytes(last), BOOT));
    await vi.waitFor(() => expect(seen.map(([, stage]) => stage)).toEqual(['initrd']));
    await get(blobPath(digestOfBytes(first), BOOT));
    await get(blobPath(digestOfBytes(big), BOOT));
    expect(seen).toHaveLength(1);
  });

  it('tells no stage without a boot, or of another boot than the one that was named', async () => {
    expect((await get(blobPath(digestOfBytes(kernel)))).status).toBe(200);
    answer = { ...known, boot: { ...boot, id: '01JXBOOT00000000000000000B' } };
    expect((await get(KERNEL)).status).toBe(200);
    answer = known;
    expect((await get(`${blobPath(digestOfBytes(kernel))}?boot=../x`)).status).toBe(200);
    expect(asked.map((request) => request.bootId)).toEqual([undefined, BOOT, undefined]);
    expect(seen).toEqual([]);
  });

  it('refuses a machine that nobody knows with one line', async () => {
    answer = { decision: { kind: 'silent', why: 'no profile\nnames this machine' } };
    const { status, headers, body } = await get(KERNEL);
    expect([status, headers['content-type'], body.toString()]).toEqual([404, 'text/plain; charset=utf-8', 'NODE_UNKNOWN: no profile names this machine\n']);
  });

  it.each(['0'.repeat(64), 'abc', hexOf(digestOfBytes('x')).toUpperCase(), '..%2f..%2frackseed.db', `${'a'.repeat(64)}%00`])('says 404 for %s', async (hex) => {
    const { status, body } = await get(`/blobs/sha256/${hex}`, '--path-as-is');
    expect(status).toBe(404);
    expect(body.toString()).toBe('BLOB_UNKNOWN: no such blob\n');
  });

  it('closes the file and tells no stage when the client goes away in the middle', async () => {
    answer = { ...known, bootSet: { ...bootSet, image: { ...bootSet.image, kernel: refOf(big) } } };
    const socket = connect(Number(new URL(base).port), '127.0.0.1');
    socket.write(`GET ${blobPath(digestOfBytes(big), BOOT)} HTTP/1.1\r\nhost: x\r\n\r\n`);
    await new Promise((resolve) => socket.once('data', resolve));
    expect(openBlobs(digestOfBytes(big))).toHaveLength(1);
    socket.destroy();
    await vi.waitFor(() => expect(openBlobs()).toEqual([]));
    await vi.waitFor(() => expect(logged.join()).toContain('blob not sent whole'));
    expect(seen).toEqual([]);
    expect((await get(blobPath(digestOfBytes(last)))).status).toBe(200);
  });

  it('never mixes two files when a blob is replaced while it is sent', async () => {
    const path = blobs.path(digestOfBytes(big));
    const pending = curl('--limit-rate', '100M', base + blobPath(digestOfBytes(big)));
    await vi.waitFor(() => expect(openBlobs()).toHaveLength(1));
    writeFileSync(join(dir, 'other'), Buffer.alloc(big.length, 'X'));
    renameSync(path, join(dir, 'kept'));
    renameSync(join(dir, 'other'), path);
    expect((await pending).body.equals(big)).toBe(true);
    renameSync(join(dir, 'kept'), path);
  });

  it('answers a blob with wrong content as if it were not there, tells of it once, and sends it again when it is right', async () => {
    const bytes = Buffer.alloc(2_000_000, 'right');
    const { digest } = await blobs.add(Readable.from([bytes]));
    writeFileSync(join(dir, 'wrong'), Buffer.alloc(2_000_000, 'wrong'));
    renameSync(join(dir, 'wrong'), blobs.path(digest));
    const answers = await Promise.all([1, 2, 3].map(() => get(blobPath(digest))));
    expect(answers.map(({ status, body }) => [status, body.toString()])).toEqual([1, 2, 3].map(() => [404, 'BLOB_UNKNOWN: no such blob\n']));
    expect(rotten).toEqual([[digest, expect.stringContaining('its content has the digest')]]);
    await blobs.add(Readable.from([bytes]));
    expect((await get(blobPath(digest))).body.equals(bytes)).toBe(true);
  });

  it('sends the right bytes to more machines than the cache has blocks, all at different places, and gives up no file', async () => {
    const mixed = Buffer.from(Uint8Array.from({ length: 40 << 20 }, (_, i) => (i * 3 + (i >> 12)) & 255));
    const { digest } = await blobs.add(Readable.from([mixed]));
    const starts = Array.from({ length: 40 }, (_, i) => i * 1_000_003);
    const parts = await Promise.all(starts.map((from) => get(blobPath(digest), '-r', `${from}-`, '--limit-rate', '200M')));
    expect(parts.every(({ body }, i) => body.equals(mixed.subarray(starts[i])))).toBe(true);
    await vi.waitFor(() => expect(openBlobs()).toEqual([]));
  }, 60_000);

  describe('admission', () => {
    const image = () => blobPath(digestOfBytes(big), BOOT);

    it('says 503, when to come again and where the machine stands to one that has to wait', async () => {
      answer = { decision: { kind: 'hold', why: 'every image slot is taken: place 3, about 40 s', retryAfterS: 17, queue: { place: 3, etaS: 40 } }, boot };
      const { status, headers, body } = await get(image());
      expect([status, headers['retry-after'], headers['cache-control'], body.toString()]).toEqual([503, '17', 'no-store', 'BUSY: every image slot is taken: place 3, about 40 s\n']);
      expect((await curl('-i', base + image())).body.toString()).toMatch(/^HTTP\/1\.1 503 place 3, about 40 s, again in 17 s\r\n/);
      expect(asked[0]).toEqual({ via: 'http', ip: '127.0.0.1', bootId: BOOT, wants: 'image', blob: digestOfBytes(big) });
    });

    it('gives the slot back when all was sent, and says so', async () => {
      answer = { ...known, ticket: 'slot-1' };
      await get(image());
      await vi.waitFor(() => expect(released).toEqual([['slot-1', 'whole']]));
    });

    it('gives the slot back as cut when the machine goes away in the middle', async () => {
      answer = { ...known, ticket: 'slot-2' };
      expect((await curl('--max-filesize', '100000000', '--limit-rate', '1M', '--max-time', '0.5', '-o', '/dev/null', base + image())).code).toBe(28);
      await vi.waitFor(() => expect(released).toEqual([['slot-2', 'cut']]));
    });

    it.each([
      ['its last byte', (size: number) => `${size - 1}-`, 'nothing'],
      ['its first bytes', () => '0-0', 'nothing'],
      ['all but its last byte', (size: number) => `0-${size - 2}`, 'nothing'],
      ['less than its second half', (size: number) => `${Math.floor(size / 2) + 1}-`, 'nothing'],
      ['its second half', (size: number) => `${Math.floor(size / 2)}-`, 'whole'],
      ['what it does not have', (size: number) => `${size}-`, 'nothing'],
    ])('gives the slot back after %s was asked for, and counts it as a stream only when it was one', async (_what, range, how) => {
      answer = { ...known, ticket: 'slot-3' };
      await get(image(), '-r', range(big.length));
      await vi.waitFor(() => expect(released).toEqual([['slot-3', how]]));
    });

    it('gives the slot back when the machine is refused', async () => {
      answer = { decision: { kind: 'silent', why: 'no' }, ticket: 'slot-4' };
      await get(image());
      await vi.waitFor(() => expect(released).toEqual([['slot-4', 'nothing']]));
    });

    it.each([
      ['HEAD', () => get(image(), '-I')],
      ['a client that has the bytes', () => get(image(), '-H', `If-None-Match: "${digestOfBytes(big)}"`)],
      ['a small blob', () => get(KERNEL)],
      ['a blob that is not there', () => get(blobPath(digestOfBytes('nothing')))],
    ])('asks for no slot for %s', async (_what, request) => {
      await request();
      expect(asked.map(({ wants }) => wants)).toEqual([undefined]);
    });
  });

  it('cuts the connection, rather than pad or lie, when the file is shorter than it was', async () => {
    const bytes = Buffer.alloc(32 << 20, 'cut');
    const { digest } = await blobs.add(Readable.from([bytes]));
    const port = Number(new URL(base).port);
    const socket = connect(port, '127.0.0.1');
    socket.write(`GET ${blobPath(digest)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    const chunks: Buffer[] = [await new Promise<Buffer>((resolve) => socket.once('data', resolve))];
    // Nobody reads: the rest is far more than all socket buffers hold, so the server waits in the middle of the file.
    socket.pause();
    truncateSync(blobs.path(digest), 100);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', () => undefined);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.resume();
    await closed;
    const answer = Buffer.concat(chunks);
    const body = answer.subarray(answer.indexOf('\r\n\r\n') + 4);
    expect(answer.toString('latin1', 0, 500)).toContain(`content-length: ${bytes.length}`);
    expect(body.length).toBeLessThan(bytes.length);
    expect(bytes.subarray(0, body.length).equals(body)).toBe(true);
    await vi.waitFor(() => expect(openBlobs()).toEqual([]));
  });
});
