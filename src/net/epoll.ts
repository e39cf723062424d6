// epoll(7), for a thread that has nothing to do but its sockets: libuv costs an event, a callback and an object for each datagram.
import type { Libc } from './libc.ts';
import { must } from './socket-calls.ts';

export interface Poll {
  /** Tells of `fd` as `tag` (32 bits) while something can be read there, an error included, until it is closed. */
  add(fd: number, tag: number): void;
  /** How many can be read now, 64 at most; sleeps up to `timeoutMs` for the first. 0 also when a signal woke us. */
  wait(timeoutMs: number): number;
  /** Of the last wait(). */
  tag(i: number): number;
}

const EPOLL_CLOEXEC = 0o2000000;
const EPOLLIN = 1;
const CTL_ADD = 1;
const MOST = 64;
/** struct epoll_event: packed on x86-64 (4 + 8 bytes), with a gap on the other 64-bit machines (<bits/epoll.h>). */
const PACKED = process.arch === 'x64';
const SIZE = PACKED ? 12 : 16;
const DATA = PACKED ? 4 : 8;

/** The file number of a new set of files; throws with the kernel's `code` when none is left (EMFILE). */
export function openPoll(c: Libc): number {
  return must(c, c.epoll_create1(EPOLL_CLOEXEC), 'epoll_create1');
}

/** Of openPoll(), maybe in another thread, which closes it. */
export function createPoll(c: Libc, poll: number): Poll {
  const one = Buffer.alloc(SIZE);
  const events = Buffer.alloc(SIZE * MOST);
  return {
    add(fd, tag) {
      one.writeUInt32LE(EPOLLIN, 0);
      one.writeUInt32LE(tag, DATA);
      must(c, c.epoll_ctl(poll, CTL_ADD, fd, one), 'epoll_ctl');
    },
    wait: (timeoutMs) => Math.max(0, c.epoll_wait(poll, events, MOST, timeoutMs)),
    tag: (i) => events.readUInt32LE(i * SIZE + DATA),
  };
}
