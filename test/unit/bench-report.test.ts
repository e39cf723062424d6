// What the benchmarks make of their figures: medians, rows with ratios and targets, the table, and perfdhcp's report as it was printed.
import { describe, expect, test } from 'vitest';
import { readPerfdhcp } from '../../bench/dhcp-generator.ts';
import { figure, rowsOf, tableOf, type Measure, type Outcome, type Target } from '../../bench/report.ts';

const rate: Measure = { id: 'rate', group: 'flat out', what: 'exchanges', unit: '/s', better: 'higher', rounds: 'median' };
const lost: Measure = { id: 'lost', group: 'load', what: 'lost', unit: '%', better: 'lower', rounds: 'worst' };

function outcome(samples: Record<string, Record<string, readonly number[]>>, notes: readonly [string, string][] = []): Outcome {
  const names = Object.keys(samples) as [string, ...string[]];
  return { subject: 'x', measures: [rate, lost], samples: new Map(names.map((name) => [name, new Map(Object.entries(samples[name]!))])), names, notes: new Map(notes), machine: {}, failures: [], how: {} };
}

describe('the figure of several rounds', () => {
  test.each([
    ['is the median of an odd number', rate, [30, 10, 20], 20],
    ['is the middle of two', rate, [10, 40, 20, 30], 25],
    ['is the worst where something is lost', lost, [0, 0, 3], 3],
    ['is the fewest where more is better', { ...rate, rounds: 'worst' } as Measure, [5000, 4990, 5000], 4990],
    ['is none without a round', rate, [], undefined],
  ])('%s', (_, measure, rounds, expected) => {
    expect(figure(new Map([['ours', new Map([[measure.id, rounds]])]]), 'ours', measure)).toBe(expected);
  });
});

describe('rows', () => {
  const targets: readonly Target[] = [
    { measure: 'rate', issue: 3, text: '>= 1.5x Kea', against: 'Kea', bound: 1.5 },
    { measure: 'lost', issue: 3, text: '0 drops', bound: 0 },
  ];
  const rows = (samples: Record<string, Record<string, readonly number[]>>) => rowsOf(outcome(samples), targets);

  test('a target against a peer is held against the ratio, and only in that peer\'s row', () => {
    expect(rows({ rackseed: { rate: [3000] }, Kea: { rate: [2000] }, dnsmasq: { rate: [100] } })).toEqual([
      { what: 'exchanges', unit: '/s', ours: 3000, peer: 2000, peerName: 'Kea', ratio: 1.5, target: 1.5, better: 'higher', met: true },
      { what: 'exchanges', unit: '/s', ours: 3000, peer: 100, peerName: 'dnsmasq', ratio: 30, target: null, better: 'higher', met: null },
    ]);
  });

  test('an absolute target has a row without a peer, whose ratio is our own figure', () => {
    expect(rows({ rackseed: { lost: [0, 0.5] }, Kea: { lost: [0, 0] } })).toEqual([
      { what: 'lost', unit: '%', ours: 0.5, peer: null, peerName: null, ratio: 0.5, target: 0, better: 'lower', met: false },
      { what: 'lost', unit: '%', ours: 0.5, peer: 0, peerName: 'Kea', ratio: null, target: null, better: 'lower', met: null },
    ]);
  });

  test('a target against the best peer is held against whichever that is, by what is better', () => {
    const best: readonly Target[] = [{ measure: 'rate', issue: 4, text: '>= 0.95x the best', against: 'best', bound: 0.95 }, { measure: 'lost', issue: 4, text: 'a twentieth of the best', against: 'best', bound: 0.05 }];
    const run = outcome({ rackseed: { rate: [960], lost: [1] }, slow: { rate: [500], lost: [90] }, quick: { rate: [1000], lost: [30] }, absent: {} });
    expect(rowsOf(run, best).filter(({ target }) => target !== null)).toEqual([
      { what: 'exchanges', unit: '/s', ours: 960, peer: 1000, peerName: 'quick', ratio: 0.96, target: 0.95, better: 'higher', met: true },
      { what: 'lost', unit: '%', ours: 1, peer: 30, peerName: 'quick', ratio: 0.0333333, target: 0.05, better: 'lower', met: true },
    ]);
    expect(tableOf(run, best)).toMatch(/>= 0\.95 x the best, quick +met\n/);
  });

  test('a target against the best has no row and no verdict when no peer was measured', () => {
    const best: readonly Target[] = [{ measure: 'rate', issue: 4, text: '>= 0.95x the best', against: 'best', bound: 0.95 }];
    const alone = outcome({ rackseed: { rate: [960] } });
    expect(rowsOf(alone, best)).toEqual([]);
    expect(tableOf(alone, best)).toMatch(/>= 0\.95 x best\n/);
  });

  test('that the generator was the limit stands in the row and in the table', () => {
    const limited = outcome({ rackseed: { rate: [3000] }, Kea: { rate: [2500] } }, [['rate', 'the generator is the limit']]);
    expect(rowsOf(limited, targets)).toEqual([expect.objectContaining({ met: false, note: 'the generator is the limit' })]);
    expect(tableOf(limited, targets)).toMatch(/exchanges +\/s +3,000 +2,500 +1\.20 +>= 1\.5 x Kea +MISSED; the generator is the limit\n$/);
  });
});

describe("perfdhcp's report", () => {
  const report = `Running: perfdhcp -4
***Rate statistics***
Rate: 332.942 4-way exchanges/second, expected rate: 500

***Malformed Packets***
Malformed packets: 0
***Statistics for: DISCOVER-OFFER***
sent packets: 4
received packets: 3
drops: 1
drops ratio: 25 %

***Statistics for: REQUEST-ACK***
sent packets: 3
received packets: 3
drops: 0
drops ratio: 0.000 %

***Timestamps for packets: DISCOVER-OFFER***
sent / received: 000000.999900 / 000001.000100
sent / received: 000000.004070 / 000000.004170
sent / received: 000000.006064 / 000000.006364

***Timestamps for packets: REQUEST-ACK***
sent / received: 000000.000100 / 000000.005100
sent / received: 000000.000100 / 000000.001100
sent / received: 000000.000100 / 000000.002100
`;

  test('is read by kind of exchange; its percentiles are those of the slower kind', () => {
    const { lost, lostPercent, p50Ms, p99Ms, kept } = readPerfdhcp(report, 4);
    expect({ lost, lostPercent, p50Ms, p99Ms, kept }).toEqual({ lost: 1, lostPercent: 100 / 7, p50Ms: expect.closeTo(2, 6), p99Ms: expect.closeTo(5, 6), kept: true });
  });

  test('says when perfdhcp itself sent fewer than it was asked for', () => {
    expect(readPerfdhcp(report, 5).kept).toBe(false);
  });

  test('of something else is an error', () => {
    expect(() => readPerfdhcp('Unable to bind', 4)).toThrow('Unable to bind');
  });
});
