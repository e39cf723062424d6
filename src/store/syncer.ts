// A thread that does nothing but fdatasync one file, so that nobody else waits for the disk.
import { closeSync, openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';

export interface Syncer {
  /** Resolves when all that was written to the file before the call is on its disk. One call at a time. Rejects with the kernel's error. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/**
 * JavaScript, not a file: it must run from the sources and when compiled. Not Node's thread pool: its four threads are those of all threads of the
 * process, and an answer to a machine would wait behind what downloads read from the disk.
 */
const SYNCER = `
const { workerData: { fd, calls }, parentPort } = require('node:worker_threads');
const { fdatasyncSync } = require('node:fs');
for (let done = 0; ; done = (done + 1) | 0) {
  Atomics.wait(calls, 0, done);
  try {
    fdatasyncSync(fd);
    parentPort.postMessage(undefined);
  } catch (error) {
    // A structured clone has no code.
    parentPort.postMessage({ message: error.message, code: error.code });
  }
}
`;

/** The file must be there, and keep its name until the close. */
export function createSyncer(file: string): Syncer {
  const calls = new Int32Array(new SharedArrayBuffer(4));
  const fd = openSync(file, 'r+');
  const worker = new Worker(SYNCER, { eval: true, name: 'sync', workerData: { fd, calls }, resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 1 } });
  worker.unref();
  let settle: ((error?: unknown) => void) | undefined;
  let gone: unknown;
  const settled = (error?: unknown): void => {
    worker.unref();
    settle?.(error);
    settle = undefined;
  };
  worker.on('message', (failure?: { readonly message: string; readonly code?: string }) => settled(failure && Object.assign(new Error(failure.message), { code: failure.code })));
  worker.on('error', (error) => settled((gone = error)));
  worker.once('exit', () => settled((gone ??= new Error('the thread that syncs has ended'))));
  return {
    sync: () =>
      new Promise((resolve, reject) => {
        if (gone !== undefined) return reject(gone);
        settle = (error) => (error === undefined ? resolve() : reject(error));
        worker.ref();
        Atomics.add(calls, 0, 1);
        Atomics.notify(calls, 0);
      }),
    async close() {
      await worker.terminate();
      closeSync(fd);
    },
  };
}
