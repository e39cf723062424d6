// The blob routes: verified, content-addressed files for machines, and each node's UKI, with Range, HEAD and strong ETags; tells the Booter when a kernel or initrd was sent whole.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { parseMac } from '../addr.ts';
import { waitingPhrase, type StreamEnd } from '../boot/admission.ts';
import type { BootSet } from '../boot/profile.ts';
import type { BootRequest } from '../boot/request.ts';
import { BLOB_ROUTE, UKI_ROUTE } from '../boot/urls.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { VerifiedBlob, VerifiedBlobs } from '../store/verified.ts';
import { createBlockCache, type BlockReader } from './block-cache.ts';
import { createPartsBook, type PartsBook } from './coverage.ts';
import { remoteIp4 } from './peer.ts';
import type { Pumps } from './pumps.ts';
import { byteRange, type ByteRange } from './range.ts';
import { refusalLine, refuse } from './refusal.ts';
import { Gone, sendBytes } from './send.ts';

export interface BlobRoutesParts {
  readonly blobs: VerifiedBlobs;
  readonly booter: Pick<Booter, 'ask' | 'seen' | 'release'>;
  /** Told of parts of kernels and initrds; default: a book of these routes' own. */
  readonly sent?: PartsBook['sent'];
  readonly log: Log;
  /** What is large goes out by them; default: all goes out by Node. */
  readonly pumps?: Pumps;
  /** What blocks in memory may take, in bytes: this thread's share of `http.cacheBytes`. */
  readonly cacheBytes: number;
}

const NO_PUMPS: Pumps = { open: async () => undefined, close: async () => undefined, workers: [] };
/** From this size on a blob is an image, and needs a slot: what is smaller is through before a queue would have moved. */
export const IMAGE_BYTES = 16 * 1024 * 1024;

/** `GET|HEAD /blobs/sha256/:hex[?boot=<id>]` and `/loaders/:mac/uki.efi`; a fastify plugin. Refusals are one line of text. */
export async function blobRoutes(app: FastifyInstance, { blobs, booter, sent: noteSent = createPartsBook(booter).sent, log, pumps = NO_PUMPS, cacheBytes }: BlobRoutesParts): Promise<void> {
  const cache = createBlockCache(cacheBytes);

  app.route<{ Params: { hex: string }; Querystring: { boot?: unknown } }>({
    method: ['GET', 'HEAD'],
    url: BLOB_ROUTE,
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
        const stage = bootId !== undefined && answer.boot?.id === bootId ? stageOf(blob.digest, answer.bootSet) : undefined;
        how = await deliver({ blob, answer, stage, startedAt, type: 'application/octet-stream' }, request, reply);
        return reply;
      } finally {
        // It fails only with the main thread gone, and the slots with it.
        if (ticket !== undefined) await booter.release(ticket, how).catch((error: unknown) => log.error({ err: error }, 'image slot not given back'));
      }
    },
  });

  // The boot set is fixed by this request, as it is by a script's: what the machine boots is in the file, and nothing before it was.
  app.route<{ Params: { mac: string } }>({
    method: ['GET', 'HEAD'],
    url: UKI_ROUTE,
    exposeHeadRoute: false,
    async handler(request, reply) {
      const startedAt = performance.now();
      const mac = parseMac(request.params.mac);
      const ip = remoteIp4(request);
      if (!mac || !ip) return refuse(reply, 404, 'NODE_UNKNOWN', 'no machine of ours has this path');
      const answer = await booter.ask({ via: 'http', mac, ip, wants: 'script' });
      const { decision, bootSet } = answer;
      if (decision.kind === 'hold') {
        reply.header('retry-after', decision.retryAfterS).header('cache-control', 'no-store');
        return refuse(reply, 503, 'BUSY', decision.why);
      }
      if (decision.kind !== 'boot') return refuse(reply, 404, 'NODE_UNKNOWN', 'why' in decision ? decision.why : 'this machine boots something else');
      const uki = bootSet?.image.uki;
      const blob = uki && (await blobs.open(uki.digest));
      if (!blob) return refuse(reply, 404, 'BLOB_UNKNOWN', `image ${bootSet?.image.name ?? '?'} has no UKI`);
      verifyRest(blobs, blob.digest, bootSet);
      await deliver({ blob, answer, stage: 'kernel', startedAt, type: 'application/efi' }, request, reply);
      return reply;
    },
  });

  interface Delivery {
    readonly blob: VerifiedBlob;
    readonly answer: Answer;
    /** Of the answer's boot; undefined: none is seen by this. */
    readonly stage: 'kernel' | 'initrd' | undefined;
    readonly startedAt: number;
    readonly type: string;
  }

  /** The whole response, with what it means for the boot; never throws. */
  async function deliver({ blob, answer, stage, startedAt, type }: Delivery, request: FastifyRequest, reply: FastifyReply): Promise<StreamEnd> {
    const bootId = answer.boot?.id;
    const reader = cache.read(blob);
    /** How far the response is: the bytes that were given to its connection. */
    const given = { first: 0, last: -1 };
    const note = async (range: ByteRange | undefined, isCut: boolean): Promise<void> => {
      if (stage && bootId !== undefined && range && (range.last >= range.first || !isCut)) await noteSent(bootId, { stage, digest: blob.digest, size: blob.size, ...range, isCut, durationMs: Math.round(performance.now() - startedAt) });
    };
    try {
      const sent = await send({ blob, reader, pumps, given, type }, request, reply);
      await note(sent, false);
      return sent && endsImage(sent, blob.size) ? 'whole' : 'nothing';
    } catch (error) {
      // The head is out: all that is left is to cut the connection, so that the client sees a short body and asks for the rest.
      await note(given, true);
      // Only our own fault is a warning; a stranger that comes and goes must not fill the log.
      const level = !(error instanceof Gone) ? 'warn' : answer.node ? 'info' : 'debug';
      log[level]({ ...about(answer), digest: blob.digest, why: lineOf(error) }, 'blob not sent whole');
      reply.raw.destroy();
      return 'cut';
    } finally {
      reader.close();
    }
  }
}

/** The image's last byte, after at least half of it: the time that took is a stream's, where that of its last byte alone would say that all take no time. */
function endsImage({ first, last }: ByteRange, size: number): boolean {
  return last === size - 1 && 2 * (size - first) >= size;
}

/** What the machine will ask for next is verified while its kernel starts: nobody waits for it then. */
function verifyRest(blobs: VerifiedBlobs, digest: Digest, bootSet: BootSet | undefined): void {
  if (!bootSet || (bootSet.image.kernel.digest !== digest && bootSet.image.uki?.digest !== digest)) return;
  for (const { digest: next } of [...bootSet.image.initrds, bootSet.image.squashfs]) {
    // Whoever asks for it is told what is wrong with it.
    void blobs.open(next).then((blob) => blob?.close(), () => undefined);
  }
}

interface Way {
  readonly blob: VerifiedBlob;
  readonly reader: BlockReader;
  readonly pumps: Pumps;
  readonly given: { first: number; last: number };
  /** Content-Type. */
  readonly type: string;
}

/** Writes the whole response; the bytes of the blob that went to the kernel, undefined when there were to be none. */
async function send({ blob, given, type, ...ways }: Way, request: FastifyRequest, reply: FastifyReply): Promise<ByteRange | undefined> {
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
    const why = refusalLine('REQUEST_INVALID', `the blob has ${blob.size} bytes`);
    response.writeHead(416, { ...fields, 'content-range': `bytes */${blob.size}`, 'content-type': 'text/plain; charset=utf-8', 'content-length': Buffer.byteLength(why) }).end(why);
    return undefined;
  }
  const range = asked ?? { first: 0, last: blob.size - 1 };
  response.writeHead(asked ? 206 : 200, {
    ...fields,
    'content-type': type,
    'content-length': range.last - range.first + 1,
    ...(asked ? { 'content-range': `bytes ${range.first}-${range.last}/${blob.size}` } : {}),
  });
  if (method === 'HEAD') {
    response.end();
    return undefined;
  }
  await sendBytes({ ...ways, blob, range, response, given: Object.assign(given, { first: range.first, last: range.first - 1 }) });
  return range;
}

function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

/** The client says that it has these very bytes. */
function isKnown({ headers }: FastifyRequest, digest: Digest): boolean {
  return matches(headers['if-none-match'], etagOf(digest));
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
