// The threads that run transfers: hands each to the one with the fewest, keeps the books, and replaces a thread that dies.
import { MessageChannel, receiveMessageOnPort, Worker, type MessagePort } from 'node:worker_threads';
import type { Log } from '../log.ts';
import { openPoll } from '../net/epoll.ts';
import { libc, type Libc } from '../net/libc.ts';
import { hasWideMessages } from '../net/messages.ts';
import { createBell, type Bell } from '../threads/bell.ts';
import { monotonicMs } from '../threads/clock.ts';
import { threadCount } from '../threads/count.ts';
import { threadEntry } from '../threads/entry.ts';
import type { TransferOrder, TransferResult } from './runner.ts';
import { createSlots } from './slots.ts';
import type { FromThread, ThreadParts, ToThread } from './thread.ts';

export interface RunningTransfer {
  /** The peer sent its request again. */
  askedAgain(): void;
  /** A new ACK has come from the peer at some time. */
  heard(): boolean;
  /** How long ago the last new ACK came, or the transfer began, in milliseconds. */
  quietMs(): number;
  /** How long ago it began, in milliseconds. */
  ageMs(): number;
  /** How many bytes of the file the peer has acknowledged. */
  acked(): number;
  /** Ends it at once; the peer is told why in an ERROR 0 when there is a `message`. */
  stop(message?: string): void;
}

export interface TransferPool {
  /**
   * `onEnd` is called once, never before this returns. `order.bytes` is read by another thread, shared if it can be, else copied, until `onFree` is
   * called, also once: not before `onEnd`, and after stop() not before the thread has let go.
   */
  run(order: TransferOrder, onEnd: (result: TransferResult) => void, onFree?: () => void): RunningTransfer;
  /** Calls `onEnd` of all that have ended by now, not only when the event loop comes to it. */
  settle(): void;
  counters(): PoolCounters;
  /** Ends running transfers with an ERROR 0 and this text, and the threads; `onEnd` of all of them has been called. */
  stop(message: string): Promise<void>;
  /** The threads as they are now, for tests that kill one. */
  readonly workers: readonly Worker[];
}

/** Since start. */
export interface PoolCounters {
  readonly malformed: number;
  readonly wrongTid: number;
  readonly threadDeaths: number;
}

/** A thread that lived shorter than this is not started again before as much time has passed: a fault at its start must not eat a core. */
const SHORT_LIFE_MS = 1_000;
/** For a thread to say goodbye to its peers; then it is ended. */
const GOODBYE_MS = 2_000;

interface Transfer {
  readonly onEnd: (result: TransferResult) => void;
  readonly onFree: () => void;
  readonly startedAt: number;
  /** Stopped by us: its end has been told, the slot is free when the thread has let go of it. */
  over: boolean;
}

/** `most`: transfers that may run in one thread. */
export function createTransferPool(parts: { readonly log: Log; readonly most: number; readonly threads?: number }): TransferPool {
  const count = parts.threads ?? threadCount();
  let deaths = 0;
  const threads = Array.from({ length: count }, () => createThread(parts.log, parts.most, () => deaths++));

  return {
    run(order, onEnd, onFree = () => {}) {
      const thread = threads.reduce((best, one) => (one.load() < best.load() ? one : best));
      return thread.run({ ...order, bytes: shared(order.bytes) }, onEnd, onFree);
    },
    settle: () => threads.forEach((thread) => thread.settle()),
    counters: () =>
      threads.reduce((sum, thread) => {
        const { malformed, wrongTid } = thread.strays();
        return { ...sum, malformed: sum.malformed + malformed, wrongTid: sum.wrongTid + wrongTid };
      }, { malformed: 0, wrongTid: 0, threadDeaths: deaths }),
    stop: async (message) => void (await Promise.all(threads.map((thread) => thread.stop(message)))),
    get workers() {
      return threads.flatMap((thread) => thread.worker() ?? []);
    },
  };
}

function createThread(log: Log, most: number, onDeath: () => void) {
  // Twice as many: one that was stopped for another's sake has its slot until the thread has heard of it, and the other one begins before that.
  const count = 2 * most;
  const slots = createSlots({ count });
  const free = Array.from({ length: count }, (_, i) => count - 1 - i);
  const transfers = new Map<number, Transfer>();
  let stopping = false;
  let worker: Worker | undefined;
  let results: MessagePort | undefined;
  let ring = () => {};
  let again: NodeJS.Timeout | undefined;
  let gone = Promise.resolve();

  const take = ({ slot, result }: FromThread) => end(slot, result);
  const end = (slot: number, result: TransferResult) => {
    const transfer = transfers.get(slot);
    transfers.delete(slot);
    slots.reader(slot).clear();
    free.push(slot);
    if (!transfer) return;
    if (!transfer.over) transfer.onEnd(result);
    transfer.onFree();
  };

  function settle(): void {
    for (let mail = results && receiveMessageOnPort(results); mail; mail = results && receiveMessageOnPort(results)) take(mail.message as FromThread);
  }

  /** Whatever keeps a thread from being started again (file numbers, threads of this user) must not end the daemon: it is tried again. */
  function startAgain(): void {
    try {
      start();
    } catch (error) {
      log.error({ err: error }, 'tftp: no thread could be started');
      again = setTimeout(startAgain, SHORT_LIFE_MS);
    }
  }

  function start(): void {
    const bornAt = monotonicMs();
    const c = hasWideMessages() ? libc() : undefined;
    const epoll = c && openSleep(c);
    const { port1, port2 } = new MessageChannel();
    results = port1;
    port1.on('message', take);
    let thread: Worker;
    try {
      thread = new Worker(threadEntry(import.meta.url, './thread.js'), {
        name: 'rackseed tftp',
        workerData: { slots: slots.memory, results: port2, ...(epoll && { epoll: { fd: epoll.fd, rope: epoll.bell.rope } }) } satisfies ThreadParts,
        transferList: [port2],
      });
    } catch (error) {
      port1.close();
      results = undefined;
      if (epoll) c.close(epoll.fd);
      epoll?.bell.close();
      throw error;
    }
    worker = thread;
    ring = () => epoll?.bell.ring();
    thread.on('error', (error) => log.error({ err: error }, 'tftp: a thread met a fault'));
    gone = new Promise((resolve) => {
      thread.on('exit', () => {
        worker = undefined;
        // Its file number may be another file's soon.
        ring = () => {};
        settle();
        port1.close();
        results = undefined;
        // File numbers are the whole process': what a dead thread held is still open.
        for (const slot of transfers.keys()) for (const fd of slots.reader(slot).held()) c?.close(fd);
        if (c) c.close(epoll!.fd);
        epoll?.bell.close();
        const lost = [...transfers];
        for (const [slot, { startedAt }] of lost) end(slot, failed('its thread died', startedAt));
        resolve();
        if (stopping) return;
        onDeath();
        log.error({ transfers: lost.length }, 'tftp: a thread died');
        const pause = monotonicMs() - bornAt < SHORT_LIFE_MS ? SHORT_LIFE_MS : 0;
        again = setTimeout(startAgain, pause);
      });
    });
  }
  start();

  const post = (message: ToThread) => {
    worker?.postMessage(message);
    ring();
  };

  return {
    worker: () => worker,
    /** One that is being started anew comes last. */
    load: () => (worker ? transfers.size : count),
    strays: slots.strays,
    settle,
    run(order: TransferOrder, onEnd: (result: TransferResult) => void, onFree: () => void): RunningTransfer {
      const slot = worker && free.pop();
      const startedAt = monotonicMs();
      if (slot === undefined) {
        setImmediate(() => {
          onEnd(failed('no thread runs that could take it', startedAt));
          onFree();
        });
        return { askedAgain() {}, heard: () => false, quietMs: () => 0, ageMs: () => 0, acked: () => 0, stop() {} };
      }
      const transfer: Transfer = { onEnd, onFree, startedAt, over: false };
      transfers.set(slot, transfer);
      slots.writer(slot).progress(startedAt, false, 0);
      post({ kind: 'begin', slot, order });
      const reader = slots.reader(slot);
      const mine = () => transfers.get(slot) === transfer && !transfer.over;
      return {
        askedAgain: () => mine() && post({ kind: 'asked-again', slot }),
        heard: reader.heard,
        quietMs: () => monotonicMs() - reader.progressAt(),
        ageMs: () => monotonicMs() - startedAt,
        acked: reader.acked,
        stop(message) {
          if (!mine()) return;
          transfer.over = true;
          post({ kind: 'stop', slot, ...(message === undefined ? {} : { message }) });
          onEnd({ outcome: 'stopped', ...(message === undefined ? {} : { why: message }), durationMs: Math.round(monotonicMs() - startedAt), blockSize: 0, windowSize: 0, resent: 0 });
        },
      };
    },
    async stop(message: string): Promise<void> {
      stopping = true;
      clearTimeout(again);
      post({ kind: 'close', message });
      const late = setTimeout(() => void worker?.terminate(), GOODBYE_MS);
      await gone;
      clearTimeout(late);
    },
  };
}

/** What a thread sleeps in and what wakes it; throws with the kernel's `code`, and then neither is open. */
function openSleep(c: Libc): { readonly fd: number; readonly bell: Bell } {
  const fd = openPoll(c);
  try {
    return { fd, bell: createBell(c) };
  } catch (error) {
    c.close(fd);
    throw error;
  }
}

function failed(why: string, startedAt: number): TransferResult {
  return { outcome: 'failed', why, durationMs: Math.round(monotonicMs() - startedAt), blockSize: 0, windowSize: 0, resent: 0 };
}

/** Loaders and kernels are shared already, see files.ts; a script is a few hundred bytes. */
function shared(bytes: Uint8Array): Uint8Array {
  if (bytes.buffer instanceof SharedArrayBuffer) return bytes;
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}
