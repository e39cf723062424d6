// The question every server asks: one neutral value between the protocols and the policy.
import type { Ip4, Mac } from '../addr.ts';
import type { Digest } from '../digest.ts';

/** Debian's names; picks kernel and image. A BIOS machine counts as amd64 until its kernel says otherwise. */
export type Arch = 'i386' | 'amd64' | 'arm64' | 'armhf' | 'riscv64';
/** Picks the loader and how it travels. */
export type Firmware = 'bios' | 'uefi' | 'uefi-http';
/** The card's PXE · an iPXE, whoever's · our initrd stage · a running system. */
export type Asker = 'rom' | 'ipxe' | 'initrd' | 'os';
/** Whom a subnet serves: `known`: nodes · `discovered`: PXE machines that no profile names, too · `any`: every client. */
export type Serve = 'known' | 'discovered' | 'any';
/** What an iPXE lists in DHCP option 175; only what a decision depends on is kept. */
export type LoaderFeature = 'http' | 'https' | 'bzimage' | 'efi' | 'pxe' | 'elf' | 'menu';

/** What a machine says of itself in DHCP, and nowhere else. */
export interface Machine {
  readonly arch?: Arch;
  readonly firmware?: Firmware;
  /** DHCP option 93, of a machine whose type we do not know: it is neither a BIOS nor one that says nothing. */
  readonly unknownType?: number;
  /** Set for an iPXE only; empty when it listed none. */
  readonly features?: readonly LoaderFeature[];
}

/** That alone of a request. */
export function machineOf({ arch, firmware, unknownType, features }: Machine): Machine {
  return { ...(arch ? { arch } : {}), ...(firmware ? { firmware } : {}), ...(unknownType === undefined ? {} : { unknownType }), ...(features ? { features } : {}) };
}

/** Whether both say the same, in the same order. */
export function sameMachine(a: Machine, b: Machine): boolean {
  return a.arch === b.arch && a.firmware === b.firmware && a.unknownType === b.unknownType && a.features?.join() === b.features?.join();
}

/** `architecture type 0x27`: a type that we know nothing of, as IANA lists them. */
export function typeWords(unknownType: number): string {
  return `architecture type 0x${unknownType.toString(16).padStart(2, '0')}`;
}

/** Plain data that survives a structured clone. */
export interface BootRequest extends Machine {
  readonly via: 'dhcp' | 'tftp' | 'http';
  readonly mac?: Mac;
  /** The machine's own address, as the packet or the socket shows it. */
  readonly ip?: Ip4;
  readonly bootId?: string;
  readonly uuid?: string;
  readonly asker?: Asker;
  /** `script`: the node's own; its answer fixes the boot set of the boot. `image`: the bytes of a big blob, so that a slot is needed. */
  readonly wants?: 'script' | 'image';
  /** With `wants: 'image'`: which blob. Kernel and initrds of the boot's own set need no slot. */
  readonly blob?: Digest;
  /** Whom the subnet serves where it asks; without it that of its address counts. */
  readonly serve?: Serve;
  /** DHCP's option 60, as the machine wrote it. */
  readonly vendorClass?: string;
  /** DHCP only: a DISCOVER may start a boot, nothing else does. */
  readonly message?: 'discover' | 'request';
}
