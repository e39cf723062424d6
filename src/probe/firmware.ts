// What a booting machine asks: the DISCOVER and REQUEST of each kind of firmware. Pure.
import type { Ip4, Mac } from '../addr.ts';
import { ips, message, OPT, subOptions, text, uint16s, uuid, type Options } from '../dhcp/options.ts';
import { BROADCAST_FLAG, NO_IP, type Packet } from '../dhcp/packet.ts';

/** Who the probe pretends to be: the card's PXE of a BIOS or UEFI machine, an iPXE (BIOS), or UEFI HTTP Boot. */
export const ROLES = ['bios', 'uefi', 'ipxe', 'uefi-http'] as const;
export type Role = (typeof ROLES)[number];

export interface Pretender {
  readonly role: Role;
  readonly mac: Mac;
  /** Option 97, as SMBIOS prints it. */
  readonly uuid: string;
  /** One for the whole exchange: it tells our answers from other machines'. */
  readonly xid: number;
}

/** Option 93, the vendor class that goes with it, and the UNDI version of option 94 (type 1, major, minor). */
const PLATFORMS: Readonly<Record<Role, { readonly arch: number; readonly vendorClass: string; readonly ndi: readonly [number, number] }>> = {
  bios: { arch: 0x00, vendorClass: 'PXEClient:Arch:00000:UNDI:002001', ndi: [2, 1] },
  uefi: { arch: 0x07, vendorClass: 'PXEClient:Arch:00007:UNDI:003001', ndi: [3, 1] },
  ipxe: { arch: 0x00, vendorClass: 'PXEClient:Arch:00000:UNDI:002001', ndi: [2, 1] },
  'uefi-http': { arch: 0x10, vendorClass: 'HTTPClient:Arch:00016:UNDI:003001', ndi: [3, 1] },
};

/** What PXE ROMs ask for (PXE 2.1 section 2.2): some servers send nothing that is not in the list. */
const ROM_WANTS = [1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135];
/** As QEMU's iPXE ROM has it (test/golden/dhcp). */
const IPXE_WANTS = [1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203];
/** Features of that ROM by their sub-option of 175: PXE, iSCSI, AoE, HTTP, DNS, bzImage, multiboot, ELF, menu ... */
const IPXE_FEATURES: readonly (readonly [number, readonly number[]])[] = [[177, [1, 0x80, 0x86, 0x10, 0x0e]], [235, [1, 0, 0]], [23, [1]], [34, [1]], [19, [1]], [17, [1]], [39, [1]], [25, [1]], [41, [1]], [16, [2]], [33, [1]], [21, [1]], [24, [1]], [18, [1]]];

/** The first packet of a machine that starts from the network. */
export function discoverOf(who: Pretender): Packet {
  return packetOf(who, new Map([[OPT.messageType, message('discover')], ...identityOf(who)]));
}

/** The answer to one offer (RFC 2131 table 5, SELECTING): `server` is its option 54. */
export function requestOf(who: Pretender, address: Ip4, server: Ip4): Packet {
  return packetOf(who, new Map([[OPT.messageType, message('request')], ...identityOf(who), [OPT.requestedIp, ips(address)], [OPT.serverId, ips(server)]]));
}

/** Gives a lease back (RFC 2131 section 4.4.6); sent to the server alone. */
export function releaseOf(who: Pretender, address: Ip4, server: Ip4): Packet {
  const packet = packetOf(who, new Map([[OPT.messageType, message('release')], [OPT.serverId, ips(server)]]));
  return { ...packet, flags: 0, ciaddr: address };
}

function identityOf(who: Pretender): [number, Uint8Array][] {
  const { arch, vendorClass, ndi } = PLATFORMS[who.role];
  const ipxe = who.role === 'ipxe';
  return [
    [OPT.maxSize, uint16s(1472)],
    [OPT.clientArch, uint16s(arch)],
    [OPT.clientNdi, Uint8Array.of(1, ...ndi)],
    [OPT.vendorClass, text(vendorClass)],
    // Raw, not RFC 3004's form: so iPXE sends it, and servers must find it.
    ...(ipxe ? [[OPT.userClass, text('iPXE')] as [number, Uint8Array]] : []),
    [OPT.parameterList, Uint8Array.from(ipxe ? IPXE_WANTS : ROM_WANTS)],
    ...(ipxe ? ([[OPT.ipxe, subOptions(IPXE_FEATURES.map(([tag, value]) => [tag, Uint8Array.from(value)] as const))], [OPT.clientId, Uint8Array.of(1, ...bytesOf(who.mac))]] as [number, Uint8Array][]) : []),
    [OPT.clientUuid, uuid(who.uuid)],
  ];
}

/**
 * The broadcast flag is set, as many ROMs do: an answer sent unicast to an address that this machine does not have is dropped by its kernel
 * before any program sees it, and the probe would take a server that answers for one that is silent.
 */
function packetOf(who: Pretender, options: Options): Packet {
  const chaddr = new Uint8Array(16);
  chaddr.set(bytesOf(who.mac));
  return { op: 1, htype: 1, hlen: 6, hops: 0, xid: who.xid, secs: 4, flags: BROADCAST_FLAG, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, giaddr: NO_IP, chaddr, sname: '', file: '', options };
}

function bytesOf(mac: Mac): number[] {
  return mac.split(':').map((pair) => Number.parseInt(pair, 16));
}

/** A UUID that is the same at each probe with this MAC, so that a server's log shows one machine; version 8 (RFC 9562), since it is made up. */
export function uuidFor(mac: Mac): string {
  return `7261636b-7365-8564-8000-${mac.replaceAll(':', '')}`;
}
