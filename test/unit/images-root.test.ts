// What is put into an image's root, and what of the builder's own machine must stay out of reach; the reason found in a failed build's log.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { dpkgExcludes, reasonIn } from '../../src/images/base-debian.ts';
import { finishScript } from '../../src/images/finish.ts';
import { placeGenerated } from '../../src/images/generated.ts';
import { inputDigest } from '../../src/images/inputs.ts';
import { checkKernel, findBusybox, findKernel, installedPackages, placeFiles, placeTree } from '../../src/images/rootfs.ts';
import { forArch, parseImageSpec, type ArchSpec } from '../../src/images/spec.ts';

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

const spec = (more = ''): ArchSpec => forArch(parseImageSpec(MINIMAL + more, 'image.yaml', dir));

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
    const order = ['in_root groupadd', 'in_root useradd', 'chown', ' mask ', ' enable ', '-delete'].map((word) => script.indexOf(word));
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

  test("moves what belongs to the image out of /var, and leaves links in its place", () => {
    for (const file of ['var/lib/dpkg/status', 'var/lib/apt/extended_states', 'var/lib/pam/seen', 'var/lib/systemd/deb-systemd-helper-enabled/a', 'var/lib/dhcp/leases', 'var/cache/man/x', 'var/lib/shells.state']) {
      mkdirSync(join(root, file, '..'), { recursive: true });
      writeFileSync(join(root, file), 'Package: git\nStatus: install ok installed\nVersion: 1\n');
    }
    const script = finishScript(spec());
    // A second run, as in a base that was an image already, has nothing to move.
    for (const _run of [1, 2]) execFileSync('sh', ['-s', root], { input: script });
    expect(readlinkSync(join(root, 'var/lib/dpkg'))).toBe('../../usr/lib/rackseed/var/lib/dpkg');
    expect(readlinkSync(join(root, 'var/lib/systemd/deb-systemd-helper-enabled'))).toBe('../../../usr/lib/rackseed/var/lib/systemd/deb-systemd-helper-enabled');
    for (const file of ['var/lib/dpkg/status', 'var/lib/apt/extended_states', 'var/lib/shells.state', 'var/lib/systemd/deb-systemd-helper-enabled/a']) expect(readFileSync(join(root, file), 'utf8'), file).not.toBe('');
    expect(installedPackages(root)).toEqual(['git 1']);
    expect(lstatSync(join(root, 'var/lib/dhcp')).isDirectory()).toBe(true);
    expect(execFileSync('find', ['var', '-type', 'f'], { cwd: root, encoding: 'utf8' }).trim()).toBe('var/lib/dhcp/leases');
  });

  test('makes the directories that the initrd stage mounts on', () => {
    execFileSync('sh', ['-s', root], { input: finishScript(spec('layout: { persist: [/var, /data/deep] }\n')) });
    for (const path of ['usr', 'var', 'data/deep', 'config']) expect(lstatSync(join(root, path)).isDirectory(), path).toBe(true);
    symlinkSync('/etc', join(root, 'opt'));
    expect(() => execFileSync('sh', ['-s', root], { input: finishScript(spec()), stdio: 'pipe' })).toThrow(expect.objectContaining({ stdout: Buffer.from('layout: /opt is a link in this image, and must be a directory\n') }));
  });

  test("never leaves the root through a link of a base that is somebody else's", () => {
    mkdirSync(join(dir, 'host/cache'), { recursive: true });
    writeFileSync(join(dir, 'host/cache/precious'), '');
    writeFileSync(join(dir, 'host/machine-id'), 'mine');
    symlinkSync(join(dir, 'host/machine-id'), join(root, 'etc/machine-id'));
    symlinkSync(join(dir, 'host'), join(root, 'var'));
    expect(() => execFileSync('sh', ['-s', root], { input: finishScript(spec()), stdio: 'pipe' })).toThrow(expect.objectContaining({ stdout: Buffer.from('/var is a link in this image, and must be a directory\n') }));
    rmSync(join(root, 'var'));
    execFileSync('sh', ['-s', root], { input: finishScript(spec()) });
    expect([existsSync(join(dir, 'host/cache/precious')), readFileSync(join(dir, 'host/machine-id'), 'utf8')]).toEqual([true, 'mine']);
    expect(readFileSync(join(root, 'etc/machine-id'), 'utf8')).toBe('');
  });

  test.each([
    ['users', 'users: [{ name: a, uid: 901 }]\n', 'users: the image has neither useradd nor adduser'],
    ['units of systemd', 'services: [ssh.service]\n', 'services: ssh.service: the image has no systemctl'],
  ])('says what a base lacks for %s', (_what, yaml, message) => {
    expect(() => execFileSync('sh', ['-s', root], { input: finishScript(spec(yaml)), stdio: 'pipe' })).toThrow(expect.objectContaining({ stdout: Buffer.from(`${message}\n`) }));
  });

  test('dpkg learns the same, and that copyrights stay', () => {
    expect(dpkgExcludes(spec('exclude: ["/usr/share/doc/*"]\n'))).toBe('path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n');
  });
});

describe('what the builder writes', () => {
  beforeEach(() => mkdirSync(join(root, 'usr/lib/systemd/system'), { recursive: true }));

  test('tells the initrd stage which paths are read-only, which persist, and where the configuration goes', () => {
    placeGenerated(spec('layout: { persist: [/var, /srv] }\n'), root);
    expect(readFileSync(join(root, 'etc/rackseed/layout'), 'utf8')).toBe('readonly /usr\npersist /var\npersist /srv\nconfig /config\n');
  });

  test("are the image's own units", () => {
    writeFileSync(join(dir, 'b'), 'from a file');
    placeGenerated(spec('services: [{ name: a.service, contents: text }, { name: b.service, source: b }]\n'), root);
    expect([readFileSync(join(root, 'usr/lib/systemd/system/a.service'), 'utf8'), readFileSync(join(root, 'usr/lib/systemd/system/b.service'), 'utf8')]).toEqual(['text', 'from a file']);
  });

  test('are onboot steps, each after the one before, all before services', () => {
    writeFileSync(join(dir, 'two'), '#!/usr/bin/python3\n');
    const yaml = 'onboot: [{ name: one, run: "echo 1" }, { name: two, source: two }]\n';
    expect(() => placeGenerated(spec(yaml), root)).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(/^onboot: the image has no systemd/) as string }));
    writeFileSync(join(root, 'usr/lib/systemd/systemd'), '');
    placeGenerated(spec(yaml), root);
    const script = (name: string) => readFileSync(join(root, 'usr/lib/rackseed/onboot', name), 'utf8');
    expect([script('one'), script('two')]).toEqual(['#!/bin/sh\nset -eu\necho 1\n', '#!/usr/bin/python3\n']);
    expect(lstatSync(join(root, 'usr/lib/rackseed/onboot/one')).mode & 0o777).toBe(0o755);
    const units = join(root, 'usr/lib/systemd/system');
    const unit = readFileSync(join(units, 'rackseed-onboot-two.service'), 'utf8');
    expect(unit).toMatch(/^Requires=rackseed-onboot-one\.service$/m);
    expect(unit).toMatch(/^After=local-fs\.target .* rackseed-onboot-one\.service$/m);
    // Services require it, and basic.target they only come after.
    expect(unit).toMatch(/^Before=sysinit\.target /m);
    expect(readFileSync(join(units, 'sysinit.target.requires/rackseed-onboot-two.service'), 'utf8')).toBe(unit);
  });
});

describe('the root', () => {
  test('has exactly one kernel', () => {
    expect(() => findKernel(root)).toThrow(/\/boot has 0 kernels/);
    writeFileSync(join(root, 'boot/vmlinuz-6.1'), '');
    expect(() => findKernel(root)).toThrow(/vmlinuz-6\.1 has no modules: \/lib\/modules has nothing/);
    mkdirSync(join(root, 'usr/lib/modules/6.1'), { recursive: true });
    expect(findKernel(root)).toEqual({ version: '6.1', image: join(root, 'boot/vmlinuz-6.1'), modules: join(root, 'usr/lib/modules/6.1') });
    writeFileSync(join(root, 'boot/vmlinuz-6.2'), '');
    expect(() => findKernel(root)).toThrow(/\/boot has 2 kernels/);
  });

  test("has the modules of a kernel that is called after its flavor, as Alpine's", () => {
    writeFileSync(join(root, 'boot/vmlinuz-virt'), '');
    mkdirSync(join(root, 'usr/lib/modules/6.12.31-0-virt'), { recursive: true });
    expect(findKernel(root)).toMatchObject({ version: '6.12.31-0-virt', modules: join(root, 'usr/lib/modules/6.12.31-0-virt') });
    mkdirSync(join(root, 'usr/lib/modules/other'));
    expect(() => findKernel(root)).toThrow(/vmlinuz-virt has no modules: \/lib\/modules has 6\.12\.31-0-virt, other/);
  });

  test("never gives a file of the builder's machine away as its kernel", () => {
    writeFileSync(join(dir, 'secret'), 'secret');
    mkdirSync(join(root, 'usr/lib/modules/6.1'), { recursive: true });
    symlinkSync(join(dir, 'secret'), join(root, 'boot/vmlinuz-6.1'));
    expect(() => findKernel(root)).toThrow(/\/boot has 1 kernels/);
    // Where the link leads inside of the root is taken.
    mkdirSync(join(root, dir), { recursive: true });
    writeFileSync(join(root, dir, 'secret'), 'own');
    expect(readFileSync(findKernel(root).image, 'utf8')).toBe('own');
  });

  test('needs a static busybox, its own or that of this machine', () => {
    const elf = (dynamic: boolean): Buffer => {
      const bytes = Buffer.alloc(64 + 56);
      bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
      bytes.writeBigUInt64LE(64n, 32);
      bytes.writeUInt16LE(56, 54);
      bytes.writeUInt16LE(1, 56);
      bytes.writeUInt32LE(dynamic ? 3 : 1, 64);
      return bytes;
    };
    const own = join(dir, 'busybox');
    expect(() => findBusybox(root, 'amd64', own)).toThrow(/no static busybox.*: it has none/);
    writeFileSync(join(root, 'usr/bin/busybox'), elf(true));
    expect(() => findBusybox(root, 'amd64', own)).toThrow(/its \/usr\/bin\/busybox needs shared libraries/);
    writeFileSync(own, elf(false));
    const here = process.arch === 'arm64' ? 'arm64' : 'amd64';
    expect(findBusybox(root, here, own)).toBe(own);
    expect(() => findBusybox(root, here === 'amd64' ? 'arm64' : 'amd64', own)).toThrow(/no static busybox/);
    writeFileSync(join(root, 'usr/bin/busybox.static'), elf(false));
    expect(findBusybox(root, here, own)).toBe(join(root, 'usr/bin/busybox.static'));
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
    mkdirSync(join(root, 'usr/lib/modules/6.1'), { recursive: true });
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
