// Secure Boot with Microsoft's keys refuses what nobody signed; and UEFI of 32 bits boots by GRUB. What gets ready is in firmware.test.ts. Only with RACKSEED_FULL=1.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { expectedStages, hasStage, stageOf } from '../../src/boot/timeline.ts';
import type { LabFirmware } from '../../src/lab/firmware.ts';
import { buildLabImage } from '../../src/lab/image.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { STANDIN, type SiteOptions } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
// @ts-expect-error: plain JavaScript of the bootstrap
import { fetchFromSuite, fetchShim } from '../../src/setup/suites.mjs';
import { TEST_STATE, until } from '../lab-process.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
let lab: Lab | undefined;
let set: string | undefined;

async function start(firmware: LabFirmware, options: SiteOptions): Promise<Lab> {
  return (lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel: await probeAccel(), release: STANDIN, ...options }));
}

describe('firmware', { timeout: 20 * 60_000 }, () => {
  beforeAll(async () => {
    mkdirSync(TEST_STATE, { recursive: true });
    await buildLabImage('secureboot', TEST_STATE, { onProgress: () => undefined });
  }, 15 * 60_000);
  afterEach(async () => {
    await lab?.close();
    lab = undefined;
    if (set) rmSync(set, { recursive: true, force: true });
    set = undefined;
  });

  test("with Microsoft's keys refuses an iPXE, which nobody signed", async () => {
    await (fetchShim as (root: string) => Promise<void>)(ROOT);
    const { nodes: [n1], powerOn, newestBoot } = await start('secureboot', { loader: 'auto', loadersDir: '/usr/lib/ipxe' });
    const vm = powerOn(n1!);
    const words = await until("the firmware's verdict", 300_000, async () => /BdsDxe: failed to load Boot0001[^\r\n]*/.exec(readFileSync(vm.console.log, 'utf8'))?.[0]);
    expect(words).toMatch(/UEFI PXEv4.*: Access Denied/);
    // Seen by the last acknowledgement, which is on its way while the firmware looks for a signature.
    const boot = await until('the stage of the loader', 20_000, async () => {
      const newest = await newestBoot('n1');
      return newest && hasStage(newest, 'loader') ? newest : undefined;
    });
    expect(stageOf(boot, 'loader')?.detail.message).toBe('snponly.efi');
    expect(hasStage(boot, 'script')).toBe(false);
  });

  test('of 32 bits starts GRUB, and that a kernel of 64 bits', async () => {
    const packages = [{ suite: 'bookworm', name: 'ovmf-ia32' }, { suite: 'bookworm', name: 'grub-efi-ia32-bin' }];
    const [ovmf, grub] = await (fetchFromSuite as (root: string, wanted: readonly object[]) => Promise<string[]>)(ROOT, packages);
    set = mkdtempSync(join(tmpdir(), 'rackseed-ia32-set-'));
    copyFileSync(join(grub!, 'usr/lib/grub/i386-efi/monolithic/grubnetia32.efi'), join(set, 'grubnetia32.efi'));
    copyFileSync('/usr/lib/ipxe/undionly.kpxe', join(set, 'undionly.kpxe'));
    const vars = join(set, 'vars.fd');
    copyFileSync(join(ovmf!, 'usr/share/OVMF/OVMF32_VARS_4M.fd'), vars);
    // On a machine without firmware of the lab's.
    const { nodes: [n1], powerOn, newestBoot } = await start('bios', { loadersDir: set });
    const more = [
      ...['-machine', 'smm=on', '-global', 'driver=cfi.pflash01,property=secure,value=on', '-global', 'ICH9-LPC.disable_s3=1'],
      ...['-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${join(ovmf!, 'usr/share/OVMF/OVMF32_CODE_4M.secboot.fd')}`, '-drive', `if=pflash,unit=1,format=raw,file=${vars}`],
      ...['-global', 'virtio-net-pci.romfile=', '-global', 'virtio-net-pci.bootindex=1', '-fw_cfg', 'name=opt/org.tianocore/IPv6PXESupport,string=n'],
    ];
    const vm = powerOn({ ...n1!, vm: { ...n1!.vm, more } });
    const boot = await until('the root', 480_000, async () => {
      const newest = await newestBoot('n1');
      return newest && (newest.state !== 'open' || hasStage(newest, 'root')) ? newest : undefined;
    }).catch((error: Error) => {
      throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}`);
    });
    expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages('uefi-grub', []).slice(0, boot.stages.length));
    expect([stageOf(boot, 'loader')?.detail.message, hasStage(boot, 'root')]).toEqual(['grubnetia32.efi', true]);
  });
});
