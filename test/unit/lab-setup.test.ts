// The bootstrap: which Node it refuses, which packages it wants, and how it counts tests.
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that any Node can parse it
import { nodeComplaint } from '../../src/setup.mjs';
// @ts-expect-error plain JavaScript
import { howToInstall, missingFrom, packagesFor } from '../../src/setup/packages.mjs';
// @ts-expect-error plain JavaScript
import { countResults, readTestArgs } from '../../src/setup/tests.mjs';

const SETUP = new URL('../../src/setup.mjs', import.meta.url).pathname;

function run(argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [...argv], (error, stdout, stderr) => resolve({ code: error ? Number(error.code) : 0, stdout, stderr }));
  });
}

describe('the Node that runs it', () => {
  test.each(['v18.20.4', 'v20.18.3', 'v19.9.0', 'v12.22.12'])('%s is refused in one line that says what is needed', (version) => {
    expect(nodeComplaint(version)).toMatch(/^rackseed: needs Node 20\.19 or newer, this is v[0-9.]+ .*nodejs\.org[^\n]*$/);
  });

  test.each(['v20.19.0', 'v20.20.2', 'v22.0.0', 'v24.1.0'])('%s will do', (version) => {
    expect(nodeComplaint(version)).toBeUndefined();
  });

  test('an old one ends with 69 and nothing on stdout', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'rackseed-setup-'));
    try {
      // What Debian 12's own Node says of itself, preloaded before the bootstrap is read.
      const old = join(dir, 'old.cjs');
      await writeFile(old, "Object.defineProperty(process, 'version', { value: 'v18.20.4' });");
      const { code, stdout, stderr } = await run(['--require', old, SETUP, 'run', 'lab', '--json']);
      expect({ code, stdout, lines: stderr.trim().split('\n').length }).toEqual({ code: 69, stdout: '', lines: 1 });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
});

test('an unknown word ends with 64 and the usage', async () => {
  expect(await run([SETUP, 'frobnicate'])).toMatchObject({ code: 64, stdout: '', stderr: expect.stringContaining('usage: node src/setup.mjs') });
});

describe('Debian packages', () => {
  test('a package counts only when dpkg says installed; removed with its configuration left does not', () => {
    expect(missingFrom(['git', 'ipxe', 'udhcpc'], 'git installed\nipxe config-files\n')).toEqual(['ipxe', 'udhcpc']);
  });

  test('of two that exclude each other either will do, and the first is installed when there is none', () => {
    expect(missingFrom(['busybox-static|busybox'], 'busybox installed\n')).toEqual([]);
    expect(missingFrom(['busybox-static|busybox'], '')).toEqual(['busybox-static']);
  });

  test('the daemon alone needs no virtual machine, the lab does, the tests need peers as well', () => {
    expect(packagesFor('serve', false)).not.toContain('qemu-system-x86');
    expect(packagesFor('lab', false)).toContain('qemu-system-x86');
    expect(packagesFor('test', false)).toEqual(expect.arrayContaining([...packagesFor('lab', false), 'udhcpc', 'tftp-hpa']));
  });

  test('compilers are wanted only while node_modules is missing', () => {
    expect(packagesFor('serve', true)).toContain('g++');
    expect(packagesFor('serve', false)).not.toContain('g++');
  });

  test.each([
    ['CI=true installs', { ci: true, root: true }, 'install'],
    ['--yes installs', { yes: true, terminal: true, root: true }, 'install'],
    ['a terminal is asked', { terminal: true, root: true }, 'ask'],
    ['root without a terminal installs', { root: true }, 'install'],
    ['an ordinary user with sudo is asked', { terminal: true, sudo: true }, 'ask'],
    ['an ordinary user with sudo and no terminal is refused', { sudo: true }, 'refuse'],
    ['an ordinary user without sudo is refused, even in CI', { ci: true }, 'refuse'],
  ])('%s', (_what, given, expected) => {
    expect(howToInstall({ ci: false, yes: false, terminal: false, root: false, sudo: false, ...given })).toBe(expected);
  });
});

describe('npm test', () => {
  test('runs all projects, or those that are named; other words go to vitest', () => {
    expect(readTestArgs([])).toEqual({ projects: ['unit', 'integration', 'e2e'], unknown: [], rest: [] });
    expect(readTestArgs(['--project', 'unit', '-t', 'lab'])).toEqual({ projects: ['unit'], unknown: [], rest: ['-t', 'lab'] });
    expect(readTestArgs(['--project=e2e', '--project=units'])).toEqual({ projects: ['e2e'], unknown: ['units'], rest: [] });
  });

  const file = (status: string, tests: string[]) => ({ status, assertionResults: tests.map((one) => ({ status: one, fullName: `a ${one} test` })) });

  test.each([
    ['all passed', { numPassedTests: 2, numFailedTests: 0, testResults: [file('passed', ['passed', 'passed'])] }, 0, { passed: 2, failed: 0, skipped: [] }],
    ['one failed', { numPassedTests: 1, numFailedTests: 1, testResults: [file('failed', ['passed', 'failed'])] }, 1, { passed: 1, failed: 1, skipped: [] }],
    ['a file that cannot be loaded is a failure', { numPassedTests: 1, numFailedTests: 0, testResults: [file('passed', ['passed']), file('failed', [])] }, 1, { passed: 1, failed: 1, skipped: [] }],
    ['an unhandled rejection is a failure', { numPassedTests: 1, numFailedTests: 0, testResults: [file('passed', ['passed'])] }, 1, { passed: 1, failed: 1, skipped: [] }],
    ['no report is a failure', undefined, 0, { passed: 0, failed: 1, skipped: [] }],
    ['a skip is named', { numPassedTests: 0, numFailedTests: 0, testResults: [file('passed', ['skipped'])] }, 0, { passed: 0, failed: 0, skipped: ['a skipped test'] }],
  ])('%s', (_what, report, exitCode, expected) => {
    expect(countResults(report, exitCode)).toEqual(expected);
  });
});
