// The HTTP listeners: one for machines on the boot LAN, one for people on a Unix socket and loopback. They share no route.
import { chmodSync, rmSync } from 'node:fs';
import { fastify, type FastifyError, type FastifyInstance, type FastifyReply } from 'fastify';
import { AppError, type ErrorCode } from '../errors.ts';
import type { Log } from '../log.ts';
import { refusalLine } from './refusal.ts';

/** Longest wait for a request's head and body, in milliseconds; fastify's own default is for ever (TRAPS 3). The machines' listeners have limits of their own. */
const REQUEST_TIMEOUT_MS = 60_000;

/** Seconds. */
const BUSY_RETRY_S = 5;
const FAILED = 'rackseed failed to answer; its log says more';

/**
 * A fastify without a listener. `routes` registers what it serves; an error that a route did not expect becomes one line of text
 * (or `{ code, message }` for people) and goes to the log whole.
 */
export async function createHttp(kind: 'machines' | 'people', log: Log, routes: (app: FastifyInstance) => Promise<void>): Promise<FastifyInstance> {
  const say = (code: ErrorCode, message: string, hint?: string) => (kind === 'machines' ? refusalLine(code, message) : { code, message, ...(hint ? { hint } : {}) });
  const app = fastify({
    logger: false,
    requestTimeout: REQUEST_TIMEOUT_MS,
    bodyLimit: 256 * 1024,
    routerOptions: { maxParamLength: 200 },
    forceCloseConnections: true,
    // What the router itself refuses, and what comes while it closes: fastify's own words for both are JSON.
    frameworkErrors: (_error, _request, reply) => void (reply as unknown as FastifyReply).code(400).type(kind === 'machines' ? 'text/plain; charset=utf-8' : 'application/json; charset=utf-8').send(say('REQUEST_INVALID', 'this path cannot be understood')),
    return503OnClosing: false,
  });
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const status = error.statusCode ?? 500;
    if (error instanceof AppError) {
      // What is our own fault names files and disks, which are none of a machine's business.
      if (error.code === 'BUSY') reply.header('retry-after', BUSY_RETRY_S);
      if (kind === 'people' || statusOf(error) !== 500) return reply.code(statusOf(error)).send(say(error.code, error.message, error.hint));
      log.error({ err: error, method: request.method, path: request.url }, 'request failed');
      return reply.code(500).send(say(error.code, FAILED));
    }
    if (status < 500) return reply.code(status).send(say('REQUEST_INVALID', error.message));
    log.error({ err: error, method: request.method, path: request.url }, 'request failed');
    return reply.code(500).send(say('BUG', FAILED));
  });
  app.setNotFoundHandler((request, reply) => reply.code(404).send(say('NOT_FOUND', `nothing is served at ${request.url.split('?')[0]!.replace(/[^\x20-\x7e]/g, '?').slice(0, 200)}`)));
  await routes(app);
  return app;
}

function statusOf(error: AppError): number {
  if (error.code.endsWith('_UNKNOWN')) return 404;
  if (error.code === 'NODE_IN_YAML' || error.code === 'NODE_NOT_HELD') return 409;
  if (error.code === 'BUSY') return 503;
  return error.exit === 65 || error.exit === 64 ? 422 : 500;
}

/** Serves the same routes on each address. */
export async function listenOn(apps: readonly { readonly app: FastifyInstance; readonly host: string; readonly port: number }[]): Promise<void> {
  for (const { app, host, port } of apps) {
    try {
      await app.listen({ host, port });
    } catch (error) {
      throw portUnavailable(host, port, error);
    }
  }
}

export function portUnavailable(host: string, port: number, error: unknown): AppError {
  return new AppError('PORT_UNAVAILABLE', `HTTP cannot listen on ${host}:${port}: ${(error as NodeJS.ErrnoException).code ?? 'unknown'}`, `is another program on that port (ss -ltnp), and is ${host} one of this machine's addresses (ip addr)? A port below 1024 is bound after root was given up: take a higher one, or user: null`, error);
}

/** The socket is for its owner and group only: whoever can open it may operate. A socket of a daemon that died is removed. */
export async function listenOnSocket(app: FastifyInstance, path: string): Promise<void> {
  rmSync(path, { force: true });
  try {
    await app.listen({ path });
  } catch (error) {
    throw new AppError('PORT_UNAVAILABLE', `the API cannot listen on ${path}: ${(error as NodeJS.ErrnoException).code ?? 'unknown'}`, 'is its directory there and writable, and the path shorter than 108 bytes?', error);
  }
  chmodSync(path, 0o660);
}
