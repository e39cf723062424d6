// The program of a thread that runs TFTP transfers: takes orders from the pool, says how each ended.
import { parentPort, receiveMessageOnPort, workerData, type MessagePort } from 'node:worker_threads';
import { libc } from '../net/libc.ts';
import { listenToBell, type BellRope } from '../threads/bell.ts';
import { monotonicMs } from '../threads/clock.ts';
import { createDgramDriver, type Driver, type DriverParts } from './dgram-driver.ts';
import { createEpollDriver } from './epoll-driver.ts';
import type { Reading } from './pieces.ts';
import type { TransferOrder, TransferResult } from './runner.ts';
import { createSlots } from './slots.ts';

/** What comes in workerData. */
export interface ThreadParts {
  readonly slots: SharedArrayBuffer;
  /** Where FromThread goes: a port of its own, because the other side wants to look into it at any time. */
  readonly results: MessagePort;
  /** Absent: on Node's own sockets. */
  readonly epoll?: { readonly fd: number; readonly rope: BellRope };
}

export type ToThread =
  | { readonly kind: 'begin'; readonly slot: number; readonly order: TransferOrder }
  | { readonly kind: 'asked-again'; readonly slot: number }
  | { readonly kind: 'stop'; readonly slot: number; readonly message?: string }
  /** A reading that the transfer asked for is done, or cannot be. */
  | { readonly kind: 'arrived'; readonly slot: number; readonly piece: number }
  | { readonly kind: 'unreadable'; readonly slot: number; readonly why: string }
  /** The last one: all transfers end, and then the thread. */
  | { readonly kind: 'close'; readonly message: string };

export type FromThread =
  | { readonly kind: 'end'; readonly slot: number; readonly result: TransferResult }
  | { readonly kind: 'read'; readonly slot: number; readonly reading: Reading };

if (!parentPort) throw new Error('thread.ts is the program of a worker thread');
const port = parentPort;
const { slots, results, epoll } = workerData as ThreadParts;

const tell = (message: FromThread) => results.postMessage(message);
const parts: DriverParts = {
  slots: createSlots({ memory: slots }),
  onEnd: (slot, result) => tell({ kind: 'end', slot, result }),
  onRead: (slot, reading) => tell({ kind: 'read', slot, reading }),
  now: monotonicMs,
};
const driver = createDriver();
port.on('message', take);

function createDriver(): Driver {
  const c = epoll && libc();
  return c ? createEpollDriver({ c, epoll: epoll.fd, bell: listenToBell(c, epoll.rope), takeMail }, parts) : createDgramDriver(parts);
}

function takeMail(): void {
  for (let mail = receiveMessageOnPort(port); mail; mail = receiveMessageOnPort(port)) take(mail.message as ToThread);
}

function take(message: ToThread): void {
  switch (message.kind) {
    case 'begin':
      return driver.begin(message.slot, message.order);
    case 'asked-again':
      return driver.askedAgain(message.slot);
    case 'stop':
      return driver.stop(message.slot, message.message);
    case 'arrived':
      return driver.arrived(message.slot, message.piece);
    case 'unreadable':
      return driver.unreadable(message.slot, message.why);
    case 'close':
      driver.close(message.message);
      // Nothing else keeps it alive once its sockets are closed.
      port.close();
      results.close();
  }
}
