// The threads that run transfers: hands each to the one with the fewest, keeps the books, and replaces a thread that dies.
import { MessageChannel, receiveMessageOnPort, Worker, type MessagePort } from 'node:worker_threads';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { openPoll } from '../net/epoll.ts';
import { libc, type Libc } from '../net/libc.ts';
import { hasWideMessages } from '../net/messages.ts';
import { createBell, type Bell } from '../threads/bell.ts';
import { monotonicMs } from '../threads/clock.ts';
import { threadCount } from '../threads/count.ts';
import { threadEntry } from '../threads/entry.ts';
import { keepAlive } from '../threads/life.ts';
import type { Reading } from './pieces.ts';
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

export interface TransferEvents {
  /** Called once, never before run() returns. */
  end(result: TransferResult): void;
  /** Nobody reads `order.bytes` any more. Called once, not before end(), and after stop() not before the thread has let go. */
  free?(): void;
  /** For an order from a ring: lays the piece there. Not called after free(). A rejection ends the transfer. */
  read?(reading: Reading): Promise<void>;
}

export interface TransferPool {
  /** `order.bytes` is read by another thread, shared if it can be, else copied. */
  run(order: TransferOrder, on: TransferEvents): RunningTransfer;
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

/** For a thread to say goodbye to its peers; then it is ended. */
const GOODBYE_MS = 2_000;

interface Transfer {
  readonly on: TransferEvents;
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
    run(order, on) {
      const thread = threads.reduce((best, one) => (one.load() < best.load() ? one : best));
      return thread.run({ ...order, bytes: shared(order.bytes) }, on);
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
  const stopping = new AbortController();
  /** Transfers that the last death ended. */
  let lost = 0;
  let worker: Worker | undefined;
  let results: MessagePort | undefined;
  let ring = () => {};

  const take = (message: FromThread) => (message.kind === 'end' ? end(message.slot, message.result) : read(message.slot, message.reading));
  const end = (slot: number, result: TransferResult) => {
    const transfer = transfers.get(slot);
    transfers.delete(slot);
    slots.reader(slot).clear();
    free.push(slot);
    if (!transfer) return;
    if (!transfer.over) transfer.on.end(result);
    transfer.on.free?.();
  };

  function read(slot: number, reading: Reading): void {
    const transfer = transfers.get(slot);
    if (!transfer?.on.read || transfer.over) return;
    // The slot may be another transfer's by then.
    const tell = (message: ToThread) => void (transfers.get(slot) === transfer && post(message));
    transfer.on.read(reading).then(
      () => tell({ kind: 'arrived', slot, piece: reading.piece }),
      (error: unknown) => tell({ kind: 'unreadable', slot, why: lineOf(error) }),
    );
  }

  function settle(): void {
    for (let mail = results && receiveMessageOnPort(results); mail; mail = results && receiveMessageOnPort(results)) take(mail.message as FromThread);
  }

  /** One life of the thread: resolves, with what ended it, when nothing of it is left. */
  function start(): Promise<unknown> {
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
    let why: unknown;
    thread.on('error', (error) => (why = error));
    return new Promise((resolve) => {
      thread.on('exit', (code) => {
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
        const ended = [...transfers];
        for (const [slot, { startedAt }] of ended) end(slot, failed('its thread died', startedAt));
        lost = ended.length;
        resolve(why ?? new Error(`exit code ${code}`));
      });
    });
  }
  const over = keepAlive(start(), async () => start(), stopping.signal, (why, againInMs) => {
    onDeath();
    log.error({ err: why, transfers: lost, againInMs }, 'tftp: a thread died');
    lost = 0;
  });

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
    run(order: TransferOrder, on: TransferEvents): RunningTransfer {
      const slot = worker && free.pop();
      const startedAt = monotonicMs();
      if (slot === undefined) {
        setImmediate(() => {
          on.end(failed('no thread runs that could take it', startedAt));
          on.free?.();
        });
        return { askedAgain() {}, heard: () => false, quietMs: () => 0, ageMs: () => 0, acked: () => 0, stop() {} };
      }
      const transfer: Transfer = { on, startedAt, over: false };
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
          on.end({ outcome: 'stopped', ...(message === undefined ? {} : { why: message }), durationMs: Math.round(monotonicMs() - startedAt), blockSize: 0, windowSize: 0, resent: 0 });
        },
      };
    },
    async stop(message: string): Promise<void> {
      stopping.abort();
      post({ kind: 'close', message });
      const late = setTimeout(() => void worker?.terminate(), GOODBYE_MS);
      await over;
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
