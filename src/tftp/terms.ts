// What a read request and its options come to: block size, window, timeout, and the OACK that says so. Pure.
import type { TftpOptions } from './packet.ts';

/** RFC 1350: what a client without options gets. RFC 2348: what it may ask for. */
const DEFAULT_BLOCK = 512;
const SMALLEST_BLOCK = 8;
export const LARGEST_BLOCK = 65464;
/** What an Ethernet frame carries: MTU 1500 - IPv4 20 - UDP 8 - TFTP 4. Fragments are lost by ROMs and firewalls (TRAPS 1.8). */
export const ETHERNET_BLOCK = 1468;
/** RFC 7440: what a client may ask for, and what we grant of it: a window is one burst, 64 is what one send with UDP GSO carries. */
const LARGEST_WINDOW = 65535;
export const DEFAULT_WINDOW = 64;
/** The timer that most clients have of their own, in seconds, and the longest that is waited for: the transfer is given up after 20. */
const CLIENTS_TIMER_S = 5;
const LONGEST_CLIENTS_TIMER_S = 6;
const CLIENTS_GRACE_MS = 500;

/** What an RRQ and its options come to; fixed for the whole transfer. */
export interface TransferTerms {
  /** Of the file, in bytes. */
  readonly size: number;
  /** What the OACK says; empty = none is sent. */
  readonly options: TftpOptions;
  readonly blockSize: number;
  readonly windowSize: number;
  /**
   * The longest wait. It is longer than the client's own timer, so that it has its turn when nothing else helps: atftp answers a block that it has only
   * once, and each one that comes after that starts its timer anew, so that to ask it more often is to silence it (seen with 0.8.0).
   */
  readonly clientsTurnMs: number;
}

/**
 * What is granted of the options of a request. `most` is what the path carries in one block (bytes) and in one burst (blocks). Options that are
 * unknown or out of range are left out (RFC 2347), never an error.
 */
export function negotiate(size: number, asked: TftpOptions, most: { readonly blockSize?: number; readonly windowSize?: number } = {}): TransferTerms {
  const options = new Map<string, string>();
  let blockSize = DEFAULT_BLOCK;
  let windowSize = 1;
  let clientsTimerS = CLIENTS_TIMER_S;
  for (const [name, value] of asked) {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : undefined;
    if (number === undefined) continue;
    if (name === 'tsize') options.set(name, String(size));
    if (name === 'blksize' && number >= SMALLEST_BLOCK) {
      blockSize = Math.min(number, most.blockSize ?? ETHERNET_BLOCK, LARGEST_BLOCK);
      options.set(name, String(blockSize));
    }
    if (name === 'windowsize' && number >= 1 && number <= LARGEST_WINDOW) {
      windowSize = Math.min(number, most.windowSize ?? DEFAULT_WINDOW);
      options.set(name, String(windowSize));
    }
    // RFC 2349 wants the very number back. To us it is when the client's own timer is due: that bounds our wait, which otherwise follows the path.
    if (name === 'timeout' && number >= 1 && number <= 255) {
      clientsTimerS = Math.min(number, LONGEST_CLIENTS_TIMER_S);
      options.set(name, value);
    }
  }
  return { size, options, blockSize, windowSize, clientsTurnMs: clientsTimerS * 1000 + CLIENTS_GRACE_MS };
}

/** The last block is the first one that is not full: empty when the size is a multiple (RFC 1350 section 6). */
export function blockCount(terms: TransferTerms): number {
  return Math.floor(terms.size / terms.blockSize) + 1;
}
