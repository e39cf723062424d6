// Which connection gives its place to the next one when a thread has as many as it may. Pure.

/** What is known of a connection that is open. */
export interface Candidate {
  /** Connections of its peer, this one among them. */
  ofPeer(): number;
  /** Since it was opened or its last response was through, in milliseconds; undefined while a request that came whole is answered. */
  quietMs(now: number): number | undefined;
  /** Bytes per second that its peer takes of a response; undefined while that is not known, or it is us who have nothing to send. */
  pace(): number | undefined;
}

/** Nobody goes sooner: an old machine needs its time between the connection, TLS and the request. One that is slower than this connects again. */
export const QUIET_MS = 250;
/** Whoever has no more connections than this is not called greedy: else one who has two would go before thousands of a hostile one's that come from an address each. */
export const FEW = 4;
/** Bytes per second. Nobody who takes as many is given up (a reader at 50 KiB/s finishes), and for a hostile one to hold 4,096 places so takes 64 MiB/s. */
export const SLOW = 16 * 1024;
/** While a larger part has only just come, it is a flood that fills the places: no honest slow reader may lose its own to that. */
const MOST_NEW = 1 / 4;

/** Of the peer with the most connections the one that has been quiet the longest, else the slowest reader; undefined: all have a better right. `now` in milliseconds. */
export function whoYields<T extends Candidate>(open: Iterable<T>, now: number): T | undefined {
  let found: T | undefined;
  let [most, longest] = [0, 0];
  let slowest: T | undefined;
  let least = SLOW;
  let [all, fresh] = [0, 0];
  for (const one of open) {
    all++;
    const quietMs = one.quietMs(now);
    if (quietMs === undefined) {
      const pace = one.pace() ?? Infinity;
      if (pace < least) [slowest, least] = [one, pace];
    } else if (quietMs < QUIET_MS) fresh++;
    else {
      const ofPeer = Math.max(one.ofPeer(), FEW);
      if (ofPeer > most || (ofPeer === most && quietMs > longest)) [found, most, longest] = [one, ofPeer, quietMs];
    }
  }
  return found ?? (fresh > all * MOST_NEW ? undefined : slowest);
}
