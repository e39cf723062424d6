// The targets of the benchmarks of HTTP, TFTP and of the storm are held against measures that exist, and no two rows of a result read alike.
import { describe, expect, test } from 'vitest';
import { MEASURES as BOOT } from '../../bench/boot.ts';
import { MEASURES as HTTP } from '../../bench/http.ts';
import { MEASURES as IMAGE } from '../../bench/image.ts';
import { readTargets, type Measure } from '../../bench/report.ts';
import { MEASURES as STORM } from '../../bench/storm.ts';
import { MEASURES as TFTP } from '../../bench/tftp.ts';
import { parseSettings } from '../../src/config/settings.ts';

const ROOT = new URL('../../', import.meta.url).pathname;

/** Bounds that no number of their text gives. */
const MEANT: Readonly<Record<string, number>> = {
  // Twice the default `http.cacheBytes`, in MB: the cache, and all the rest of the daemon in as much again.
  'http memory': Math.ceil((2 * parseSettings('stateDir: /x', '/x/rackseed.yaml').http.cacheBytes) / 1e6),
  'storm descriptors': 0,
};
/** Every number of the text, and one by it: to be 20 times as quick is a twentieth of the time. */
const boundsIn = (text: string): number[] => [...text.matchAll(/\d[\d,]*(?:\.\d+)?/g)].map(([number]) => Number(number.replaceAll(',', ''))).flatMap((number) => [number, 1 / number]);

describe.each<[string, readonly Measure[], readonly string[]]>([
  ['boot', BOOT, ['best']],
  ['http', HTTP, ['nginx']],
  ['image', IMAGE, []],
  ['storm', STORM, []],
  ['tftp', TFTP, ['atftpd', 'best']],
])('the benchmark %s', (subject, measures, peers) => {
  const targets = readTargets(ROOT, subject);

  test('has targets, each for one of its measures', () => {
    expect(targets.length).toBeGreaterThan(0);
    expect(targets.map(({ measure }) => measure).filter((id) => !measures.some((measure) => measure.id === id))).toEqual([]);
  });

  test('has the bounds that their words have, one for each measure and peer', () => {
    expect(targets.filter(({ measure, text, bound }) => !(`${subject} ${measure}` in MEANT ? MEANT[`${subject} ${measure}`] === bound : boundsIn(text).includes(bound)))).toEqual([]);
    expect(new Set(targets.map(({ measure, against }) => `${measure} ${against}`)).size).toBe(targets.length);
  });

  test('compares with nobody but its peers', () => {
    expect(targets.flatMap(({ against }) => against ?? []).filter((name) => !peers.includes(name))).toEqual([]);
  });

  test('has no two measures of one id or of the same words', () => {
    expect(new Set(measures.map(({ id }) => id)).size).toBe(measures.length);
    expect(new Set(measures.map(({ what, unit }) => `${what} ${unit}`)).size).toBe(measures.length);
  });
});
