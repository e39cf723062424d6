// Who asks: from a DHCP packet to the neutral question that every server puts to the Booter.
import type { Arch, Asker, BootRequest, Firmware, LoaderFeature } from '../boot/request.ts';
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
  0x1b: { arch: 'riscv64', firmware: 'uefi' },
  0x1c: { arch: 'riscv64', firmware: 'uefi-http' },
};

/** Sub-options of 175: a tag from 0x10 on is a feature, its value a version (iPXE's features.h; seen in QEMU's ROM, test/golden/dhcp). */
const FEATURES: Readonly<Record<number, LoaderFeature>> = { 19: 'http', 20: 'https', 24: 'bzimage', 33: 'pxe', 34: 'elf', 36: 'efi', 39: 'menu' };

/** Never fails: what the packet does not say is absent. `message` is set for DISCOVER and REQUEST only. */
export function identify(packet: Packet): BootRequest {
  const { options } = packet;
  const mac = macOf(packet);
  const uuid = uuidOf(options);
  const type = messageOf(options);
  const asker = askerOf(options);
  return {
    via: 'dhcp',
    asker,
    ...(mac ? { mac } : {}),
    ...(packet.ciaddr !== NO_IP ? { ip: packet.ciaddr } : {}),
    ...(uuid ? { uuid } : {}),
    ...platformOf(options),
    ...(asker === 'ipxe' ? { features: featuresOf(options) } : {}),
    ...(type === 'discover' || type === 'request' ? { message: type } : {}),
  };
}

/** An iPXE keeps the vendor class of the card's PXE, so its user class is asked first. */
function askerOf(options: Options): Asker {
  if (userClassesOf(options).includes('iPXE')) return 'ipxe';
  const vendorClass = textOf(options, OPT.vendorClass) ?? '';
  if (vendorClass === INITRD_VENDOR_CLASS) return 'initrd';
  return vendorClass.startsWith('PXEClient') || vendorClass.startsWith('HTTPClient') ? 'rom' : 'os';
}

/** The first type of the list that we know; else the one inside `PXEClient:Arch:00007:UNDI:003016`, for ROMs that leave 93 out. */
function platformOf(options: Options): { arch?: Arch; firmware?: Firmware } {
  const inClass = /^(?:PXE|HTTP)Client:Arch:(\d{5})/.exec(textOf(options, OPT.vendorClass) ?? '');
  const types = [...uint16sOf(options, OPT.clientArch), ...(inClass ? [Number(inClass[1])] : [])];
  const known = types.find((type) => type in ARCHITECTURES);
  return known === undefined ? {} : { ...ARCHITECTURES[known]! };
}

function featuresOf(options: Options): LoaderFeature[] {
  // A value of 0 switches a feature off.
  return [...subOptionsOf(options, OPT.ipxe)].flatMap(([tag, value]) => (FEATURES[tag] && value[0] !== 0 ? [FEATURES[tag]] : []));
}
