// Which transfer gives its slot to the next peer when all are taken. Pure.

/** What is known of a transfer that runs. */
export interface Candidate {
  /** Its peer has acknowledged something. */
  heard(): boolean;
  /** Since its last new ACK, or since it began, in milliseconds. */
  quietMs(): number;
  /** Since it began, in milliseconds. */
  ageMs(): number;
  /** Bytes. */
  acked(): number;
}

/**
 * Forged requests would else hold the slots for seconds. Real machines answer within a millisecond or two; one that is slower than this asks again.
 */
const UNHEARD_MS = 250;
/**
 * Bytes per second. Nobody who is as fast is given up: 1,024 of them are a busy rack, of which none would finish, and for a hostile one to hold all
 * slots so takes 64 MiB/s. Silence alone is no measure: one ACK in 19 s, each for 8 bytes, would hold a slot for weeks.
 */
const SLOW = 64 * 1024;
/** While a larger part waits for the first ACK, it is forged requests that fill the slots: no honest slow transfer may die of those. */
const MOST_UNHEARD = 1 / 4;

/** The first that has waited long for its first ACK, else the slowest of those older than `slowAfterMs`; undefined: all have a better right. */
export function whoYields<T extends Candidate>(running: readonly T[], slowAfterMs: number): T | undefined {
  const unheard = running.filter((one) => !one.heard());
  const silent = unheard.find((one) => one.quietMs() >= UNHEARD_MS);
  if (silent || unheard.length > running.length * MOST_UNHEARD) return silent;
  let slowest: T | undefined;
  let least = SLOW;
  for (const one of running) {
    const ageMs = one.ageMs();
    if (!one.heard() || ageMs < slowAfterMs) continue;
    const rate = (one.acked() * 1000) / ageMs;
    if (rate >= least) continue;
    slowest = one;
    least = rate;
  }
  return slowest;
}
