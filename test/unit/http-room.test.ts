// Which HTTP connection gives its place when a thread has as many as it may: a table of those that are open and who of them goes.
import { describe, expect, test } from 'vitest';
import { FEW, QUIET_MS, SLOW, whoYields, type Candidate } from '../../src/http/room.ts';

const NOW = 1_000_000;
type One = Candidate & { readonly name: string };
/** Without `quiet` a response is under way. */
const one = (name: string, { quiet, ofPeer = 1, pace }: { readonly quiet?: number; readonly ofPeer?: number; readonly pace?: number } = {}): One =>
  ({ name, ofPeer: () => ofPeer, quietMs: (now) => (quiet === undefined ? undefined : now - (NOW - quiet)), pace: () => pace });
const busy = (count: number) => Array.from({ length: count }, (_, i) => one(`busy ${i}`, { pace: 10 * SLOW }));

describe('a full thread gives up', () => {
  test.each<[string, readonly One[], string | undefined]>([
    ['nothing when nothing is open', [], undefined],
    ['nothing while all take bytes', busy(8), undefined],
    ['nothing while all wait for us', [one('a'), one('b', { ofPeer: 200 })], undefined],
    ['the one that has been quiet the longest', [...busy(4), one('a', { quiet: 900 }), one('b', { quiet: 5000 }), one('c', { quiet: 4000 })], 'b'],
    ['one of the peer that has the most, though others are quiet for longer', [one('alone', { quiet: 9000 }), one('greedy', { quiet: 300, ofPeer: 200 }), one('greedy too', { quiet: 800, ofPeer: 200 })], 'greedy too'],
    ['nothing of a greedy peer that takes bytes', [one('alone', { quiet: 9000 }), one('greedy', { ofPeer: 200, pace: SLOW })], 'alone'],
    ['the longest quiet of those who have few, be it one or four', [one('one', { quiet: 9000 }), one('four', { quiet: 300, ofPeer: FEW })], 'one'],
    ['one of five before one that is alone', [one('one', { quiet: 9000 }), one('five', { quiet: 300, ofPeer: FEW + 1 })], 'five'],
    ['nothing that has just come', [...busy(4), one('new', { quiet: QUIET_MS - 1, ofPeer: 200 })], undefined],
    ['what has been there for a quarter of a second', [...busy(4), one('new', { quiet: QUIET_MS })], 'new'],
    ['the slowest reader when nobody is quiet', [...busy(4), one('slow', { pace: 5000 }), one('slowest', { pace: 0 }), one('slower', { pace: 1000 })], 'slowest'],
    ['no reader that is slow while one is quiet', [one('slow', { pace: 0 }), one('quiet', { quiet: 300 })], 'quiet'],
    ['no reader at 16 KiB/s, and so none at 50', [one('a', { pace: SLOW }), one('b', { pace: 50 * 1024 })], undefined],
    ['what is just below', [...busy(1), one('slow', { pace: SLOW - 1 })], 'slow'],
    ['no slow reader while newcomers fill more than a quarter', [one('slow', { pace: 0 }), ...busy(1), one('new', { quiet: 10 })], undefined],
    ['the slow reader while they fill a quarter', [one('slow', { pace: 0 }), ...busy(2), one('new', { quiet: 10 })], 'slow'],
  ])('%s', (_what, open, name) => {
    expect(whoYields(open, NOW)?.name).toBe(name);
  });
});
