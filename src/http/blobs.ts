// The blob route: verified, content-addressed files for machines, with Range, HEAD and strong ETags; tells the Booter when a kernel or initrd was sent whole.
import type { ServerResponse } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { waitingPhrase, type StreamEnd } from '../boot/admission.ts';
import type { BootSet } from '../boot/profile.ts';
import type { BootRequest } from '../boot/request.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { VerifiedBlob, VerifiedBlobs } from '../store/verified.ts';
import { BLOCK, createBlockCache, type BlockReader } from './block-cache.ts';
import { createPartsBook, type PartsBook } from './coverage.ts';
import { remoteIp4 } from './peer.ts';
import { canPour, pourInto } from './poured.ts';
import { refusalLine, refuse } from './refusal.ts';

export interface BlobRoutesParts {
  readonly blobs: VerifiedBlobs;
  readonly booter: Pick<Booter, 'ask' | 'seen' | 'release'>;
  /** Told of parts of kernels and initrds; default: a book of these routes' own. */
  readonly sent?: PartsBook['sent'];
  readonly log: Log;
  /** What blocks in memory may take, in bytes: this thread's share of `http.cacheBytes`. */
  readonly cacheBytes: number;
}

/** First and last byte, both included. */
export interface ByteRange {
  readonly first: number;
  readonly last: number;
}

/** From this size on a blob is an image, and needs a slot: what is smaller is through before a queue would have moved. */
export const IMAGE_BYTES = 16 * 1024 * 1024;
/** What Node writes of a connection whose socket is full, where the rest goes without a copy. */
const WAITING_PIECE = 16 * 1024;
/** A connection sends so much, and then others have their turn. */
const TURN_BYTES = 2 * BLOCK;
/** What a connection reads for itself when each block of the cache is being written from: few bytes, for there may be thousands. */
const OWN_PIECE = 128 * 1024;

/** `GET|HEAD /blobs/sha256/:hex[?boot=<id>]`; a fastify plugin. Refusals are one line of text. */
export async function blobRoutes(app: FastifyInstance, { blobs, booter, sent: noteSent = createPartsBook(booter).sent, log, cacheBytes }: BlobRoutesParts): Promise<void> {
  const cache = createBlockCache(cacheBytes);

  app.route<{ Params: { hex: string }; Querystring: { boot?: unknown } }>({
    method: ['GET', 'HEAD'],
    url: '/blobs/sha256/:hex',
    exposeHeadRoute: false,
    async handler(request, reply) {
      const startedAt = performance.now();
      const digest: Digest | undefined = /^[0-9a-f]{64}$/.test(request.params.hex) ? `sha256:${request.params.hex}` : undefined;
      const ip = remoteIp4(request);
      const bootId = bootIdOf(request.query.boot);
      const asked: BootRequest = { via: 'http', ...(ip ? { ip } : {}), ...(bootId ? { bootId } : {}) };
      const isImage = digest !== undefined && request.method === 'GET' && !isKnown(request, digest) && ((await blobs.stat(digest))?.size ?? 0) >= IMAGE_BYTES;
      const answer = await booter.ask(isImage ? { ...asked, wants: 'image', blob: digest } : asked);
      const { decision, ticket } = answer;
      let how: StreamEnd = 'nothing';
      try {
        if (decision.kind === 'silent') return refuse(reply, 404, 'NODE_UNKNOWN', decision.why);
        if (decision.kind === 'hold' && decision.queue) {
          // The reason phrase is all that busybox wget, and so the initrd stage, shows of an error.
          reply.raw.statusMessage = waitingPhrase(decision.queue, decision.retryAfterS);
          reply.header('retry-after', decision.retryAfterS).header('cache-control', 'no-store');
          return refuse(reply, 503, 'BUSY', decision.why);
        }
        const blob = digest === undefined ? undefined : await blobs.open(digest);
        if (!blob) return refuse(reply, 404, 'BLOB_UNKNOWN', 'no such blob');
        verifyRest(blobs, digest!, answer.bootSet);
        const reader = cache.read(blob);
        const stage = bootId !== undefined && answer.boot?.id === bootId ? stageOf(blob.digest, answer.bootSet) : undefined;
        /** How far the response is: the bytes that were given to its connection. */
        const given = { first: 0, last: -1 };
        const note = async (range: ByteRange | undefined, isCut: boolean): Promise<void> => {
          if (stage && range && (range.last >= range.first || !isCut)) await noteSent(bootId!, { stage, digest: blob.digest, size: blob.size, ...range, isCut, durationMs: Math.round(performance.now() - startedAt) });
        };
        try {
          const sent = await send(blob, reader, request, reply, given);
          if (sent && endsImage(sent, blob.size)) how = 'whole';
          await note(sent, false);
        } catch (error) {
          // The head is out: all that is left is to cut the connection, so that the client sees a short body and asks for the rest.
          how = 'cut';
          await note(given, true);
          // Only our own fault is a warning; a stranger that comes and goes must not fill the log.
          const level = !(error instanceof Gone) ? 'warn' : answer.node ? 'info' : 'debug';
          log[level]({ ...about(answer), digest, why: lineOf(error) }, 'blob not sent whole');
          reply.raw.destroy();
        } finally {
          reader.close();
        }
        return reply;
      } finally {
        // It fails only with the main thread gone, and the slots with it.
        if (ticket !== undefined) await booter.release(ticket, how).catch((error: unknown) => log.error({ err: error }, 'image slot not given back'));
      }
    },
  });
}

/** The image's last byte, after at least half of it: the time that took is a stream's, where that of its last byte alone would say that all take no time. */
function endsImage({ first, last }: ByteRange, size: number): boolean {
  return last === size - 1 && 2 * (size - first) >= size;
}

/** What the machine will ask for next is verified while its kernel starts: nobody waits for it then. */
function verifyRest(blobs: VerifiedBlobs, digest: Digest, bootSet: BootSet | undefined): void {
  if (bootSet?.image.kernel.digest !== digest) return;
  for (const { digest: next } of [...bootSet.image.initrds, bootSet.image.squashfs]) {
    // Whoever asks for it is told what is wrong with it.
    void blobs.open(next).then((blob) => blob?.close(), () => undefined);
  }
}

/** Writes the whole response; the bytes of the blob that went to the kernel, undefined when there were to be none. */
async function send(blob: VerifiedBlob, reader: BlockReader, request: FastifyRequest, reply: FastifyReply, given: { first: number; last: number }): Promise<ByteRange | undefined> {
  const { headers, method } = request;
  const etag = etagOf(blob.digest);
  const response = reply.hijack().raw;
  // Node emits an error on a response that is written to after the client went away; with no listener that ends the process.
  response.on('error', () => undefined);
  const fields = { etag, 'cache-control': 'public, max-age=31536000, immutable', 'accept-ranges': 'bytes' };
  if (isKnown(request, blob.digest)) {
    response.writeHead(304, fields).end();
    return undefined;
  }
  // RFC 9110 14.2: Range means something for GET only; 13.1.5: If-Range compares strongly, and we have no date to compare.
  const ifRange = headers['if-range'];
  const asked = method === 'GET' && (ifRange === undefined || ifRange === etag) ? byteRange(headers.range, blob.size) : undefined;
  if (asked === 'unsatisfiable') {
    response.writeHead(416, { ...fields, 'content-range': `bytes */${blob.size}`, 'content-type': 'text/plain; charset=utf-8' });
    response.end(refusalLine('REQUEST_INVALID', `the blob has ${blob.size} bytes`));
    return undefined;
  }
  const range = asked ?? { first: 0, last: blob.size - 1 };
  response.writeHead(asked ? 206 : 200, {
    ...fields,
    'content-type': 'application/octet-stream',
    'content-length': range.last - range.first + 1,
    ...(asked ? { 'content-range': `bytes ${range.first}-${range.last}/${blob.size}` } : {}),
  });
  if (method === 'HEAD') {
    response.end();
    return undefined;
  }
  await sendBytes(blob, reader, range, response, Object.assign(given, { first: range.first, last: range.first - 1 }));
  return range;
}

/** Rejects when the client goes away or the file is no longer what was verified. */
async function sendBytes(blob: VerifiedBlob, reader: BlockReader, { first, last }: ByteRange, response: ServerResponse, given: { last: number }): Promise<void> {
  await turnOf(response);
  const write = writerOf(response);
  let own: Buffer | undefined;
  let turn = 0;
  for (let at = first; at <= last; at = given.last + 1) {
    const index = Math.floor(at / BLOCK);
    const start = index * BLOCK;
    const end = Math.min(start + BLOCK, last + 1);
    const block = await reader.take(index);
    if (block) {
      try {
        if (end <= last) reader.ahead(index + 1);
        // The head goes out with the first bytes that Node writes.
        const poured = at === first ? 0 : pourInto(response.socket, block, { from: at - start, to: end - start, more: end <= last });
        given.last = at + poured - 1;
        // Only Node can tell when a full socket has room again: when it has written the next piece. What the kernel has keeps the line busy meanwhile.
        const piece = canPour(response.socket, block) ? WAITING_PIECE : BLOCK;
        if (at + poured < end) await writeFrom(block.bytes, at + poured - start, Math.min(end - start, at + poured - start + piece));
      } finally {
        block.release();
      }
    } else {
      own ??= Buffer.allocUnsafeSlow(OWN_PIECE);
      const length = Math.min(OWN_PIECE, end - at);
      await blob.read(own, length, at);
      await writeFrom(own, 0, length);
    }
    turn += given.last + 1 - at;
    if (turn < TURN_BYTES) continue;
    // What the kernel takes at once leaves no gap: without this a client that reads as fast as we write would have the loop for itself.
    turn = 0;
    await setImmediate();
  }
  await write.end();

  async function writeFrom(memory: Buffer, from: number, to: number): Promise<void> {
    given.last += to - from;
    await write(memory.subarray(from, to));
  }
}

/** A response to a pipelined request holds no memory before the ones ahead of it are out; rejects when the connection ends before. */
async function turnOf(response: ServerResponse): Promise<void> {
  // Node emits 'socket' when a response is given its connection; 'close' of one that never was comes from listener.ts.
  if (!response.socket && !response.destroyed) await new Promise<void>((resolve) => response.once('socket', () => resolve()).once('close', resolve));
  if (response.destroyed) throw new Gone();
}

/** Each promise settles when the kernel has the bytes, so that their memory may be used again; it rejects when the connection ends before. */
function writerOf(response: ServerResponse): { (bytes: Buffer): Promise<void>; end(): Promise<void> } {
  let fail: ((error: Error) => void) | undefined;
  let closed = false;
  response.once('close', () => {
    closed = true;
    fail?.(new Gone());
  });
  const whenDone = (start: (done: (error?: Error | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => {
      fail = reject;
      if (closed || response.destroyed) return reject(new Gone());
      start((error) => (error ? reject(new Gone()) : resolve()));
    });
  return Object.assign((bytes: Buffer) => whenDone((done) => response.write(bytes, done)), { end: () => whenDone((done) => response.end(done)) });
}

/** The connection ended, by the client or because it was cut. */
class Gone extends Error {
  constructor() {
    super('the client closed the connection');
  }
}

function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

/** The client says that it has these very bytes. */
function isKnown({ headers }: FastifyRequest, digest: Digest): boolean {
  return matches(headers['if-none-match'], etagOf(digest));
}

/**
 * RFC 9110 14.1.2. undefined: send the whole (no range, several of them, another unit, or one that cannot be understood).
 * `size` in bytes.
 */
export function byteRange(header: string | undefined, size: number): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(header ?? '');
  const [from, to] = [match?.[1] ?? '', match?.[2] ?? ''];
  if (from === '' && to === '') return undefined;
  if (from === '') return Number(to) === 0 || size === 0 ? 'unsatisfiable' : { first: Math.max(0, size - Number(to)), last: size - 1 };
  const first = Number(from);
  const last = to === '' ? size - 1 : Math.min(Number(to), size - 1);
  if (to !== '' && Number(to) < first) return undefined;
  return first >= size ? 'unsatisfiable' : { first, last };
}

/** RFC 9110 13.1.2: weak comparison, any of a list, `*` is any. */
function matches(header: string | undefined, etag: string): boolean {
  return header !== undefined && (header.trim() === '*' || header.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag));
}

/** A boot's kernel is one file, its initrds are several: they are there when the last one is. */
function stageOf(digest: Digest, bootSet: BootSet | undefined): 'kernel' | 'initrd' | undefined {
  if (bootSet?.image.kernel.digest === digest) return 'kernel';
  return bootSet?.image.initrds.at(-1)?.digest === digest ? 'initrd' : undefined;
}

function bootIdOf(value: unknown): string | undefined {
  return typeof value === 'string' && /^[0-9A-Za-z]{1,64}$/.test(value) ? value : undefined;
}

function about({ node, boot }: Answer): { node?: string; boot?: string } {
  return { ...(node ? { node: node.name } : {}), ...(boot ? { boot: boot.id } : {}) };
}
