// docs/TESTING.md: the amounts in its table are those that the tests have, and what is named there is there.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ONLY_IN_FULL } from '../vitest.config.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
const TESTING = readFileSync(join(ROOT, 'docs/TESTING.md'), 'utf8');
const TESTS = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.test.ts'));

interface Amount {
  readonly what: string;
  readonly short: string;
  readonly full: string;
  readonly selector: string;
}

/** Those rows of which both sizes are one number, but for the cells of the PXE matrix, which nobody wrote down as a number. */
const amounts: readonly Amount[] = [...TESTING.matchAll(/^\| (.+?) \| ([\d,]+) \| ([\d,]+|the same) \| `--project \w+ ([\w/-]+)` \|$/gm)].map(([, what, short, full, selector]) => ({ what: what!, short: short!, full: full!, selector: selector! })).filter(({ selector }) => selector !== 'pxe-matrix');

/** As vitest selects: the files whose path has these words. */
const selected = (words: string): string[] => TESTS.filter((file) => file.includes(words));
const written = (text: string): string[] => [text, text.replaceAll(',', '_'), text.replaceAll(',', '')];

describe('the table of big amounts', () => {
  it('has those of the fuzzers, and others', () => {
    expect(amounts.map(({ selector }) => selector)).toEqual(expect.arrayContaining(['dhcp-fuzz', 'responder-fuzz', 'socket-fuzz', 'tftp-fuzz', 'tftp-hostile', 'http-hostile', 'http-blobs-replaced']));
  });

  it.each(amounts.filter(({ full }) => full !== 'the same'))('$what: $short, and $full with RACKSEED_FULL=1', ({ short, full, selector }) => {
    const source = selected(selector).map((file) => readFileSync(join(ROOT, 'test', file), 'utf8')).join('\n');
    const either = written(full).flatMap((most) => written(short).map((least) => `? ${most} : ${least}`));
    expect(either.filter((one) => source.includes(one))).not.toEqual([]);
    expect(source).toContain('RACKSEED_FULL');
  });

  it.each(amounts.filter(({ full }) => full === 'the same'))('$what: $short in any case', ({ short, selector }) => {
    const files = selected(selector);
    expect(files).not.toEqual([]);
    const source = files.map((file) => readFileSync(join(ROOT, 'test', file), 'utf8')).join('\n');
    expect(written(short).filter((one) => new RegExp(`(?<![\\d_])${one}(?![\\d_])`).test(source))).not.toEqual([]);
  });
});

it('the files that run with RACKSEED_FULL=1 alone are those that vitest leaves out otherwise', () => {
  const named = [...TESTING.matchAll(/^\| `(test\/e2e\/[\w-]+\.test\.ts)` \|.*`RACKSEED_FULL=1` alone/gm)].map(([, file]) => file!);
  const saying = TESTS.filter((file) => /^.*Only with RACKSEED_FULL=1\./.test(readFileSync(join(ROOT, 'test', file), 'utf8'))).map((file) => join('test', file));
  expect(saying.filter((file) => !ONLY_IN_FULL.includes(file))).toEqual([]);
  expect(named.filter((file) => !ONLY_IN_FULL.includes(file))).toEqual([]);
  expect(ONLY_IN_FULL.filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
});

it('every test that reads a seed reads it by a name of the page', () => {
  const names = new Set(TESTS.flatMap((file) => [...readFileSync(join(ROOT, 'test', file), 'utf8').matchAll(/process\.env(?:\.|\[')(\w*SEED)\b/g)].map(([, name]) => name!)));
  expect([...names].filter((name) => !TESTING.includes(`\`${name}\``))).toEqual([]);
});

it('every file of a test that is named in the page is there', () => {
  const named = [...TESTING.matchAll(/`((?:test\/[\w/-]+\/)?[\w-]+\.test\.ts)`/g)].map(([, file]) => file!);
  expect(named.filter((file) => (file.includes('/') ? !existsSync(join(ROOT, file)) : !TESTS.some((one) => basename(one) === file)))).toEqual([]);
});
