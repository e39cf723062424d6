// Wakes a thread that sleeps in a system call of its own, where no message of another thread can reach it.
import type { Libc } from '../net/libc.ts';
import { must } from '../net/socket-calls.ts';

/** For workerData. The file number belongs to the one who made the bell. */
export interface BellRope {
  readonly memory: SharedArrayBuffer;
  readonly fd: number;
}

export interface Bell {
  readonly rope: BellRope;
  /** To be called after the message was posted. */
  ring(): void;
  close(): void;
}

/** The sleeper's end. */
export interface BellListener {
  readonly fd: number;
  /** It rang since the last call: there may be a message. Costs no system call. */
  rung(): boolean;
  /** To be called when `fd` is readable. */
  silence(): void;
  /** Calls `sleep`, in which something must wait for `fd` to be readable; not when it has rung before. */
  whileAsleep(sleep: () => number): number;
}

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const RINGS = 0;
const ASLEEP = 1;
const ONE = Buffer.from(new BigUint64Array([1n]).buffer);

/** Throws with the kernel's `code` when no file number is left (EMFILE). */
export function createBell(c: Libc): Bell {
  const fd = must(c, c.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd');
  const memory = new SharedArrayBuffer(8);
  const words = new Int32Array(memory);
  return {
    rope: { memory, fd },
    ring() {
      Atomics.add(words, RINGS, 1);
      // One who is awake looks at the count by himself.
      if (Atomics.load(words, ASLEEP) === 1) c.write(fd, ONE, 8);
    },
    close: () => void c.close(fd),
  };
}

export function listenToBell(c: Libc, { memory, fd }: BellRope): BellListener {
  const words = new Int32Array(memory);
  const count = Buffer.alloc(8);
  let heard = Atomics.load(words, RINGS);
  return {
    fd,
    rung() {
      const now = Atomics.load(words, RINGS);
      if (now === heard) return false;
      heard = now;
      return true;
    },
    silence: () => void c.read(fd, count, 8),
    whileAsleep(sleep) {
      // Said before it looks: who rings afterwards sees it, who rang before is seen.
      Atomics.store(words, ASLEEP, 1);
      const slept = Atomics.load(words, RINGS) === heard ? sleep() : 0;
      Atomics.store(words, ASLEEP, 0);
      return slept;
    },
  };
}
