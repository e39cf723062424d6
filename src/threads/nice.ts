// Which threads come first where cores are too few for all of them: DHCP and the decisions, in the main thread, before downloads.
import { getPriority, setPriority } from 'node:os';

/**
 * Nice values; on Linux they are a thread's own (setpriority(2), "C library/kernel differences"). In a storm of 1,000 machines within a second, on two cores that play the
 * machines as well, the main thread has work for all of that second: p99 of DHCP was 635 ms with all threads equal, and 468 ms with HTTP's 10 behind (measured).
 */
const DISTANCE = 10;

/**
 * Of the main thread, before it starts others: the main thread is to come forward rather than HTTP to step back, for a client on the same core that comes before the
 * sender runs for each segment, and the same download takes a quarter more CPU of both (measured). Where it may not (CAP_SYS_NICE), HTTP steps back; nor does it where
 * somebody has chosen a nice value for us, as the unit does.
 */
export function comeForward(): void {
  try {
    if (getPriority() === 0) setPriority(-DISTANCE);
  } catch {
    // It is no more than a wish.
  }
}

/**
 * Of the calling thread, behind the main thread. TFTP's threads do not step back: the transfers of a rack would pile up to more than there may be. Where it is refused
 * (seccomp), all threads are equal.
 */
export function stepBack(): void {
  try {
    setPriority(Math.min(19, getPriority(process.pid) + DISTANCE));
  } catch {
    // It is no more than a wish.
  }
}
