// What each captured machine gets next: from the packet's bytes through `identify` to the policy's answer, for a node that has never booted.
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { decide, type BootDecision } from '../../src/boot/decide.ts';
import { identify } from '../../src/dhcp/client.ts';
import { messageOf } from '../../src/dhcp/options.ts';
import { decode } from '../../src/dhcp/packet.ts';
import { bootSetDigest, generationOf, nodeNamed } from '../unit/boot-world.ts';

const DIR = new URL('dhcp/', import.meta.url);
const node = nodeNamed('n1');
const generation = generationOf(node);

/** By capture, written by hand: all packets of one machine get the same. */
const BOOTS: Partial<BootDecision> = { kind: 'boot', bootSet: bootSetDigest };
const BY_TFTP: Partial<BootDecision> = { kind: 'loader', file: 'snponly.efi', via: 'tftp' };
const BY_HTTP: Partial<BootDecision> = { kind: 'loader', file: 'snponly.efi', via: 'http' };
const ADDRESS: Partial<BootDecision> = { kind: 'local' };
const ANSWERS: readonly [machine: string, packets: readonly string[], answer: Partial<BootDecision>][] = [
  ['qemu_virtio-bios_ipxe', ['discover', 'request'], BOOTS],
  ['qemu_e1000-bios_ipxe', ['discover', 'request'], BOOTS],
  ['qemu_rtl8139-bios_ipxe', ['discover', 'request'], BOOTS],
  ['qemu_virtio-uefi_edk2', ['discover', 'request', 'request_4011'], BY_TFTP],
  ['qemu_virtio-uefi_edk2_http', ['discover', 'request'], BY_HTTP],
  ['qemu_virtio-uefi_ipxe', ['discover', 'request'], BOOTS],
  ['lab_bios-ipxe', ['discover', 'request'], BOOTS],
  ['lab_bios_e1000-ipxe', ['discover', 'request'], BOOTS],
  ['lab_bios_rtl8139-ipxe', ['discover', 'request'], BOOTS],
  ['lab_uefi-rom', ['discover', 'request', 'request_4011'], BY_TFTP],
  ['lab_uefi-ipxe', ['discover', 'request'], BOOTS],
  ['lab_uefi_http-rom', ['discover', 'request'], BY_HTTP],
  ['lab_uefi_http-ipxe', ['discover', 'request'], BOOTS],
  ['lab_uefi_proxy-rom', ['discover', 'request', 'request_4011'], BY_TFTP],
  ['lab_uefi_proxy-ipxe', ['discover', 'request'], BOOTS],
  ['debian12-udhcpc', ['discover', 'request'], ADDRESS],
  ['debian12-udhcpc_initrd', ['discover', 'request'], BOOTS],
  ['debian12-dhclient', ['discover', 'request'], ADDRESS],
];
const cases = ANSWERS.flatMap(([machine, packets, answer]) => packets.map((packet) => ({ name: `${machine}-${packet}`, message: packet.split('_')[0], answer })));

const read = (name: string) => decode(Uint8Array.from(Buffer.from(readFileSync(new URL(`${name}.hex`, DIR), 'utf8').replace(/\s/g, ''), 'hex')));

describe('the decision for each captured machine', () => {
  it('is written down for every packet that a machine sent', () => {
    const sent = readdirSync(DIR).filter((file) => file.endsWith('.hex')).map((file) => file.slice(0, -4)).filter((name) => read(name).op === 1);
    expect(cases.map(({ name }) => name).sort()).toEqual(sent.sort());
  });

  it.each(cases)('$name: $answer.kind', ({ name, message, answer }) => {
    const packet = read(name);
    expect(messageOf(packet.options)).toBe(message);
    expect(decide({ node, failedInRow: 0 }, identify(packet), generation)).toMatchObject(answer);
  });
});
