// Numbers that a thread notes in memory that outlives it, so that whoever started it can tidy up behind a dead one.

export interface Noted {
  /** For the thread. */
  readonly shared: SharedArrayBuffer;
  /** To be called again when the number is no longer its concern. One that finds no room is not noted. Not 0. */
  note(number: number): () => void;
  /** When the thread is dead: what it left, once. */
  take(): number[];
}

/** `shared`: of another thread's, whatever `most` says. */
export function createNoted(most: number, shared = new SharedArrayBuffer(4 * most)): Noted {
  const numbers = new Int32Array(shared);
  return {
    shared,
    note(number) {
      const at = numbers.indexOf(0);
      if (at >= 0) Atomics.store(numbers, at, number);
      return () => void (at >= 0 && Atomics.compareExchange(numbers, at, number, 0));
    },
    take() {
      const left = [...numbers].filter((number) => number !== 0);
      numbers.fill(0);
      return left;
    },
  };
}
