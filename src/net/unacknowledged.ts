// How much of what a socket was given its peer has not acknowledged yet.
import { libc } from './libc.ts';

/** <linux/sockios.h> */
const SIOCOUTQ = 0x5411;
const bytes = Buffer.alloc(4);

/** Bytes; 0 without koffi, and of a socket that has ended. */
export function unacknowledged(fd: number): number {
  return fd >= 0 && libc()?.ioctl(fd, SIOCOUTQ, 'void *', bytes) === 0 ? bytes.readInt32LE() : 0;
}
