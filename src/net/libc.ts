// The system calls that Node has no words for, by the optional koffi.
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

/** Every call answers as C does: below zero is a failure, and `failure()` names it. Pointers are buffers that must outlive the call. */
export interface Libc {
  socket(family: number, type: number, protocol: number): number;
  setsockopt(fd: number, level: number, option: number, value: Uint8Array, length: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  recvmmsg(fd: number, messages: Uint8Array, count: number, flags: number, timeout: null): number;
  sendmmsg(fd: number, messages: Uint8Array, count: number, flags: number): number;
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
      bind: call('bind', 'int bind(int, const void *, uint32_t)'),
      recvmmsg: call('recvmmsg', 'int recvmmsg(int, void *, unsigned int, int, void *)'),
      sendmmsg: call('sendmmsg', 'int sendmmsg(int, void *, unsigned int, int)'),
      addressOf: (buffer) => BigInt(koffi.address(buffer)),
      failure: () => getSystemErrorName(-koffi.errno()),
    };
  } catch {
    return undefined;
  }
}
