// The system calls that Node has no words for, by the optional koffi.
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

/** Every call answers as C does: below zero is a failure, and `failure()` names it. Pointers are buffers that must outlive the call. */
export interface Libc {
  socket(family: number, type: number, protocol: number): number;
  setsockopt(fd: number, level: number, option: number, value: Uint8Array, length: number): number;
  /** `length` is an int32 in and out. */
  getsockopt(fd: number, level: number, option: number, value: Uint8Array, length: Uint8Array): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  listen(fd: number, backlog: number): number;
  /** F_DUPFD_CLOEXEC and its like: one whole number as argument. */
  fcntl(fd: number, command: number, type: 'int', value: number): number;
  /** One buffer as argument. */
  ioctl(fd: number, request: number, type: 'void *', value: Uint8Array): number;
  recvmmsg(fd: number, messages: Uint8Array, count: number, flags: number, timeout: null): number;
  sendmmsg(fd: number, messages: Uint8Array, count: number, flags: number): number;
  connect(fd: number, address: Uint8Array, length: number): number;
  /** `length` is an int32 in and out. */
  getsockname(fd: number, address: Uint8Array, length: Uint8Array): number;
  send(fd: number, bytes: Uint8Array, length: number, flags: number): number;
  sendmsg(fd: number, message: Uint8Array, flags: number): number;
  sendto(fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array, addressLength: number): number;
  recv(fd: number, bytes: Uint8Array, length: number, flags: number): number;
  /** `addressLength` is an int32 in and out. */
  recvfrom(fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array, addressLength: Uint8Array): number;
  /** For what none of Node's own objects holds; those are closed by Node. */
  close(fd: number): number;
  eventfd(count: number, flags: number): number;
  read(fd: number, bytes: Uint8Array, length: number): number;
  write(fd: number, bytes: Uint8Array, length: number): number;
  epoll_create1(flags: number): number;
  epoll_ctl(epoll: number, operation: number, fd: number, event: Uint8Array | null): number;
  epoll_wait(epoll: number, events: Uint8Array, most: number, timeoutMs: number): number;
  /** `status` null: nobody wants to know. 0: it has not ended. */
  waitpid(pid: number, status: null, options: number): number;
  /** `ends` gets two int32: where to read, where to write. */
  pipe2(ends: Uint8Array, flags: number): number;
  /** `pieces` are struct iovec. */
  vmsplice(pipe: number, pieces: Uint8Array, count: number, flags: number): number;
  splice(from: number, fromOffset: null, to: number, toOffset: null, length: number, flags: number): number;
  madvise(memory: Uint8Array, length: number, advice: number): number;
  /** 1: done; `address` gets 4 or 16 bytes. */
  inet_pton(family: number, text: string, address: Uint8Array): number;
  /** Where a buffer lies in memory; it must not come out of Buffer's pool. */
  addressOf(buffer: Uint8Array): bigint;
  /** The code of the last call that failed, e.g. `EADDRINUSE`. */
  failure(): string;
}

/** The part of koffi that is used here; its own types are not there when it is not installed. */
interface Koffi {
  load(path: null): { func(prototype: string): unknown };
  address(buffer: Uint8Array): bigint;
  errno(): number;
}

let loaded: Libc | 'absent' | undefined;

/** Undefined where koffi is not installed or has no build for this machine, and with RACKSEED_SOCKETS=plain. Loaded once, in about 10 ms. */
export function libc(): Libc | undefined {
  if (plainSockets()) return undefined;
  loaded ??= load() ?? 'absent';
  return loaded === 'absent' ? undefined : loaded;
}

/** Asked for by RACKSEED_SOCKETS=plain: only what Node itself can do. */
export function plainSockets(): boolean {
  return process.env.RACKSEED_SOCKETS === 'plain';
}

function load(): Libc | undefined {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    // null: the C library that Node itself runs on, whichever that is.
    const library = koffi.load(null);
    const call = <Name extends keyof Libc>(_name: Name, prototype: string) => library.func(prototype) as Libc[Name];
    return {
      socket: call('socket', 'int socket(int, int, int)'),
      setsockopt: call('setsockopt', 'int setsockopt(int, int, int, const void *, uint32_t)'),
      getsockopt: call('getsockopt', 'int getsockopt(int, int, int, void *, void *)'),
      bind: call('bind', 'int bind(int, const void *, uint32_t)'),
      listen: call('listen', 'int listen(int, int)'),
      fcntl: call('fcntl', 'int fcntl(int, int, ...)'),
      ioctl: call('ioctl', 'int ioctl(int, unsigned long, ...)'),
      recvmmsg: call('recvmmsg', 'int recvmmsg(int, void *, unsigned int, int, void *)'),
      sendmmsg: call('sendmmsg', 'int sendmmsg(int, void *, unsigned int, int)'),
      connect: call('connect', 'int connect(int, const void *, uint32_t)'),
      getsockname: call('getsockname', 'int getsockname(int, void *, void *)'),
      // The lengths fit 32 bits either way: a datagram has 65,535 bytes at most.
      send: call('send', 'int send(int, const void *, size_t, int)'),
      sendmsg: call('sendmsg', 'int sendmsg(int, const void *, int)'),
      sendto: call('sendto', 'int sendto(int, const void *, size_t, int, const void *, uint32_t)'),
      recv: call('recv', 'int recv(int, void *, size_t, int)'),
      recvfrom: call('recvfrom', 'int recvfrom(int, void *, size_t, int, void *, void *)'),
      close: call('close', 'int close(int)'),
      eventfd: call('eventfd', 'int eventfd(unsigned int, int)'),
      read: call('read', 'int read(int, void *, size_t)'),
      write: call('write', 'int write(int, const void *, size_t)'),
      epoll_create1: call('epoll_create1', 'int epoll_create1(int)'),
      epoll_ctl: call('epoll_ctl', 'int epoll_ctl(int, int, int, const void *)'),
      epoll_wait: call('epoll_wait', 'int epoll_wait(int, void *, int, int)'),
      waitpid: call('waitpid', 'int waitpid(int, void *, int)'),
      pipe2: call('pipe2', 'int pipe2(void *, int)'),
      // What these move fits 32 bits: the pipe has 1 MiB.
      vmsplice: call('vmsplice', 'int vmsplice(int, const void *, size_t, unsigned int)'),
      splice: call('splice', 'int splice(int, void *, int, void *, size_t, unsigned int)'),
      madvise: call('madvise', 'int madvise(void *, size_t, int)'),
      inet_pton: call('inet_pton', 'int inet_pton(int, const char *, void *)'),
      addressOf: (buffer) => BigInt(koffi.address(buffer)),
      failure: () => getSystemErrorName(-koffi.errno()),
    };
  } catch {
    return undefined;
  }
}
