// The token bucket that bounds what one machine or address may have: its burst, its rate, what comes back, and that the many are not remembered for ever.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createBudget } from '../../src/budget.ts';

/** How often in a row it is granted at this moment. */
const takes = (budget: ReturnType<typeof createBudget<string>>, key: string, at: number): number => {
  let count = 0;
  while (budget.take(key, at)) count++;
  return count;
};

describe('a budget', () => {
  test.each([
    ['is its burst at first', 0, 64],
    ['is empty a moment later', 50, 0],
    ['has one more when one has come back', 79, 1],
    ['has half of it after half the time', 2_500, 32],
    ['is whole after all of it, and never more', 60_000, 64],
  ])('%s', (_what, later, count) => {
    const budget = createBudget<string>({ burst: 64, perSecond: 12.8, keys: 100 });
    if (later > 0) expect(takes(budget, 'a', 1_000_000)).toBe(64);
    expect(takes(budget, 'a', 1_000_000 + later)).toBe(count);
    expect(takes(budget, 'b', 1_000_000 + later)).toBe(64);
  });

  test('takes back what was not used, but never more than its burst', () => {
    const budget = createBudget<string>({ burst: 3, perSecond: 1, keys: 100 });
    expect(takes(budget, 'a', 0)).toBe(3);
    budget.giveBack('a');
    budget.giveBack('a');
    expect(takes(budget, 'a', 0)).toBe(2);
    budget.giveBack('a');
    expect(takes(budget, 'a', 60_000)).toBe(3);
    budget.giveBack('nobody');
    expect(takes(budget, 'nobody', 60_000)).toBe(3);
  });

  test('grants no more than burst and rate, in whatever order what is granted comes back', () => {
    const step = fc.oneof(fc.record({ after: fc.nat(400), key: fc.constantFrom('a', 'b') }), fc.record({ back: fc.constantFrom('a', 'b') }));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), fc.integer({ min: 1, max: 9 }), fc.double({ min: 0.1, max: 50, noNaN: true }), (steps, burst, perSecond) => {
        const budget = createBudget<string>({ burst, perSecond, keys: 100 });
        const out: Record<string, number> = { a: 0, b: 0 };
        let at = 5_000;
        for (const one of steps) {
          if ('back' in one) {
            if (out[one.back]! === 0) continue;
            budget.giveBack(one.back);
            out[one.back]!--;
          } else {
            at += one.after;
            if (budget.take(one.key, at)) out[one.key]!++;
          }
          for (const count of Object.values(out)) expect(count).toBeLessThanOrEqual(burst + (perSecond * (at - 5_000)) / 1000 + 0.01);
        }
      }),
    );
  });

  test('of many is remembered while they are not too many, and forgotten once twice as many others came', () => {
    const budget = createBudget<string>({ burst: 1, perSecond: 0.001, keys: 10 });
    for (let n = 0; n < 10; n++) expect(budget.take(`${n}`, 0)).toBe(true);
    for (let n = 0; n < 10; n++) expect(budget.take(`${n}`, 0)).toBe(false);
    for (let n = 10; n < 40; n++) expect(budget.take(`${n}`, 0)).toBe(true);
    expect(budget.take('39', 0)).toBe(false);
    expect(budget.take('0', 0)).toBe(true);
  });
});
