// QEMU's own iPXE by TFTP, beside another DHCP server that names our files: its script, and a kernel and initrd that then start.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { hasStage, stageOf, type Boot, type StageName } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_BRIDGE, LAB_SERVER_IP } from '../../src/lab/link.ts';
import { cable, createNamespace } from '../../src/lab/network.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { ended, said } from '../integration/lan.ts';
import { TEST_STATE, until } from '../lab-process.ts';

/** The other host of the lab's link. */
const NEIGHBOUR = '10.77.0.2';

let lab: Lab;
let undo: (() => unknown)[];

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
});

beforeEach(async () => {
  undo = [];
  // The shipped defaults: mode proxy, serve known.
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN, dhcp: { interfaces: [LAB_BRIDGE] }, ipOf: () => undefined });
  undo.push(() => lab.close());
});
afterEach(async () => {
  for (const step of undo.reverse()) await step();
});

/**
 * dnsmasq at 10.77.0.2 as the LAN's own server: it gives the addresses and names the file, and has TFTP of its own for `script`, as an operator's would. Option
 * 175.176 has the iPXE take that, not our proxy offer (TRAPS 1.5); but the DISCOVER reaches us, and starts the boot.
 */
async function otherServer(file: string, at: string, script = ''): Promise<void> {
  const ns = await createNamespace(lab.link.ns);
  undo.push(() => ns.close());
  await cable({ ns: lab.link.ns, name: 'port0' }, { ns, name: 'eth0' });
  await lab.link.ns.must(['ip', 'link', 'set', 'port0', 'master', LAB_BRIDGE]);
  await ns.must(['ip', 'address', 'add', `${NEIGHBOUR}/24`, 'dev', 'eth0']);
  const root = join(lab.site.dir, 'tftp');
  mkdirSync(root);
  writeFileSync(join(root, 'theirs.ipxe'), script);
  const dnsmasq = ['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--port=0', '--user=', '--group=', '--pid-file=', `--dhcp-leasefile=${join(lab.site.dir, 'dnsmasq.leases')}`];
  const child = ns.spawn(dieWithUs([...dnsmasq, '--dhcp-authoritative', '--dhcp-range=10.77.0.100,10.77.0.199', `--dhcp-boot=${file},,${at}`, '--dhcp-option-force=encap:175,176,1b', '--enable-tftp', `--tftp-root=${root}`]), { stdio: ['ignore', 'pipe', 'pipe'] });
  undo.push(() => ended(child));
  await said(child, /IP range/);
}

/** Switches n1 on and answers its boot as soon as it has come to that stage, and what the machine has printed. */
async function bootTo(stage: StageName): Promise<{ readonly boot: Boot; readonly printed: string }> {
  const [n1] = lab.nodes;
  const vm = lab.powerOn(n1!);
  const printed = () => readFileSync(vm.console.log, 'latin1');
  const boot = await until(stage, 240_000, async () => {
    const found = await lab.newestBoot(n1!.name);
    return found && hasStage(found, stage) ? found : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${printed().slice(-3000)}\n${readFileSync(lab.daemon.log, 'utf8').slice(-3000)}`);
  });
  // A line of the ROM ends at column 80, wherever that is.
  return { boot, printed: printed().replace(/\r?\n/g, '') };
}

/** What the daemon says of its TFTP. */
function tftpWords(): Record<string, unknown>[] {
  const lines = readFileSync(lab.daemon.log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
  return lines.filter(({ msg }) => String(msg).startsWith('tftp:'));
}

test('fetches its script, and boots what it says', async () => {
  await otherServer('boot.ipxe', LAB_SERVER_IP);
  const { boot, printed } = await bootTo('initrd');
  expect(printed).toContain(`tftp://${LAB_SERVER_IP}/boot.ipxe... ok`);
  expect(printed).toContain(`rackseed: node n1, profile k0s-single, image debian-k0s, boot ${boot.id}`);
  expect(tftpWords()).toEqual([expect.objectContaining({ msg: 'tftp: file sent', file: 'boot.ipxe', blockSize: 1432, windowSize: 1, boot: boot.id })]);
  expect(stageOf(boot, 'script')?.detail.message).toBe('boot.ipxe');
});

test('fetches a kernel and its initrd, of megabytes in blocks of 1,432, which start and come back for their config', async () => {
  const own = `tftp://${LAB_SERVER_IP}/\${netX/mac:hexhyp}`;
  await otherServer('theirs.ipxe', NEIGHBOUR, [
    '#!ipxe',
    `kernel --name kernel ${own}/kernel initrd=initrd0 console=ttyS0 rackseed=http://${LAB_SERVER_IP}:8080 ip=\${netX/ip}:::\${netX/netmask}:::off BOOTIF=01-\${netX/mac:hexhyp}`,
    `initrd --name initrd0 ${own}/initrd`,
    'boot',
    '',
  ].join('\n'));
  const { boot, printed } = await bootTo('config');
  const name = (file: string) => `${boot.mac.replaceAll(':', '-')}/${file}`;
  const sent = { msg: 'tftp: file sent', blockSize: 1432, windowSize: 1, boot: boot.id };
  expect(tftpWords()).toEqual([expect.objectContaining({ ...sent, file: name('kernel') }), expect.objectContaining({ ...sent, file: name('initrd') })]);
  for (const file of ['kernel', 'initrd'] as const) expect(stageOf(boot, file)?.detail).toMatchObject({ message: name(file), bytes: expect.any(Number) });
  expect(stageOf(boot, 'kernel')!.detail.bytes).toBeGreaterThan(5_000_000);
  // The kernel unpacked itself and the initrd, each with its checksum, and what ran from there spoke to the daemon. No byte of them came by HTTP.
  expect(printed).toContain('rackseed: initrd stage on kernel');
  expect(printed).not.toContain('/blobs/');
  expect(hasStage(boot, 'script')).toBe(false);
});
