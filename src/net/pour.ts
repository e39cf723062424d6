// Bytes from our memory into a stream socket without a copy: their pages are lent to the kernel by vmsplice(2), and handed on by splice(2).
import { constants, openSync } from 'node:fs';
import { libc } from './libc.ts';
import { must } from './socket-calls.ts';

export interface Pour {
  /**
   * How many of the `length` bytes at `address` the non-blocking socket took: fewer when it is full, or when it will never take more (`isOver` until the next call).
   * They must stay as they are until the peer has them. `more`: there is more to come at once.
   */
  (socket: number, address: number, length: number, more: boolean): number;
  isOver: boolean;
}

// <linux/splice.h>, <linux/fcntl.h>, <asm-generic/fcntl.h>
const O_CLOEXEC = 0o2000000;
const SPLICE_F_NONBLOCK = 2;
const SPLICE_F_MORE = 4;
const F_SETPIPE_SZ = 1031;
/** The most that an ordinary user may have, and each call costs: with pieces of 128 KiB the same bytes take 1.7 times the CPU (measured). */
const PIPE_BYTES = 1024 * 1024;

/** One pipe for all sockets that it pours into: it is empty between two calls. undefined without koffi, and where the kernel does not do it. */
export function openPour(): Pour | undefined {
  const c = libc();
  if (!c) return undefined;
  const ends = Buffer.alloc(8);
  if (c.pipe2(ends, O_CLOEXEC) < 0) return undefined;
  const raw = [ends.readInt32LE(0), ends.readInt32LE(4)] as const;
  let from: number;
  let to: number;
  try {
    // Opened once more by Node, which closes what a thread has open when the thread ends.
    from = openSync(`/proc/self/fd/${raw[0]}`, constants.O_RDONLY | constants.O_NONBLOCK);
    to = openSync(`/proc/self/fd/${raw[1]}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } finally {
    for (const fd of raw) c.close(fd);
  }
  const nowhere = openSync('/dev/null', 'w');
  c.fcntl(to, F_SETPIPE_SZ, 'int', PIPE_BYTES);
  // struct iovec
  const piece = Buffer.alloc(16);
  function lend(address: number, length: number): number {
    piece.writeBigUInt64LE(BigInt(address), 0);
    piece.writeBigUInt64LE(BigInt(Math.min(PIPE_BYTES, length)), 8);
    return c!.vmsplice(to, piece, 1, SPLICE_F_NONBLOCK);
  }
  function drop(length: number): void {
    for (let left = length; left > 0; ) left -= must(c!, c!.splice(from, null, nowhere, null, left, 0), 'splice');
  }
  // Not allowed, or not known.
  if (lend(Number(c.addressOf(ends)), 1) !== 1) return undefined;
  drop(1);
  const pour = (socket: number, address: number, length: number, more: boolean): number => {
    poured.isOver = false;
    for (let done = 0; ; ) {
      const lent = must(c, lend(address + done, length - done), 'vmsplice');
      for (let left = lent; left > 0; ) {
        const taken = c.splice(from, null, socket, null, left, SPLICE_F_NONBLOCK | (more || done + left < length ? SPLICE_F_MORE : 0));
        if (taken <= 0) {
          // Reset by the peer, or no memory for it, of which no event would tell: Node may have stopped to listen to the socket.
          poured.isOver = taken === 0 || c.failure() !== 'EAGAIN';
          // Nobody's: the pipe is for the next one.
          drop(left);
          return done;
        }
        done += taken;
        left -= taken;
      }
      if (done === length) return done;
    }
  };
  const poured: Pour = Object.assign(pour, { isOver: false });
  return poured;
}
