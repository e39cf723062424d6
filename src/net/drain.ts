// Takes a burst out of a UDP socket with one system call for 32 datagrams, where dgram needs one, and an event, for each.
import { libc } from './libc.ts';

/** `bytes` is the taker's to keep. */
export type TakeDatagram = (bytes: Buffer, address: string, port: number) => void;

const BATCH = 32;
/** Longer ones, which no DHCP client sends, are dropped here. */
const SLOT = 9216;
// struct mmsghdr, iovec and sockaddr_in of a 64-bit Linux; one after the other for each datagram.
const HEADER = 64;
const IOVEC = 16;
const NAME = 16;
const IOVECS_AT = BATCH * HEADER;
const NAMES_AT = BATCH * (HEADER + IOVEC);
const FLAGS = 48;
const LENGTH = 56;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

interface Scratch {
  readonly table: Buffer;
  readonly data: Buffer;
}

/** Filled and emptied within one call, so one does for all sockets. */
let scratch: Scratch | undefined;

/**
 * To be called when dgram has handed out one datagram of this socket: gives what waits behind it, 32 at most, to `take`, and dgram goes on with the
 * rest. Measured: 1.5 us of CPU a datagram, where dgram needs 4 to 5. Does nothing without koffi and on 32-bit machines.
 */
export function drain(fd: number, take: TakeDatagram): void {
  const c = libc();
  if (!c || !SIXTY_FOUR_BITS) return;
  const { table, data } = (scratch ??= layOut(c.addressOf));
  const count = c.recvmmsg(fd, table, BATCH, MSG_DONTWAIT, null);
  for (let i = 0; i < count; i++) {
    const header = i * HEADER;
    const name = NAMES_AT + i * NAME;
    const whole = (table.readUInt32LE(header + FLAGS) & MSG_TRUNC) === 0;
    const bytes = Buffer.from(data.subarray(i * SLOT, i * SLOT + table.readUInt32LE(header + LENGTH)));
    if (whole) take(bytes, `${table[name + 4]}.${table[name + 5]}.${table[name + 6]}.${table[name + 7]}`, table.readUInt16BE(name + 2));
  }
}

const SIXTY_FOUR_BITS = ['x64', 'arm64', 'riscv64', 'loong64'].includes(process.arch);

function layOut(addressOf: (buffer: Uint8Array) => bigint): Scratch {
  // Not from Buffer's pool, and referred to for ever: the kernel writes to these addresses.
  const table = Buffer.alloc(BATCH * (HEADER + IOVEC + NAME));
  const data = Buffer.alloc(BATCH * SLOT);
  const at = addressOf(table);
  for (let i = 0; i < BATCH; i++) {
    const iovec = IOVECS_AT + i * IOVEC;
    table.writeBigUInt64LE(at + BigInt(NAMES_AT + i * NAME), i * HEADER);
    table.writeUInt32LE(NAME, i * HEADER + 8);
    table.writeBigUInt64LE(at + BigInt(iovec), i * HEADER + 16);
    table.writeBigUInt64LE(1n, i * HEADER + 24);
    table.writeBigUInt64LE(addressOf(data) + BigInt(i * SLOT), iovec);
    table.writeBigUInt64LE(BigInt(SLOT), iovec + 8);
  }
  return { table, data };
}
