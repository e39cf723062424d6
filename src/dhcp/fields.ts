// Addresses and text in place in a packet's bytes: tables and loops, because they run for each packet.
import type { Ip4 } from '../addr.ts';

const DECIMAL: readonly string[] = Array.from({ length: 256 }, (_, byte) => String(byte));
/** Two digits for each byte. */
export const HEX: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** The address in the four bytes from `at` on. */
export function ipAt(bytes: Uint8Array, at: number): Ip4 {
  return DECIMAL[bytes[at]!]! + '.' + DECIMAL[bytes[at + 1]!]! + '.' + DECIMAL[bytes[at + 2]!]! + '.' + DECIMAL[bytes[at + 3]!]!;
}

/** The argument must be a valid `Ip4`. */
export function putIp(bytes: Uint8Array, at: number, ip: Ip4): void {
  let byte = 0;
  for (let i = 0; i < ip.length; i++) {
    const code = ip.charCodeAt(i);
    if (code !== 46) byte = byte * 10 + code - 48;
    else {
      bytes[at++] = byte;
      byte = 0;
    }
  }
  bytes[at] = byte;
}

/** As `text`, from `at` on; returns how many bytes it wrote. */
export function putText(bytes: Uint8Array, at: number, value: string): number {
  const start = at;
  for (let i = 0; i < value.length; i++) {
    const code = value.codePointAt(i)!;
    if (code > 0xffff) i++;
    bytes[at++] = code < 256 ? code : 63;
  }
  return at - start;
}

/** Bytes up to the first NUL. */
export function latin1(bytes: Uint8Array): string {
  const nul = bytes.indexOf(0);
  const end = nul < 0 ? bytes.length : nul;
  return end === 0 ? '' : Buffer.from(bytes.buffer, bytes.byteOffset, end).toString('latin1');
}

export function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
