// Boots over a link that loses one frame in ten each way. Only with RACKSEED_FULL=1.
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { expectedStages, hasStage, stageOf, type Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import type { LabFirmware } from '../../src/lab/firmware.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_BRIDGE } from '../../src/lab/link.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { TEST_STATE, until } from '../lab-process.ts';

const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();
/** Emulated on two idle cores it took 97 s, on two with a load of 8 beside it 282 s. */
const LIMIT_MS = 30 * 60_000;
const LOSE_ONE_IN = 10;

let lab: Lab;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
});

async function start(firmware: LabFirmware): Promise<void> {
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  await loseFrames();
}

afterEach(() => lab.close());

/**
 * Whatever frame, ARP too, at the machine's own end of the bridge, until the lab is closed. Bursts are cut into packets before they come there:
 * nft would lose what one send handed over (TCP's, and UDP GSO) as one.
 */
async function loseFrames(): Promise<void> {
  const { ns, taps } = lab.link;
  for (const card of [taps[0]!, LAB_BRIDGE]) await ns.must(['ip', 'link', 'set', 'dev', card, 'gso_max_segs', '1']);
  const chain = (hook: 'ingress' | 'egress') => `
    counter ${hook}_lost { }
    chain ${hook} {
      type filter hook ${hook} device "${taps[0]}" priority 0;
      numgen random mod ${LOSE_ONE_IN} < 1 counter name ${hook}_lost drop
    }`;
  await ns.must(['nft', `table netdev loss {${chain('ingress')}${chain('egress')}\n}`]);
}

/** Frames lost so far: from the machine, and to it. */
async function lost(): Promise<{ readonly from: number; readonly to: number }> {
  const { nftables } = JSON.parse(await lab.link.ns.must(['nft', '-j', 'list', 'counters', 'table', 'netdev', 'loss'])) as { nftables: { counter?: { name: string; packets: number } }[] };
  const packets = (name: string) => nftables.find(({ counter }) => counter?.name === name)!.counter!.packets;
  return { from: packets('ingress_lost'), to: packets('egress_lost') };
}

/** Switches n1 on and answers its boot as soon as it has ended or is as wanted. */
async function bootUntil(enough: (boot: Boot) => boolean): Promise<Boot> {
  const [n1] = lab.nodes;
  const vm = lab.powerOn(n1!);
  return until('the boot', LIMIT_MS, async () => {
    const boot = await lab.newestBoot(n1!.name);
    return boot && (boot.state !== 'open' || enough(boot)) ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(lab.daemon.log, 'utf8').slice(-3000)}`);
  });
}

const names = (boot: Boot): string[] => boot.stages.map(({ name }) => name);

test('a BIOS machine gets ready in its first boot: DHCP, script, kernel, initrd, image and steps', { timeout: LIMIT_MS + 60_000 }, async () => {
  await start('bios');
  const boot = await bootUntil(() => false);
  const { from, to } = await lost();
  console.log(`boot at 1 frame in ${LOSE_ONE_IN} lost each way: ${boot.state} after ${((boot.endedAt! - boot.startedAt) / 1000).toFixed(0)} s, ${from} frames from the machine and ${to} to it were lost`);
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(names(boot)).toEqual(expectedStages('bios-ipxe', STEPS));
  // Else it was not that link: the image alone is tens of thousands of frames.
  expect(to).toBeGreaterThan(1_000);
  expect(from).toBeGreaterThan(100);
});

// From the script on it is the same boot: the kernel is started by iPXE.
test('PXE of EDK2 has snponly.efi by TFTP, which comes back for its script', { timeout: LIMIT_MS + 60_000 }, async () => {
  await start('uefi');
  const boot = await bootUntil((seen) => hasStage(seen, 'script'));
  const { from, to } = await lost();
  console.log(`EDK2 at 1 frame in ${LOSE_ONE_IN} lost each way: loader after ${stageOf(boot, 'loader') ? ((stageOf(boot, 'loader')!.lastAt - boot.startedAt) / 1000).toFixed(1) : '?'} s, ${from} and ${to} frames lost`);
  expect(boot.state).toBe('open');
  expect(names(boot).slice(0, 5)).toEqual(expectedStages('uefi-rom', STEPS).slice(0, 5));
  expect(stageOf(boot, 'loader')?.detail.message).toBe('snponly.efi');
  expect(from + to).toBeGreaterThan(10);
});
