// A UDP socket that is connected to its peer, and one beside it on the same port that hears everybody else.
import type { Libc } from './libc.ts';

export interface ConnectedPair {
  /** Hears the peer and nobody else, and is told when the peer's port is closed. */
  readonly peer: number;
  /** The kernel gives a datagram to the socket that fits best, so only what is not the peer's comes here. */
  readonly strangers: number;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SOL_UDP = 17;
const UDP_SEGMENT = 103;
const YES = Buffer.from([1, 0, 0, 0]);
const NO = Buffer.from([0, 0, 0, 0]);

/**
 * Opens both on a port that nobody else has, from our own address `local` (IPv4 or IPv6, as text). Throws with the kernel's `code`: EMFILE;
 * EADDRNOTAVAIL: the address is no longer ours; ENETUNREACH: no way to the peer.
 */
export function openConnectedPair(c: Libc, local: string, to: { readonly address: string; readonly port: number }): ConnectedPair {
  const opened: number[] = [];
  const must = (result: number, what: string): number => {
    if (result >= 0) return result;
    const code = c.failure();
    throw Object.assign(new Error(`${what}: ${code}`), { code });
  };
  const family = local.includes(':') ? AF_INET6 : AF_INET;
  const open = () => {
    const fd = must(c.socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket');
    opened.push(fd);
    return fd;
  };
  const reuse = (fd: number, value: Buffer) => must(c.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, value, 4), 'SO_REUSEADDR');
  try {
    const ours = sockaddr(c, local, 0);
    const strangers = open();
    // Without SO_REUSEADDR: with it the kernel may pick a port that another pair has.
    must(c.bind(strangers, ours, ours.length), 'bind');
    must(c.getsockname(strangers, ours, lengthOf(ours)), 'getsockname');
    reuse(strangers, YES);
    const peer = open();
    reuse(peer, YES);
    must(c.bind(peer, ours, ours.length), 'bind');
    const theirs = sockaddr(c, to.address, to.port);
    must(c.connect(peer, theirs, theirs.length), 'connect');
    // Nobody on this machine is to join them.
    reuse(strangers, NO);
    reuse(peer, NO);
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
  const value = Buffer.alloc(4);
  value.writeInt32LE(bytes);
  return c.setsockopt(fd, SOL_UDP, UDP_SEGMENT, value, 4) >= 0;
}

/** An address' length as a call wants it, in and out. */
export function lengthOf(address: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeInt32LE(address.length);
  return length;
}

/** struct sockaddr_in, 16 bytes, or sockaddr_in6, 28 bytes, without flow label and scope. */
function sockaddr(c: Libc, address: string, port: number): Buffer {
  const six = address.includes(':');
  const bytes = Buffer.alloc(six ? 28 : 16);
  bytes.writeUInt16LE(six ? AF_INET6 : AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  const at = six ? 8 : 4;
  if (c.inet_pton(six ? AF_INET6 : AF_INET, address, bytes.subarray(at)) !== 1) throw Object.assign(new Error(`${address} is no address`), { code: 'EINVAL' });
  return bytes;
}
