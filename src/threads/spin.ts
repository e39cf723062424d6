// Whether it pays to ask again and again for some microseconds before a thread sleeps: to be woken costs more than most waits of a lock-step last.

/** How long to ask before sleeping, in milliseconds. A peer on the same machine or rack that is quick answers within this. */
export const SPIN_MS = 0.05;
/** With more peers than that there is nearly always something to do, and each waits for the others anyway. */
const MOST_PEERS = 4;
/** So many in a row that brought nothing: this peer is slow, or another program wants our core. */
const MOST_LOST = 8;
/** Then so many sleeps pass before it is tried again, twice as many after each try that fails. */
const FIRST_PAUSE = 16;
const LONGEST_PAUSE = 1_024;

export interface Spin {
  /** Before each sleep, with the number of peers that are awaited. */
  pays(peers: number): boolean;
  won(): void;
  lost(): void;
}

export function createSpin(): Spin {
  let lost = 0;
  let pause = FIRST_PAUSE;
  let skip = 0;
  return {
    pays(peers) {
      if (peers === 0 || peers > MOST_PEERS) return false;
      if (skip === 0) return true;
      skip--;
      return false;
    },
    won() {
      lost = 0;
      pause = FIRST_PAUSE;
    },
    lost() {
      if (++lost < MOST_LOST) return;
      lost = MOST_LOST - 1;
      skip = pause;
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    },
  };
}
