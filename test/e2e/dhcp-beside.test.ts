// Boots with other people's DHCP on the way, of a real machine to ready: proxy mode beside dnsmasq, and full mode behind a relay.
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { expectedStages, hasStage, stageOf, type Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import { startLab, type Lab, type LabOptions } from '../../src/lab/lab.ts';
import { LAB_BRIDGE, LAB_SERVER_IP, layLan } from '../../src/lab/link.ts';
import { createNeighbour, NEIGHBOUR_IP, startOtherServer, type OtherServer } from '../../src/lab/neighbour.ts';
import type { Namespace } from '../../src/lab/network.ts';
import { LAB_DHCP, STANDIN } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { ended, said } from '../integration/lan.ts';
import { TEST_STATE, until } from '../lab-process.ts';

const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();

let lab: Lab;
let undo: (() => unknown)[];

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
});
afterEach(async () => {
  for (const step of undo.reverse()) await step();
});

async function start(options: Partial<Pick<LabOptions, 'dhcp' | 'ipOf' | 'firmware'>>): Promise<void> {
  undo = [];
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN, ...options });
  undo.push(() => lab.close());
}

/** Another host of the lab's link. */
async function neighbour(): Promise<Namespace> {
  const ns = await createNeighbour(lab.link.ns);
  undo.push(() => ns.close());
  return ns;
}

async function run(ns: Namespace, argv: readonly string[], ready: RegExp): Promise<ChildProcess> {
  const child = ns.spawn(dieWithUs(argv), { stdio: ['ignore', 'pipe', 'pipe'] });
  undo.push(() => ended(child));
  await said(child, ready);
  return child;
}

/** dnsmasq as the LAN's own server. */
async function dnsmasqAsServer(): Promise<OtherServer> {
  const other = await startOtherServer(lab.link.ns, lab.site.dir);
  undo.push(() => other.close());
  return other;
}

/** Switches n1 on and answers its boot as soon as it has ended or is as wanted. */
async function bootUntil(enough: (boot: Boot) => boolean, { ns }: { readonly ns?: Namespace } = {}): Promise<Boot> {
  const [n1] = lab.nodes;
  const vm = lab.powerOn(n1!, ns);
  return until('the boot', 480_000, async () => {
    const boot = await lab.newestBoot(n1!.name);
    return boot && (boot.state !== 'open' || enough(boot)) ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(lab.daemon.log, 'utf8').slice(-3000)}`);
  });
}

const names = (boot: Boot): string[] => boot.stages.map(({ name }) => name);
/** Not before it has ended. */
const end = (): boolean => false;

/** What the daemon's log says of DHCP, without repetition. */
function dhcpWords(): string[] {
  const lines = readFileSync(lab.daemon.log, 'utf8').trimEnd().split('\n').map((line) => (JSON.parse(line) as { msg: string }).msg);
  return [...new Set(lines.filter((msg) => /^dhcp: (offer|ack|nak|proxy|boot server)/.test(msg)))];
}

/** What the daemon's log says of files that went by TFTP. */
function sentByTftp(): { file: string; blockSize: number; windowSize: number }[] {
  const lines = readFileSync(lab.daemon.log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { msg: string; file: string; blockSize: number; windowSize: number });
  return lines.filter(({ msg }) => msg === 'tftp: file sent').map(({ file, blockSize, windowSize }) => ({ file, blockSize, windowSize }));
}

describe('proxy mode beside dnsmasq: the address is dnsmasq\'s, the boot is ours', () => {
  // The shipped defaults: mode proxy, serve known.
  const settings = { dhcp: { interfaces: [LAB_BRIDGE] }, ipOf: () => undefined };

  async function expectTheirs(boot: Boot, given: string[][]): Promise<void> {
    expect(boot.ip).toMatch(/^10\.77\.0\.1\d\d$/);
    // One address from the firmware to userspace, in dnsmasq's book and not in ours.
    expect(given).toEqual([[lab.nodes[0]!.mac, boot.ip]]);
    expect((await lab.daemon.get<{ leases: unknown[] }>('/api/leases')).body.leases).toEqual([]);
  }

  test('a BIOS machine gets ready', async () => {
    await start(settings);
    const other = await dnsmasqAsServer();
    const boot = await bootUntil(end);
    expect([boot.state, boot.why]).toEqual(['ready', undefined]);
    expect(names(boot)).toEqual(expectedStages('bios-ipxe-proxy', STEPS));
    await expectTheirs(boot, await other.leases());
    expect(dhcpWords()).toEqual(['dhcp: proxy offer']);
  });

  // From the script on it is the same boot: the kernel is started by iPXE.
  test.each([
    ['PXE', { firmware: 'uefi', chain: 'uefi-rom-proxy', words: ['dhcp: proxy offer', 'dhcp: boot server answer'], byTftp: [{ file: 'snponly.efi', blockSize: 1468, windowSize: 4 }] }],
    ['HTTP Boot', { firmware: 'uefi-http', chain: 'uefi-http-proxy', words: ['dhcp: proxy offer'], byTftp: [] }],
  ] as const)('%s of EDK2 loads snponly.efi, which comes back for its script', async (_what, { firmware, chain, words, byTftp }) => {
    await start({ ...settings, firmware });
    const other = await dnsmasqAsServer();
    const boot = await bootUntil((seen) => hasStage(seen, 'script'));
    expect(names(boot).slice(0, 4)).toEqual(expectedStages(chain, STEPS).slice(0, 4));
    expect(stageOf(boot, 'loader')?.detail.message).toBe('snponly.efi');
    await expectTheirs(boot, await other.leases());
    expect(dhcpWords()).toEqual(words);
    expect(sentByTftp()).toEqual(byTftp);
  });
});

test('full mode behind a relay: the machine is on a link that no card of ours is on', async () => {
  const shared = LAB_DHCP as { readonly subnets: readonly object[] };
  await start({
    dhcp: { ...shared, subnets: [...shared.subnets, { subnet: '10.78.0.0/24', relayed: true, pool: '10.78.0.100-10.78.0.199', router: '10.78.0.1' }] },
    ipOf: () => '10.78.0.11',
  });
  const router = await neighbour();
  const far = await layLan(router, { bridge: 'far0', address: '10.78.0.1/24', machines: 1 }, lab.site.dir);
  undo.push(() => far.close());
  await router.must(['sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward']);
  await lab.link.ns.must(['ip', 'route', 'add', '10.78.0.0/24', 'via', NEIGHBOUR_IP]);
  // -a: with option 82, and an answer without it is not passed on.
  await run(router, ['dhcrelay', '-4', '-d', '--no-pid', '-a', '-id', 'far0', '-iu', 'eth0', LAB_SERVER_IP], /Sending on .*Socket\/fallback/);
  const boot = await bootUntil(end, { ns: router });
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(names(boot)).toEqual(expectedStages('bios-ipxe', STEPS));
  expect(boot.ip).toBe('10.78.0.11');
  expect(dhcpWords()).toEqual(['dhcp: offer', 'dhcp: ack']);
});
