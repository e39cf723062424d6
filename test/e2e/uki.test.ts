// A UKI boots real UEFI machines with no iPXE at all: by HTTP Boot and by PXE, and under Secure Boot with the operator's own keys.
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { expectedStages, hasStage, stageOf, type Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { peSections } from '../../src/images/pe.ts';
import { makeSecureBootKeys } from '../../src/images/signing.ts';
import { makeUki } from '../../src/images/uki.ts';
import type { LabFirmware } from '../../src/lab/firmware.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { TEST_STATE, until } from '../lab-process.ts';
import { ownKeysArgs } from './own-keys.ts';

const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();
const CMDLINE = 'rackseed.net=dhcp console=ttyS0,115200';
/** Debian's, unless a trial run has it elsewhere. */
const STUB = process.env['RACKSEED_UKI_STUB'];

let lab: Lab | undefined;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
});
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});

/** The UKI as the operator makes it. */
const make = (sign?: string) => makeUki({ name: 'debian-k0s', stateDir: TEST_STATE, cmdline: CMDLINE, ...(STUB === undefined ? {} : { stub: STUB }), ...(sign === undefined ? {} : { sign }) });

/** A lab whose node has `loader: uki`. */
async function start(firmware: LabFirmware): Promise<Lab> {
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  const before = await generation(lab);
  appendFileSync(join(lab.site.profilesDir, `${LAB_PROFILE}.yaml`), '\nloader: uki\n');
  await until('the profile with its loader', 30_000, async () => ((await generation(lab!)) === before ? undefined : true));
  return lab;
}

async function generation({ daemon }: Lab): Promise<string> {
  const log = readFileSync(daemon.log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { generation?: string });
  return log.findLast((line) => line.generation !== undefined)?.generation ?? '';
}

async function bootUntil(enough: (boot: Boot) => boolean, more: readonly string[] = []): Promise<{ readonly boot: Boot; readonly vm: Vm }> {
  const [n1] = lab!.nodes;
  const vm = lab!.powerOn({ ...n1!, vm: { ...n1!.vm, more } });
  const boot = await until('the boot', 480_000, async () => {
    const newest = await lab!.newestBoot(n1!.name);
    return newest && (newest.state !== 'open' || enough(newest)) ? newest : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(lab!.daemon.log, 'utf8').slice(-3000)}`);
  });
  const at = (name: Parameters<typeof stageOf>[1]): string => `${name} ${(((stageOf(boot, name)?.firstAt ?? NaN) - vm.startedAt) / 1000).toFixed(1)}`;
  console.log(`seconds since power-on: ${boot.stages.map(({ name }) => at(name)).join(', ')}`);
  return { boot, vm };
}

test('HTTP Boot fetches the UKI and gets ready', async () => {
  await make();
  await start('uefi-http');
  const { boot, vm } = await bootUntil(() => false);
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages('uefi-http-uki', STEPS));
  const console = readFileSync(vm.console.log, 'utf8');
  expect(console).toContain(CMDLINE);
  expect(console).not.toContain('iPXE');
});

test('PXE fetches the UKI by TFTP, and its initrd stage finds the daemon', async () => {
  await make();
  await start('uefi');
  const { boot } = await bootUntil((seen) => hasStage(seen, 'root'));
  expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages('uefi-uki', STEPS).slice(0, boot.stages.length));
  expect(hasStage(boot, 'root')).toBe(true);
});

describe("Secure Boot with the operator's own keys", () => {
  let keys: string;
  beforeAll(async () => {
    keys = join(mkdtempSync(join(tmpdir(), 'rackseed-keys-')), 'secure-boot');
    await makeSecureBootKeys(keys);
  });
  afterAll(() => rmSync(join(keys, '..'), { recursive: true, force: true }));

  test('the signed UKI boots, and the kernel is locked down', async () => {
    await make(keys);
    const { site } = await start('bios');
    const { boot, vm } = await bootUntil((seen) => hasStage(seen, 'root'), ownKeysArgs(site.dir, keys));
    expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages('uefi-http-uki', STEPS).slice(0, boot.stages.length));
    expect(hasStage(boot, 'root')).toBe(true);
    expect(readFileSync(vm.console.log, 'utf8')).toMatch(/Secure boot enabled|locked down/i);
  });

  test.each([
    ['one byte of its command line was changed', async () => altered((await make(keys)).path)],
    ['nobody signed it', async () => (await make()).path],
  ])('it is refused when %s', async (_what, file) => {
    await record(await file());
    const { site } = await start('bios');
    const [n1] = lab!.nodes;
    const vm = lab!.powerOn({ ...n1!, vm: { ...n1!.vm, more: ownKeysArgs(site.dir, keys) } });
    const words = await until('the firmware\'s verdict', 180_000, async () => /BdsDxe: failed to load Boot0001[^\r\n]*/.exec(readFileSync(vm.console.log, 'utf8'))?.[0]);
    expect(words).toContain('Access Denied');
    const boot = await lab!.newestBoot(n1!.name);
    expect(boot?.stages.map(({ name }) => name)).toEqual(['discover', 'offer', 'lease', 'kernel']);
  });

  /** As it would be after an attack on the store: served as the image's UKI, under its own digest. */
  async function record(file: string): Promise<void> {
    const images = createImageStore(TEST_STATE);
    const image = (await images.get('debian-k0s'))!;
    await images.put({ ...image, uki: { ...image.uki!, ...(await createBlobStore(TEST_STATE).add(Readable.from([readFileSync(file)]))) } });
  }

  function altered(path: string): string {
    const bytes = readFileSync(path);
    const cmdline = peSections(bytes).find(({ name }) => name === '.cmdline')!;
    bytes[cmdline.offset] = bytes[cmdline.offset]! ^ 1;
    const file = join(keys, '..', 'altered.efi');
    writeFileSync(file, bytes);
    return file;
  }
});
