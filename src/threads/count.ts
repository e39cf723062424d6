// How many threads a part of the daemon gets that has its own: one rule for all of them.
import { availableParallelism } from 'node:os';

/** More than four have never been the limit of a network card. */
const MOST_THREADS = 4;

/** One core is left to the main thread, which has DHCP and all decisions. */
export function threadCount(): number {
  return Math.max(1, Math.min(MOST_THREADS, availableParallelism() - 1));
}
