// The machines' HTTP server as the daemon has it: its threads, which are started anew when they die, and the sockets that they share.
import { randomBytes } from 'node:crypto';
import { closeSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel, Worker } from 'node:worker_threads';
import type { Ip4 } from '../addr.ts';
import type { Booter } from '../booter.ts';
import { AppError } from '../errors.ts';
import { servedOf, type Loaders } from '../loaders.ts';
import { lineWriter, type Log } from '../log.ts';
import type { HttpFigures } from '../metrics.ts';
import { libc } from '../net/libc.ts';
import { openListeningSocket } from '../net/listening-socket.ts';
import type { Repos } from '../postboot/repos.ts';
import type { OnRotten } from '../store/quarantine.ts';
import { createVerdicts, type Verdicts } from '../store/verdicts.ts';
import { createChildren } from '../threads/children.ts';
import { threadCount } from '../threads/count.ts';
import { threadEntry } from '../threads/entry.ts';
import { keepAlive } from '../threads/life.ts';
import { createNoted } from '../threads/noted.ts';
import { expose, fromCrossing } from '../threads/rpc.ts';
import { createCounters, CUTS, STATUS_CLASSES, sumOf } from './counters.ts';
import { createPartsBook } from './coverage.ts';
import { LIMITS, type HttpLimits, type TlsOptions } from './listener.ts';
import { portUnavailable } from './server.ts';
import { FRONT_CALLS, type FromThread, type ThreadData, type ThreadListener, type ToThread } from './thread-messages.ts';

export interface FrontParts {
  readonly listen: readonly Ip4[];
  readonly port: number;
  /** HTTPS on the same addresses; PEM texts. */
  readonly tls?: { readonly port: number; readonly cert: string; readonly key: string };
  /** Default threadCount(); without koffi it is one. */
  readonly threads?: number;
  readonly limits?: Partial<HttpLimits>;
  readonly stateDir: string;
  /** Of all threads together. */
  readonly cacheBytes: number;
  readonly publicBase?: string;
  readonly fallbacks?: readonly string[];
  readonly booter: Booter;
  readonly loaders: Loaders;
  readonly repos: Pick<Repos, 'dir' | 'environment' | 'status'>;
  readonly onRotten: OnRotten;
  /** What is known of blobs, for all threads; default: nothing yet. */
  readonly verdicts?: Verdicts;
  readonly log: Log;
}

export interface Front {
  /** Of all threads since the start. */
  figures(): HttpFigures;
  /** New connections get this certificate. */
  setTls(pair: { readonly cert: string; readonly key: string }): void;
  /** What `loaders` has now is what all threads hand out. */
  renewLoaders(): void;
  /** The workers that run now, by number: for tests, which end one. */
  readonly workers: readonly (Worker | undefined)[];
  stop(): Promise<void>;
}

const STOP_MS = 5_000;
/** upload-pack processes at a time, of all threads. */
const GIT_CHILDREN = 16;
const WHY = 'an HTTP thread ended, another one takes its place';

/** Resolves when all threads listen. PORT_UNAVAILABLE as AppError, and then nothing is left. */
export async function startFront(parts: FrontParts): Promise<Front> {
  const { log, loaders, repos, verdicts = createVerdicts() } = parts;
  const booter = inOrder(parts.booter);
  const book = createPartsBook(booter);
  const count = libc() ? (parts.threads ?? threadCount()) : 1;
  const ticketKeys = randomBytes(48);
  let tls: TlsOptions | undefined = parts.tls && { cert: parts.tls.cert, key: parts.tls.key, ticketKeys };
  const listeners = openListeners(parts);
  const counters = Array.from({ length: count }, () => createCounters());
  const children = counters.map(() => createChildren());
  const files = counters.map(() => createNoted(2 * LIMITS.connections));
  const workers: (Worker | undefined)[] = new Array<undefined>(count).fill(undefined);
  const write = lineWriter(log);
  const aborter = new AbortController();
  let restarts = 0;

  /** Runs one thread; `listening` rejects when it cannot, `ended` resolves when nothing of it is left, with the reason, and rejects when none can be had. */
  function run(index: number): { readonly listening: Promise<void>; readonly ended: Promise<unknown> } {
    const { port1, port2 } = new MessageChannel();
    const held = ticketHolder(booter);
    expose(port1, { ...held.booter, ...book }, FRONT_CALLS, log);
    const data: ThreadData = {
      logLevel: log.level,
      booter: port2,
      counters: counters[index]!.shared,
      listeners,
      ...(tls ? { tls } : {}),
      limits: { ...LIMITS, connections: mostConnections(count), ...parts.limits },
      stateDir: parts.stateDir,
      cacheBytes: Math.floor(parts.cacheBytes / count),
      ...(parts.publicBase === undefined ? {} : { publicBase: parts.publicBase }),
      ...(parts.fallbacks ? { fallbacks: parts.fallbacks } : {}),
      verdicts: verdicts.all(),
      children: children[index]!.shared,
      files: files[index]!.shared,
      pumps: Math.ceil(availableParallelism() / count),
      gitLimits: { children: Math.ceil(GIT_CHILDREN / count) },
      loaders: servedOf(loaders),
      repos: { dirs: Object.fromEntries(repos.status().flatMap(({ name }) => (repos.dir(name) === undefined ? [] : [[name, repos.dir(name)!]]))), environment: { ...repos.environment() } },
    };
    let worker: Worker;
    try {
      worker = new Worker(threadEntry(import.meta.url, './thread.js'), { name: `http-${index}`, workerData: data, transferList: [port2] });
    } catch (error) {
      port1.close();
      const never = Promise.reject(error);
      never.catch(() => undefined);
      return { listening: never, ended: never };
    }
    workers[index] = worker;
    let why: unknown;
    const listening = new Promise<void>((resolve, reject) => {
      worker.on('message', (message: FromThread) => {
        if (message.kind === 'log') write(message.line);
        else if (message.kind === 'verdict') verdicts.note(message.verdict);
        else if (message.kind === 'rotten') parts.onRotten(message.digest, message.why, message.movedTo);
        else if (message.kind === 'listening') resolve();
        else if (message.kind === 'failed') {
          reject((why = message.error ? fromCrossing(message.error) : new Error(message.text)));
          void worker.terminate();
        }
      });
      worker.on('error', (error) => reject((why = error)));
      worker.once('exit', (code) => reject(why ?? new Error(`exit code ${code}`)));
    });
    listening.catch(() => undefined);
    const ended = new Promise<unknown>((resolve) => {
      worker.once('exit', (code) => {
        workers[index] = undefined;
        port1.close();
        counters[index]!.forgetConnections();
        held.releaseAll();
        // Numbers are the whole process': what a dead thread had opened past Node is still open.
        for (const fd of files[index]!.take()) closeSync(fd);
        void children[index]!.end().then(() => resolve(why ?? new Error(`exit code ${code}`)));
      });
    });
    return { listening, ended };
  }

  async function stop(): Promise<void> {
    aborter.abort();
    await Promise.all(workers.map((worker) => worker && endThread(worker)));
    await running;
    for (const { fd } of listeners) if (fd !== undefined) closeSync(fd);
  }

  verdicts.onNote((verdict) => {
    for (const worker of workers) worker?.postMessage({ kind: 'verdict', verdict } satisfies ToThread);
  });
  const started = counters.map((_, index) => run(index));
  const running = Promise.all(
    started.map(({ ended }, index) =>
      keepAlive(ended, async () => run(index).ended, aborter.signal, (why, againInMs) => {
        restarts++;
        log.error({ err: why, thread: index, againInMs }, WHY);
      }),
    ),
  );
  try {
    await Promise.all(started.map(({ listening }) => listening));
  } catch (error) {
    await stop();
    throw error instanceof AppError ? error : new AppError('BUG', 'the HTTP threads did not start', undefined, error);
  }
  return {
    figures() {
      const sum = sumOf(counters.map((one) => one.read()));
      const pick = (names: readonly (keyof typeof sum)[]) => Object.fromEntries(names.map((name) => [name, sum[name]]));
      return { responses: pick(STATUS_CLASSES), cuts: pick(CUTS), sentBytes: sum.bytes, connections: sum.connections, threadRestarts: restarts };
    },
    setTls({ cert, key }) {
      if (!tls) return;
      tls = { cert, key, ticketKeys };
      for (const worker of workers) worker?.postMessage({ kind: 'tls', options: tls } satisfies ToThread);
    },
    renewLoaders() {
      for (const worker of workers) worker?.postMessage({ kind: 'loaders', loaders: servedOf(loaders) } satisfies ToThread);
    },
    workers,
    stop,
  };
}

/** With koffi one socket of each address for all threads; without it a thread, of which there is one then, opens them itself. */
function openListeners({ listen, port, tls }: FrontParts): ThreadListener[] {
  const opened: ThreadListener[] = [];
  try {
    for (const host of listen) {
      for (const [at, secure] of [[port, false], ...(tls ? [[tls.port, true] as const] : [])] as const) {
        try {
          const fd = openListeningSocket(host, at, { copied: secure });
          opened.push({ host, port: at, tls: secure, ...(fd === undefined ? {} : { fd }) });
        } catch (error) {
          throw portUnavailable(host, at, error);
        }
      }
    }
    return opened;
  } catch (error) {
    for (const { fd } of opened) if (fd !== undefined) closeSync(fd);
    throw error;
  }
}

/** Lets it cut its connections and end its programs, for so long as that may take. */
async function endThread(worker: Worker): Promise<void> {
  const stopped = new Promise<void>((resolve) => {
    worker.on('message', ({ kind }: FromThread) => kind === 'stopped' && resolve());
    worker.once('exit', () => resolve());
  });
  worker.postMessage({ kind: 'stop' } satisfies ToThread);
  await Promise.race([stopped, sleep(STOP_MS, undefined, { ref: false })]);
  await worker.terminate();
}

/** A Booter that knows which image slots one thread holds: those of a thread that died are given back, also those that it is being given just then. */
function ticketHolder(booter: Booter): { readonly booter: Booter; releaseAll(): void } {
  const tickets = new Set<string>();
  let isDead = false;
  return {
    booter: {
      ...booter,
      async ask(request) {
        const answer = await booter.ask(request);
        if (answer.ticket === undefined) return answer;
        if (isDead) await booter.release(answer.ticket, 'cut');
        else tickets.add(answer.ticket);
        return answer;
      },
      async release(ticket, how) {
        tickets.delete(ticket);
        await booter.release(ticket, how);
      },
    },
    releaseAll() {
      isDead = true;
      for (const ticket of tickets) void booter.release(ticket, 'cut');
    },
  };
}

/**
 * A machine enrols with the script that it just got, and that it got it may still be on its way here, also from another thread: what was posted
 * before the claim is here one turn of the event loop later.
 */
function inOrder(booter: Booter): Booter {
  const noting = new Set<Promise<void>>();
  return {
    ...booter,
    async seen(...args) {
      const noted = booter.seen(...args);
      noting.add(noted);
      await noted.finally(() => noting.delete(noted));
    },
    async enrol(claim) {
      await new Promise((resolve) => setImmediate(resolve));
      await Promise.all(noting);
      return booter.enrol(claim);
    },
  };
}

/** Half of the file numbers that the process may have is for the rest of it, and a connection that gets something large has two: 4,096 connections a thread, or fewer. */
function mostConnections(threads: number): number {
  const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity);
  return Math.min(LIMITS.connections, Math.floor(limit / 4 / threads));
}
