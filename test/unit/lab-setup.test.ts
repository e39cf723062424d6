// The bootstrap: which Node it refuses, which packages it wants and how it gets them, what it builds, and how it counts tests.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isTrueRoot, openDir, removeDir, ROOT, USER_ID } from '../lab-process.ts';
// @ts-expect-error plain JavaScript, so that any Node can parse it
import { nodeComplaint } from '../../src/setup.mjs';
// @ts-expect-error plain JavaScript
import { howToInstall, missingFrom, packagesFor, unpackedFor } from '../../src/setup/packages.mjs';
// @ts-expect-error plain JavaScript
import { npmEnvironment } from '../../src/setup/build.mjs';
// @ts-expect-error plain JavaScript
import { arm64Packages } from '../../src/setup/firmware.mjs';
// @ts-expect-error plain JavaScript
import { mirrorFrom } from '../../src/setup/suites.mjs';
// @ts-expect-error plain JavaScript
import { closing, countResults, readTestArgs } from '../../src/setup/tests.mjs';
// @ts-expect-error plain JavaScript
import { candidatesFrom, librariesOf } from '../../src/setup/unpacked.mjs';

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
    expect(packagesFor('lab', false)).toEqual(expect.arrayContaining(['qemu-system-x86', 'ovmf']));
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

describe('peers that are unpacked', () => {
  test('are installed by no command', () => {
    const names = ['test', 'bench'].flatMap((command) => (unpackedFor(command) as { name: string }[]).map(({ name }) => name));
    expect([...new Set(names)].sort()).toEqual(['atftpd', 'nginx', 'tftpd-hpa']);
    for (const command of ['serve', 'lab', 'test', 'bench']) expect((packagesFor(command, true) as string[]).filter((name) => names.includes(name)), command).toEqual([]);
    expect([unpackedFor('serve'), unpackedFor('lab')]).toEqual([[], []]);
  });

  test("apt's candidate is read of those packages that it knows", () => {
    const policy = 'nginx:\n  Installed: (none)\n  Candidate: 1.22.1-9+deb12u11\n  Version table:\n     1.22.1-9 500\nold:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\na:\n  Installed: (none)\n  Candidate: 2:1~rc1\n';
    expect([...(candidatesFrom(policy) as Map<string, string>)]).toEqual([['nginx', '1.22.1-9+deb12u11'], ['a', '2:1~rc1']]);
  });

  test('of what a package depends on only the libraries count, of alternatives the first', () => {
    expect(librariesOf('debconf (>= 0.5) | debconf-2.0, libc6 (>= 2.34), libwrap0:any (>= 7.6-4~), libssl3t64 | libssl3, adduser\n')).toEqual(['libc6', 'libwrap0', 'libssl3t64']);
    expect(librariesOf('\n')).toEqual([]);
  });

  describe('from a real archive of ours, by real apt', () => {
    const PEER = { name: 'rackseed-peer', program: 'rackseed-peerd' };
    let dir: string;
    let root: string;
    beforeEach(async () => {
      dir = await mkdtemp(join(tmpdir(), 'rackseed-unpack-'));
      root = join(dir, 'checkout');
      await mkdir(join(dir, 'archive'));
      await mkdir(join(dir, 'lists/partial'), { recursive: true });
      await writeFile(join(dir, 'sources.list'), `deb [trusted=yes] file:${dir}/archive ./\n`);
      await writeFile(join(dir, 'apt.conf'), [['Dir::Etc::sourcelist', `${dir}/sources.list`], ['Dir::Etc::sourceparts', '/dev/null'], ['Dir::State::lists', `${dir}/lists`], ['Dir::Cache', `${dir}/cache`]].map(([name, value]) => `${name} "${value}";\n`).join(''));
      await writeFile(join(dir, 'lib.c'), 'int answer(void) { return 42; }');
      await writeFile(join(dir, 'peer.c'), '#include <stdio.h>\n#include <unistd.h>\nint answer(void); int main(int n, char **words) { printf("%d %d %s\\n", answer(), getpid(), n > 1 ? words[1] : ""); return 7; }');
      const lib = join(dir, 'librackseed-test1.so.1');
      for (const words of [['-shared', '-Wl,-soname,librackseed-test1.so.1', '-o', lib, join(dir, 'lib.c')], ['-o', join(dir, 'peerd'), join(dir, 'peer.c'), lib]]) expect((await run(words, {}, 'gcc')).stderr).toBe('');
    });
    afterEach(() => rm(dir, { recursive: true, force: true }));

    /** Puts packages into the archive, in the place of those that were there. */
    async function publish(...packages: { name: string; version: string; depends?: string; file: string; as: string }[]): Promise<void> {
      let index = '';
      const { stdout: architecture } = await run(['--print-architecture'], {}, 'dpkg');
      for (const { name, version, depends, file, as } of packages) {
        const tree = join(dir, `${name}-${version}`);
        const control = `Package: ${name}\nVersion: ${version}\nArchitecture: ${architecture.trim()}\nMaintainer: nobody <nobody@example.org>\n${depends ? `Depends: ${depends}\n` : ''}Description: test\n`;
        await mkdir(join(tree, 'DEBIAN'), { recursive: true });
        await writeFile(join(tree, 'DEBIAN/control'), control);
        await cp(join(dir, file), join(tree, as));
        const deb = join(dir, 'archive', `${name}.deb`);
        expect((await run(['--root-owner-group', '-b', tree, deb], {}, 'dpkg-deb')).stderr).toBe('');
        const bytes = await readFile(deb);
        index += `${control}Filename: ./${name}.deb\nSize: ${bytes.length}\nSHA256: ${createHash('sha256').update(bytes).digest('hex')}\n\n`;
      }
      await writeFile(join(dir, 'archive/Packages'), index);
    }
    const peer = (version: string, depends = 'librackseed-test1 (>= 1), adduser') => ({ name: PEER.name, version, depends, file: 'peerd', as: 'usr/sbin/rackseed-peerd' });
    const library = { name: 'librackseed-test1', version: '1.0', depends: 'libc6', file: 'librackseed-test1.so.1', as: 'usr/lib/test-linux-gnu/librackseed-test1.so.1' };

    /** As the bootstrap calls it, in a process of its own. */
    async function unpack(): Promise<{ path: string[]; missing: { name: string; why: string }[]; stderr: string }> {
      const script = `import { unpackPeers } from ${JSON.stringify(join(ROOT, 'src/setup/unpacked.mjs'))}; process.stdout.write(JSON.stringify(await unpackPeers(${JSON.stringify(root)}, [${JSON.stringify(PEER)}])))`;
      const { stdout, stderr } = await run(['--input-type=module', '-e', script], { APT_CONFIG: join(dir, 'apt.conf'), TMPDIR: dir });
      return { ...(JSON.parse(stdout) as { path: string[]; missing: [] }), stderr };
    }
    const left = () => readdir(join(root, 'node_modules/.cache/rackseed-peers'));

    test('a peer with a library that is not installed runs by its name, by exec, and a second run downloads nothing', async () => {
      await publish(peer('1:2.0-3+x'), library);
      const { path, missing, stderr } = await unpack();
      expect(missing, stderr).toEqual([]);
      const shell = await run(['-c', 'echo $$; exec rackseed-peerd "two words"'], { PATH: `${path.join(':')}:${process.env['PATH']}` }, 'sh');
      const [pid, said] = shell.stdout.trim().split('\n');
      expect([shell.code, said]).toEqual([7, `42 ${pid} two words`]);
      expect(await left()).toEqual(['rackseed-peer_1%3a2.0-3+x']);
      await rm(join(dir, 'archive'), { recursive: true });
      expect(await unpack()).toEqual({ path, missing: [], stderr: '' });
      // Lists of its own are gone again.
      expect((await readdir(dir)).filter((name) => name.startsWith('rackseed-apt-'))).toEqual([]);
    });

    test('one whose library is gone is unpacked again, and a newer one when apt knows of it', async () => {
      await publish(peer('1.0'), library);
      const [first] = (await unpack()).path;
      await rm(join(first!, '../files/usr/lib'), { recursive: true });
      expect((await unpack()).path).toEqual([first]);
      expect(await run([], {}, join(first!, PEER.program))).toMatchObject({ code: 7 });
      await publish(peer('1.1'), library);
      expect((await run(['-qq', 'update'], { APT_CONFIG: join(dir, 'apt.conf') }, 'apt-get')).code).toBe(0);
      expect((await unpack()).path).toEqual([first!.replace('_1.0', '_1.1')]);
      // A newer one that cannot be had: the old one serves on.
      await publish(peer('1.2'), library);
      await run(['-qq', 'update'], { APT_CONFIG: join(dir, 'apt.conf') }, 'apt-get');
      await rm(join(dir, 'archive'), { recursive: true });
      const kept = await unpack();
      expect([kept.path, kept.missing]).toEqual([[first!.replace('_1.0', '_1.1')], []]);
      expect(kept.stderr).toMatch(/version 1\.1 is taken, unpacked earlier/);
    }, 60_000);

    test('one that cannot be had is named with the reason, and leaves nothing behind', async () => {
      await publish(library);
      expect(await unpack()).toMatchObject({ path: [], missing: [{ name: PEER.name, why: expect.stringContaining('Unable to locate package rackseed-peer') as unknown }] });
      await publish(peer('1.0', 'adduser'));
      expect(await unpack()).toMatchObject({ path: [], missing: [{ why: expect.stringMatching(/does not run here: librackseed-test1\.so\.1 => not found/) as unknown }] });
      expect(await left()).toEqual([]);
    });
  });
});

describe('packages of another suite', () => {
  test("come from the machine's own mirror of Debian, not from a third party's repository whose path ends as Debian's does", () => {
    const lines = ['NodeSource https://deb.example.com/debian/', 'Debian file:/srv/debian/', 'Debian http://deb.debian.org/debian-security/', 'Debian Backports https://b.example.com/debian', 'Debian https://mirror.example.org/debian/'];
    expect(mirrorFrom(lines.join('\n'))).toBe('https://mirror.example.org/debian/');
    expect(mirrorFrom(lines.slice(0, 4).join('\n'))).toBeUndefined();
  });

  test("an emulator with libraries is unpacked only where they are the machine's own", () => {
    expect(arm64Packages('NAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\n')).toContain('qemu-system-arm');
    for (const release of ['VERSION_CODENAME=trixie\n', '']) expect(arm64Packages(release)).toEqual(['qemu-efi-aarch64', 'qemu-user-static']);
  });

  test('one that cannot be had is told at the end, and the others are there, of its suite and of the next', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'rackseed-suites-'));
    try {
      await mkdir(join(dir, 'bin'));
      await mkdir(join(dir, 'tree/DEBIAN'), { recursive: true });
      await writeFile(join(dir, 'tree/DEBIAN/control'), 'Package: good\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: test\n');
      await writeFile(join(dir, 'tree/file'), '');
      expect((await run(['--root-owner-group', '-b', join(dir, 'tree'), join(dir, 'deb')], {}, 'dpkg-deb')).stderr).toBe('');
      // In the place of a mirror, which is real where the firmware is tested.
      await writeFile(join(dir, 'bin/apt-get'), `#!/bin/sh\nfor last; do :; done\ncase "$last" in bad) echo "E: no bad" >&2; exit 100;; good) cp "${dir}/deb" good_1_all.deb;; esac\n`, { mode: 0o755 });
      const wanted = [{ suite: 'one', name: 'bad' }, { suite: 'one', name: 'good' }, { suite: 'two', name: 'good' }, { suite: 'two', name: 'bad' }];
      const script = `import { fetchFromSuite } from ${JSON.stringify(join(ROOT, 'src/setup/suites.mjs'))}; await fetchFromSuite(${JSON.stringify(dir)}, ${JSON.stringify(wanted)}).catch((error) => process.stdout.write(error.message))`;
      const { stdout, stderr } = await run(['--input-type=module', '-e', script], { PATH: `${join(dir, 'bin')}:${process.env['PATH']}`, TMPDIR: dir });
      expect(stdout, stderr).toMatch(/^apt-get download bad of one failed .*; apt-get download bad of two failed /);
      expect((await readdir(join(dir, 'node_modules/.cache/rackseed-suites'))).map((name) => name.replace(/_[^_]*$/, '')).sort()).toEqual(['one_good', 'two_good']);
      expect((await readdir(dir)).filter((name) => name.startsWith('rackseed-suite-'))).toEqual([]);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
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
