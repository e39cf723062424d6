// The pumps of an HTTP thread, there while there are downloads: what they are given goes to a connection past Node, without a copy.
import { availableParallelism } from 'node:os';
import type { Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import type { Log } from '../log.ts';
import { openPoll } from '../net/epoll.ts';
import { libc, type Libc } from '../net/libc.ts';
import { duplicate } from '../net/listening-socket.ts';
import { cork } from '../net/tcp.ts';
import { createBell } from '../threads/bell.ts';
import { threadEntry } from '../threads/entry.ts';
import type { FromPump, Piece, PumpData, ToPump } from './pump-messages.ts';

export interface Pumps {
  /**
   * A way past Node for this connection, which must have nothing to send itself meanwhile; undefined when there is none: with TLS, without koffi, when the kernel
   * does not do it or no thread could be had.
   */
  open(socket: Socket | null): Promise<Stream | undefined>;
  /** Ends the threads; what they were sending ends with them. */
  close(): Promise<void>;
  /** The threads as they are now, for tests that kill one. */
  readonly workers: readonly Worker[];
}

export interface Stream {
  /**
   * Resolves, after the runs before it, with the bytes that the kernel took; from then on nobody reads the pieces. Fewer than there are: the connection or the
   * thread has ended, or `close` was called. `more`: another run comes; without it the stream closes by itself behind this one.
   */
  send(pieces: readonly Piece[], more: boolean): Promise<number>;
  /** At least once. What is still to be sent is not; the runs settle. Node may write then once it resolves. */
  close(): Promise<void>;
}

export interface PumpsParts {
  readonly log: Pick<Log, 'error'>;
  /** Of bytes that went past Node. */
  readonly onSent?: (bytes: number) => void;
  /** Default: one for each core; that all of them are busy is no harm, for they are the last to be given a core. */
  readonly threads?: number;
  /** Where open file numbers are noted, which the thread's death would leave open; the answer is called once they are closed. */
  readonly noteFile?: (fd: number) => () => void;
}

/** One that has had no stream for so long ends: it has a dozen files open, and its memory. To start one takes 40 ms. */
const IDLE_MS = 5_000;

interface Pump {
  readonly worker: Worker;
  /** undefined: it died before it could tell. */
  readonly pours: Promise<boolean | undefined>;
  /** Those that are open or about to be. */
  streams: number;
  idle?: NodeJS.Timeout;
  /** Another number for the connection, which Node closes when it likes: its own could be another connection's then. Throws when there is none left. */
  open(fd: number): Stream;
  end(): Promise<void>;
}

export function createPumps({ log, onSent = () => undefined, threads = availableParallelism(), noteFile = () => () => undefined }: PumpsParts): Pumps {
  const c = libc();
  const pumps = new Set<Pump>();
  let isClosing = false;
  /** What the kernel refuses once it refuses always. */
  let isRefused = false;

  function leave(pump: Pump): void {
    if (--pump.streams > 0) return;
    clearTimeout(pump.idle);
    pump.idle = setTimeout(() => {
      if (pump.streams > 0 || !pumps.delete(pump)) return;
      void pump.end();
    }, IDLE_MS).unref();
  }

  function pump(c: Libc): Pump | undefined {
    const idle = [...pumps].sort((one, other) => one.streams - other.streams)[0];
    if (pumps.size >= threads || idle?.streams === 0) return idle;
    try {
      const pump = startPump(c, { onSent, noteFile, leave }, (why) => {
        if (pumps.delete(pump) && !isClosing) log.error({ err: why, streams: pump.streams }, 'http: a pump died');
      });
      pumps.add(pump);
      return pump;
    } catch (error) {
      // No more threads or file numbers for this process.
      log.error({ err: error }, 'http: no pump can be started');
      return idle;
    }
  }

  return {
    async open(socket) {
      if (!c || isClosing || isRefused || plainFd(socket) === undefined) return undefined;
      const found = pump(c);
      if (!found) return undefined;
      found.streams++;
      try {
        const pours = await found.pours;
        isRefused ||= pours === false;
        // Either may have ended meanwhile.
        const fd = plainFd(socket);
        if (pours && fd !== undefined && pumps.has(found) && !isClosing) return found.open(fd);
      } catch (error) {
        log.error({ err: error }, 'http: a download goes without a pump');
      }
      leave(found);
      return undefined;
    },
    async close() {
      isClosing = true;
      await Promise.all([...pumps].map((pump) => pump.end()));
    },
    get workers() {
      return [...pumps].map(({ worker }) => worker);
    },
  };
}

interface Kept {
  readonly waiting: { readonly more: boolean; resolve(bytes: number): void }[];
  closed(): void;
}

/** Throws when the system has no thread or no file number left. */
function startPump(c: Libc, { onSent, noteFile, leave }: Required<Pick<PumpsParts, 'onSent' | 'noteFile'>> & { leave(pump: Pump): void }, onDeath: (why: unknown) => void): Pump {
  const owned = (fd: number): (() => void) => {
    const forget = noteFile(fd);
    return () => {
      forget();
      c.close(fd);
    };
  };
  const epoll = openPoll(c);
  const closers = [owned(epoll)];
  const streams = new Map<number, Kept>();
  let worker: Worker;
  let bell: ReturnType<typeof createBell>;
  try {
    bell = createBell(c);
    closers.push(owned(bell.rope.fd));
    worker = new Worker(threadEntry(import.meta.url, './pump-thread.js'), { name: 'http pump', workerData: { epoll, rope: bell.rope } satisfies PumpData });
  } catch (error) {
    for (const close of closers) close();
    throw error;
  }
  let why: unknown;
  let lastId = 0;
  const post = (message: ToPump): void => {
    worker.postMessage(message);
    bell.ring();
  };
  const ended = new Promise<void>((resolve) => {
    worker.on('error', (error) => (why = error));
    worker.once('exit', (code) => {
      onDeath(why ?? new Error(`exit code ${code}`));
      for (const close of closers) close();
      for (const { closed } of [...streams.values()]) closed();
      resolve();
    });
  });
  const pours = new Promise<boolean | undefined>((resolve) => {
    worker.on('message', (message: FromPump) => {
      if (message.kind === 'ready') return resolve(message.pours);
      // Gone when its closing crossed with the end of its last run.
      const stream = streams.get(message.id);
      if (message.kind === 'closed') return stream?.closed();
      onSent(message.bytes);
      const run = stream!.waiting.shift()!;
      if (!run.more) stream!.closed();
      run.resolve(message.bytes);
    });
    void ended.then(() => resolve(undefined));
  });

  const pump: Pump = {
    worker,
    pours,
    streams: 0,
    open(from) {
      const id = ++lastId;
      const fd = duplicate(from);
      const release = owned(fd);
      cork(fd, true);
      const closed = new Promise<void>((resolve) => {
        const waiting: Kept['waiting'] = [];
        streams.set(id, {
          waiting,
          closed() {
            streams.delete(id);
            // A run that crossed with the closing, or that a dead thread had: nobody else answers it.
            for (const run of waiting) run.resolve(0);
            leave(pump);
            cork(fd, false);
            release();
            resolve();
          },
        });
      });
      // Whatever came behind its end would open the stream once more.
      let [isOpen, isEnding] = [false, false];
      return {
        send: (pieces, more) =>
          new Promise((resolve) => {
            const stream = streams.get(id);
            if (!stream || isEnding) return resolve(0);
            stream.waiting.push({ more, resolve });
            [isOpen, isEnding] = [true, !more];
            post({ kind: 'send', id, fd, pieces, more });
          }),
        close() {
          isEnding = true;
          if (!isOpen) streams.get(id)?.closed();
          else if (streams.has(id)) post({ kind: 'close', id });
          return closed;
        },
      };
    },
    end() {
      post({ kind: 'end' });
      return ended;
    },
  };
  return pump;
}

/** The kernel's socket, when Node does not encrypt what goes out. Node has no public word for it. */
function plainFd(socket: Socket | null): number | undefined {
  const { _handle: handle } = (socket ?? {}) as { readonly _handle?: { readonly fd?: number; readonly _parent?: unknown } | null };
  return handle?.fd !== undefined && handle.fd >= 0 && handle._parent === undefined && socket!.writableLength === 0 ? handle.fd : undefined;
}
