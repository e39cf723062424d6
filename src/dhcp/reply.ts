// The reply: an Answer and an address as a DHCP packet, and where that packet is sent. Pure.
import { broadcastOf, netmask, type Ip4, type Mac } from '../addr.ts';
import { chooseLoader, type BootDecision } from '../boot/decide.ts';
import type { Node } from '../boot/node.ts';
import type { BootRequest } from '../boot/request.ts';
import { scriptPath, TFTP_SCRIPT } from '../boot/urls.ts';
import type { ServedSubnet } from './lease.ts';
import { ips, IPXE_NO_PXEDHCP, message, OPT, PXE_DISCOVERY_CONTROL, subOptions, text, uint32, uint8, type MessageName, type Options } from './options.ts';
import { BROADCAST_FLAG, NO_IP, type Packet } from './packet.ts';

/** "Use the boot file of this very offer": without it a BIOS ROM may look for boot servers or show a menu (PXE 2.1 section 2.4). */
const PXE_SKIP_DISCOVERY = 8;

/** What an answer is rendered from. */
export interface ReplyParts {
  /** The packet that is answered. */
  readonly packet: Packet;
  readonly request: BootRequest;
  /** The Booter's Answer: what was decided, for which node. */
  readonly answer: { readonly decision: BootDecision; readonly node?: Node };
  readonly subnet: ServedSubnet;
  /** Port of the HTTP server for machines on `subnet.serverIp`. */
  readonly httpPort: number;
}

export interface Destination {
  readonly address: Ip4;
  readonly port: number;
}

/** OFFER or ACK with this address; undefined for the decision `silent`: then nothing is sent. */
export function renderLease(parts: ReplyParts, type: 'offer' | 'ack', ip: Ip4): Packet | undefined {
  if (parts.answer.decision.kind === 'silent') return undefined;
  const { leaseSeconds } = parts.subnet;
  const boot = bootFields(parts);
  const options: Options = new Map([
    ...opening(parts, type),
    [OPT.leaseTime, uint32(leaseSeconds)],
    // T1 and T2 by RFC 2131 section 4.4.5.
    [OPT.renewalTime, uint32(Math.floor(leaseSeconds * 0.5))],
    [OPT.rebindingTime, uint32(Math.floor(leaseSeconds * 0.875))],
    ...networkOptions(parts),
    ...(boot ? boot.options : []),
    ...echoes(parts.packet),
  ]);
  return { ...answering(parts.packet), ciaddr: type === 'ack' ? parts.packet.ciaddr : NO_IP, yiaddr: ip, siaddr: boot?.siaddr ?? NO_IP, file: boot?.file ?? '', options };
}

/** ACK to an INFORM: the network's options, no address and no times (RFC 2131 section 4.3.5). */
export function renderInform(parts: ReplyParts): Packet | undefined {
  if (parts.answer.decision.kind === 'silent') return undefined;
  const options: Options = new Map([...opening(parts, 'ack'), ...networkOptions(parts), ...echoes(parts.packet)]);
  return { ...answering(parts.packet), ciaddr: parts.packet.ciaddr, options };
}

/** NAK: `why` is for the client's log. A relayed one is broadcast by the relay, since the client's address is wrong (RFC 2131 section 4.3.2). */
export function renderNak(packet: Packet, subnet: ServedSubnet, why: string): Packet {
  const options: Options = new Map([[OPT.messageType, message('nak')], [OPT.serverId, ips(subnet.serverIp)], [OPT.message, text(why.slice(0, 255))], ...echoes(packet)]);
  const flags = packet.giaddr === NO_IP ? packet.flags : packet.flags | BROADCAST_FLAG;
  return { ...answering(packet), flags, options };
}

/**
 * Where a reply goes (RFC 2131 section 4.1). A client without an address is always broadcast to, whatever its broadcast flag says: to send it
 * unicast, the kernel would need an ARP entry that only a raw socket or root's ioctl can make, and plain dgram drops it in silence (TRAPS 3).
 */
export function destination(request: Packet, reply: Packet): Destination {
  if (request.giaddr !== NO_IP) return { address: request.giaddr, port: 67 };
  const nak = reply.options.get(OPT.messageType)?.[0] === 6;
  if (request.ciaddr !== NO_IP && !nak) return { address: request.ciaddr, port: 68 };
  return { address: '255.255.255.255', port: 68 };
}

interface BootFields {
  readonly siaddr: Ip4;
  readonly file: string;
  readonly options: readonly (readonly [number, Uint8Array])[];
}

/** The rendering table of DESIGN: what the decision means to the one who asks. undefined: nothing about booting. */
function bootFields(parts: ReplyParts): BootFields | undefined {
  const { answer, request, subnet, httpPort } = parts;
  const base = `http://${subnet.serverIp}:${httpPort}`;
  const { decision } = answer;
  if (decision.kind === 'silent' || decision.kind === 'local') return undefined;
  if (request.asker === 'initrd') return fields(parts, base);
  if (decision.kind === 'loader') return fields(parts, decision.file);
  if (request.asker === 'ipxe') {
    // One that cannot fetch by HTTP is shown the reason of its hold by TFTP, the one way it has.
    const http = !request.features || request.features.includes('http');
    const mac: Mac | undefined = request.mac;
    return fields(parts, http && mac ? `${base}${scriptPath(mac)}` : TFTP_SCRIPT);
  }
  const loader = chooseLoader(request);
  return loader.kind === 'loader' ? fields(parts, loader.file) : undefined;
}

/** The boot file in the BOOTP field and in option 67: U-Boot reads only the field, others only the option (TRAPS 1.2). */
function fields({ request, subnet }: ReplyParts, file: string): BootFields {
  const { serverIp } = subnet;
  const rom: (readonly [number, Uint8Array])[] = [[OPT.vendorClass, text('PXEClient')]];
  if (request.firmware === 'bios' || request.firmware === undefined) rom.push([OPT.vendorSpecific, subOptions([[PXE_DISCOVERY_CONTROL, uint8(PXE_SKIP_DISCOVERY)]])]);
  return {
    siaddr: serverIp,
    // Longer than the field: the option alone carries it.
    file: file.length < 128 ? file : '',
    options: [
      [OPT.tftpServer, text(serverIp)],
      [OPT.bootFile, text(file)],
      ...(request.asker === 'rom' ? rom : []),
      // Inside 175; as an option of its own it does nothing (TRAPS 1.5).
      ...(request.asker === 'ipxe' ? [[OPT.ipxe, subOptions([[IPXE_NO_PXEDHCP, uint8(1)]])] as const] : []),
    ],
  };
}

function opening({ subnet }: ReplyParts, type: MessageName): [number, Uint8Array][] {
  return [[OPT.messageType, message(type)], [OPT.serverId, ips(subnet.serverIp)]];
}

function networkOptions({ answer, subnet }: ReplyParts): [number, Uint8Array][] {
  return [
    [OPT.subnetMask, ips(netmask(subnet.subnet))],
    ...(subnet.router ? [[OPT.router, ips(subnet.router)] as [number, Uint8Array]] : []),
    ...(subnet.dns.length > 0 ? [[OPT.dns, ips(...subnet.dns)] as [number, Uint8Array]] : []),
    ...(answer.node ? [[OPT.hostName, text(answer.node.name)] as [number, Uint8Array]] : []),
    ...(subnet.domain ? [[OPT.domain, text(subnet.domain)] as [number, Uint8Array]] : []),
    [OPT.broadcast, ips(broadcastOf(subnet.subnet))],
  ];
}

/** What a server sends back as it came: client id (RFC 6842), the PXE machine's UUID (PXE 2.1), the relay's information (RFC 3046). */
function echoes({ options }: Packet): [number, Uint8Array][] {
  return [OPT.clientId, OPT.clientUuid, OPT.relayAgent].flatMap((tag) => {
    const value = options.get(tag);
    return value ? [[tag, value] as [number, Uint8Array]] : [];
  });
}

/** The header of any reply (RFC 2131 table 3). */
function answering(request: Packet): Packet {
  return { ...request, op: 2, hops: 0, secs: 0, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, sname: '', file: '', options: new Map() };
}
