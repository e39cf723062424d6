// The initrd and its parts: which modules get in, in which order, and that equal input gives equal bytes.
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sha256Hex } from '../../src/digest.ts';
import { cpio } from '../../src/images/cpio.ts';
import { compressed, INITRD_PROGRAMS, initrdArchive, type InitrdParts } from '../../src/images/initrd.ts';
import { moduleTables, readModuleIndex, selectModules } from '../../src/images/modules.ts';

let dir: string;
let parts: InitrdParts;

/** A kernel package's tree as depmod leaves it: net_failover needs failover, virtio-net needs both, squashfs wants zstd first. */
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-initrd-'));
  const modules = join(dir, 'modules');
  const files = { 'kernel/net/core/failover.ko.xz': 'F', 'kernel/drivers/net/net_failover.ko.xz': 'N', 'kernel/drivers/net/virtio_net.ko.xz': 'V', 'kernel/fs/squashfs/squashfs.ko': 'S', 'kernel/lib/zstd.ko.gz': 'Z', 'kernel/drivers/block/loop.ko': 'L', 'kernel/drivers/net/never.ko': 'X', 'kernel/fs/ext4/ext4.ko': 'E', 'kernel/crypto/crc32c_generic.ko': 'G', 'kernel/crypto/crc32c-intel.ko': 'I', 'kernel/crypto/crc.ko': 'C' };
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(modules, path, '..'), { recursive: true });
    writeFileSync(join(modules, path.replace(/\.(xz|gz)$/, '')), text);
    if (path.endsWith('.xz')) execFileSync('xz', [join(modules, path.slice(0, -3))]);
    if (path.endsWith('.gz')) execFileSync('gzip', [join(modules, path.slice(0, -3))]);
  }
  writeFileSync(
    join(modules, 'modules.dep'),
    'kernel/net/core/failover.ko.xz:\nkernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\nkernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz\nkernel/fs/squashfs/squashfs.ko:\nkernel/lib/zstd.ko.gz:\nkernel/drivers/block/loop.ko:\nkernel/drivers/net/never.ko:\nkernel/fs/ext4/ext4.ko:\nkernel/crypto/crc32c_generic.ko: kernel/crypto/crc.ko\nkernel/crypto/crc32c-intel.ko:\nkernel/crypto/crc.ko:\n',
  );
  writeFileSync(join(modules, 'modules.builtin'), 'kernel/drivers/virtio/virtio-pci.ko\n');
  writeFileSync(join(modules, 'modules.softdep'), '# comment\nsoftdep squashfs pre: zstd\nsoftdep zstd pre: squashfs\nsoftdep ext4 pre: crc32c\n');
  writeFileSync(join(modules, 'modules.alias'), 'alias virtio:d00000001v* virtio_net\nalias pci:v1234* never\nalias crc32c crc32c_intel\nalias crypto-crc32c crc32c_intel\nalias crc32c crc32c_generic\n');
  const stage = join(dir, 'stage');
  mkdirSync(join(stage, 'lib/rackseed'), { recursive: true });
  writeFileSync(join(stage, 'init'), '#!/bin/busybox sh\n');
  chmodSync(join(stage, 'init'), 0o755);
  writeFileSync(join(stage, 'lib/rackseed/say.sh'), 'say() { :; }\n');
  symlinkSync('say.sh', join(stage, 'lib/rackseed/link'));
  writeFileSync(join(dir, 'busybox'), 'BUSYBOX');
  parts = { busybox: join(dir, 'busybox'), stage, modules, kernelVersion: '6.1-test', required: ['virtio-net', 'squashfs', 'virtio_pci'], optional: ['e1000', 'loop'] };
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('modules', () => {
  test('each comes after what it needs, by hard and soft dependency; builtin and optional missing ones are left out', () => {
    const names = selectModules(readModuleIndex(parts.modules), parts.required, parts.optional).map((module) => module.name);
    expect(names).toEqual(['failover', 'net_failover', 'virtio_net', 'zstd', 'squashfs', 'loop']);
  });

  test('a required one that the kernel lacks is said by name', () => {
    expect(() => selectModules(readModuleIndex(parts.modules), ['squashfs', 'e1000'], [])).toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED', message: 'the kernel has no module e1000' }));
  });

  test('the tables name the uncompressed files, and only aliases of modules that are there', () => {
    const index = readModuleIndex(parts.modules);
    const tables = moduleTables(index, selectModules(index, ['virtio_net'], []));
    expect(tables['modules.dep']).toBe('kernel/net/core/failover.ko:\nkernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\nkernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n');
    expect(tables['modules.alias']).toBe('alias virtio:d00000001v* virtio_net\n');
  });

  test('a soft dependency is loaded like a hard one, also when it is named by an alias, and with what it needs; those that name each other are no circle', () => {
    const index = readModuleIndex(parts.modules);
    const ext4 = moduleTables(index, selectModules(index, ['ext4'], []));
    expect(ext4['modules.dep'].split('\n')).toEqual(['kernel/crypto/crc32c-intel.ko:', 'kernel/crypto/crc.ko:', 'kernel/crypto/crc32c_generic.ko: kernel/crypto/crc.ko', 'kernel/fs/ext4/ext4.ko: kernel/crypto/crc32c_generic.ko kernel/crypto/crc.ko kernel/crypto/crc32c-intel.ko', '']);
    const squashfs = moduleTables(index, selectModules(index, ['squashfs'], []));
    expect(squashfs['modules.dep']).toBe('kernel/lib/zstd.ko:\nkernel/fs/squashfs/squashfs.ko: kernel/lib/zstd.ko\n');
  });
});

describe('initrd', () => {
  test('cpio unpacks it to what went in, modules decompressed', async () => {
    const out = join(dir, 'out');
    mkdirSync(out);
    const { archive } = await initrdArchive(parts);
    execFileSync('cpio', ['-idm', '--quiet'], { cwd: out, input: archive });
    const listing = execFileSync('find', ['.', '-mindepth', '1', '-printf', '%P %M %l\\n'], { cwd: out, encoding: 'utf8' }).trim().split('\n').map((line) => line.trim()).sort();
    expect(listing).toEqual(expect.arrayContaining(['bin/busybox -rwxr-xr-x', 'bin/sh lrwxrwxrwx busybox', 'init -rwxr-xr-x', 'lib/rackseed/link lrwxrwxrwx say.sh', 'lib/rackseed/say.sh -rw-r--r--', 'proc drwxr-xr-x', 'tmp drwxrwxrwt']));
    expect(listing.some((line) => /never|\.xz|\.gz/.test(line))).toBe(false);
    const base = join(out, 'lib/modules/6.1-test/kernel');
    expect(execFileSync('cat', [join(base, 'drivers/net/virtio_net.ko'), join(base, 'lib/zstd.ko'), join(base, 'fs/squashfs/squashfs.ko')], { encoding: 'utf8' })).toBe('VZS');
  });

  test('a copy of the inputs with other times and group modes gives the same bytes', async () => {
    const copy = join(dir, 'copy');
    cpSync(parts.stage, copy, { recursive: true, verbatimSymlinks: true });
    chmodSync(join(copy, 'lib/rackseed/say.sh'), 0o664);
    utimesSync(join(copy, 'init'), 1, 1);
    const first = await compressed((await initrdArchive(parts)).archive);
    const second = await compressed((await initrdArchive({ ...parts, stage: copy })).archive);
    expect(sha256Hex(second)).toBe(sha256Hex(first));
  });

  test('other content gives other bytes', async () => {
    const changed = join(dir, 'changed');
    cpSync(parts.stage, changed, { recursive: true, verbatimSymlinks: true });
    writeFileSync(join(changed, 'init'), '#!/bin/busybox sh\n:\n');
    expect(sha256Hex((await initrdArchive({ ...parts, stage: changed })).archive)).not.toBe(sha256Hex((await initrdArchive(parts)).archive));
  });

  test('has what the image brings: programs as far as they are there, firmware, what PID 1 needs by name, and files of the build', async () => {
    const root = join(dir, 'root');
    for (const path of ['usr/bin', 'usr/lib/systemd', 'usr/lib/firmware', 'sbin', 'usr/sbin']) mkdirSync(join(root, path), { recursive: true });
    symlinkSync('../usr/lib/systemd/systemd', join(root, 'sbin/init'));
    for (const path of ['usr/lib/systemd/systemd', 'usr/bin/minisign', 'usr/lib/firmware/a.bin']) writeFileSync(join(root, path), path);
    const { archive } = await initrdArchive({ ...parts, root, programs: INITRD_PROGRAMS, requiredPrograms: ['/usr/bin/minisign'], firmware: ['*.bin'], files: [{ path: 'etc/rackseed/floor', kind: 'file', mode: 0o644, data: Buffer.from('7\n') }] });
    const out = join(dir, 'with-root');
    mkdirSync(out);
    execFileSync('cpio', ['-idm', '--quiet'], { cwd: out, input: archive });
    const text = (path: string) => readFileSync(join(out, path), 'utf8');
    expect([text('bin/minisign'), text('lib/firmware/a.bin'), text('lib/rackseed/first'), text('etc/rackseed/floor')]).toEqual(['usr/bin/minisign', 'usr/lib/firmware/a.bin', '/usr/lib/systemd/systemd\n', '7\n']);
    expect(existsSync(join(out, 'usr/sbin/dmsetup'))).toBe(false);
    await expect(initrdArchive({ ...parts, root, requiredPrograms: ['/usr/sbin/dmsetup'] })).rejects.toThrow(expect.objectContaining({ code: 'IMAGE_BUILD_FAILED' }));
  });

  test('a directory stands before what is in it, also when nobody named it', () => {
    const archive = cpio([{ path: 'a/b/c', kind: 'file', mode: 0o644, data: Buffer.from('x') }]);
    const names = execFileSync('cpio', ['-t', '--quiet'], { input: archive, encoding: 'utf8' });
    expect(names).toBe('a\na/b\na/b/c\n');
  });
});
