// The machines that `rackseed render --as` knows: what their firmware and then their iPXE send. Pure.
import type { Ip4, Mac } from '../addr.ts';
import { OPT, subOptions, text, uint16s } from '../dhcp/options.ts';
import type { Packet } from '../dhcp/packet.ts';
import { discoverOf, requestOf, uuidFor, type Role } from '../probe/firmware.ts';
import type { Asks } from '../render.ts';

interface Kind {
  /** The firmware's packets are this role's; absent: none, the card has an iPXE. */
  readonly role?: Exclude<Role, 'ipxe'>;
  /** Option 93 of the firmware, where it is not the role's. */
  readonly type?: number;
  /** Option 93 of the iPXE. */
  readonly ipxeType: number;
}

/** By the word behind `--as`. */
export const MACHINES = {
  bios: { role: 'bios', ipxeType: 0x00 },
  uefi: { role: 'uefi', ipxeType: 0x07 },
  'uefi-http': { role: 'uefi-http', ipxeType: 0x07 },
  'uefi-arm64': { role: 'uefi', type: 0x0b, ipxeType: 0x0b },
  'uefi-http-arm64': { role: 'uefi-http', type: 0x13, ipxeType: 0x0b },
  'uefi-ia32': { role: 'uefi', type: 0x06, ipxeType: 0x06 },
  ipxe: { ipxeType: 0x00 },
  'ipxe-uefi': { ipxeType: 0x07 },
} as const satisfies Readonly<Record<string, Kind>>;
export type MachineKind = keyof typeof MACHINES;

/** What one may ask for alone, byte for byte. */
export type RenderPart = 'dhcp' | 'script' | 'config' | 'facts';

/** One for all packets: it is echoed, so it shows in the answers' bytes. */
const XID = 0x72636b73;

/** What an iPXE for UEFI lists in place of `bzimage` (24): it starts EFI programs. */
const EFI_FEATURES = [16, 17, 18, 19, 20, 21, 23, 25, 36, 39, 41].map((feature) => [feature, Uint8Array.of(1)] as const);

export function asksOf(as: MachineKind, mac: Mac, at: { readonly ip: Ip4; readonly server: Ip4 }): Asks {
  const { role, type, ipxeType }: Kind = MACHINES[as];
  const who = { mac, uuid: uuidFor(mac), xid: XID };
  const ipxe = typed(discoverOf({ ...who, role: 'ipxe' }), 'PXEClient', ipxeType, ipxeType !== 0);
  if (role === undefined) return { ipxe };
  const vendor = role === 'uefi-http' ? 'HTTPClient' : 'PXEClient';
  const rom = typed(discoverOf({ ...who, role }), vendor, type);
  const romAt4011 = typed({ ...requestOf({ ...who, role }, at.ip, at.server), flags: 0, ciaddr: at.ip }, vendor, type);
  for (const tag of [OPT.requestedIp, OPT.serverId]) romAt4011.options.delete(tag);
  return role === 'uefi' ? { rom, romAt4011, ipxe } : { rom, ipxe };
}

function typed(packet: Packet, vendor: string, type: number | undefined, isEfi = false): Packet {
  if (type === undefined || type === 0) return packet;
  const options = new Map(packet.options);
  options.set(OPT.clientArch, uint16s(type));
  options.set(OPT.vendorClass, text(`${vendor}:Arch:${String(type).padStart(5, '0')}:UNDI:003001`));
  if (isEfi) options.set(OPT.ipxe, subOptions(EFI_FEATURES));
  return { ...packet, options };
}
