// `loader: uki`: who gets the UKI, by which way and under which name, and who is held with a reason instead.
import { describe, expect, it } from 'vitest';
import { decide, type View } from '../../src/boot/decide.ts';
import { FAILURES_BEFORE_HOLD, HOLD_S } from '../../src/boot/hold.ts';
import { renderScript } from '../../src/boot/ipxe.ts';
import { refuseClaim } from '../../src/boot/session.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import { ukiWay } from '../../src/boot/uki.ts';
import { loaderName, loaderPath, readTftpName, UKI_FILE } from '../../src/boot/urls.ts';
import { bootSet, bootSetDigest, bootWith, generationOf, nodeNamed } from './boot-world.ts';

const n1 = nodeNamed('n1', { loader: 'uki' });
const without = generationOf(n1);
const withUki = { ...without, bootSets: { [bootSetDigest]: { ...bootSet, image: { ...bootSet.image, uki: { digest: `sha256:${'7'.repeat(64)}`, size: 1 } } } } };
const rom: BootRequest = { via: 'dhcp', asker: 'rom', arch: 'amd64', firmware: 'uefi', message: 'discover' };
const ipxe: BootRequest = { ...rom, asker: 'ipxe', features: ['http', 'efi'] };
const view: View = { node: n1, failedInRow: 0, openBoot: bootWith(['discover']) };

it.each([
  ['UEFI PXE', rom, 'tftp'],
  ['HTTP Boot', { ...rom, firmware: 'uefi-http' }, 'http'],
  ['an iPXE of the card on UEFI', ipxe, 'http'],
  ['one that cannot fetch by HTTP', { ...ipxe, features: ['efi'] }, 'tftp'],
] as const)('%s is sent to the UKI', (_who, request, via) => {
  expect(decide(view, request, withUki)).toEqual({ kind: 'loader', file: UKI_FILE, via });
});

it('a BIOS machine is held with the reason, and its ROM gets a loader that can show it', () => {
  const bios = { ...rom, firmware: 'bios' } as const;
  const why = 'loader: uki needs UEFI, this machine boots by BIOS';
  expect(decide(view, bios, withUki)).toEqual({ kind: 'hold', why, retryAfterS: HOLD_S, loader: { file: 'undionly.kpxe', via: 'tftp' } });
  expect(decide(view, { ...bios, asker: 'ipxe', features: ['http', 'bzimage'] }, withUki)).toEqual({ kind: 'hold', why, retryAfterS: HOLD_S });
});

it('a machine that does not say what it is is held with that, and one of a processor that nobody knows with its type', () => {
  const { firmware: _firmware, arch: _arch, ...silent } = rom;
  expect(decide(view, silent, withUki)).toMatchObject({ kind: 'hold', why: 'loader: uki needs UEFI, and this machine does not say whether it has that (DHCP option 93)', loader: { file: 'undionly.kpxe' } });
  // Of a boot set of an older generation the image's own processor is not known.
  expect(ukiWay({ ...silent, firmware: 'uefi-http', unknownType: 0x28 }, undefined)).toEqual({ why: 'loader: uki: no UKI is for architecture type 0x28' });
});

it('a UEFI of 32 bits, which starts kernels of 64 but no EFI program of 64, is held with the reason', () => {
  const why = 'loader: uki: the UKI of image debian-k0s is for amd64 firmware, this machine\'s is i386';
  for (const asker of ['rom', 'ipxe'] as const) expect(decide(view, { ...ipxe, asker, arch: 'i386' }, withUki)).toMatchObject({ kind: 'hold', why, retryAfterS: HOLD_S });
  expect(decide(view, { ...rom, firmware: 'uefi-http', arch: 'i386' }, withUki)).toMatchObject({ kind: 'hold', why });
});

it('an image without a UKI holds, and says how to make one', () => {
  expect(decide(view, rom, without)).toMatchObject({ kind: 'hold', why: 'image debian-k0s has no UKI: rackseed image uki debian-k0s, then rackseed reload', loader: { file: 'snponly.efi' } });
});

it('a node that failed too often gets the loader that says so, and no UKI', () => {
  const failing: View = { ...view, failedInRow: FAILURES_BEFORE_HOLD };
  expect(decide(failing, rom, withUki)).toEqual({ kind: 'loader', file: 'snponly.efi', via: 'tftp' });
  expect(decide(failing, ipxe, withUki)).toMatchObject({ kind: 'hold' });
  expect(decide(failing, { via: 'http', wants: 'script' }, withUki)).toMatchObject({ kind: 'hold' });
});

it('who asks for the file itself gets the boot set, and so does the initrd stage', () => {
  expect(decide(view, { via: 'http', wants: 'script', arch: 'amd64', firmware: 'uefi-http' }, withUki)).toEqual({ kind: 'boot', bootSet: bootSetDigest });
  expect(decide(view, { via: 'dhcp', asker: 'initrd' }, withUki)).toEqual({ kind: 'boot', bootSet: bootSetDigest });
});

it('a node without `loader: uki` gets none, whatever the image has', () => {
  expect(decide({ ...view, node: nodeNamed('n1') }, rom, withUki)).toEqual({ kind: 'loader', file: 'snponly.efi', via: 'tftp' });
});

describe('its name', () => {
  const mac = '52:54:00:00:00:01';
  it('is under the MAC, and reads back', () => {
    expect(loaderName(UKI_FILE, mac)).toBe('52-54-00-00-00-01/uki.efi');
    expect(readTftpName(loaderName(UKI_FILE, mac))).toEqual({ mac, file: UKI_FILE });
    expect(loaderPath(loaderName('snponly.efi', mac))).toBe('/loaders/snponly.efi');
  });

  it('an iPXE chains it and asks again when that fails', () => {
    const script = renderScript({ kind: 'loader', file: UKI_FILE, via: 'http' }, undefined, { mac, baseUrl: 'http://10.0.0.1:8080', bootId: 'b' });
    expect(script.split('\n')).toContain('chain http://10.0.0.1:8080/loaders/52-54-00-00-00-01/uki.efi ||');
    expect(script).toContain('chain --replace http://10.0.0.1:8080/script/52-54-00-00-00-01');
  });
});

it('the session of a UKI needs the file to have been fetched, not a script', () => {
  const boot = (stages: Parameters<typeof bootWith>[0], more: object) => ({ ...bootWith(stages, more), ip: '10.0.0.5' as const });
  const claim = { ip: '10.0.0.5' as const, mac: n1.macs[0]! };
  const fetched = boot(['discover', 'offer', 'lease', 'kernel'], { bootSet: bootSetDigest });
  const { lastAt } = fetched.stages.at(-1)!;
  expect(refuseClaim(fetched, n1.macs, claim, lastAt + 1000)).toBeUndefined();
  expect(refuseClaim(boot(['discover', 'offer', 'lease'], {}), n1.macs, claim, lastAt)).toMatch(/has not fetched/);
  expect(refuseClaim(fetched, n1.macs, claim, lastAt + 11 * 60_000)).toMatch(/more than 10 minutes/);
});
