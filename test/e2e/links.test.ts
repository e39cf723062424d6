// Links that are not a bare card, from the initrd stage on to the booted system: a tagged VLAN, and a bond of two cards of which one fails.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { parseDocument, YAMLSeq } from 'yaml';
import { expectedStages, type Boot, type Chain } from '../../src/boot/timeline.ts';
import { makeUki } from '../../src/images/uki.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import type { LabFirmware } from '../../src/lab/firmware.ts';
import { buildLabImage, LAB_IMAGE } from '../../src/lab/image.ts';
import { startLab, type Lab, type LabOptions } from '../../src/lab/lab.ts';
import { vlanSetting, withVariables } from '../../src/lab/nvram.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { stageLines } from '../../src/lab/stages.ts';
import { probeAccel, type VmSpec } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { said } from '../integration/lan.ts';
import { TEST_STATE, until } from '../lab-process.ts';

const BUILD_LIMIT_MS = 15 * 60_000;
const LIMIT_MS = 8 * 60_000;
const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();

let lab: Lab | undefined;

beforeAll(() => void mkdirSync(TEST_STATE, { recursive: true }));
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});

async function start(firmware: LabFirmware, more: Partial<LabOptions>): Promise<Lab> {
  return (lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel: await probeAccel(), release: STANDIN, ...more }));
}

/** Boots n1 to its end, which must be ready; answers its console. */
async function bootToReady(running: Lab, chain: Chain, vm: Partial<VmSpec>): Promise<string> {
  const [n1] = running.nodes;
  const machine = running.powerOn({ ...n1!, vm: { ...n1!.vm, ...vm } });
  const boot = await until('the boot', LIMIT_MS, async (): Promise<Boot | undefined> => {
    const seen = await running.newestBoot(n1!.name);
    return seen && seen.state !== 'open' ? seen : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(machine.console.log, 'utf8').slice(-3000)}\n${readFileSync(running.daemon.log, 'utf8').slice(-3000)}`);
  });
  console.log(stageLines(n1!.name, machine.startedAt, undefined, boot, false).join('\n'));
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages(chain, STEPS));
  // The system has it, too: systemd-networkd's own lease, by the same link.
  expect(readFileSync(running.daemon.log, 'utf8')).toMatch(/"asker":"os","decision":"local","msg":"dhcp: ack"/);
  return readFileSync(machine.console.log, 'utf8');
}

test('a machine on a tagged VLAN, whose firmware and UKI are told so, gets ready', { timeout: BUILD_LIMIT_MS + LIMIT_MS }, async () => {
  await buildLabImage('uefi-http-uki', TEST_STATE, { onProgress: () => undefined });
  await makeUki({ name: LAB_IMAGE, stateDir: TEST_STATE, cmdline: 'rackseed.net=dhcp vlan=eth0.42:eth0 console=ttyS0,115200' });
  const running = await start('uefi-http-uki', {});
  const { mac, vm: { tap, vars } } = running.nodes[0]!;
  writeFileSync(vars!, withVariables(readFileSync(vars!), [vlanSetting(mac, 42)]));
  const socket = join(running.site.dir, 'port.sock');
  await said(running.link.ns.spawn(dieWithUs(['python3', join(import.meta.dirname, 'tagged-port.py'), tap, socket, '42']), { stdio: ['ignore', 'pipe', 'inherit'] }), /listening/);
  const console = await bootToReady(running, 'uefi-http-uki', { netdev: `stream,server=off,addr.type=unix,addr.path=${socket}` });
  expect(console).toContain('rackseed: eth0.42 52:54:00:4c:42:01 has 10.77.0.11, the daemon is http://10.77.0.1:8080');
});

test('two cards become a bond, and the booted system goes on by one of them when the other loses its link', { timeout: BUILD_LIMIT_MS + LIMIT_MS }, async () => {
  await buildLabImage('bios', TEST_STATE, { onProgress: () => undefined });
  // The second machine is never switched on: its tap is the first one's second card.
  const running = await start('bios', { nodes: 2 });
  await addToCmdline(running, 'bond=bond0:eth0,eth1:mode=active-backup,miimon=100');
  const monitor = join(running.site.dir, 'monitor.sock');
  const secondCard = ['-netdev', 'tap,id=n1,ifname=t1,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=n1,mac=52:54:00:4c:42:f1,romfile='];
  const console = await bootToReady(running, 'bios-ipxe', { more: [...secondCard, '-monitor', `unix:${monitor},server=on,wait=off`] });
  expect(console).toContain('rackseed: bond0 52:54:00:4c:42:01 has 10.77.0.11, the daemon is http://10.77.0.1:8080');
  for (const [cut, other] of [['n0', 'n1'], ['n1', 'n0']]) {
    await typed(monitor, `set_link ${cut} off`, `set_link ${other} on`);
    await until(`the node without ${cut}`, 30_000, async () => (await answers(running)) || undefined);
  }
  await typed(monitor, 'set_link n0 off');
  await until('no way at all', 10_000, async () => (await answers(running)) === false || undefined);
});

/** Whether n1 has an address here and says so, by refusing a connection to a port that nothing listens on. */
async function answers({ link: { ns } }: Lab): Promise<boolean> {
  const { stderr } = await ns.run(['bash', '-c', 'exec 3<>/dev/tcp/10.77.0.11/9'], { timeoutMs: 2_000 });
  return stderr.includes('Connection refused');
}

/** At QEMU's monitor. */
async function typed(monitor: string, ...lines: string[]): Promise<void> {
  for (const line of lines) {
    await new Promise<void>((resolve, reject) => {
      const socket = connect(monitor, () => socket.end(`${line}\n`));
      socket.once('error', reject).once('close', () => resolve()).resume();
    });
  }
}

async function addToCmdline(running: Lab, word: string): Promise<void> {
  const before = generation(running);
  const file = join(running.site.profilesDir, `${LAB_PROFILE}.yaml`);
  const document = parseDocument(readFileSync(file, 'utf8'));
  (document.get('cmdline') as YAMLSeq).add(word);
  writeFileSync(file, document.toString({ lineWidth: 0 }));
  await until('the profile with it', 30_000, async () => generation(running) !== before || undefined);
}

function generation({ daemon }: Lab): string | undefined {
  const log = readFileSync(daemon.log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { generation?: string });
  return log.findLast((line) => line.generation !== undefined)?.generation;
}
