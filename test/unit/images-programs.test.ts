// Programs in the initrd: which libraries come with them, where they lie, and what is said of those that are not there.
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elfNeeds } from '../../src/images/elf.ts';
import { firmwareEntries } from '../../src/images/firmware.ts';
import { programClosure, programEntries, realIn } from '../../src/images/programs.ts';

let dir: string;
let root: string;

/** A root as Debian's: /lib is a link into /usr. Its program is this machine's own `dmsetup`-like thing: made by gcc, with a library of ours in a place of its own. */
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-programs-'));
  root = join(dir, 'root');
  for (const path of ['usr/lib/own', 'usr/bin', 'usr/sbin', 'usr/lib64', 'usr/lib/firmware/bnx2']) mkdirSync(join(root, path), { recursive: true });
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(root, name));
  const c = (name: string, text: string) => (writeFileSync(join(dir, name), text), join(dir, name));
  // libdeep is known to the program only through libown, and found only by libown's own runpath.
  execFileSync('gcc', ['-shared', '-fPIC', '-o', join(root, 'usr/lib/own/libdeep.so.1'), '-Wl,-soname,libdeep.so.1', c('deep.c', 'int deep(void) { return 40; }\n')]);
  execFileSync('gcc', ['-shared', '-fPIC', '-o', join(root, 'usr/lib/own/libown.so.1.2'), '-Wl,-soname,libown.so.1', '-Wl,--enable-new-dtags,-rpath,$ORIGIN', c('own.c', 'int deep(void); int own(void) { return deep() + 2; }\n'), join(root, 'usr/lib/own/libdeep.so.1')]);
  symlinkSync('libown.so.1.2', join(root, 'usr/lib/own/libown.so.1'));
  execFileSync('gcc', ['-o', join(root, 'usr/bin/asks'), '-Wl,-rpath,/usr/lib/own', `-Wl,-rpath-link,${join(root, 'usr/lib/own')}`, c('asks.c', '#include <stdio.h>\nint own(void); int main(void) { printf("%d\\n", own()); return 0; }\n'), join(root, 'usr/lib/own/libown.so.1')]);
  // Not to be moved in memory: its addresses are not its offsets.
  execFileSync('gcc', ['-no-pie', '-o', join(root, 'usr/bin/fixed'), '-Wl,-rpath,/usr/lib/own', `-Wl,-rpath-link,${join(root, 'usr/lib/own')}`, join(dir, 'asks.c'), join(root, 'usr/lib/own/libown.so.1')]);
  execFileSync('gcc', ['-static', '-o', join(root, 'usr/bin/alone'), c('alone.c', 'int main(void) { return 0; }\n')]);
  writeFileSync(join(root, 'usr/sbin/script'), '#!/bin/sh\n');
  symlinkSync('../bin/asks', join(root, 'usr/sbin/asks-too'));
  // The libraries of this machine, at the places of the root.
  const listed = execFileSync('ldd', [join(root, 'usr/bin/asks')], { encoding: 'utf8', env: { ...process.env, LD_LIBRARY_PATH: join(root, 'usr/lib/own') } });
  for (const [, path] of listed.matchAll(/(?:=> |^\s*)(\/\S*(?:libc|ld-linux)\S*) /gm)) {
    const to = join(root, path!.startsWith('/usr') ? path! : `/usr${path!}`);
    mkdirSync(dirname(to), { recursive: true });
    copyFileSync(path!, to);
  }
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('what a program needs', () => {
  test('is read from its header as readelf reads it', () => {
    for (const file of ['usr/bin/asks', 'usr/bin/fixed', 'usr/lib/own/libown.so.1.2', 'usr/bin/alone']) {
      const said = execFileSync('readelf', ['-dlW', join(root, file)], { encoding: 'utf8' });
      const all = (pattern: RegExp) => [...said.matchAll(pattern)].map((match) => match[1]!);
      const needs = elfNeeds(readFileSync(join(root, file)))!;
      expect([needs.interpreter ?? [], needs.needed, needs.runpath].flat()).toEqual([...all(/program interpreter: (.*)\]/g), ...all(/\(NEEDED\).*\[(.*)\]/g), ...all(/\(R(?:UN)?PATH\).*\[(.*)\]/g)]);
    }
    expect(elfNeeds(readFileSync(join(root, 'usr/bin/asks')))!.needed).toContain('libown.so.1');
  });

  test('is nothing for a script, and a file that is cut off is said to be', () => {
    expect(elfNeeds(Buffer.from('#!/bin/sh\n'))).toBeUndefined();
    const whole = readFileSync(join(root, 'usr/lib/own/libown.so.1.2'));
    expect(() => elfNeeds(whole.subarray(0, 900))).toThrow(RangeError);
  });

  test('is found where its loader looks, through links, once each', () => {
    const files = programClosure(root, ['/sbin/asks-too', '/bin/asks', '/bin/alone', '/bin/nothing', '/sbin/script']);
    const paths = files.map(({ path }) => path);
    expect(new Set(paths).size).toBe(paths.length);
    expect(files).toEqual(expect.arrayContaining([
      { path: '/usr/lib/own/libown.so.1', real: '/usr/lib/own/libown.so.1.2' },
      { path: '/usr/lib/own/libdeep.so.1', real: '/usr/lib/own/libdeep.so.1' },
      { path: '/usr/bin/asks', real: '/usr/bin/asks' },
      { path: '/usr/bin/alone', real: '/usr/bin/alone' },
      { path: '/usr/sbin/script', real: '/usr/sbin/script' },
    ]));
    expect(paths.filter((path) => /\/libc\.so\.6$/.test(path))).toHaveLength(1);
    expect(paths.filter((path) => /\/ld-linux[^/]*$/.test(path))).toHaveLength(1);
  });

  test('that the root does not have is named with whoever needs it', () => {
    rmSync(join(root, 'usr/lib/own/libown.so.1'));
    expect(() => programClosure(root, ['/usr/bin/asks'])).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: '/usr/bin/asks needs libown.so.1, which the image does not have' }));
    symlinkSync('libown.so.1.2', join(root, 'usr/lib/own/libown.so.1'));
  });

  test('never comes from outside of the root', () => {
    symlinkSync('/etc/hostname', join(root, 'usr/lib/out'));
    symlinkSync('../../../../../../../../etc/hostname', join(root, 'usr/lib/up'));
    symlinkSync('round', join(root, 'usr/lib/round'));
    expect(['/usr/lib/out', '/usr/lib/up', '/lib/round', '/usr/bin/asks/x'].map((path) => realIn(root, path))).toEqual([undefined, undefined, undefined, undefined]);
    symlinkSync('/usr/bin/asks', join(root, 'usr/sbin/absolute'));
    expect([realIn(root, '/bin/../lib/../../sbin/asks-too'), realIn(root, '/sbin/absolute')]).toEqual(['/usr/bin/asks', '/usr/bin/asks']);
  });
});

describe('in the initrd', () => {
  test('a program runs with nothing but its entries, by its path and by its name', () => {
    const out = join(dir, 'out');
    for (const { path, kind, data, mode } of programEntries(root, ['/usr/bin/asks', '/usr/sbin/nothing'], ['/sbin/asks-too'])) {
      mkdirSync(dirname(join(out, path)), { recursive: true });
      if (kind === 'symlink') symlinkSync(Buffer.from(data!).toString(), join(out, path));
      else {
        writeFileSync(join(out, path), data!);
        chmodSync(join(out, path), mode);
      }
    }
    expect(existsSync(join(out, 'lib64'))).toBe(true);
    for (const path of ['/usr/bin/asks', '/bin/asks', '/bin/asks-too']) {
      const ran = spawnSync('unshare', ['--user', '--map-root-user', 'chroot', out, path], { encoding: 'utf8' });
      expect([ran.stdout, ran.stderr]).toEqual(['42\n', '']);
    }
  });

  test('a program that is required and not there is said by its path', () => {
    expect(() => programEntries(root, [], ['/usr/bin/minisign'])).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: 'the image has no /usr/bin/minisign, which its initrd needs' }));
  });
});

describe('firmware', () => {
  beforeAll(() => {
    for (const name of ['bnx2/a.fw', 'bnx2/b.fw', 'bnx2/deep/c.fw', 'bnx2/dfw', 'tg3_357766.bin']) {
      mkdirSync(dirname(join(root, 'usr/lib/firmware', name)), { recursive: true });
      writeFileSync(join(root, 'usr/lib/firmware', name), name);
    }
    symlinkSync('a.fw', join(root, 'usr/lib/firmware/bnx2/link.fw'));
    symlinkSync('gone.fw', join(root, 'usr/lib/firmware/bnx2/dangling.fw'));
  });

  test.each([
    ['bnx2/*.fw', ['bnx2/a.fw', 'bnx2/b.fw', 'bnx2/link.fw']],
    ['bnx2/[ab].fw', ['bnx2/a.fw', 'bnx2/b.fw']],
    ['bnx2', ['bnx2/a.fw', 'bnx2/b.fw', 'bnx2/deep/c.fw', 'bnx2/dfw', 'bnx2/link.fw']],
    ['**.fw', ['bnx2/a.fw', 'bnx2/b.fw', 'bnx2/deep/c.fw', 'bnx2/link.fw']],
    ['tg3_?57766.bin', ['tg3_357766.bin']],
  ])('%s', (glob, names) => {
    const entries = firmwareEntries(root, [glob]);
    expect(entries.map(({ path }) => path).sort()).toEqual(names.map((name) => `lib/firmware/${name}`));
    for (const entry of entries) expect(Buffer.from(entry.data!).toString()).toBe(entry.path.replace('lib/firmware/', '').replace('link', 'a'));
  });

  test('that matches nothing is an error that names it; a dot is a dot', () => {
    expect(() => firmwareEntries(root, ['bnx2/*.fw', 'tg3_357766xbin'])).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: 'kernel.firmware: the image has no /usr/lib/firmware/tg3_357766xbin' }));
  });
});
