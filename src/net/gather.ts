// Datagrams put together by the kernel from where their parts lie: a header of ours and a piece of a file each, many in one send, nothing copied before.
import type { Libc } from './libc.ts';

/** Bytes of each header. */
export const HEAD = 4;
/** struct msghdr of a 64-bit Linux: name, length, iovec, count, control, length, flags. */
const MSGHDR = 56;
const IOVEC_AT = 16;
const COUNT_AT = 24;
const WORDS_OF_IOVEC = 4;
const TWO_32 = 2 ** 32;

export interface Gather {
  /** Header `i`, to be written by its four bytes. */
  readonly heads: Buffer;
  /** What follows header `i`: `length` bytes at an address in memory (see addressAsNumber), which must stay there until the send. */
  body(i: number, address: number, length: number): void;
  /** Sends the first `count` in one call. As send(2): below zero is a failure. */
  send(fd: number, count: number, flags: number): number;
}

/** For 64-bit machines; see hasWideMessages. */
export function createGather(c: Libc, most: number): Gather {
  const message = Buffer.alloc(MSGHDR);
  const heads = Buffer.alloc(most * HEAD);
  const vectors = Buffer.alloc(most * 2 * WORDS_OF_IOVEC * 4);
  const words = new Uint32Array(vectors.buffer, vectors.byteOffset, most * 2 * WORDS_OF_IOVEC);
  const place = (vector: number, address: number, length: number) => {
    const at = vector * WORDS_OF_IOVEC;
    words[at] = address % TWO_32;
    words[at + 1] = Math.floor(address / TWO_32);
    words[at + 2] = length;
  };
  for (let i = 0; i < most; i++) place(2 * i, addressAsNumber(c, heads) + i * HEAD, HEAD);
  message.writeBigUInt64LE(c.addressOf(vectors), IOVEC_AT);
  return {
    heads,
    body: (i, address, length) => place(2 * i + 1, address, length),
    send(fd, count, flags) {
      message.writeUInt32LE(2 * count, COUNT_AT);
      return c.sendmsg(fd, message, flags);
    },
  };
}

/** Programs live below 2^47 (2^56 at most, when asked for), so it is exact. */
export function addressAsNumber(c: Libc, bytes: Uint8Array): number {
  return Number(c.addressOf(bytes));
}
