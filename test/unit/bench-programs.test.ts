// The C programs of the benchmarks compile as bench/site.ts compiles them, without a warning: else a figure may be a bug's.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compilerArgv } from '../../bench/site.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
const PROGRAMS = readdirSync(join(ROOT, 'bench')).filter((file) => file.endsWith('.c')).map((file) => basename(file, '.c'));

let dir: string;
beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-bench-programs-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The compiler's exit code and all that it said of bench/<name>.c, with warnings as errors. */
function compiled(name: string): { readonly status: number | null; readonly said: string } {
  const [cc, ...args] = compilerArgv(ROOT, name, join(dir, name), '-Wall', '-Wextra', '-Werror');
  const { status, stdout, stderr, error } = spawnSync(cc, args, { encoding: 'utf8' });
  return { status, said: error ? `${cc}, of Debian's package gcc: ${error.message}` : stdout + stderr };
}

test('those that the benchmarks name are there', () => {
  expect(PROGRAMS).toEqual(expect.arrayContaining(['echo', 'generator', 'http-client', 'storm', 'tftp-blaster', 'tftp-client', 'udp-delay']));
});

test.each(PROGRAMS)('%s.c compiles without a warning', { timeout: 60_000 }, (name) => {
  expect(compiled(name)).toEqual({ status: 0, said: '' });
});
