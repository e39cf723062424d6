// Who asks: from a DHCP packet to the neutral question that every server puts to the Booter.
import type { Arch, Asker, BootRequest, Firmware, LoaderFeature, Serve } from '../boot/request.ts';
import { messageOf, OPT, subOptionsOf, textOf, uint16sOf, userClassesOf, uuidOf, type Options } from './options.ts';
import { macOf, NO_IP, type Packet } from './packet.ts';

/** Our own initrd stage's vendor class (docs/BOOTING.md). */
export const INITRD_VENDOR_CLASS = 'rackseed-initrd';

/** Option 93, IANA "Processor Architecture Types". 9 is EBC on paper and x64 in the field: EDK2 and real boards use both 7 and 9. */
const ARCHITECTURES: Readonly<Record<number, { readonly arch: Arch; readonly firmware: Firmware }>> = {
  0x00: { arch: 'amd64', firmware: 'bios' },
  0x06: { arch: 'i386', firmware: 'uefi' },
  0x07: { arch: 'amd64', firmware: 'uefi' },
  0x09: { arch: 'amd64', firmware: 'uefi' },
  0x0a: { arch: 'armhf', firmware: 'uefi' },
  0x0b: { arch: 'arm64', firmware: 'uefi' },
  0x0f: { arch: 'i386', firmware: 'uefi-http' },
  0x10: { arch: 'amd64', firmware: 'uefi-http' },
  0x12: { arch: 'armhf', firmware: 'uefi-http' },
  0x13: { arch: 'arm64', firmware: 'uefi-http' },
  // U-Boot starts UEFI programs (bootefi); only what calls itself a PXEClient or HTTPClient gets this far.
  0x15: { arch: 'armhf', firmware: 'uefi' },
  0x16: { arch: 'arm64', firmware: 'uefi' },
  0x17: { arch: 'armhf', firmware: 'uefi-http' },
  0x18: { arch: 'arm64', firmware: 'uefi-http' },
  0x1b: { arch: 'riscv64', firmware: 'uefi' },
  0x1c: { arch: 'riscv64', firmware: 'uefi-http' },
};

/** Sub-options of 175: a tag from 0x10 on is a feature, its value a version (iPXE's features.h; seen in QEMU's ROM, test/golden/dhcp). */
const FEATURES: Readonly<Record<number, LoaderFeature>> = { 19: 'http', 20: 'https', 24: 'bzimage', 33: 'pxe', 34: 'elf', 36: 'efi', 39: 'menu' };

/** Never fails: what the packet does not say is absent; `serve` is its subnet's. `message` is set for DISCOVER and REQUEST only, `vendorClass` for machines that boot by themselves. */
export function identify(packet: Packet, serve?: Serve): BootRequest {
  const { options } = packet;
  const mac = macOf(packet);
  const uuid = uuidOf(options);
  const type = messageOf(options);
  const vendorClass = textOf(options, OPT.vendorClass) ?? '';
  const asker = askerOf(options, vendorClass);
  const request: { -readonly [Key in keyof BootRequest]: BootRequest[Key] } = { via: 'dhcp', asker };
  if (serve) request.serve = serve;
  if (mac) request.mac = mac;
  if (packet.ciaddr !== NO_IP) request.ip = packet.ciaddr;
  if (uuid) request.uuid = uuid;
  const platform = platformOf(options, vendorClass);
  if (platform) {
    if (platform.arch) request.arch = platform.arch;
    if (platform.firmware) request.firmware = platform.firmware;
    if (platform.unknownType !== undefined) request.unknownType = platform.unknownType;
  }
  if (asker === 'ipxe') request.features = featuresOf(options);
  if (vendorClass !== '' && (asker === 'rom' || asker === 'ipxe')) request.vendorClass = printable(vendorClass);
  if (type === 'discover' || type === 'request') request.message = type;
  return request;
}

/** An iPXE keeps the vendor class of the card's PXE, so its user class is asked first. */
function askerOf(options: Options, vendorClass: string): Asker {
  if (userClassesOf(options).includes('iPXE')) return 'ipxe';
  if (vendorClass === INITRD_VENDOR_CLASS) return 'initrd';
  return vendorClass.startsWith('PXEClient') || vendorClass.startsWith('HTTPClient') ? 'rom' : 'os';
}

type Platform = Pick<BootRequest, 'arch' | 'firmware' | 'unknownType'>;

/**
 * The first type of the list that we know; else the one inside `PXEClient:Arch:00007:UNDI:003016`, for ROMs that leave 93 out. The word before it says which protocol
 * the firmware takes, whatever its type is the number of: it drops what is meant for the other one (PXE 2.1 section 2.2, UEFI 2.10 section 24.7.3).
 */
function platformOf(options: Options, vendorClass: string): Platform | undefined {
  const platform = typeOf(options, vendorClass);
  // A BIOS has no HTTP Boot: which processor this has is not known, and no loader is for it.
  if (vendorClass.startsWith('HTTPClient') && platform?.firmware === 'bios') return { firmware: 'uefi-http' };
  if (vendorClass.startsWith('HTTPClient')) return { ...platform, firmware: 'uefi-http' };
  if (vendorClass.startsWith('PXEClient') && platform?.firmware === 'uefi-http') return { ...platform, firmware: 'uefi' };
  return platform;
}

function typeOf(options: Options, vendorClass: string): Platform | undefined {
  const inClass = /^(?:PXE|HTTP)Client:Arch:(\d{5})/.exec(vendorClass);
  const types = [...uint16sOf(options, OPT.clientArch), ...(inClass ? [Number(inClass[1])] : [])];
  const known = types.find((type) => ARCHITECTURES[type]);
  if (known !== undefined) return ARCHITECTURES[known];
  return types[0] === undefined ? undefined : { unknownType: types[0] };
}

function featuresOf(options: Options): LoaderFeature[] {
  const features: LoaderFeature[] = [];
  for (const [tag, value] of subOptionsOf(options, OPT.ipxe)) {
    const feature = FEATURES[tag];
    // A value of 0 switches a feature off.
    if (feature && value[0] !== 0) features.push(feature);
  }
  return features;
}

/** It ends up in the database, on terminals and on pages. Joined parts can make it longer than any real one. */
function printable(vendorClass: string): string {
  return vendorClass.slice(0, 255).replace(/[^ -~]/g, '?');
}
