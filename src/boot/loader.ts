// Which loader a machine gets: one table of firmware and processor, what the loader set has, and what a profile asks for instead. Pure.
import { typeWords, type Arch, type Firmware, type Machine } from './request.ts';

/** What starts a program: a BIOS, or the UEFI of one processor; `unknown`: its bytes are neither. */
export type RunsOn = 'bios' | `efi-${Arch}` | 'unknown';

/** A file of a loader set, as far as a decision depends on it. */
export interface LoaderProgram {
  readonly name: string;
  readonly runsOn: RunsOn;
}

/** `auto`: the row's first file that is there; the others by the name of their build; `shim`: Debian's signed shim and GRUB, for Secure Boot with Microsoft's keys. A profile may also name a file of the set. */
export const LOADER_CHOICES = ['auto', 'undionly', 'snponly', 'ipxe', 'shim'] as const;
export type LoaderChoice = (typeof LOADER_CHOICES)[number];

/** Names that a profile can write for a file of the set. */
export const LOADER_FILE = /^[A-Za-z0-9][A-Za-z0-9._-]*\.(efi|efi\.signed|kpxe|pxe)$/;

export interface LoaderRow {
  readonly machine: string;
  readonly firmware: Firmware;
  /** Absent where the firmware says nothing of it. */
  readonly arch?: Arch;
  readonly runsOn: RunsOn;
  /** Option 93, IANA "Processor Architecture Types". */
  readonly types: readonly number[];
  /** How option 60 begins. */
  readonly vendorClass: 'PXEClient' | 'HTTPClient';
  readonly via: 'tftp' | 'http';
  /** By choice, the first that is there; a choice that is absent cannot run on this machine. */
  readonly files: Readonly<Partial<Record<LoaderChoice, readonly string[]>>>;
  /** Where such a loader comes from, for the reason of a hold. */
  readonly source: string;
  /** The test that boots it, under test/; absent: none does. */
  readonly test?: string;
}

const IPXE = "Debian's package ipxe has it";
/** 1.21.1 of trixie times out on a 30.9 MB kernel by TFTP, 2.0 of sid does not (measured); our scripts fetch by HTTP. */
const NEWER_IPXE = "Debian's package ipxe has it from 1.21.1 (trixie) on, and 2.0.0 (sid) is the better one";
const NONE = 'no Debian suite has an iPXE for it';
const GRUB_IA32 = "no Debian suite has an iPXE for it; Debian's package grub-efi-ia32-bin has this GRUB below usr/lib/grub/i386-efi/monolithic";

const X64 = { arch: 'amd64', runsOn: 'efi-amd64', files: { auto: ['snponly.efi', 'ipxe.efi', 'ipxe-amd64.efi'], snponly: ['snponly.efi'], ipxe: ['ipxe.efi', 'ipxe-amd64.efi'], shim: ['shimx64.efi', 'shimx64.efi.signed'] }, source: IPXE } as const;
const IA32 = { arch: 'i386', runsOn: 'efi-i386', files: { auto: ['grubnetia32.efi'] }, source: GRUB_IA32 } as const;
const ARM64 = { arch: 'arm64', runsOn: 'efi-arm64', files: { auto: ['ipxe-arm64.efi'], ipxe: ['ipxe-arm64.efi'] }, source: NEWER_IPXE } as const;
const ARM32 = { arch: 'armhf', runsOn: 'efi-armhf', files: { auto: [] }, source: NONE } as const;
const RISCV = { arch: 'riscv64', runsOn: 'efi-riscv64', files: { auto: ['ipxe-riscv64.efi'], ipxe: ['ipxe-riscv64.efi'] }, source: NEWER_IPXE } as const;
const PXE = { firmware: 'uefi', vendorClass: 'PXEClient', via: 'tftp' } as const;
const HTTP = { firmware: 'uefi-http', vendorClass: 'HTTPClient', via: 'http' } as const;

/** docs/HARDWARE.md has the same rows in the same order; a test compares them. */
export const LOADER_TABLE: readonly LoaderRow[] = [
  {
    machine: 'BIOS',
    firmware: 'bios',
    runsOn: 'bios',
    types: [0x00],
    vendorClass: 'PXEClient',
    via: 'tftp',
    files: { auto: ['undionly.kpxe', 'ipxe.pxe'], undionly: ['undionly.kpxe'], ipxe: ['ipxe.pxe'] },
    source: IPXE,
    test: 'e2e/lab-boot.test.ts',
  },
  { machine: 'UEFI x64', ...PXE, ...X64, types: [0x07, 0x09], test: 'e2e/firmware.test.ts' },
  { machine: 'UEFI IA32', ...PXE, ...IA32, types: [0x06], test: 'e2e/secure-boot.test.ts' },
  { machine: 'UEFI arm64, U-Boot arm64', ...PXE, ...ARM64, types: [0x0b, 0x16], test: 'e2e/firmware.test.ts' },
  { machine: 'UEFI arm32, U-Boot arm32', ...PXE, ...ARM32, types: [0x0a, 0x15] },
  { machine: 'UEFI riscv64', ...PXE, ...RISCV, types: [0x1b] },
  { machine: 'UEFI x64, HTTP Boot', ...HTTP, ...X64, types: [0x10], test: 'e2e/firmware.test.ts' },
  { machine: 'UEFI IA32, HTTP Boot', ...HTTP, ...IA32, types: [0x0f] },
  { machine: 'UEFI arm64, HTTP Boot', ...HTTP, ...ARM64, types: [0x13, 0x18] },
  { machine: 'UEFI arm32, HTTP Boot', ...HTTP, ...ARM32, types: [0x12, 0x17] },
  { machine: 'UEFI riscv64, HTTP Boot', ...HTTP, ...RISCV, types: [0x1c] },
];

/** What Debian 12's package has: where nobody says what the set holds. */
export const DEBIAN_12_LOADERS: readonly LoaderProgram[] = [
  { name: 'undionly.kpxe', runsOn: 'bios' },
  { name: 'ipxe.pxe', runsOn: 'bios' },
  { name: 'snponly.efi', runsOn: 'efi-amd64' },
  { name: 'ipxe.efi', runsOn: 'efi-amd64' },
];

/** What shim fetches by itself and under which name; Debian's package has it under another. */
export const SHIM_STARTS = { asks: 'grubx64.efi', debian: 'grubnetx64.efi.signed' } as const;

/** Why these files are not enough for `loader: shim`; undefined when they are. */
export function shimLacks(names: readonly string[]): string | undefined {
  if (!X64.files.shim.some((name) => names.includes(name))) return `${X64.files.shim.join(' or ')} is not in the loader set (Debian's package shim-signed has it)`;
  if (names.includes(SHIM_STARTS.asks) || names.includes(SHIM_STARTS.debian)) return undefined;
  return `${SHIM_STARTS.debian} is not in the loader set beside shim (Debian's package grub-efi-amd64-signed has it)`;
}

/** A file that the set has and this machine can start, or why there is none. */
export type ChosenLoader = { readonly file: string; readonly via: 'tftp' | 'http' } | { readonly why: string };

/** `wish` is a LoaderChoice or the name of a file; what cannot run there is refused, never replaced by something else. */
export function chooseLoader(machine: Machine, set: readonly LoaderProgram[], wish: string = 'auto'): ChosenLoader {
  const row = rowOf(machine);
  // A BIOS says nothing of its processor.
  const here = row?.firmware === 'bios' ? 'bios' : machine.unknownType !== undefined ? typeWords(machine.unknownType) : `${machine.arch ?? 'unknown'} ${machine.firmware}`;
  if (!row) return { why: `no loader for ${here} yet` };
  if (!isChoice(wish)) {
    const program = set.find(({ name }) => name === wish);
    if (!program) return { why: `loader: ${wish} is not in the loader set` };
    if (program.runsOn !== row.runsOn) return { why: `loader: ${wish} is ${program.runsOn === 'unknown' ? 'no program that firmware starts' : `for ${program.runsOn}`}, this machine is ${here}` };
    return { file: wish, via: row.via };
  }
  const names = row.files[wish];
  if (!names) return { why: `loader: ${wish} does not run on this machine, which is ${here}` };
  if (wish === 'shim') {
    const lacks = shimLacks(set.filter((program) => program.runsOn === row.runsOn).map(({ name }) => name));
    if (lacks !== undefined) return { why: `no loader for ${here}: ${lacks}` };
  }
  const file = names.find((name) => set.some((program) => program.name === name && program.runsOn === row.runsOn));
  if (file) return { file, via: row.via };
  return { why: `no loader for ${here}: ${names.length === 0 ? row.source : `${names[0]} is not in the loader set (${row.source})`}` };
}

/** A ROM that says no architecture counts as BIOS; one that says any that we do not know is anything but that. */
function rowOf({ firmware = 'bios', arch, unknownType }: Machine): LoaderRow | undefined {
  if (unknownType !== undefined) return undefined;
  return LOADER_TABLE.find((row) => row.firmware === firmware && (row.arch === undefined || row.arch === arch));
}

function isChoice(wish: string): wish is LoaderChoice {
  return (LOADER_CHOICES as readonly string[]).includes(wish);
}

/** PE/COFF machine types. */
const PE_MACHINES: Readonly<Record<number, Arch>> = { 0x014c: 'i386', 0x8664: 'amd64', 0xaa64: 'arm64', 0x01c2: 'armhf', 0x01c4: 'armhf', 0x5064: 'riscv64' };

/** The processor of a PE program, by its first bytes: its header stands where the word at 0x3c says, the second word there is the machine. undefined: it is no such program. */
export function peArch(bytes: Uint8Array): Arch | 'unknown' | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 0x40 || view.getUint16(0, true) !== 0x5a4d) return undefined;
  const header = view.getUint32(0x3c, true);
  if (header + 6 > bytes.length || view.getUint32(header, true) !== 0x4550) return undefined;
  return PE_MACHINES[view.getUint16(header + 4, true)] ?? 'unknown';
}

/** By what the bytes are: firmware looks at nothing else. A BIOS program has no mark, so that its name must tell. */
export function runsOn(name: string, bytes: Uint8Array): RunsOn {
  const arch = peArch(bytes);
  if (arch === undefined) return /\.k?pxe$/.test(name) ? 'bios' : 'unknown';
  return arch === 'unknown' ? arch : `efi-${arch}`;
}

/**
 * What iPXE's makefile wrote into the program: in the line of .sbat, or right behind the product's name. Of shim and GRUB what Debian wrote into theirs. `unknown` of
 * compressed programs (undionly.kpxe) and of any other maker's.
 */
export function loaderVersion(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
  return /(?:^|\n|\0)(?:ipxe,1,iPXE|(?:shim|grub)\.debian,\d{1,4},Debian),[^,\n]{1,40},([\w.+~-]{1,60}),/.exec(text)?.[1] ?? /\0iPXE\0{1,64}(\d+\.\d+\.\d+[\w.+~-]{0,60})\0/.exec(text)?.[1] ?? 'unknown';
}
