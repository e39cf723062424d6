// The transfer machine and a client of RFC 7440 over links that lose, double and reorder: every file arrives, and no more leaves than must.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOf, lossy, MANNERS, simulate, smallRing, type Link, type Manners, type Outcome } from './tftp-channel.ts';

const FULL = process.env.RACKSEED_FULL === '1';
/** Downloads over a link that loses 20 % each way, for each kind of client. */
const RUNS = FULL ? 1_000 : 50;
const WINDOWS = [1, 4, 16, 64];
const SIZES = [0, 1, 511, 512, 513, 512 * 4, 512 * 16 - 1, 512 * 64, 512 * 100 + 17];
const optionsOf = (windowsize: number, blksize = 512): Record<string, string> => ({ blksize: String(blksize), ...(windowsize > 1 ? { windowsize: String(windowsize) } : {}) });

function expectWhole(outcome: Outcome, size: number): void {
  expect(outcome.end).toEqual({ kind: 'end', outcome: 'complete' });
  expect(outcome.received.equals(bytesOf(size))).toBe(true);
  expect(outcome.packets).toBe(outcome.state.blocksSent);
  // What was counted as sent again is exactly what was too much.
  expect(outcome.state.blocksSent - outcome.state.resent).toBe(outcome.state.lastBlock);
}

const everyWindow = WINDOWS.flatMap((window) => MANNERS.map((manners) => [window, manners] as const));

describe.each(everyWindow)('with a window of %i and a client that answers blocks out of order "%s"', (window, manners) => {
  test('a link without loss carries each block once, in windows as large as they were granted (RFC 7440)', () => {
    for (const size of SIZES) {
      const outcome = simulate({ size, options: optionsOf(window), link: () => [1], manners });
      expectWhole(outcome, size);
      expect(outcome.packets).toBe(outcome.state.lastBlock);
      expect(outcome.largestBurst).toBe(Math.min(window, outcome.state.lastBlock));
    }
  });

  test.each<[string, Link]>([
    ['at once', () => [1, 1]],
    ['a little later', () => [1, 1.4]],
    ['three windows later', () => [1, 7]],
    ['twice', () => [1, 1, 1]],
  ])('a link that doubles every packet %s doubles no block (RFC 1123 4.2.3.1)', (_name, link) => {
    for (const size of SIZES) {
      const outcome = simulate({ size, options: optionsOf(window), link, manners });
      expectWhole(outcome, size);
      expect(outcome.packets).toBe(outcome.state.lastBlock);
    }
  });

  test('block numbers that wrap to 0 lose nothing, nor do they on a link that loses 0.1 % (blksize 8)', () => {
    const size = 65_536 * 8 + 8 * 300 + 3;
    for (const loss of [0, 0.001]) {
      const outcome = simulate({ size, options: optionsOf(window, 8), link: lossy(loss, 0.05, window), manners, clientTimeoutMs: 300 });
      expectWhole(outcome, size);
      expect(outcome.state.lastBlock).toBeGreaterThan(65_536);
      if (loss === 0) expect(outcome.state.resent).toBe(0);
    }
  });
});

/** What the network does with one packet: none = lost, else how late its copies arrive. */
const fate: fc.Arbitrary<readonly number[]> = fc.oneof(
  { weight: 6, arbitrary: fc.constant([1]) },
  { weight: 2, arbitrary: fc.constant([]) },
  { weight: 2, arbitrary: fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 3 }) },
);

describe('over any network that loses, doubles and reorders', () => {
  const cases = fc.record({
    size: fc.oneof(fc.constantFrom(...SIZES), fc.integer({ min: 0, max: 40_000 })),
    window: fc.constantFrom(...WINDOWS, 2, 3),
    blksize: fc.constantFrom(8, 64, 512, 1428),
    manners: fc.constantFrom<Manners>(...MANNERS),
    fates: fc.array(fate, { maxLength: 200 }),
    seed: fc.integer(),
  });

  test('the client ends with the very bytes, or the server with an error and the client with the beginning of the file', () => {
    fc.assert(
      fc.property(cases, ({ size, window, blksize, manners, fates, seed }) => {
        let used = 0;
        const outcome = simulate({ size, options: optionsOf(window, blksize), link: () => fates[used++] ?? [1], manners, seed });
        const { end, state } = outcome;
        if (end?.kind !== 'end') throw new Error('the transfer did not end');
        // A server that calls it complete must have delivered.
        if (end.outcome === 'complete') expectWhole(outcome, size);
        else expect(end.why).toMatch(/^the client (never answered|fell silent)$/);
        expect(outcome.received.equals(bytesOf(size).subarray(0, outcome.received.length))).toBe(true);
        if (outcome.done) expect(outcome.received).toHaveLength(size);
        expect(outcome.largestBurst).toBeLessThanOrEqual(window);
        // A mishap costs what is sent until the client's own timer ends its silence: three windows and the questions between them, and the one that
        // it is then given. Once the mishaps are over, nothing goes on leaving twice.
        const mishaps = fates.slice(0, used).filter((copies) => copies.length !== 1 || copies[0] !== 1).length;
        if (end.outcome === 'complete') expect(state.resent).toBeLessThanOrEqual(mishaps * (4 * window + 8));
      }),
      { numRuns: 600 },
    );
  });
});

test('a client whose window begins elsewhere than ours, because it answered a block that it had, does not get every block twice', () => {
  // Found by the property above: after block 3 and its repetition are lost, such a client answers 1 and 2 and takes 3 as the first of its next window.
  const fates = [[1], [1], [1], [1], [], []];
  const outcome = simulate({ size: 2048, options: optionsOf(3, 8), link: () => fates.shift() ?? [1] });
  expectWhole(outcome, 2048);
  expect(outcome.state.resent).toBeLessThan(10);
});

describe('a link that loses packets both ways', () => {
  const size = 1 << 20;
  const median = (loss: number, window: number, what: (outcome: Outcome) => number) => {
    const all = Array.from({ length: 5 }, (_, seed) => {
      const outcome = simulate({ size, options: optionsOf(window, 1428), link: lossy(loss, 0.1, seed + 1), manners: 'every', clientTimeoutMs: 5000, seed });
      expectWhole(outcome, size);
      return what(outcome);
    });
    return all.sort((a, b) => a - b)[2]!;
  };

  // These are simulated milliseconds of the link and the timers, not of this machine.
  test.each([
    [0, 1, 200],
    [0.01, 1, 1000],
    [0.05, 1, 3000],
    [0.1, 1, 8000],
    [0.2, 1, 16_000],
    [0.01, 16, 200],
    [0.05, 16, 1000],
    [0.1, 16, 2000],
    [0.2, 16, 10_000],
    [0.2, 64, 16_000],
  ])('%f of them: with a window of %i 1 MiB is there within %i ms', (loss, window, within) => {
    expect(median(loss, window, ({ doneAt }) => doneAt)).toBeLessThanOrEqual(within);
  });

  /** As issue 4's clients: theirs is a timer of 5 s. */
  const all = (runs: number, loss: number, window: number, manners: Manners) =>
    Array.from({ length: runs }, (_, seed) => simulate({ size, options: optionsOf(window, 1428), link: lossy(loss, 0.1, seed + 1), manners, clientTimeoutMs: 5000, seed }));
  const whys = (outcomes: readonly Outcome[]) => outcomes.flatMap(({ end, done }) => (end?.kind === 'end' && end.outcome === 'failed' && !done ? [end.why] : []));

  test.each([1, 4, 16].flatMap((window) => (['every', 'burst'] as const).map((manners) => [window, manners] as const)))(
    `20 percent of them: with a window of %i and a client that answers "%s", none of ${RUNS} that were heard once is given up, and the slowest one in a hundred takes twice the median, or four times in a window`,
    { timeout: 600_000 },
    (window, manners) => {
      const outcomes = all(RUNS, 0.2, window, manners);
      const given = whys(outcomes);
      // Before the first ACK four packets may leave, of which the first is spared here: of 0.2 x 0.36 ** 3 clients nothing is heard, and of one in five of these neither what they
      // say again after 5 s.
      expect(given.filter((why) => why !== 'the client never answered')).toEqual([]);
      expect(given.length).toBeLessThanOrEqual(2 + RUNS / 200);
      const times = outcomes.filter(({ done }) => done).map(({ doneAt }) => doneAt).sort((a, b) => a - b);
      const [p50, p99] = [0.5, 0.99].map((share) => times[Math.floor(times.length * share)]!);
      console.log(`tftp, simulated, 20 % lost each way, window ${window}, ${manners}: median ${(p50! / 1000).toFixed(1)} s, p99 ${(p99! / 1000).toFixed(1)} s, at most ${(times.at(-1)! / 1000).toFixed(1)} s, ${given.length} of ${RUNS} given up`);
      expect(p99! / p50!).toBeLessThan(window === 1 ? 2 : 4);
    },
  );

  test("5 percent of them: a client that answers a block once and starts its timer anew with each one more (atftp) has its turn, and is not given up", { timeout: 600_000 }, () => {
    for (const window of [1, 16]) expect(whys(all(RUNS / 2, 0.05, window, 'once'))).toEqual([]);
  });

  test('a burst that shrinks sends a few packets a block where whole windows would send dozens (RFC 5681)', () => {
    expect(median(0.05, 64, ({ packets, state }) => packets / state.lastBlock)).toBeLessThan(2.5);
    expect(median(0.2, 16, ({ packets, state }) => packets / state.lastBlock)).toBeLessThan(4);
  });

  test('a window is worth its latency: 16 blocks over 50 ms are there more than 8 times sooner than one by one', () => {
    const [one, sixteen] = [1, 16].map((window) => simulate({ size, options: optionsOf(window, 1428), link: () => [25] }));
    expect(one!.doneAt / sixteen!.doneAt).toBeGreaterThan(8);
  });
});

describe('a client that answers a block once and starts its timer anew with each one more (atftp)', () => {
  /** Block 2 arrives, and of its ACKs as many are lost. */
  const lostAcks = (count: number) => {
    let acks = 0;
    return simulate({ size: 512 * 4, link: (to) => (to === 'server' && ++acks > 1 && acks <= 1 + count ? [] : [1]), manners: 'once', clientTimeoutMs: 5000 });
  };

  test.each([
    [1, 200],
    [2, 9_000],
    [3, 14_500],
  ])('goes on after %i of its ACKs in a row are lost, within %i ms', (count, within) => {
    const outcome = lostAcks(count);
    expectWhole(outcome, 512 * 4);
    expect(outcome.doneAt).toBeLessThan(within);
  });
});

describe("a client whose card holds less than the window", () => {
  test.each([
    [8, 16],
    [8, 64],
    [24, 64],
  ])('of %i packets with a window of %i gets bursts that fit (RFC 5681)', (holds, window) => {
    const outcome = simulate({ size: 1 << 20, options: optionsOf(window, 1428), link: smallRing(holds, 0.05, 0.1) });
    expectWhole(outcome, 1 << 20);
    expect(outcome.state.resent / outcome.state.lastBlock).toBeLessThan(0.4);
    expect(outcome.doneAt).toBeLessThan(2000);
  });
});
