// Who asks: from what packets say to the question that the Booter is asked.
import { describe, expect, it } from 'vitest';
import type { BootRequest } from '../../src/boot/request.ts';
import { identify } from '../../src/dhcp/client.ts';
import { ips, message, OPT, subOptions, text, uint16s, uint8, userClasses, uuid } from '../../src/dhcp/options.ts';
import { packetWith } from './dhcp-world.ts';

type Said = [number, Uint8Array][];
const pxe = text('PXEClient:Arch:00007:UNDI:003016');

describe('identify', () => {
  it.each<[string, Said, Partial<BootRequest>]>([
    ['a card\'s PXE', [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]], { asker: 'rom', firmware: 'bios', arch: 'amd64' }],
    ['a UEFI that boots by HTTP', [[OPT.vendorClass, text('HTTPClient:Arch:00016:UNDI:003001')], [OPT.clientArch, uint16s(16)]], { asker: 'rom', firmware: 'uefi-http', arch: 'amd64' }],
    ['an iPXE, which keeps the ROM\'s vendor class', [[OPT.vendorClass, pxe], [OPT.userClass, text('iPXE')], [OPT.clientArch, uint16s(7)]], { asker: 'ipxe', firmware: 'uefi', features: [] }],
    ['an iPXE with its class in RFC 3004\'s form', [[OPT.userClass, userClasses('x', 'iPXE')]], { asker: 'ipxe' }],
    ['our initrd stage', [[OPT.vendorClass, text('rackseed-initrd')]], { asker: 'initrd' }],
    ['a running system with a vendor class', [[OPT.vendorClass, text('udhcp 1.35.0')]], { asker: 'os' }],
    ['a running system without one', [], { asker: 'os' }],
    ['a user class that only contains the word', [[OPT.userClass, text('iPXE-like')]], { asker: 'os' }],
  ])('%s', (_what, said, request) => {
    expect(identify(packetWith(said))).toMatchObject(request);
  });

  it.each<[string, number[], Pick<BootRequest, 'arch' | 'firmware'>]>([
    ['0 is BIOS', [0], { arch: 'amd64', firmware: 'bios' }],
    ['6 is 32-bit UEFI', [6], { arch: 'i386', firmware: 'uefi' }],
    ['7 is x64 UEFI', [7], { arch: 'amd64', firmware: 'uefi' }],
    ['9 is x64 UEFI too', [9], { arch: 'amd64', firmware: 'uefi' }],
    ['10 is 32-bit ARM', [10], { arch: 'armhf', firmware: 'uefi' }],
    ['11 is 64-bit ARM', [11], { arch: 'arm64', firmware: 'uefi' }],
    ['15 is 32-bit UEFI by HTTP', [15], { arch: 'i386', firmware: 'uefi-http' }],
    ['16 is x64 UEFI by HTTP', [16], { arch: 'amd64', firmware: 'uefi-http' }],
    ['18 is 32-bit ARM by HTTP', [18], { arch: 'armhf', firmware: 'uefi-http' }],
    ['19 is 64-bit ARM by HTTP', [19], { arch: 'arm64', firmware: 'uefi-http' }],
    ['27 is RISC-V', [27], { arch: 'riscv64', firmware: 'uefi' }],
    ['28 is RISC-V by HTTP', [28], { arch: 'riscv64', firmware: 'uefi-http' }],
    ['of a list the first known one counts', [2, 9, 0], { arch: 'amd64', firmware: 'uefi' }],
  ])('architecture %s', (_what, types, expected) => {
    expect(identify(packetWith([[OPT.clientArch, uint16s(...types)]]))).toMatchObject(expected);
  });

  it.each<[string, string, number[], Partial<BootRequest>]>([
    ['by option 93', 'PXEClient', [0x27], { unknownType: 0x27 }],
    ['of several the first', 'PXEClient', [2, 0x27], { unknownType: 2 }],
    ['by the vendor class alone', 'PXEClient:Arch:00039:UNDI:003001', [], { unknownType: 39 }],
    ['of HTTP Boot', 'HTTPClient:Arch:00040:UNDI:003001', [0x28], { firmware: 'uefi-http', unknownType: 0x28 }],
    ['which the vendor class knows better', 'PXEClient:Arch:00007:UNDI:003001', [0x27], { arch: 'amd64', firmware: 'uefi' }],
  ])('an architecture that we do not know is kept as a number: %s', (_what, vendorClass, types, expected) => {
    const { arch, firmware, unknownType } = identify(packetWith([[OPT.vendorClass, text(vendorClass)], ...(types.length === 0 ? [] : [[OPT.clientArch, uint16s(...types)] as [number, Uint8Array]])]));
    expect(JSON.parse(JSON.stringify({ arch, firmware, unknownType }))).toEqual(expected);
  });

  it('without option 93 the vendor class tells the architecture', () => {
    expect(identify(packetWith([[OPT.vendorClass, pxe]]))).toMatchObject({ arch: 'amd64', firmware: 'uefi' });
  });

  it.each<[string, string, number[], Pick<BootRequest, 'arch' | 'firmware'>]>([
    ['HTTPClient with an architecture of PXE', 'HTTPClient', [7], { arch: 'amd64', firmware: 'uefi-http' }],
    ['HTTPClient without any', 'HTTPClient', [], { firmware: 'uefi-http' }],
    ['HTTPClient with that of BIOS, which has no HTTP Boot', 'HTTPClient', [0], { firmware: 'uefi-http' }],
    ['PXEClient with an architecture of HTTP Boot', 'PXEClient', [16], { arch: 'amd64', firmware: 'uefi' }],
  ])('the vendor class says the protocol: %s', (_what, vendorClass, types, expected) => {
    const { arch, firmware } = identify(packetWith([[OPT.vendorClass, text(vendorClass)], [OPT.clientArch, uint16s(...types)]]));
    expect({ ...(arch ? { arch } : {}), firmware }).toEqual(expected);
  });

  it('features come from option 175, those that a decision depends on; 0 is off', () => {
    const listed = subOptions([[177, uint8(1)], [19, uint8(1)], [20, uint8(0)], [24, uint8(1)], [33, uint8(1)], [34, uint8(1)], [36, uint8(1)], [39, uint8(1)], [23, uint8(1)]]);
    expect(identify(packetWith([[OPT.userClass, text('iPXE')], [OPT.ipxe, listed]])).features).toEqual(['http', 'bzimage', 'pxe', 'elf', 'efi', 'menu']);
  });

  it('only an iPXE has features', () => {
    expect(identify(packetWith([[OPT.ipxe, subOptions([[19, uint8(1)]])]])).features).toBeUndefined();
  });

  it('carries MAC, UUID and ciaddr, and the kind of message', () => {
    const packet = packetWith([[OPT.messageType, message('request')], [OPT.clientUuid, uuid('00112233-4455-6677-8899-aabbccddeeff')]], { ciaddr: '10.77.0.11' });
    expect(identify(packet)).toEqual({ via: 'dhcp', asker: 'os', mac: '52:54:00:00:00:01', uuid: '00112233-4455-6677-8899-aabbccddeeff', ip: '10.77.0.11', message: 'request' });
  });

  it('what was not sent is absent, not undefined', () => {
    expect(identify(packetWith([[OPT.messageType, message('inform')], [OPT.requestedIp, ips('10.77.0.9')]], { htype: 32 }))).toStrictEqual({ via: 'dhcp', asker: 'os' });
  });

  it.each<[string, Said, string | undefined]>([
    ['of a ROM is kept', [[OPT.vendorClass, pxe]], 'PXEClient:Arch:00007:UNDI:003016'],
    ['of an iPXE is kept', [[OPT.vendorClass, pxe], [OPT.userClass, text('iPXE')]], 'PXEClient:Arch:00007:UNDI:003016'],
    ['of a running system is nobody\'s business', [[OPT.vendorClass, text('udhcp 1.35.0')]], undefined],
    ['of our initrd stage goes without saying', [[OPT.vendorClass, text('rackseed-initrd')]], undefined],
    ['that an iPXE leaves out is absent', [[OPT.userClass, text('iPXE')]], undefined],
    ['cannot move a terminal\'s cursor', [[OPT.vendorClass, text('PXEClient\x1b[2J\x9b1m\u00e9')]], 'PXEClient?[2J?1m?'],
    ['of 500 bytes is cut', [[OPT.vendorClass, text(`PXEClient${'x'.repeat(491)}`)]], `PXEClient${'x'.repeat(246)}`],
  ])('the vendor class %s', (_what, said, vendorClass) => {
    expect(identify(packetWith(said)).vendorClass).toBe(vendorClass);
  });
});
