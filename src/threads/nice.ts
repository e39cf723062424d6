// Which threads come first where cores are too few for all of them: DHCP and the decisions, in the main thread, before downloads.
import { getPriority, setPriority } from 'node:os';

/**
 * Nice values behind the main thread; on Linux they are a thread's own (setpriority(2), "C library/kernel differences"). In a storm of 1,000 machines within a second, on two
 * cores that play the machines as well, the main thread has work for all of that second: p99 of DHCP was 635 ms with all threads equal, 468 ms with HTTP's 10 behind, and 276 ms
 * with the main thread 10 ahead (measured). TFTP's threads do not step back: the transfers of a rack would pile up to more than there may be.
 */
export const NICE_OF_HTTP = 10;
/** What answers comes before what only sends. */
export const NICE_OF_PUMPS = 11;

/**
 * Of the main thread, before it starts others, so that HTTP has the nice value of other programs and not a worse one: beside a nicer sender a client on the same machine runs
 * for each segment, and the same downloads take it 2.3 times the CPU (measured). Where it may not (CAP_SYS_NICE), HTTP steps back from 0. A value that somebody has chosen
 * for us, as the unit does, is kept.
 */
export function comeForward(): void {
  try {
    if (getPriority() === 0) setPriority(-NICE_OF_HTTP);
  } catch {
    // It is no more than a wish.
  }
}

/** Of the calling thread, so much behind the main thread. Where it is refused (seccomp), all threads are equal. */
export function stepBack(behind: number): void {
  try {
    setPriority(Math.min(19, getPriority(process.pid) + behind));
  } catch {
    // It is no more than a wish.
  }
}
