// TCP sockets that listen for several threads: opened once, and each thread takes connections from the one queue by a number of its own.
import { closeSync } from 'node:fs';
import type { Ip4 } from '../addr.ts';
import { libc } from './libc.ts';
import { AF_INET, int32, must, SO_REUSEADDR, SOCK_OURS, SOCK_STREAM, sockaddr, SOL_SOCKET } from './socket-calls.ts';

// <linux/tcp.h>, <asm-generic/fcntl.h>.
const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = 25;
const F_DUPFD_CLOEXEC = 1030;

/** Connections that wait to be taken; the kernel cuts it to net.core.somaxconn, which is 4096. */
export const BACKLOG = 4096;
/**
 * Bytes that the kernel takes of a connection beyond what is on its way already; connections inherit it. Without it a slow reader has up to 4 MiB of copies
 * waiting in the kernel. A quarter of this costs some 10 % of speed.
 */
const NOT_SENT_BYTES = 1024 * 1024;

/**
 * Its file number, which is the caller's to close. Undefined without koffi. `copied`: what goes to its connections is copied, as with TLS, and is kept short in the
 * kernel; what is lent (net/pour) takes no memory there, and in pieces as short as that costs half as much again. Throws an Error with the kernel's `code`:
 * EADDRINUSE, EADDRNOTAVAIL, EACCES.
 */
export function openListeningSocket(address: Ip4, port: number, { copied }: { readonly copied: boolean }): number | undefined {
  const c = libc();
  if (!c) return undefined;
  const what = `${address} port ${port}`;
  const fd = must(c, c.socket(AF_INET, SOCK_STREAM | SOCK_OURS, 0), what);
  try {
    must(c, c.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, int32(1), 4), what);
    // A kernel that has no such option serves as well.
    if (copied) c.setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, int32(NOT_SENT_BYTES), 4);
    must(c, c.bind(fd, sockaddr(c, address, port), 16), what);
    must(c, c.listen(fd, BACKLOG), what);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Another number for the same socket, for a thread to adopt by `server.listen({ fd })`, which closes it. Programs that we start do not get it. */
export function duplicate(fd: number): number {
  const c = libc();
  const copy = c?.fcntl(fd, F_DUPFD_CLOEXEC, 'int', 0) ?? -1;
  if (copy < 0) throw new Error(`file number ${fd} cannot be duplicated: ${c?.failure() ?? 'koffi is not there'}`);
  return copy;
}
