// The blob route: content-addressed files for machines, with Range, HEAD and strong ETags; tells the Booter when a kernel or initrd was sent whole.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { BootSet } from '../boot/profile.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { BlobStore, OpenBlob } from '../store/blobs.ts';
import { remoteIp4 } from './peer.ts';
import { refusalLine, refuse } from './refusal.ts';

export interface BlobRoutesParts {
  readonly blobs: BlobStore;
  readonly booter: Pick<Booter, 'ask' | 'seen'>;
  readonly log: Log;
}

/** First and last byte, both included. */
export interface ByteRange {
  readonly first: number;
  readonly last: number;
}

/** TRAPS 3: large pieces written from one buffer cost less per byte than a piped stream. Half of its 1 MiB: one buffer a client. */
const PIECE = 512 * 1024;
/** A client that takes nothing for this long is gone; its file is closed. */
const STALLED_MS = 120_000;

/** `GET|HEAD /blobs/sha256/:hex[?boot=<id>]`; a fastify plugin. Refusals are one line of text. */
export async function blobRoutes(app: FastifyInstance, { blobs, booter, log }: BlobRoutesParts): Promise<void> {
  app.route<{ Params: { hex: string }; Querystring: { boot?: unknown } }>({
    method: ['GET', 'HEAD'],
    url: '/blobs/sha256/:hex',
    exposeHeadRoute: false,
    async handler(request, reply) {
      const startedAt = performance.now();
      const ip = remoteIp4(request);
      const bootId = bootIdOf(request.query.boot);
      const answer = await booter.ask({ via: 'http', ...(ip ? { ip } : {}), ...(bootId ? { bootId } : {}) });
      if (answer.decision.kind === 'silent') return refuse(reply, 404, 'NODE_UNKNOWN', answer.decision.why);
      const { hex } = request.params;
      const blob = /^[0-9a-f]{64}$/.test(hex) ? await blobs.open(`sha256:${hex}`) : undefined;
      if (!blob) return refuse(reply, 404, 'BLOB_UNKNOWN', 'no such blob');
      try {
        const reachedEnd = await send(blob, `sha256:${hex}`, request, reply);
        const stage = reachedEnd && bootId !== undefined && answer.boot?.id === bootId ? stageOf(`sha256:${hex}`, answer.bootSet) : undefined;
        if (stage) await booter.seen(bootId!, stage, { bytes: blob.size, durationMs: Math.round(performance.now() - startedAt) });
      } catch (error) {
        // The head is out: all that is left is to cut the connection, so that the client sees a short body and asks for the rest.
        log.warn({ ...about(answer), digest: `sha256:${hex}`, why: lineOf(error) }, 'blob not sent whole');
        reply.raw.destroy();
      } finally {
        await blob.handle.close();
      }
      return reply;
    },
  });
}

/** Writes the whole response; true when it held the blob's last byte and all of it went to the kernel. */
async function send(blob: OpenBlob, digest: Digest, request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
  const { headers, method } = request;
  const etag = `"${digest}"`;
  const response = reply.hijack().raw;
  // Node emits an error on a response that is written to after the client went away; with no listener that ends the process.
  response.on('error', () => undefined);
  const fields = { etag, 'cache-control': 'public, max-age=31536000, immutable', 'accept-ranges': 'bytes' };
  if (matches(headers['if-none-match'], etag)) {
    response.writeHead(304, fields).end();
    return false;
  }
  // RFC 9110 14.2: Range means something for GET only; 13.1.5: If-Range compares strongly, and we have no date to compare.
  const ifRange = headers['if-range'];
  const asked = method === 'GET' && (ifRange === undefined || ifRange === etag) ? byteRange(headers.range, blob.size) : undefined;
  if (asked === 'unsatisfiable') {
    response.writeHead(416, { ...fields, 'content-range': `bytes */${blob.size}`, 'content-type': 'text/plain; charset=utf-8' });
    response.end(refusalLine('REQUEST_INVALID', `the blob has ${blob.size} bytes`));
    return false;
  }
  const { first, last } = asked ?? { first: 0, last: blob.size - 1 };
  response.writeHead(asked ? 206 : 200, {
    ...fields,
    'content-type': 'application/octet-stream',
    'content-length': last - first + 1,
    ...(asked ? { 'content-range': `bytes ${first}-${last}/${blob.size}` } : {}),
  });
  if (method === 'HEAD') {
    response.end();
    return false;
  }
  await sendBytes(blob, first, last, response);
  return last === blob.size - 1;
}

/** Rejects when the client goes away, stalls, or the file turns out shorter than it was. */
async function sendBytes({ handle }: OpenBlob, first: number, last: number, response: ServerResponse): Promise<void> {
  const gone = once(response, 'close').then(() => Promise.reject(new Error('the client closed the connection')));
  // It also closes after success, when nobody waits for it any more.
  gone.catch(() => undefined);
  response.setTimeout(STALLED_MS, () => response.destroy());
  const buffer = Buffer.allocUnsafeSlow(Math.min(PIECE, last - first + 1));
  for (let at = first; at <= last; ) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, last - at + 1), at);
    if (bytesRead === 0) throw new Error(`the blob's file ends at byte ${at}, before its size`);
    at += bytesRead;
    // The buffer is free again when the piece has left for the kernel.
    await Promise.race([gone, new Promise<void>((resolve, reject) => response.write(buffer.subarray(0, bytesRead), (error) => (error ? reject(error) : resolve())))]);
  }
  await Promise.race([gone, new Promise<void>((resolve) => response.end(resolve))]);
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
