// The bootstrap: which Node it refuses, which packages it wants and how it gets them, what it builds, and how it counts tests.
import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isTrueRoot, openDir, removeDir, ROOT, USER_ID } from '../lab-process.ts';
// @ts-expect-error plain JavaScript, so that any Node can parse it
import { nodeComplaint } from '../../src/setup.mjs';
// @ts-expect-error plain JavaScript
import { howToInstall, missingFrom, packagesFor } from '../../src/setup/packages.mjs';
// @ts-expect-error plain JavaScript
import { npmEnvironment } from '../../src/setup/build.mjs';
// @ts-expect-error plain JavaScript
import { closing, countResults, readTestArgs } from '../../src/setup/tests.mjs';

const SETUP = join(ROOT, 'src/setup.mjs');

function run(argv: readonly string[], env: NodeJS.ProcessEnv = {}, program = process.execPath): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(program, [...argv], { env: { ...process.env, ...env } }, (error, stdout, stderr) => resolve({ code: error ? Number(error.code) : 0, stdout, stderr }));
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

test.each([[[]], [['frobnicate']], [['run']], [['--yes']]])('the words %j are refused with 64 and the usage', async (words) => {
  expect(await run([SETUP, ...words])).toMatchObject({ code: 64, stdout: '', stderr: expect.stringContaining('usage: node src/setup.mjs') });
});

test('each npm command of README and TESTING goes through the bootstrap, so that it works in a fresh clone', async () => {
  const { scripts } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  const texts = await Promise.all(['README.md', 'docs/TESTING.md'].map((file) => readFile(join(ROOT, file), 'utf8')));
  const named = new Set([...texts.join().matchAll(/\bnpm (?:(test|start)\b|run (?:--silent )?(\w+))/g)].map(([, own, script]) => own ?? script!));
  expect([...named].sort()).toEqual(expect.arrayContaining(['build', 'lab', 'start', 'test']));
  for (const name of named) expect(scripts[name], name).toMatch(/^exec node src\/setup\.mjs\b/);
});

describe('the environment of npm ci', () => {
  test("has Node's own headers, so that compiling better-sqlite3 downloads nothing", async () => {
    const prefix = await mkdtemp(join(tmpdir(), 'rackseed-prefix-'));
    try {
      const node = join(prefix, 'bin/node');
      expect(npmEnvironment({}, node)).not.toHaveProperty('npm_config_nodedir');
      await mkdir(join(prefix, 'include/node'), { recursive: true });
      await writeFile(join(prefix, 'include/node/node_version.h'), '');
      expect(npmEnvironment({}, node)).toMatchObject({ npm_config_nodedir: prefix });
    } finally {
      await rm(prefix, { recursive: true, force: true });
    }
  });

  test('finds the Node that runs us first, and leaves out what belongs to the npm script around us', () => {
    const env = npmEnvironment({ PATH: '/usr/bin', HOME: '/root', npm_config_json: 'true', npm_config_yes: 'true' }, '/opt/node/bin/node');
    expect(env).toEqual({ PATH: '/opt/node/bin:/usr/bin', HOME: '/root', npm_config_update_notifier: 'false' });
  });
});

describe('a checkout on a machine of an ordinary user', () => {
  let dir: string;
  let root: string;

  // Ours come first on PATH: nothing of this can install anything.
  beforeEach(async () => {
    dir = openDir();
    root = join(dir, 'checkout');
    await mkdir(join(dir, 'bin'));
    await cp(join(ROOT, 'src/setup'), join(root, 'src/setup'), { recursive: true });
    await cp(SETUP, join(root, 'src/setup.mjs'));
    await writeFile(join(root, 'package-lock.json'), '{}');
    await writeFile(join(root, 'tsconfig.json'), '{}');
    await writeFile(join(dir, 'calls'), '');
    await chmod(join(dir, 'calls'), 0o666);
  });
  afterEach(() => removeDir(dir));

  async function program(name: string, does: string): Promise<void> {
    await writeFile(join(dir, 'bin', name), `#!/bin/sh\n${does}\n`, { mode: 0o755 });
  }

  const told = (name: string) => `echo "${name} $*" >> "${join(dir, 'calls')}"`;

  async function setup(words: readonly string[], env: NodeJS.ProcessEnv) {
    const become = isTrueRoot() ? ['--reuid', String(USER_ID), '--regid', String(USER_ID), '--clear-groups', '--'] : ['--'];
    const ran = await run([...become, process.execPath, join(root, 'src/setup.mjs'), ...words], { CI: '', ...env, PATH: `${join(dir, 'bin')}:${process.env['PATH']}` }, 'setpriv');
    return { ...ran, calls: (await readFile(join(dir, 'calls'), 'utf8')).trimEnd().split('\n') };
  }

  /** What `npm ci` would have left, with a compiler that leaves its word. */
  async function installed(): Promise<void> {
    await mkdir(join(root, 'node_modules/typescript/bin'), { recursive: true });
    await writeFile(join(root, 'node_modules/typescript/bin/tsc'), `#!/usr/bin/env node\nrequire('node:fs').appendFileSync(${JSON.stringify(join(dir, 'calls'))}, 'tsc\\n');`);
    await writeFile(join(root, 'node_modules/.package-lock.json'), '{}');
    await mkdir(join(root, 'dist'));
    if (isTrueRoot()) await run(['-R', String(USER_ID), root], {}, 'chown');
  }

  test.each([[''], ['true']])('without sudo it ends with 69 and the apt line, and installs nothing (CI=%s)', async (ci) => {
    await program('dpkg-query', 'echo "git installed"; echo "python3 installed"; exit 1');
    await program('sudo', `${told('sudo')}; exit 1`);
    const { code, stdout, stderr, calls } = await setup(['run', 'lab'], { CI: ci });
    expect({ code, stdout, calls }).toEqual({ code: 69, stdout: '', calls: ['sudo -n true'] });
    const line = /^ {2}sudo apt-get install --no-install-recommends (.*)$/m.exec(stderr)?.[1]?.split(' ');
    expect(line).toEqual(expect.arrayContaining(['g++', 'qemu-system-x86', 'uidmap']));
    expect(line).not.toContain('git');
  });

  test('npm run build wants no virtual machine, but a compiler while node_modules is missing', async () => {
    await program('dpkg-query', 'exit 1');
    await program('sudo', `${told('sudo')}; exit 1`);
    const { code, stderr } = await setup(['build'], {});
    expect(code).toBe(69);
    expect(stderr).toContain('build needs Debian packages');
    expect(stderr).toContain('g++');
    expect(stderr).not.toContain('qemu');
  });

  test('with sudo, CI installs what is missing without a question, then builds', async () => {
    await program('dpkg-query', 'echo "git installed"; echo "ipxe installed"; exit 1');
    await program('sudo', told('sudo'));
    await installed();
    const { code, stderr, calls } = await setup(['build'], { CI: 'true' });
    expect(code, stderr).toBe(0);
    expect(calls).toEqual([
      'sudo -n true',
      'sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -qq update',
      'sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends -o Dpkg::Use-Pty=0 ca-certificates',
      'tsc',
    ]);
  });

  test('npm run build compiles each time it is asked, npm start only when a source changed', async () => {
    await program('dpkg-query', 'for name in ca-certificates git ipxe; do echo "$name installed"; done');
    await installed();
    for (const times of [1, 2]) expect(await setup(['build'], {})).toMatchObject({ code: 0, stdout: '', calls: Array(times).fill('tsc') });
    expect((await setup(['run', 'serve'], {})).calls).toEqual(['tsc', 'tsc']);
    expect((await setup(['typecheck'], {})).calls).toEqual(['tsc', 'tsc', 'tsc']);
    // Somebody ran npm by hand: the lock and then npm's copy of it are younger than our stamp, and npm ci would only undo it.
    for (const file of ['package-lock.json', 'node_modules/.package-lock.json']) await writeFile(join(root, file), '{ }');
    const again = await setup(['build'], {});
    expect(again.code, again.stderr).toBe(0);
    expect(again.stderr).not.toContain('npm ci');
  });
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

  const skipped = [{ name: 'a > b', note: 'no tun device' }, { name: 'c' }];

  test.each([
    ['all passed', { passed: 2, failed: 0, skipped: [] }, 0, { passed: 2, failed: 0, skipped: [] }],
    ['one failed', { passed: 1, failed: 1, skipped: [] }, 1, { passed: 1, failed: 1, skipped: [] }],
    ['an unhandled rejection is a failure', { passed: 1, failed: 0, skipped: [] }, 1, { passed: 1, failed: 1, skipped: [] }],
    ['no report is a failure', undefined, 0, { passed: 0, failed: 1, skipped: [] }],
    ['a skip is named with its reason', { passed: 0, failed: 0, skipped }, 0, { passed: 0, failed: 0, skipped: ['a > b: no tun device', 'c: no reason given'] }],
  ])('%s', (_what, report, exitCode, expected) => {
    expect(countResults(report, exitCode)).toEqual(expected);
  });

  const skips = ['unit: a: no tun device', 'the whole project e2e: no namespaces'];

  test.each([
    ['all passed', { passed: 3 }, { notes: [], line: '3 passed, 0 failed', exit: 0 }],
    ['a failure', { passed: 3, failed: 2 }, { notes: [], line: '3 passed, 2 failed', exit: 1 }],
    ['a skip is said, and no failure', { passed: 3, skips }, { notes: skips.map((skip) => `SKIPPED ${skip}`), line: '3 passed, 0 failed', exit: 0 }],
    ['in CI each skip is a failure', { passed: 3, failed: 1, skips, ci: true }, { notes: [...skips.map((skip) => `SKIPPED ${skip}`), 'rackseed: CI=true: a skip is a failure (2)'], line: '3 passed, 3 failed', exit: 1 }],
    ['CI without skips', { passed: 3, ci: true }, { notes: [], line: '3 passed, 0 failed', exit: 0 }],
    ['a run that was stopped is none that passed', { passed: 3, stopped: 'SIGINT' }, { notes: ['rackseed: stopped by SIGINT: a failure'], line: '3 passed, 1 failed', exit: 1 }],
  ])('closing: %s', (_what, given, expected) => {
    expect(closing({ failed: 0, skips: [], ci: false, stopped: undefined, ...given })).toEqual(expected);
  });

  test('the report has what vitest says: a note of context.skip, a file that cannot be loaded, hooks that fail', async () => {
    const dir = join(ROOT, 'node_modules', `.rackseed-report-${process.pid}`);
    try {
      await mkdir(dir);
      await writeFile(join(dir, 'a.test.js'), `import { describe, test } from 'vitest';
        test('good', () => {});
        test('bad', () => { throw new Error('x'); });
        describe('group', () => test('needs root', (context) => context.skip('only root can mount a disk')));
        test.todo('later');`);
      await writeFile(join(dir, 'b.test.js'), "import './not-there.js';");
      await writeFile(join(dir, 'c.test.js'), "import { beforeAll, test } from 'vitest'; beforeAll(() => { throw new Error('x'); }); test('never', () => {});");
      await writeFile(join(dir, 'vitest.config.mjs'), "export default { root: import.meta.dirname, test: { include: ['*.test.js'], pool: 'threads' } };");
      const { code } = await run([join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', '-c', join(dir, 'vitest.config.mjs'), `--reporter=${join(ROOT, 'src/setup/report.mjs')}`], { RACKSEED_TEST_REPORT: join(dir, 'report.json') });
      const report = JSON.parse(await readFile(join(dir, 'report.json'), 'utf8')) as { passed: number; failed: number; skipped: { name: string; note?: string }[] };
      expect({ code, passed: report.passed, failed: report.failed }).toEqual({ code: 1, passed: 1, failed: 3 });
      expect(report.skipped).toContainEqual({ name: 'group > needs root', note: 'only root can mount a disk' });
      expect(report.skipped).toContainEqual({ name: 'later', note: 'still to be written' });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
});
