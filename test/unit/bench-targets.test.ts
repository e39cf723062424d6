// The targets of the benchmarks of HTTP, TFTP and of the storm are held against measures that exist, and no two rows of a result read alike.
import { describe, expect, test } from 'vitest';
import { MEASURES as HTTP } from '../../bench/http.ts';
import { readTargets, type Measure } from '../../bench/report.ts';
import { MEASURES as STORM } from '../../bench/storm.ts';
import { MEASURES as TFTP } from '../../bench/tftp.ts';

const ROOT = new URL('../../', import.meta.url).pathname;

describe.each<[string, readonly Measure[], readonly string[]]>([
  ['http', HTTP, ['nginx']],
  ['storm', STORM, []],
  ['tftp', TFTP, ['atftpd', 'best']],
])('the benchmark %s', (subject, measures, peers) => {
  const targets = readTargets(ROOT, subject);

  test('has targets, each for one of its measures', () => {
    expect(targets.length).toBeGreaterThan(0);
    expect(targets.map(({ measure }) => measure).filter((id) => !measures.some((measure) => measure.id === id))).toEqual([]);
  });

  test('compares with nobody but its peers', () => {
    expect(targets.flatMap(({ against }) => against ?? []).filter((name) => !peers.includes(name))).toEqual([]);
  });

  test('has no two measures of one id or of the same words', () => {
    expect(new Set(measures.map(({ id }) => id)).size).toBe(measures.length);
    expect(new Set(measures.map(({ what, unit }) => `${what} ${unit}`)).size).toBe(measures.length);
  });
});
