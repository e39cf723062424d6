// Read-only smart Git for the stock client: git's own upload-pack behind two routes, with limits.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { gitPath, GIT_PREFIX } from '../boot/urls.ts';
import type { Booter } from '../booter.ts';
import { lineOf, type ErrorCode } from '../errors.ts';
import type { Repos } from '../postboot/repos.ts';
import { remoteIp4 } from './peer.ts';
import { refusalLine } from './refusal.ts';

export interface GitRoutesOptions {
  readonly repos: Pick<Repos, 'dir' | 'environment'>;
  readonly booter: Pick<Booter, 'ask'>;
  readonly log: Pick<Logger, 'warn'>;
  readonly limits?: Partial<GitLimits>;
  /** Told of each upload-pack, which leads a process group; what it answers is called when that is over. */
  readonly noteChild?: (pid: number) => () => void;
}

export interface GitLimits {
  /** upload-pack processes at a time. */
  readonly children: number;
  /** Requests that wait for one of them; git itself does not retry after a 503, so a rack that boots at once shall rather wait. */
  readonly waiting: number;
  readonly waitMs: number;
  /** Of a request's body, before and after decompression. */
  readonly bodyBytes: number;
  /** A child's whole life. */
  readonly childMs: number;
}

const LIMITS: GitLimits = { children: 16, waiting: 256, waitMs: 20_000, bodyBytes: 1 << 20, childMs: 60_000 };

/** An advertisement holds a line for each ref, and a mirror has only pins. */
const ADVERTISEMENT_BYTES = 4 << 20;

/** Only branches are shown, which are the pins and the shipped `main`; upstream's refs are nobody's business. */
const UPLOAD_PACK = [
  ...['-c', 'uploadpack.hideRefs=refs/', '-c', 'uploadpack.hideRefs=!refs/heads/'],
  ...['-c', 'uploadpack.allowTipSHA1InWant=false', '-c', 'uploadpack.allowReachableSHA1InWant=false', '-c', 'uploadpack.allowAnySHA1InWant=false'],
  ...['-c', 'pack.threads=1', 'upload-pack', '--strict', '--stateless-rpc'],
] as const;

const CODES: Readonly<Record<number, ErrorCode>> = { 404: 'NOT_FOUND', 500: 'GIT_FAILED', 503: 'BUSY' };

/** A refusal that the machine may read: one line. */
class Refusal extends Error {
  readonly status: number;
  readonly code: ErrorCode;
  readonly retryAfterS: number | undefined;

  constructor(status: number, message: string, retryAfterS?: number, code = CODES[status] ?? 'REQUEST_INVALID') {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * `GET /git/<repo>.git/info/refs?service=git-upload-pack` and `POST /git/<repo>.git/git-upload-pack`; nothing can be written.
 * Register it (`app.register(gitRoutes, { ... })`): its body parser and error handler are its own. A machine whom the Booter does
 * not answer gets 404.
 */
export async function gitRoutes(app: FastifyInstance, options: GitRoutesOptions): Promise<void> {
  const { repos, booter, log } = options;
  const limits = { ...LIMITS, ...options.limits };
  const slots = createSlots(limits);
  const children = new Set<ChildProcess>();

  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.addHook('onClose', async () => {
    for (const child of children) end(child);
  });
  app.setErrorHandler((error, request, reply) => {
    const { statusCode = 500 } = error as { statusCode?: number };
    if (!(error instanceof Refusal)) log.warn({ why: lineOf(error), url: request.url }, 'git request failed');
    const refusal = error instanceof Refusal ? error : statusCode < 500 ? new Refusal(statusCode, 'not a request that git makes') : new Refusal(500, 'git failed here; the daemon\'s log has the reason');
    if (refusal.retryAfterS !== undefined) void reply.header('retry-after', String(refusal.retryAfterS));
    void reply.code(refusal.status).type('text/plain; charset=utf-8').send(refusalLine(refusal.code, refusal.message));
  });

  async function directoryFor(request: FastifyRequest): Promise<string> {
    const { repo } = request.params as { repo: string };
    const ip = remoteIp4(request);
    const { decision } = await booter.ask({ via: 'http', asker: 'os', ...(ip ? { ip } : {}) });
    if (decision.kind === 'silent') throw new Refusal(404, `${ip ?? 'this'} is not a machine we serve: ${decision.why}`, undefined, 'NODE_UNKNOWN');
    const directory = repos.dir(repo);
    if (directory === undefined) throw new Refusal(404, 'no such repository');
    return directory;
  }

  /** upload-pack's output for this request; it is ended when the client goes away or time is up, and `release` runs once it is gone. */
  function uploadPack(request: FastifyRequest, args: readonly string[], input: Buffer, release: () => void): PassThrough {
    const protocol = request.headers['git-protocol'];
    const env = { ...repos.environment(), ...(typeof protocol === 'string' && /^[a-z0-9=:]{1,64}$/.test(protocol) ? { GIT_PROTOCOL: protocol } : {}) };
    // A process group of its own: upload-pack leaves pack-objects behind when only it is ended.
    const child = spawn('git', [...UPLOAD_PACK, ...args], { env, stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    const out = new PassThrough();
    const { socket } = request.raw;
    let complaint = '';
    let bytes = 0;
    children.add(child);
    if (child.pid !== undefined && options.noteChild) child.once('exit', options.noteChild(child.pid));
    const timer = setTimeout(() => end(child), limits.childMs).unref();
    const gone = () => end(child);
    socket.once('close', gone);
    const finish = (failure?: string) => {
      if (!children.delete(child)) return;
      clearTimeout(timer);
      socket.off('close', gone);
      release();
      if (failure === undefined) out.end();
      else out.destroy(new Error(`upload-pack: ${complaint.trim() || failure}`));
    };
    child.stderr.on('data', (chunk: Buffer) => (complaint = `${complaint}${chunk.toString()}`.slice(-1000)));
    child.stdout.on('data', (chunk: Buffer) => (bytes += chunk.length)).pipe(out, { end: false });
    child.stdin.on('error', () => undefined).end(input);
    out.once('close', gone);
    out.on('error', () => undefined);
    child.once('error', (error) => finish(error.message));
    // git reports its own refusals inside the protocol; only a silent failure or a killed child is an error of ours.
    child.once('close', (code, signal) => finish(signal ? `ended by ${signal}` : code !== 0 && bytes === 0 ? `exit ${code}` : undefined));
    if (socket.destroyed) gone();
    return out;
  }

  app.get(`${gitPath(':repo')}/info/refs`, { exposeHeadRoute: false }, async (request, reply) => {
    const directory = await directoryFor(request);
    const { service } = request.query as { service?: unknown };
    if (service === 'git-receive-pack') throw new Refusal(403, 'this repository is read-only');
    if (service !== 'git-upload-pack') throw new Refusal(403, 'only the smart protocol is served: use git 1.6.6 or newer');
    const out = uploadPack(request, ['--http-backend-info-refs', directory], Buffer.alloc(0), await slots.take(request));
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of out as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > ADVERTISEMENT_BYTES) throw new Error(`${directory} has too many branches to advertise`);
      chunks.push(chunk);
    }
    // As git-http-backend: protocol 2 has no service line.
    const first = /(^|:)version=2(:|$)/.test(String(request.headers['git-protocol'] ?? '')) ? '' : '001e# service=git-upload-pack\n0000';
    return reply.headers(NO_CACHE).type('application/x-git-upload-pack-advertisement').send(Buffer.concat([Buffer.from(first), ...chunks]));
  });

  app.post(`${gitPath(':repo')}/git-upload-pack`, async (request, reply) => {
    const directory = await directoryFor(request);
    if (request.headers['content-type'] !== 'application/x-git-upload-pack-request') throw new Refusal(415, 'not a git-upload-pack request');
    const body = await readBody(request, limits.bodyBytes);
    const out = uploadPack(request, [directory], body, await slots.take(request));
    // Nothing is promised to the client before git said its first word, so that a failure can still be a status.
    await once(out, 'readable');
    return reply.headers(NO_CACHE).type('application/x-git-upload-pack-result').send(out);
  });

  app.post(`${gitPath(':repo')}/git-receive-pack`, () => {
    throw new Refusal(403, 'this repository is read-only');
  });
  app.all(`${GIT_PREFIX}/*`, (_request: FastifyRequest, _reply: FastifyReply) => {
    throw new Refusal(404, 'no such thing here: only `git clone` is served');
  });
}

const NO_CACHE = { 'cache-control': 'no-cache, max-age=0, must-revalidate' } as const;

/** The whole body, decompressed; it is small, and read before a child is started, so that a slow client holds none. */
async function readBody(request: FastifyRequest, limit: number): Promise<Buffer> {
  const tooLarge = new Refusal(413, `a request body is at most ${limit} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request.body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) throw tooLarge;
    chunks.push(chunk);
  }
  const raw = Buffer.concat(chunks);
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return raw;
  if (encoding !== 'gzip' && encoding !== 'x-gzip') throw new Refusal(415, `content encoding is not known: use gzip or none`);
  try {
    return await promisify(gunzip)(raw, { maxOutputLength: limit });
  } catch (error) {
    throw (error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE' ? tooLarge : new Refusal(400, 'the body is not gzip');
  }
}

function end(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    child.kill('SIGKILL');
  }
}

/** So many at a time, so many waiting, and the rest is told to come back. */
function createSlots(limits: GitLimits): { take(request: FastifyRequest): Promise<() => void> } {
  let free = limits.children;
  const waiting: (() => void)[] = [];
  const release = () => {
    const next = waiting.shift();
    if (next) next();
    else free++;
  };
  return {
    async take(request) {
      if (request.raw.socket.destroyed) throw new Refusal(499, 'the client went away');
      if (free > 0) {
        free--;
        return release;
      }
      if (waiting.length >= limits.waiting) throw new Refusal(503, 'too many clones at once, come back', 5);
      await new Promise<void>((resolve, reject) => {
        const leave = (refusal: Refusal) => () => {
          const index = waiting.indexOf(granted);
          if (index < 0) return;
          waiting.splice(index, 1);
          settled();
          reject(refusal);
        };
        const late = leave(new Refusal(503, 'too many clones at once, come back', 5));
        const gone = leave(new Refusal(499, 'the client went away'));
        const timer = setTimeout(late, limits.waitMs).unref();
        const settled = () => {
          clearTimeout(timer);
          request.raw.socket.off('close', gone);
        };
        const granted = () => {
          settled();
          resolve();
        };
        request.raw.socket.once('close', gone);
        waiting.push(granted);
      });
      return release;
    },
  };
}
