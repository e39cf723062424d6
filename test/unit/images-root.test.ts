// What is put into an image's root, and what of the builder's own machine must stay out of reach; the reason found in a failed build's log.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { inputDigest } from '../../src/images/inputs.ts';
import { checkKernel, dpkgExcludes, findKernel, finishScript, installedPackages, placeFiles, placeTree, reasonIn } from '../../src/images/rootfs.ts';
import { parseImageSpec, type ImageSpec } from '../../src/images/spec.ts';

const MINIMAL = 'base: { debian: trixie }\nkernel: { package: linux-image-cloud-amd64 }\n';

let dir: string;
let root: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-root-'));
  root = join(dir, 'root');
  for (const path of ['etc', 'usr/bin', 'usr/lib', 'boot']) mkdirSync(join(root, path), { recursive: true });
  for (const name of ['bin', 'lib']) symlinkSync(`usr/${name}`, join(root, name));
});
afterEach(() => rmSync(dir, { recursive: true }));

const spec = (more = ''): ImageSpec => parseImageSpec(MINIMAL + more, 'image.yaml', dir);

describe('files', () => {
  test('come with contents, from beside image.yaml, or as links, with their modes', () => {
    writeFileSync(join(dir, 'motd'), 'hello\n');
    placeFiles(spec('files:\n  - { path: /etc/a/b, contents: x, mode: "0600" }\n  - { path: /etc/motd, source: motd }\n  - { path: /lib/c, symlink: /dev/null }\n'), root, dir);
    expect(readFileSync(join(root, 'etc/a/b'), 'utf8')).toBe('x');
    expect(lstatSync(join(root, 'etc/a/b')).mode & 0o7777).toBe(0o600);
    expect(readFileSync(join(root, 'etc/motd'), 'utf8')).toBe('hello\n');
    expect(readlinkSync(join(root, 'usr/lib/c'))).toBe('/dev/null');
  });

  test('replace a link instead of writing to what it points at', () => {
    writeFileSync(join(dir, 'victim'), 'mine');
    symlinkSync(join(dir, 'victim'), join(root, 'etc/resolv.conf'));
    placeFiles(spec('files:\n  - { path: /etc/resolv.conf, contents: theirs }\n'), root, dir);
    expect(readFileSync(join(dir, 'victim'), 'utf8')).toBe('mine');
    expect(readFileSync(join(root, 'etc/resolv.conf'), 'utf8')).toBe('theirs');
  });

  test('never leave the root through a linked directory', () => {
    mkdirSync(join(dir, 'outside'));
    symlinkSync(join(dir, 'outside'), join(root, 'etc/link'));
    expect(() => placeFiles(spec('files:\n  - { path: /etc/link/x, contents: x }\n'), root, dir)).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED' }));
    expect(existsSync(join(dir, 'outside/x'))).toBe(false);
  });

  test('of a tree keep their executable bit and nothing else of their mode', () => {
    const tree = join(dir, 'tree');
    mkdirSync(join(tree, 'usr/lib/rackseed'), { recursive: true });
    writeFileSync(join(tree, 'usr/lib/rackseed/agent'), '#!/bin/sh\n');
    chmodSync(join(tree, 'usr/lib/rackseed/agent'), 0o775);
    writeFileSync(join(tree, 'usr/lib/rackseed/text'), '');
    chmodSync(join(tree, 'usr/lib/rackseed/text'), 0o600);
    placeTree(tree, root);
    expect(lstatSync(join(root, 'usr/lib/rackseed/agent')).mode & 0o7777).toBe(0o755);
    expect(lstatSync(join(root, 'usr/lib/rackseed/text')).mode & 0o7777).toBe(0o644);
  });
});

describe('the finishing script', () => {
  test('is valid shell, with users before owners before services', () => {
    const script = finishScript(spec('users:\n  - { name: etcd, uid: 901 }\nfiles:\n  - { path: /x, contents: a, owner: etcd }\nservices: { enable: [a.service], mask: [b.timer] }\nexclude: ["/usr/share/man/*"]\n'));
    execFileSync('sh', ['-n'], { input: script });
    const order = ['groupadd', 'useradd', 'chown', 'mask', 'enable', '-delete'].map((word) => script.indexOf(word));
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(order[0]).toBeGreaterThan(0);
  });

  test('takes excluded files away, and a machine\'s identity, and keeps copyrights and the kernel\'s configuration', () => {
    const files = ['usr/share/man/de/man1/ls.1', 'usr/share/doc/git/copyright', 'usr/share/doc/git/README', 'etc/machine-id', 'etc/hostname', 'boot/config-6.1', 'boot/vmlinuz-6.1', 'boot/initrd.img-6.1', 'var/log/apt/term.log', 'dev/null', 'run/lock/x', 'proc/x', 'tmp/x', 'var/cache/debconf/config.dat', 'var/lib/apt/lists/x', 'var/tmp/x', 'var/lib/systemd/random-seed', 'sys/x'];
    for (const file of files) {
      mkdirSync(join(root, file, '..'), { recursive: true });
      writeFileSync(join(root, file), 'x');
    }
    execFileSync('sh', ['-s', root], { input: finishScript(spec('exclude: ["/usr/share/man/*", "/usr/share/doc/*"]\n')) });
    const left = execFileSync('find', ['.', '-type', 'f', '-printf', '%P %s\\n'], { cwd: root, encoding: 'utf8' }).trim().split('\n').sort();
    expect(left).toEqual(['boot/config-6.1 1', 'etc/machine-id 0', 'usr/share/doc/git/copyright 1']);
    for (const empty of ['dev', 'proc', 'run', 'sys', 'tmp']) expect(execFileSync('ls', ['-A', join(root, empty)], { encoding: 'utf8' }), empty).toBe('');
    expect(existsSync(join(root, 'usr/share/man/de'))).toBe(false);
    expect(existsSync(join(root, 'var/log/apt'))).toBe(true);
  });

  test('dpkg learns the same, and that copyrights stay', () => {
    expect(dpkgExcludes(spec('exclude: ["/usr/share/doc/*"]\n'))).toBe('path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n');
  });
});

describe('the root', () => {
  test('has exactly one kernel', () => {
    expect(() => findKernel(root)).toThrow(/\/boot has 0 kernels/);
    writeFileSync(join(root, 'boot/vmlinuz-6.1'), '');
    expect(findKernel(root)).toEqual({ version: '6.1', image: join(root, 'boot/vmlinuz-6.1'), modules: join(root, 'usr/lib/modules/6.1') });
    writeFileSync(join(root, 'boot/vmlinuz-6.2'), '');
    expect(() => findKernel(root)).toThrow(/\/boot has 2 kernels/);
  });

  test.each([
    ['an EFI program for arm64', 0xaa64, undefined],
    ['an EFI program for amd64', 0x8664, /the kernel 6\.1 is for efi-amd64/],
    ['packed by gzip', undefined, /the kernel 6\.1 is no EFI program/],
  ])('has a kernel that arm64 machines can start: %s', (_what, machine, fault) => {
    const bytes = Buffer.alloc(128);
    if (machine === undefined) bytes.set([0x1f, 0x8b]);
    else {
      bytes.write('MZ');
      bytes.writeUInt32LE(0x40, 0x3c);
      bytes.write('PE\0\0', 0x40);
      bytes.writeUInt16LE(machine, 0x44);
    }
    writeFileSync(join(root, 'boot/vmlinuz-6.1'), bytes);
    const check = () => checkKernel('arm64', findKernel(root));
    if (fault) expect(check).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(fault) as string }));
    else expect(check).not.toThrow();
    expect(() => checkKernel('amd64', findKernel(root))).not.toThrow();
  });

  test('lists its installed packages, not those that were removed', () => {
    mkdirSync(join(root, 'var/lib/dpkg'), { recursive: true });
    writeFileSync(join(root, 'var/lib/dpkg/status'), 'Package: git\nStatus: install ok installed\nVersion: 1:2.47\n\nPackage: bash\nStatus: install ok installed\nVersion: 5.2\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n');
    expect(installedPackages(root)).toEqual(['bash 5.2', 'git 1:2.47']);
  });
});

describe('the input digest', () => {
  test('is moved by what goes into the image, and by nothing else', () => {
    const common = join(dir, 'common');
    mkdirSync(join(common, 'initrd'), { recursive: true });
    writeFileSync(join(common, 'initrd/init'), 'a');
    writeFileSync(join(dir, 'motd'), 'a');
    const one = spec('files:\n  - { path: /etc/motd, source: motd }\n');
    const before = inputDigest(one, dir, common);
    utimesSync(join(common, 'initrd/init'), 1, 1);
    chmodSync(join(common, 'initrd/init'), 0o600);
    expect(inputDigest(spec('# a comment\nfiles: [{ source: motd, path: /etc/motd }]\n'), dir, common)).toBe(before);
    const moved = [
      () => writeFileSync(join(dir, 'motd'), 'b'),
      () => chmodSync(join(common, 'initrd/init'), 0o755),
      () => writeFileSync(join(common, 'initrd/more'), ''),
      () => mkdirSync(join(common, 'root')),
      () => writeFileSync(join(common, 'root/file'), ''),
    ].map((change) => (change(), inputDigest(one, dir, common)));
    // An empty directory is no content.
    expect(moved[3]).toBe(moved[2]);
    expect(new Set([before, ...moved]).size).toBe(moved.length);
    expect(inputDigest(spec('packages: [git]\n'), dir, common)).not.toBe(inputDigest(spec(), dir, common));
  });
});

describe('the reason of a failed build', () => {
  test.each([
    ['an unknown package', 'I: running apt-get update...\nI: downloading packages with apt...\nE: Unable to locate package nosuch\nE: apt-get --yes -oDpkg::Pre-Install-Pkgs::=cat install failed: process exited with 100\nE: setup failed: E: apt-get failed\n', 'Unable to locate package nosuch'],
    ['a mirror that does not answer', 'Err:1 http://127.0.0.1:9/debian trixie InRelease\n  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)\nE: Some index files failed to download\n', '1 http://127.0.0.1:9/debian trixie InRelease'],
    ['no namespaces', '# unshare\nunshare: unshare failed: Operation not permitted\n', 'unshare: unshare failed: Operation not permitted'],
    ['nothing at all', '\n# mmdebstrap --x\n', 'it said nothing'],
  ])('%s', (_name, log, reason) => {
    expect(reasonIn(log)).toContain(reason);
  });
});
