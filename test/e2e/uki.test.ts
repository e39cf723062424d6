// A UKI boots UEFI machines with no iPXE at all, here by PXE; under Secure Boot with own keys firmware refuses what they did not sign. firmware.test.ts has HTTP Boot to ready.
import { mkdirSync, readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { expectedStages, hasStage, stageOf } from '../../src/boot/timeline.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { peSections } from '../../src/images/pe.ts';
import { makeUki } from '../../src/images/uki.ts';
import type { LabFirmware } from '../../src/lab/firmware.ts';
import { buildLabImage, LAB_IMAGE, LAB_UKI_CMDLINE } from '../../src/lab/image.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { TEST_STATE, until } from '../lab-process.ts';

let lab: Lab | undefined;

beforeAll(() => void mkdirSync(TEST_STATE, { recursive: true }));
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});

async function start(firmware: LabFirmware): Promise<Lab> {
  return (lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel: await probeAccel(), release: STANDIN, loader: 'uki' }));
}

test('PXE fetches the UKI by TFTP, and its initrd stage finds the daemon', async () => {
  await buildLabImage('uefi-http-uki', TEST_STATE, { onProgress: () => undefined });
  const { nodes: [n1], daemon, newestBoot, powerOn } = await start('uefi');
  const vm = powerOn(n1!);
  const boot = await until('the root', 480_000, async () => {
    const newest = await newestBoot(n1!.name);
    return newest && (newest.state !== 'open' || hasStage(newest, 'root')) ? newest : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(daemon.log, 'utf8').slice(-3000)}`);
  });
  console.log(`seconds since power-on: ${boot.stages.map(({ name }) => `${name} ${((stageOf(boot, name)!.firstAt - vm.startedAt) / 1000).toFixed(1)}`).join(', ')}`);
  expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages('uefi-uki', []).slice(0, boot.stages.length));
  expect(hasStage(boot, 'root')).toBe(true);
});

describe("firmware with the operator's own Secure Boot keys refuses a UKI", () => {
  test.each([
    ['of which one byte of the command line was changed', altered],
    ['that nobody signed', async () => readFileSync((await makeUki({ name: LAB_IMAGE, stateDir: TEST_STATE, cmdline: LAB_UKI_CMDLINE })).path)],
  ])('%s', async (_what, bytes) => {
    await buildLabImage('secureboot-own', TEST_STATE, { onProgress: () => undefined });
    await record(await bytes());
    const { nodes: [n1], newestBoot, powerOn } = await start('secureboot-own');
    const vm = powerOn(n1!);
    const words = await until("the firmware's verdict", 180_000, async () => /BdsDxe: failed to load Boot0001[^\r\n]*/.exec(readFileSync(vm.console.log, 'utf8'))?.[0]);
    expect(words).toContain('Access Denied');
    const boot = await newestBoot(n1!.name);
    expect(boot?.stages.map(({ name }) => name)).toEqual(['discover', 'offer', 'lease', 'kernel']);
  });

  /** As it would be after an attack on the store: served as the image's UKI, under its own digest. */
  async function record(bytes: Buffer): Promise<void> {
    const images = createImageStore(TEST_STATE);
    const image = (await images.get(LAB_IMAGE))!;
    await images.put({ ...image, uki: { ...image.uki!, ...(await createBlobStore(TEST_STATE).add(Readable.from([bytes]))) } });
  }

  /** The signed one that the lab has made. */
  async function altered(): Promise<Buffer> {
    const { uki } = (await createImageStore(TEST_STATE).get(LAB_IMAGE))!;
    expect(uki!.signed).toBe(true);
    const bytes = readFileSync(createBlobStore(TEST_STATE).path(uki!.digest));
    const cmdline = peSections(bytes).find(({ name }) => name === '.cmdline')!;
    bytes[cmdline.offset] = bytes[cmdline.offset]! ^ 1;
    return bytes;
  }
});
