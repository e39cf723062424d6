// Takes a burst out of a UDP socket with one system call for 32 datagrams, where dgram needs one, and an event, for each.
import { libc } from './libc.ts';
import { FLAGS, HEADER, layOutMessages, LENGTH, type Messages } from './messages.ts';

/** `bytes` is the taker's to keep. */
export type TakeDatagram = (bytes: Buffer, address: string, port: number) => void;

const BATCH = 32;
/** Bytes of a datagram; longer ones, which no DHCP client sends, are dropped. */
export const LONGEST = 9216;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

/** Filled and emptied within one call, so one does for all sockets. */
let scratch: Messages | undefined;

/**
 * To be called when dgram has handed out one datagram of this socket: gives what waits behind it, 32 at most, to `take`, and dgram goes on with the
 * rest. Measured: 1.5 us of CPU a datagram, where dgram needs 4 to 5. Does nothing without koffi and on 32-bit machines.
 */
export function drain(fd: number, take: TakeDatagram): void {
  const c = libc();
  const messages = c && (scratch ??= layOutMessages(c, BATCH, LONGEST));
  if (!messages) return;
  const { table, data } = messages;
  const count = c.recvmmsg(fd, table, BATCH, MSG_DONTWAIT, null);
  for (let i = 0; i < count; i++) {
    const header = i * HEADER;
    const name = messages.nameAt(i);
    const whole = (table.readUInt32LE(header + FLAGS) & MSG_TRUNC) === 0;
    const bytes = Buffer.from(data.subarray(i * LONGEST, i * LONGEST + table.readUInt32LE(header + LENGTH)));
    if (whole) take(bytes, `${table[name + 4]}.${table[name + 5]}.${table[name + 6]}.${table[name + 7]}`, table.readUInt16BE(name + 2));
  }
}
