// UDP sockets that belong to one card: what they hear came in there, and what they send leaves there.
import { createSocket, type Socket } from 'node:dgram';
import { closeSync, readFileSync } from 'node:fs';
import type { Ip4 } from '../addr.ts';
import { libc, type Libc } from './libc.ts';
import { AF_INET, int32, must, SO_REUSEADDR, SOCK_DGRAM, SOCK_OURS, sockaddr, SOL_SOCKET } from './socket-calls.ts';

/** A socket as Node has it, and its number for what Node has no words for. */
export interface BoundSocket {
  readonly socket: Socket;
  /** Absent on a socket that Node opened itself. */
  readonly fd?: number;
}

/** The kernel's default holds 166 DHCP packets, less than a rack that powers on together (measured, TRAPS 3). */
export const BUFFER_BYTES = 4 << 20;

/** <asm-generic/socket.h> */
const SO = { broadcast: 6, sndBuf: 7, rcvBuf: 8, bindToDevice: 25, sndBufForce: 32, rcvBufForce: 33 } as const;

/** Whether openDeviceSocket can open one. */
export function hasDeviceSockets(): boolean {
  return libc() !== undefined;
}

export interface DeviceSocketOptions {
  /** Default 0.0.0.0: whatever address the card has, also one that it gets later. */
  readonly address?: Ip4;
  /** Default true: others that share the port may have it too, as dnsmasq does on its own cards. */
  readonly shared?: boolean;
}

/**
 * A UDP socket of this card. Undefined: koffi is not installed. Rejects with the kernel's `code`: EADDRINUSE; EACCES, EPERM: the right is
 * missing; ENODEV: no such card; EADDRNOTAVAIL. It outlives its card going down and its addresses changing, but not the card's deletion.
 */
export async function openDeviceSocket(link: string, port: number, options: DeviceSocketOptions = {}): Promise<BoundSocket | undefined> {
  const c = libc();
  return c && adopt(openFd(c, link, port, options));
}

function openFd(c: Libc, link: string, port: number, { address = '0.0.0.0', shared = true }: DeviceSocketOptions): number {
  const what = `${link} port ${port}`;
  const fd = must(c, c.socket(AF_INET, SOCK_DGRAM | SOCK_OURS, 0), what);
  try {
    const set = (option: number, value: number) => c.setsockopt(fd, SOL_SOCKET, option, int32(value), 4);
    if (shared) must(c, set(SO_REUSEADDR, 1), what);
    const name = Buffer.from(`${link}\0`);
    must(c, c.setsockopt(fd, SOL_SOCKET, SO.bindToDevice, name, name.length), what);
    must(c, set(SO.broadcast, 1), what);
    // By force, as root may, it passes net.core.rmem_max. Answers to machines that have gone wait for ARP in the send buffer: the default one is
    // full with 160 of them, and then nobody gets an answer.
    if (set(SO.rcvBufForce, BUFFER_BYTES) < 0) set(SO.rcvBuf, BUFFER_BYTES);
    if (set(SO.sndBufForce, BUFFER_BYTES) < 0) set(SO.sndBuf, BUFFER_BYTES);
    must(c, c.bind(fd, sockaddr(c, address, port), 16), what);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Takes a bound UDP socket over, which is closed with the one that is returned. Throws when the number is no such thing. */
export function adopt(fd: number): BoundSocket {
  const socket = createSocket({ type: 'udp4', lookup: literal });
  try {
    // 'listening' comes while bind() runs: who waits for it afterwards waits for ever.
    socket.bind({ fd });
  } catch (error) {
    socket.close();
    throw error;
  }
  return { socket, fd };
}

/** What comes to dgram is always an address; without this each datagram that is sent asks the resolver's code about it. */
export function literal(address: string, _options: unknown, done: (error: null, address: string, family: number) => void): void {
  done(null, address, 4);
}

/**
 * Grows both buffers to BUFFER_BYTES as far as the kernel allows and answers the receive buffer's size as asked for (the kernel doubles it). One that
 * is bigger than net.core.rmem_max, which systemd can make and we cannot, is left alone: asking again would make it smaller.
 */
export function growBuffers({ socket }: BoundSocket): number {
  const half = (size: number) => size / 2;
  const grow = (now: number, most: number, set: (bytes: number) => void) => {
    if (half(now) < BUFFER_BYTES && Math.min(BUFFER_BYTES, most) > half(now)) set(BUFFER_BYTES);
  };
  grow(socket.getRecvBufferSize(), limit('rmem_max'), (bytes) => socket.setRecvBufferSize(bytes));
  grow(socket.getSendBufferSize(), limit('wmem_max'), (bytes) => socket.setSendBufferSize(bytes));
  return half(socket.getRecvBufferSize());
}

/** Kernels show it in the first namespace only; where it is hidden, the default size is what others would get. */
function limit(name: 'rmem_max' | 'wmem_max'): number {
  try {
    return Number(readFileSync(`/proc/sys/net/core/${name}`, 'utf8'));
  } catch {
    return 212_992;
  }
}
