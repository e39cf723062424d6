// What each socket of our own is made with: the kernel's numbers, addresses as it reads them, and failures by its code.
import type { Libc } from './libc.ts';

// <asm-generic/socket.h> and <linux/tcp.h>: the same on every architecture that koffi has a build for. Sizes and numbers are little-endian there.
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
/** SOCK_NONBLOCK and SOCK_CLOEXEC: it waits for nobody, and programs that we start do not get it. */
export const SOCK_OURS = 0o2004000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;

/** What a call answered; below zero it throws with the kernel's `code`, and says what was tried. */
export function must(c: Libc, result: number, what: string): number {
  if (result >= 0) return result;
  const code = c.failure();
  throw Object.assign(new Error(`${what}: ${code}`), { code });
}

/** An option's value. */
export function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

/** struct sockaddr_in, 16 bytes, or sockaddr_in6, 28 bytes, without flow label and scope. */
export function sockaddr(c: Libc, address: string, port: number): Buffer {
  const six = address.includes(':');
  const bytes = Buffer.alloc(six ? 28 : 16);
  bytes.writeUInt16LE(six ? AF_INET6 : AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  const at = six ? 8 : 4;
  if (c.inet_pton(six ? AF_INET6 : AF_INET, address, bytes.subarray(at)) !== 1) throw Object.assign(new Error(`${address} is no address`), { code: 'EINVAL' });
  return bytes;
}
