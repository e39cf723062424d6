// The time of day that no thread disagrees on and that never jumps.

/** performance.now() counts from the start of its own thread; process.hrtime() is CLOCK_MONOTONIC in all of them, but makes an object each time. */
const OFFSET_MS = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** Milliseconds, with fractions; only differences mean something, also those between two threads. */
export function monotonicMs(): number {
  return performance.now() + OFFSET_MS;
}
