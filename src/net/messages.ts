// The kernel's table for several datagrams in one system call: struct mmsghdr, iovec and sockaddr_in of a 64-bit Linux, one after the other.
import type { Libc } from './libc.ts';

/** Bytes of one message's header; the table begins with all of them, so that a call may start at any. */
export const HEADER = 64;
/** Where a header has its flags and, once it is filled, its length. */
export const FLAGS = 48;
export const LENGTH = 56;
const IOVEC = 16;
const NAME = 16;

export interface Messages {
  readonly table: Buffer;
  /** The datagrams' bytes: `slot` for each. */
  readonly data: Buffer;
  readonly slot: number;
  /** Where message `i` has its iovec's length, and its address: family, port, IPv4. */
  iovecLengthAt(i: number): number;
  nameAt(i: number): number;
}

/** On 32-bit machines the structures of messages look different. */
export function hasWideMessages(): boolean {
  return ['x64', 'arm64', 'riscv64', 'loong64'].includes(process.arch);
}

/** Undefined on 32-bit machines. */
export function layOutMessages(c: Libc, count: number, slot: number): Messages | undefined {
  if (!hasWideMessages()) return undefined;
  // Not from Buffer's pool, and referred to for ever: the kernel reads and writes at these addresses.
  const table = Buffer.alloc(count * (HEADER + IOVEC + NAME));
  const data = Buffer.alloc(count * slot);
  const at = c.addressOf(table);
  const iovecAt = (i: number) => count * HEADER + i * IOVEC;
  const nameAt = (i: number) => count * (HEADER + IOVEC) + i * NAME;
  for (let i = 0; i < count; i++) {
    table.writeBigUInt64LE(at + BigInt(nameAt(i)), i * HEADER);
    table.writeUInt32LE(NAME, i * HEADER + 8);
    table.writeBigUInt64LE(at + BigInt(iovecAt(i)), i * HEADER + 16);
    table.writeBigUInt64LE(1n, i * HEADER + 24);
    table.writeBigUInt64LE(c.addressOf(data) + BigInt(i * slot), iovecAt(i));
    table.writeBigUInt64LE(BigInt(slot), iovecAt(i) + 8);
  }
  return { table, data, slot, iovecLengthAt: (i) => iovecAt(i) + 8, nameAt };
}
