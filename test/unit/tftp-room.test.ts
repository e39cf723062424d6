// Which TFTP transfer gives its slot when all are taken: a table of what runs and who of them goes.
import { describe, expect, test } from 'vitest';
import { whoYields, type Candidate } from '../../src/tftp/room.ts';

const KIB = 1024;
const one = (name: string, { heard = true, quietMs = 0, ageMs = 10_000, acked = 100 * KIB * KIB } = {}): Candidate & { readonly name: string } =>
  ({ name, heard: () => heard, quietMs: () => quietMs, ageMs: () => ageMs, acked: () => acked });
const fast = (count: number) => Array.from({ length: count }, (_, i) => one(`fast ${i}`));

describe('a full server gives up', () => {
  test.each<[string, readonly (Candidate & { readonly name: string })[], string | undefined]>([
    ['nothing when nothing runs', [], undefined],
    ['nothing while all are fast', fast(8), undefined],
    ['the first that has waited 250 ms for its first ACK', [...fast(4), one('first', { heard: false, quietMs: 250 }), one('second', { heard: false, quietMs: 900 })], 'first'],
    ['one that was never heard before one that is slow', [one('slow', { acked: 8 }), one('unheard', { heard: false, quietMs: 300 })], 'unheard'],
    ['nothing that has waited less', [...fast(4), one('unheard', { heard: false, quietMs: 249 })], undefined],
    ['the slowest in bytes per second, not in bytes', [...fast(4), one('old', { ageMs: 1_000_000, acked: 20_000 * KIB }), one('slow', { ageMs: 5_000, acked: 5 * KIB }), one('less slow', { ageMs: 10_000, acked: 30 * KIB })], 'slow'],
    ['a loader that was held for days, though it has just acknowledged eight bytes', [...fast(4), one('drip', { ageMs: 3 * 86_400_000, quietMs: 0, acked: 100_000 })], 'drip'],
    ['nothing slow that is younger than five seconds', [...fast(4), one('young', { ageMs: 4_999, acked: 8 })], undefined],
    ['nothing at 64 KiB/s', [...fast(4), one('enough', { ageMs: 10_000, acked: 640 * KIB })], undefined],
    ['what is just below', [...fast(4), one('just below', { ageMs: 10_000, acked: 640 * KIB - 1 })], 'just below'],
    ['nothing slow while forged requests fill more than a quarter', [one('slow', { acked: 8 }), ...fast(1), one('forged', { heard: false, quietMs: 10 })], undefined],
    ['the slow one while they fill a quarter', [one('slow', { acked: 8 }), ...fast(2), one('forged', { heard: false, quietMs: 10 })], 'slow'],
  ])('%s', (_what, running, name) => {
    expect(whoYields(running, 5_000)?.name).toBe(name);
  });
});
