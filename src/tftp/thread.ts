// The program of a thread that runs TFTP transfers: takes orders from the pool, says how each ended.
import { parentPort, receiveMessageOnPort, workerData, type MessagePort } from 'node:worker_threads';
import { libc } from '../net/libc.ts';
import { listenToBell, type BellRope } from '../threads/bell.ts';
import { monotonicMs } from '../threads/clock.ts';
import { createDgramDriver, type Driver, type DriverParts } from './dgram-driver.ts';
import { createEpollDriver } from './epoll-driver.ts';
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
  /** The last one: all transfers end, and then the thread. */
  | { readonly kind: 'close'; readonly message: string };

export interface FromThread {
  readonly slot: number;
  readonly result: TransferResult;
}

if (!parentPort) throw new Error('thread.ts is the program of a worker thread');
const port = parentPort;
const { slots, results, epoll } = workerData as ThreadParts;

const parts: DriverParts = { slots: createSlots({ memory: slots }), onEnd: (slot, result) => results.postMessage({ slot, result } satisfies FromThread), now: monotonicMs };
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
    case 'close':
      driver.close(message.message);
      // Nothing else keeps it alive once its sockets are closed.
      port.close();
      results.close();
  }
}
