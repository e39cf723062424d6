// A UDP socket that is connected to its peer, and one beside it on the same port that hears everybody else.
import type { Libc } from './libc.ts';
import { AF_INET, AF_INET6, int32, must, SO_REUSEADDR, SOCK_DGRAM, SOCK_OURS, sockaddr, SOL_SOCKET } from './socket-calls.ts';

export interface ConnectedPair {
  /** Hears the peer and nobody else, and is told when the peer's port is closed. */
  readonly peer: number;
  /** The kernel gives a datagram to the socket that fits best, so only what is not the peer's comes here. */
  readonly strangers: number;
}

const SOL_UDP = 17;
const UDP_SEGMENT = 103;

/**
 * Opens both on a port that nobody else has, from our own address `local` (IPv4 or IPv6, as text). Throws with the kernel's `code`: EMFILE;
 * EADDRNOTAVAIL: the address is no longer ours; ENETUNREACH: no way to the peer.
 */
export function openConnectedPair(c: Libc, local: string, to: { readonly address: string; readonly port: number }): ConnectedPair {
  const opened: number[] = [];
  const family = local.includes(':') ? AF_INET6 : AF_INET;
  const open = () => {
    const fd = must(c, c.socket(family, SOCK_DGRAM | SOCK_OURS, 0), 'socket');
    opened.push(fd);
    return fd;
  };
  const reuse = (fd: number, on: 0 | 1) => must(c, c.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, int32(on), 4), 'SO_REUSEADDR');
  try {
    const ours = sockaddr(c, local, 0);
    const strangers = open();
    // Without SO_REUSEADDR: with it the kernel may pick a port that another pair has.
    must(c, c.bind(strangers, ours, ours.length), 'bind');
    must(c, c.getsockname(strangers, ours, lengthOf(ours)), 'getsockname');
    reuse(strangers, 1);
    const peer = open();
    reuse(peer, 1);
    must(c, c.bind(peer, ours, ours.length), 'bind');
    const theirs = sockaddr(c, to.address, to.port);
    must(c, c.connect(peer, theirs, theirs.length), 'connect');
    // Nobody on this machine is to join them.
    reuse(strangers, 0);
    reuse(peer, 0);
    return { peer, strangers };
  } catch (error) {
    for (const fd of opened) c.close(fd);
    throw error;
  }
}

/**
 * UDP GSO (Linux 4.18): from now on the kernel cuts what is sent on `fd` into datagrams of `bytes`, the last one shorter; 0 = never. False: it does not
 * know how. Whether the card's path can is only told by the send that fails (EINVAL, EIO, EMSGSIZE).
 */
export function setSegment(c: Libc, fd: number, bytes: number): boolean {
  return c.setsockopt(fd, SOL_UDP, UDP_SEGMENT, int32(bytes), 4) >= 0;
}

/** An address' length as a call wants it, in and out. */
export function lengthOf(address: Uint8Array): Buffer {
  return int32(address.length);
}
