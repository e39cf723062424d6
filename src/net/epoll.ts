// epoll(7), for a thread that has nothing to do but its sockets: libuv costs an event, a callback and an object for each datagram.
import type { Libc } from './libc.ts';
import { must } from './socket-calls.ts';

export interface Poll {
  /** Tells of `fd` as `tag` (32 bits) while something can be read there, an error included, until it is closed. */
  add(fd: number, tag: number): void;
  /** Tells of it once now if there is room to write, and once each time that there is room again after it was full; also when its connection ends. */
  addForRoom(fd: number, tag: number): void;
  /** Before it is closed, when the same socket is open under another number, too: that alone would not end it. */
  remove(fd: number): void;
  /** How many there are to tell of, 64 at most; sleeps up to `timeoutMs` for the first. 0 also when a signal woke us. */
  wait(timeoutMs: number): number;
  /** Of the last wait(). */
  tag(i: number): number;
}

const EPOLL_CLOEXEC = 0o2000000;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLET = 2 ** 31;
const CTL_ADD = 1;
const CTL_DEL = 2;
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
  function watch(fd: number, tag: number, events: number): void {
    one.writeUInt32LE(events, 0);
    one.writeUInt32LE(tag, DATA);
    must(c, c.epoll_ctl(poll, CTL_ADD, fd, one), 'epoll_ctl');
  }
  return {
    add: (fd, tag) => watch(fd, tag, EPOLLIN),
    addForRoom: (fd, tag) => watch(fd, tag, EPOLLOUT + EPOLLET),
    remove: (fd) => void c.epoll_ctl(poll, CTL_DEL, fd, null),
    wait: (timeoutMs) => Math.max(0, c.epoll_wait(poll, events, MOST, timeoutMs)),
    tag: (i) => events.readUInt32LE(i * SIZE + DATA),
  };
}
