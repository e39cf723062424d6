// Which disk the initrd stage takes for a node's state, and which it never touches: made-up machines whose disks are loop devices.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isTrueRoot } from '../lab-process.ts';
import { createStageShell, plug, put, type StageShell } from './stage-shell.ts';

let stage: StageShell;
let loops: string[];

beforeEach(() => {
  stage = createStageShell();
  loops = [];
});
afterEach(() => {
  for (const loop of loops) execFileSync('losetup', ['-d', loop]);
  stage.close();
});

const MIB = 1 << 20;
const VIRTIO = (slot: number) => `pci0000:00/0000:00:0${slot}.0/virtio${slot}/block`;

/** A virtio disk of 32 MiB in that slot; `make` is what is done to its file first. */
function disk(name: string, slot: number, ...make: readonly string[]): { readonly file: string; readonly hash: () => string } {
  const file = join(stage.dir, `${name}.img`);
  writeFileSync(file, '');
  truncateSync(file, 32 * MIB);
  if (make.length > 0) execFileSync(make[0]!, [...make.slice(1), file], { stdio: 'pipe' });
  const loop = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim();
  loops.push(loop);
  symlinkSync(loop, join(stage.dir, 'dev', name));
  plug(stage, name, `${VIRTIO(slot)}/${name}`, { size: `${(32 * MIB) / 512}\n` });
  return { file, hash: () => createHash('sha256').update(readFileSync(file)).digest('hex') };
}

const EXT4 = (label: string) => ['mkfs.ext4', '-q', '-L', label];
const DISK5 = ['root-state LABEL=state', 'disk pci-0000:00:05.0'];
const MKE2FS = execFileSync('sh', ['-c', 'PATH=$PATH:/sbin:/usr/sbin command -v mke2fs'], { encoding: 'utf8' }).trim();
/** The steps up to the mounted disk; what they answer, why, and what is there. */
const GO = `MKE2FS=${MKE2FS}; config_fault=; disks_config; [ -z "$config_fault" ] || echo "fault $config_fault"; disks; echo "$?"; echo "$why"; [ ! -e "$RUN/state" ] || cat "$RUN/state"`;

describe('config of the disk', () => {
  it.each([
    ['nothing said: a tmpfs', [], '|50%|none'],
    ['a label', ['root-state LABEL=rackseed-state'], '|50%|none'],
    ['all of it', [...DISK5, 'disk-format xfs', 'disk-wipe yes', 'disk-missing ephemeral', 'cache disk', 'root-size 2g'], '|2g|disk'],
    ['a label that is no word', ['root-state LABEL=$(touch ran)'], 'root-state|50%|none'],
    ['a label longer than a file system takes', ['root-state LABEL=12345678901234567'], 'root-state|50%|none'],
    ['a state that is not known', ['root-state UUID=1'], 'root-state|50%|none'],
    ['a path with a slash', [...DISK5, 'disk ../sda', 'root-size 50%'].filter((line) => line !== DISK5[1]), 'disk|50%|none'],
    ['another file system', [...DISK5, 'disk-format btrfs'], 'disk-format|50%|none'],
    ['wipe without a disk', ['root-state LABEL=state', 'disk-wipe yes'], 'disk-wipe|50%|none'],
    ['a cache without a disk', ['cache disk'], 'cache|50%|disk'],
    ['a size that is more than one', ['root-size 50%,exec'], 'root-size|50%,exec|none'],
    ['a size in bytes', ['root-size 10'], '|10|none'],
    ['more than all of the memory', ['root-size 200%'], 'root-size|200%|none'],
  ])('%s', async (_name, config, expected) => {
    expect(await stage.run('config_fault=; disks_config; echo "$config_fault|$root_size|$cache_kind"', config)).toEqual([expected]);
  });

  it('is kept without its secrets, for a time without a daemon', async () => {
    await stage.run('disks_config', ['node n1', 'ssh-host-key c2VjcmV0', 'root-state none']);
    expect(readFileSync(join(stage.dir, 'kept'), 'utf8')).toBe('node n1\nroot-state none\n');
  });
});

describe('a path as udev writes it', () => {
  it.each([
    ['a virtio disk', 'vda', 'pci0000:00/0000:00:05.0/virtio2/block/vda', {}, 'pci-0000:00:05.0'],
    ['its second partition', 'vda2', 'pci0000:00/0000:00:05.0/virtio2/block/vda/vda2', { partition: '2\n' }, 'pci-0000:00:05.0-part2'],
    ['a disk behind a bridge', 'vda', 'pci0000:00/0000:00:1c.0/0000:03:00.0/virtio2/block/vda', {}, 'pci-0000:03:00.0'],
    ['a SATA disk', 'sda', 'pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda', { '../../../../../ata_port/ata3/port_no': '3\n' }, 'pci-0000:00:1f.2-ata-3 pci-0000:00:1f.2-ata-3.0'],
    ['a disk of virtio-scsi, whose host is the third of the machine', 'sda', 'pci0000:00/0000:00:06.0/virtio3/host2/target2:0:1/2:0:1:4/block/sda', {}, 'pci-0000:00:06.0-scsi-0:0:1:4'],
    ['the second namespace of an NVMe', 'nvme0n2', 'pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n2', { nsid: '2\n' }, 'pci-0000:00:04.0-nvme-2'],
    ['its partition', 'nvme0n2p1', 'pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n2/nvme0n2p1', { partition: '1\n', '../nsid': '2\n' }, 'pci-0000:00:04.0-nvme-2-part1'],
    ['a USB stick', 'sdb', 'pci0000:00/0000:00:14.0/usb2/2-1/2-1.4/2-1.4:1.0/host7/target7:0:0/7:0:0:0/block/sdb', {}, 'pci-0000:00:14.0-usb-0:1.4:1.0-scsi-0:0:0:0'],
    ['a virtio disk without PCI', 'vda', 'platform/a003e00.virtio_mmio/virtio0/block/vda', {}, 'platform-a003e00.virtio_mmio'],
    ['a bus that is not known', 'xda', 'virtual/block/xda', {}, ''],
  ] as const)('%s', async (_name, name, place, files, expected) => {
    plug(stage, name, place, files);
    expect(await stage.run(`paths_of "$SYS/class/block/${name}"; echo "$by_paths"`)).toEqual([expected]);
  });

  it('counts SCSI hosts from the first of the same controller', async () => {
    const host = 'pci0000:00/0000:00:06.0/virtio3';
    put(join(stage.dir, 'sys/devices', host, 'host9/x'), '');
    plug(stage, 'sda', `${host}/host11/target11:0:0/11:0:0:0/block/sda`);
    expect(await stage.run('paths_of "$SYS/class/block/sda"; echo "$by_paths"')).toEqual(['pci-0000:00:06.0-scsi-2:0:0:0']);
  });
});

describe('a label', () => {
  /** Bytes at their places in an otherwise empty device. */
  const device = (...parts: readonly (readonly [at: number, bytes: Buffer | string])[]): void => {
    const bytes = Buffer.alloc(8192);
    for (const [at, part] of parts) Buffer.from(part).copy(bytes, at);
    writeFileSync(join(stage.dir, 'dev/x'), bytes);
  };
  const EXT = [1080, Buffer.from([0x53, 0xef])] as const;

  it.each([
    ['of ext4', [EXT, [1144, 'rackseed-state']], 'ext4 rackseed-state'],
    ['of ext4, as long as it may be', [EXT, [1144, '1234567890123456'], [1160, 'x']], 'ext4 1234567890123456'],
    ['of ext4 that is none', [EXT], 'ext4 '],
    // mkfs.xfs is no package of ours: this is what xfsprogs 6.1 wrote.
    ['of xfs', [[0, 'XFSB'], [108, 'state-twelve'], [120, Buffer.from([12, 9, 9, 4])]], 'xfs state-twelve'],
    ['of something else', [[0, 'LUKS'], [108, 'state']], ' '],
    ['with zeros inside of its characters', [EXT, [1144, Buffer.from([0x50, 0x01, 0x30])]], 'ext4 unprintable'],
    ['that is a command', [EXT, [1144, '`touch ran`']], 'ext4 unprintable'],
    ['that printf would read', [EXT, [1144, '%s%d\\n']], 'ext4 unprintable'],
  ] as const)('%s', async (_name, parts, expected) => {
    device(...parts);
    expect(await stage.run('read_label "$DEV/x"; echo "[$fs_type $label]"')).toEqual([`[${expected}]`]);
  });

  it('of a device that cannot be read is none', async () => {
    expect(await stage.run('read_label "$DEV/none" 2>/dev/null; echo "[$fs_type $label]"')).toEqual(['[ ]']);
  });
});

describe.skipIf(!isTrueRoot())('the disk', () => {
  it('of that label is mounted, whatever its place, and what is on it stays', async () => {
    disk('vda', 4);
    disk('vdb', 5, ...EXT4('state'));
    expect(await stage.run(`${GO}; echo kept >"$STAGE/disk/file"; stat -c %a "$STAGE/disk/.rackseed"`, ['root-state LABEL=state', 'disk pci-0000:00:04.0'])).toEqual(['0', '', 'disk LABEL=state /dev/vdb ext4', '700']);
    expect(await stage.run(`${GO}; cat "$STAGE/disk/file"; grep -c "$STAGE/disk ext4 rw,noatime,errors=remount-ro" /proc/self/mounts`, DISK5)).toEqual(['0', '', 'disk LABEL=state /dev/vdb ext4', 'kept', '1']);
  });

  it('is mounted once, however many attempts it takes', async () => {
    disk('vda', 5, ...EXT4('state'));
    expect((await stage.run(`${GO}; disks; grep -c "$STAGE/disk" /proc/self/mounts`, DISK5)).at(-1)).toBe('1');
  });

  it('that is empty and named gets its file system', async () => {
    disk('vda', 4);
    disk('vdb', 5);
    expect(await stage.run(GO, DISK5)).toEqual(['0', '', 'disk LABEL=state /dev/vdb ext4']);
    expect(stage.console()).toContain('formatting vdb with ext4, label state: it is empty');
    expect(await stage.run('read_label "$DEV/vdb"; echo "$fs_type $label"; read_label "$DEV/vda"; echo "[$fs_type$label]"')).toEqual(['ext4 state', '[]']);
  });

  it('that is empty and not named is left alone', async () => {
    const { hash } = disk('vda', 4);
    const before = hash();
    expect(await stage.run(GO, ['root-state LABEL=state'])).toEqual(['2', 'the disk LABEL=state is not there; disks: vda (32 MiB, pci-0000:00:04.0)']);
    expect(hash()).toBe(before);
  });

  it.each([
    ['another file system', EXT4('data'), 'there is ext4 data on it'],
    ['a file system without a label', ['mkfs.ext4', '-q'], 'there is ext4 on it'],
    ['swap', ['mkswap', '-q'], 'there is something on it'],
    ['a partition table', ['sh', '-c', 'printf "\\125\\252" | dd of="$0" bs=1 seek=510 conv=notrunc status=none'], 'there is something on it'],
    ['one byte in its first MiB', ['sh', '-c', 'printf x | dd of="$0" bs=1 seek=1048575 conv=notrunc status=none'], 'there is something on it'],
    ['one byte at its very end', ['sh', '-c', 'printf x | dd of="$0" bs=1 seek=33554431 conv=notrunc status=none'], 'there is something on it'],
    ['a RAID at its end', ['sh', '-c', 'printf "\\374\\116\\053\\251" | dd of="$0" bs=1 seek=33488896 conv=notrunc status=none'], 'there is something on it'],
  ])('with %s is refused and not touched', async (_name, make, what) => {
    const { hash } = disk('vda', 5, ...make);
    const before = hash();
    const ephemeral = [...DISK5, 'disk-missing ephemeral'];
    for (const config of [DISK5, ephemeral]) {
      expect(await stage.run(GO, config)).toEqual([
        '2', `vda (pci-0000:00:05.0) has no file system with the label state, and is not empty: ${what}; nothing was written to it, root.wipe in the profile would format it`,
      ]);
    }
    expect(hash()).toBe(before);
  });

  it('with partitions is not empty, though its ends are', async () => {
    disk('vda', 5);
    put(join(stage.dir, 'sys/class/block/vda/vda1/partition'), '1\n');
    expect((await stage.run(GO, DISK5))[1]).toContain('it has the partition vda1');
  });

  it('is formatted whatever is on it when the profile says wipe, and no other is', async () => {
    disk('vda', 5, ...EXT4('data'));
    const other = disk('vdb', 6, ...EXT4('data'));
    const before = other.hash();
    expect(await stage.run(GO, [...DISK5, 'disk-wipe yes'])).toEqual(['0', '', 'disk LABEL=state /dev/vda ext4']);
    expect(other.hash()).toBe(before);
  });

  it('loses its own old state with wipe', async () => {
    disk('vda', 5, ...EXT4('state'));
    await stage.run(`${GO}; echo old >"$STAGE/disk/old"; umount "$STAGE/disk"`, DISK5);
    expect((await stage.run(`${GO}; ls "$STAGE/disk"`, [...DISK5, 'disk-wipe yes'])).slice(0, 4)).toEqual(['0', '', 'disk LABEL=state /dev/vda ext4', 'lost+found']);
  });

  it('is not wiped while another has its label', async () => {
    const { hash } = disk('vda', 5, ...EXT4('data'));
    disk('vdb', 6, ...EXT4('state'));
    const before = hash();
    expect(await stage.run(GO, [...DISK5, 'disk-wipe yes'])).toEqual(['2', 'vda is to be wiped, but the label state is on vdb: take the disk out, or its label away']);
    expect(hash()).toBe(before);
  });

  it('is nobody\'s to choose when two have the label: both are named', async () => {
    disk('vda', 4, ...EXT4('state'));
    disk('vdb', 5, ...EXT4('state'));
    expect(await stage.run(GO, DISK5)).toEqual(['2', '2 file systems have the label state: vda vdb; one of them must go, or get another label']);
  });

  it('that cannot be mounted is a failure, never a reason to format it', async () => {
    // A superblock that names itself, and nothing behind it.
    const { hash } = disk('vda', 5, 'sh', '-c', 'mkfs.ext4 -q -L state "$0"; dd if=/dev/zero of="$0" bs=1024 seek=2 count=2000 conv=notrunc status=none; printf "\\0\\0\\0\\0" | dd of="$0" bs=1 seek=1048 conv=notrunc status=none');
    const before = hash();
    for (const config of [DISK5, [...DISK5, 'disk-missing ephemeral']]) expect((await stage.run(GO, config)).slice(0, 2)).toEqual(['2', expect.stringMatching(/^the file system state on vda could not be mounted: .*; the rescue image has fsck and xfs_repair$/)]);
    expect(hash()).toBe(before);
  });

  it('that is not there ends the boot with all disks named', async () => {
    disk('vda', 4, ...EXT4('other'));
    expect(await stage.run(GO, DISK5)).toEqual(['2', 'the disk LABEL=state (pci-0000:00:05.0) is not there; disks: vda (32 MiB, pci-0000:00:04.0, ext4 other)']);
  });

  it('that is not there is told loudly and reported, and the boot goes on, where the profile says ephemeral', async () => {
    expect(await stage.run(GO, [...DISK5, 'disk-missing ephemeral'])).toEqual(['0', 'the disk LABEL=state (pci-0000:00:05.0) is not there; disks: none', 'none (LABEL=state is missing)']);
    const said = stage.console();
    expect(said).toContain('WARNING: the disk LABEL=state');
    expect(said).toContain('WARNING: nothing that this boot writes will be kept');
    expect(said).toContain('report running ephemeral: the disk LABEL=state');
  });

  it('that comes late is waited for', async () => {
    disk('vda', 5, ...EXT4('state'));
    const hide = `mv "$SYS/class/block/vda" "$SYS/late"; load_modules() { [ -e "$SYS/class/block/vda" ] || mv "$SYS/late" "$SYS/class/block/vda"; }`;
    expect((await stage.run(`${hide}; ${GO}`, DISK5))[0]).toBe('0');
  });

  it('cannot be formatted with a program that the image has not, and the package is named', async () => {
    const { hash } = disk('vda', 5);
    const before = hash();
    expect(await stage.run(`MKXFS=/nonexistent/mkfs.xfs; ${GO}`, [...DISK5, 'disk-format xfs'])).toEqual(['2', "vda cannot be formatted with xfs: the initrd has no mkfs.xfs (xfsprogs in the image's packages)"]);
    expect(hash()).toBe(before);
  });

  it('whose label is no word is none', async () => {
    disk('vda', 4, ...EXT4('$(touch ran)'));
    expect((await stage.run(GO, DISK5))[1]).toContain('vda (32 MiB, pci-0000:00:04.0, ext4 unprintable)');
  });
});

it('needs no disk where none is asked for', async () => {
  expect(await stage.run(GO, ['root-state none'])).toEqual(['0', '', 'none']);
});
