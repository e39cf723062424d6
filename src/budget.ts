// How often each of many may do something: a token bucket for each that did so lately. Pure.

export interface BudgetLimits {
  /** Of one: at once, and a second. */
  readonly burst: number;
  readonly perSecond: number;
  /** So many are remembered, at least: at most twice as many. */
  readonly keys: number;
}

export interface Budget<Key> {
  /** Once more at `at`, in milliseconds of a clock that nobody sets. False when this one has nothing left: then nothing is taken. */
  take(key: Key, at: number): boolean;
  /** What was taken and, as it turned out, not used. */
  giveBack(key: Key): void;
}

export function createBudget<Key>({ burst, perSecond, keys }: BudgetLimits): Budget<Key> {
  const tokenMs = 1000 / perSecond;
  const wholeMs = burst * tokenMs;
  /**
   * When the budget of each is whole again: one number is a whole token bucket. In two generations of which the older is dropped whole: after `wholeMs`
   * it says nothing any more, and a map whose first entries are deleted one by one is slow until it is rebuilt.
   */
  let young = new Map<Key, number>();
  let old = young;
  let youngSince = -Infinity;

  return {
    take(key, at) {
      if (at - youngSince >= wholeMs || young.size >= keys) {
        old = young;
        young = new Map();
        youngSince = at;
      }
      const whole = Math.max(young.get(key) ?? old.get(key) ?? 0, at) + tokenMs;
      // Sums of fractions are not exact: a thousandth of a token is none.
      if (whole > at + wholeMs + tokenMs / 1000) return false;
      young.set(key, whole);
      return true;
    },
    giveBack(key) {
      const whole = young.get(key) ?? old.get(key);
      if (whole !== undefined) young.set(key, whole - tokenMs);
    },
  };
}
