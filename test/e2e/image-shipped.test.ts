// The shipped images beside debian-k0s: the rescue system by ssh, and the one for real hardware on cards and disks that the cloud kernel has no driver for.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { parseDocument } from 'yaml';
import type { Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import { buildLabImage } from '../../src/lab/image.ts';
import { startLab, type Lab, type LabNode } from '../../src/lab/lab.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { openDir, removeDir, TEST_STATE, until } from '../lab-process.ts';
import { openShell, SHELL_CMDLINE, shellArgs } from './shell.ts';

const BUILD_LIMIT_MS = 15 * 60_000;
const LIMIT_MS = 8 * 60_000;

let lab: Lab | undefined;
let vm: Vm;
const dir = openDir();

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  // The lab's own profiles name it.
  await buildLabImage('bios', TEST_STATE, { onProgress: () => undefined });
}, BUILD_LIMIT_MS);
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});
afterAll(() => removeDir(dir));

async function build(name: string): Promise<void> {
  const { manifest } = await buildImage({ name, imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
  const mb = (size: number): string => `${(size / 1e6).toFixed(1)} MB`;
  const initrd = manifest.initrds.reduce((sum, { size }) => sum + size, 0);
  console.log(`${name}: kernel ${mb(manifest.kernel.size)}, initrd ${mb(initrd)}, squashfs ${mb(manifest.squashfs.size)}, ${manifest.packages.length} packages`);
}

/** A lab whose n1 stands in this profile instead of its own; answers n1. */
async function labWith(name: string, text: string): Promise<LabNode> {
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  const [n1] = lab.nodes;
  const own = join(lab.site.profilesDir, `${LAB_PROFILE}.yaml`);
  const document = parseDocument(readFileSync(own, 'utf8'));
  document.delete('nodes');
  writeFileSync(join(lab.site.profilesDir, `${name}.yaml`), `${text}\nnodes:\n  n1: { macs: ["${n1!.mac}"], ip: ${n1!.ip} }\n`);
  writeFileSync(own, document.toString({ lineWidth: 0 }));
  await until(`n1 in ${name}`, 30_000, async () => ((await lab!.daemon.get<{ profile?: string }>('/api/nodes/n1')).body.profile === name ? true : undefined));
  return n1!;
}

async function ready(): Promise<string> {
  const boot = await until('the end of the boot', LIMIT_MS, async (): Promise<Boot | undefined> => {
    const seen = await lab!.newestBoot('n1');
    return seen && seen.state !== 'open' ? seen : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-4000)}`);
  });
  expect([boot.state, boot.why], readFileSync(vm.console.log, 'utf8').slice(-3000)).toEqual(['ready', undefined]);
  return readFileSync(vm.console.log, 'utf8');
}

test('debian-rescue lets its profile\'s key in by ssh, with the host key that the daemon tells, and has its tools', { timeout: BUILD_LIMIT_MS + LIMIT_MS }, async () => {
  await build('debian-rescue');
  const key = join(dir, 'key');
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'rescue-test', '-f', key]);
  const example = readFileSync(join(SHIPPED.bootProfiles, 'rescue.yaml.example'), 'utf8');
  const profile = example.replace(/^nodes:[^]*/m, '').replace(/ssh-ed25519 AAAA\S* \S+/, readFileSync(`${key}.pub`, 'utf8').trim());
  const n1 = await labWith('rescue', profile);
  vm = lab!.powerOn(n1);
  await ready();
  const { body } = await lab!.daemon.get<{ ssh: { knownHosts: string } }>('/api/nodes/n1');
  const known = join(dir, 'known_hosts');
  writeFileSync(known, `${body.ssh.knownHosts}\n`);
  const ssh = (identity: readonly string[], ...command: string[]) =>
    lab!.link.ns.run(['ssh', '-F', 'none', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes', '-o', `UserKnownHostsFile=${known}`, '-o', 'ConnectTimeout=20', ...identity, `root@${n1.ip!}`, ...command], { timeoutMs: 60_000 });
  const run = async (command: string): Promise<string> => {
    const ran = await ssh(['-i', key], command);
    expect([ran.code, ran.stderr], command).toEqual([0, expect.any(String)]);
    return ran.stdout + ran.stderr;
  };
  expect(await run('hostname; id -u')).toBe('n1\n0\n');
  expect(await run('tcpdump --version 2>&1')).toContain('libpcap');
  expect(await run('sgdisk --version; smartctl --version')).toMatch(/GPT fdisk[^]*smartctl 7/);
  expect(await run('lspci')).toContain('Virtio');
  expect(await run('for tool in parted nvme ethtool iperf3 strace lsof mkfs.vfat mkfs.ext4 mkfs.xfs xfs_repair mdadm lvm cryptsetup vim.tiny less rsync curl lsusb dmidecode lshw ipmitool hdparm ddrescue htop; do command -v $tool >/dev/null || echo "no $tool"; done; systemctl --failed --no-legend --plain')).toBe('');
  expect(await run('for card in /sys/class/net/e*; do ethtool -i "${card##*/}"; done')).toContain('driver: virtio_net');
  // Nobody else gets in, and nothing was put together by itself.
  expect((await ssh(['-o', 'IdentitiesOnly=yes', '-i', '/dev/null'], 'true')).stderr).toContain('Permission denied (publickey)');
});

test('debian-metal gets ready by an e1000e card beside another that leads nowhere, with its state on an empty NVMe disk', { timeout: BUILD_LIMIT_MS + LIMIT_MS }, async () => {
  await build('debian-metal');
  const n1 = await labWith('metal', `image: debian-metal\ncmdline: [console=ttyS0, ${SHELL_CMDLINE.join(', ')}]\nroot: { state: LABEL=metal-state, disk: "pci-0000:00:08.0-nvme-1", format: ext4 }`);
  const disk = join(dir, 'disk');
  writeFileSync(disk, '');
  truncateSync(disk, 2 ** 30);
  const socket = join(dir, 'shell.sock');
  vm = lab!.powerOn({
    ...n1,
    vm: {
      ...n1.vm,
      // The lab's own card, with another address, on a network of its own.
      mac: '52:54:00:4c:42:f1',
      netdev: 'hubport,hubid=9',
      more: [
        ...['-netdev', `tap,ifname=${n1.vm.tap},script=no,downscript=no,id=n1`, '-device', `e1000e,netdev=n1,mac=${n1.mac},bootindex=0`],
        ...['-drive', `file=${disk},if=none,id=d0,format=raw`, '-device', 'nvme,drive=d0,serial=rackseed,bus=pcie.0,addr=0x8'],
        ...shellArgs(socket),
      ],
    },
  });
  const console = await ready();
  expect(console).toMatch(new RegExp(`rackseed: \\w+ ${n1.mac} has ${n1.ip!}, the daemon is`));
  const shell = await openShell(socket);
  try {
    expect(await shell.run('uname -r')).toMatch(/-amd64$/m);
    expect(await shell.run(`for card in /sys/class/net/*; do echo "$(cat $card/address) $(basename $(readlink $card/device/driver))"; done 2>/dev/null`)).toContain(`${n1.mac} e1000e`);
    expect(await shell.run('findmnt -no SOURCE /var')).toContain('/dev/nvme0n1');
    expect(await shell.run('ls /usr/lib/firmware/bnx2 /usr/lib/firmware/rtl_nic; ls /usr/lib/modules/*/kernel/drivers/net/ethernet/mellanox')).toContain('bnx2-mips-09');
    expect(await shell.run('systemctl --failed --no-legend --plain | cat')).not.toMatch(/\.service|\.mount/);
  } finally {
    shell.close();
  }
});
