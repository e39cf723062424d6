// What each captured machine gets next: from the packet's bytes through `identify` to the policy's answer, for a node that has never booted.
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { decide, type BootDecision } from '../../src/boot/decide.ts';
import type { Generation } from '../../src/boot/profile.ts';
import type { Node } from '../../src/boot/node.ts';
import { identify } from '../../src/dhcp/client.ts';
import { messageOf } from '../../src/dhcp/options.ts';
import { decode } from '../../src/dhcp/packet.ts';
import { DEBIAN_12_LOADERS, type LoaderProgram } from '../../src/boot/loader.ts';
import { UKI_FILE } from '../../src/boot/urls.ts';
import { UKI_LOADER } from '../../src/boot/uki.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { bootSet, bootSetDigest, generationOf, nodeNamed } from '../unit/boot-world.ts';

const DIR = new URL('dhcp/', import.meta.url);
const node = nodeNamed('n1');
const generation = generationOf(node);
/** A node with `loader: uki`, and its image has one. */
const ukiNode = nodeNamed('n1', { loader: UKI_LOADER });
const withUki = { ...generationOf(ukiNode), bootSets: { [bootSetDigest]: { ...bootSet, image: { ...bootSet.image, uki: { digest: digestOfBytes('uki'), size: 3 } } } } };

/** An arm64 image, and a loader set that has an iPXE for it. */
const forArm64 = { ...generation, bootSets: { [bootSetDigest]: { ...bootSet, image: { ...bootSet.image, arch: 'arm64' as const } } } };
const NEWER: readonly LoaderProgram[] = [...DEBIAN_12_LOADERS, { name: 'ipxe-arm64.efi', runsOn: 'efi-arm64' }];

/** A node with `loader: shim`, and a set that has Debian's. */
const shimNode = nodeNamed('n1', { loader: 'shim' });
const SIGNED: readonly LoaderProgram[] = [...DEBIAN_12_LOADERS, { name: 'shimx64.efi', runsOn: 'efi-amd64' }, { name: 'grubx64.efi', runsOn: 'efi-amd64' }];

/** By capture, written by hand: all packets of one machine get the same. */
const BOOTS: Partial<BootDecision> = { kind: 'boot', bootSet: bootSetDigest };
const BY_TFTP: Partial<BootDecision> = { kind: 'loader', file: 'snponly.efi', via: 'tftp' };
const BY_HTTP: Partial<BootDecision> = { kind: 'loader', file: 'snponly.efi', via: 'http' };
const UKI: Partial<BootDecision> = { kind: 'loader', file: UKI_FILE, via: 'http' };
const SHIM: Partial<BootDecision> = { kind: 'loader', file: 'shimx64.efi', via: 'tftp' };
const ARM64: Partial<BootDecision> = { kind: 'loader', file: 'ipxe-arm64.efi', via: 'tftp' };
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
  ['lab_uefi_http_uki-rom', ['discover', 'request'], UKI],
  ['lab_uefi_http_uki-initrd', ['discover', 'request'], BOOTS],
  ['lab_secureboot-rom', ['discover', 'request', 'request_4011'], SHIM],
  ['lab_secureboot-initrd', ['discover', 'request'], BOOTS],
  ['lab_secureboot_own-rom', ['discover', 'request'], UKI],
  ['lab_secureboot_own-initrd', ['discover', 'request'], BOOTS],
  ['lab_uefi_proxy-rom', ['discover', 'request', 'request_4011'], BY_TFTP],
  ['lab_uefi_proxy-ipxe', ['discover', 'request'], BOOTS],
  ['lab_uefi_arm64-rom', ['discover', 'request', 'request_4011'], ARM64],
  ['lab_uefi_arm64-initrd', ['discover', 'request'], BOOTS],
  ['debian12-udhcpc', ['discover', 'request'], ADDRESS],
  ['debian12-udhcpc_initrd', ['discover', 'request'], BOOTS],
  ['debian12-dhclient', ['discover', 'request'], ADDRESS],
];
/** Whose node, generation and loader set are others than those of the rest. */
const WORLDS = new Map<Partial<BootDecision>, readonly [Node, Generation, (readonly LoaderProgram[])?]>([
  [UKI, [ukiNode, withUki]],
  [SHIM, [shimNode, generationOf(shimNode), SIGNED]],
  [ARM64, [node, forArm64, NEWER]],
]);
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
    const [who, world, loaders] = WORLDS.get(answer) ?? [node, generation];
    expect(decide({ node: who, failedInRow: 0, ...(loaders ? { loaders } : {}) }, identify(packet), world)).toMatchObject(answer);
  });
});
