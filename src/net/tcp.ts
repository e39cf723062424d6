// What the kernel knows of a TCP connection, and the one thing that it is told: whether to wait for full segments.
import { libc } from './libc.ts';
import { int32 } from './socket-calls.ts';

export interface TcpProgress {
  /** Bytes that the peer has acknowledged since the connection began. */
  readonly acknowledged: number;
  /** There are bytes that it has not acknowledged, or that were not sent to it yet. */
  readonly waits: boolean;
}

const IPPROTO_TCP = 6;
const TCP_CORK = 3;
const TCP_INFO = 11;
/** struct tcp_info of <linux/tcp.h>: its fields stay where they are, new ones come at its end; the last of these is there since Linux 4.6. */
const UNACKED = 24;
const BYTES_ACKED = 120;
const NOTSENT_BYTES = 144;
const INFO_BYTES = NOTSENT_BYTES + 4;

const info = Buffer.alloc(INFO_BYTES);

/** undefined without koffi, and of a socket that has ended. */
export function tcpProgress(fd: number): TcpProgress | undefined {
  const length = int32(INFO_BYTES);
  if (fd < 0 || libc()?.getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, length) !== 0 || length.readInt32LE() < INFO_BYTES) return undefined;
  return { acknowledged: Number(info.readBigUInt64LE(BYTES_ACKED)), waits: info.readUInt32LE(UNACKED) > 0 || info.readUInt32LE(NOTSENT_BYTES) > 0 };
}

/** While `on`, a segment that is not full waits up to 0.2 s for what comes behind it; to be switched off behind the last byte. */
export function cork(fd: number, on: boolean): void {
  libc()?.setsockopt(fd, IPPROTO_TCP, TCP_CORK, int32(on ? 1 : 0), 4);
}
