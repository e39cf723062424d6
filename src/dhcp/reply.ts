// The reply: an Answer and an address as a DHCP packet, and where that packet is sent. Pure.
import { broadcastOf, netmask, type Ip4 } from '../addr.ts';
import type { BootDecision } from '../boot/decide.ts';
import type { Node } from '../boot/node.ts';
import type { Quirked, QuirkSend } from '../boot/quirks.ts';
import type { BootRequest } from '../boot/request.ts';
import { loaderName, loaderPath, scriptPath, TFTP_SCRIPT } from '../boot/urls.ts';
import { fqdnReply, hostNameOf } from './names.ts';
import { optionBytes, type ExtraOption } from './option-values.ts';
import { ips, IPXE_NO_PXEDHCP, message, messageOf, OPT, parameterListOf, PXE_DISCOVERY_CONTROL, subOptions, text, uint32, uint32Of, uint8, type MessageName, type Options } from './options.ts';
import { BROADCAST_FLAG, NO_IP, type Packet } from './packet.ts';
import type { ServedSubnet } from './subnet.ts';
import type { Destination, Ingress } from './transport.ts';

/** "Use the boot file of this very offer": without it a BIOS ROM may look for boot servers or show a menu (PXE 2.1 section 2.4). */
const PXE_SKIP_DISCOVERY = 8;
/** A client that asks for a shorter lease gets it, but none that would make it renew all the time; in seconds. */
const SHORTEST_LEASE_S = 60;

/** What an answer is rendered from. */
export interface ReplyParts {
  /** The packet that is answered. */
  readonly packet: Packet;
  readonly request: BootRequest;
  /** The Booter's Answer: what was decided, for which node, and what its quirks say. */
  readonly answer: { readonly decision: BootDecision; readonly node?: Node } & Quirked;
  readonly subnet: ServedSubnet;
  /** Port of the HTTP server for machines on `subnet.serverIp`. */
  readonly httpPort: number;
}

/** OFFER or ACK with this address; undefined for the decision `silent`: then nothing is sent. */
export function renderLease(parts: ReplyParts, type: 'offer' | 'ack', ip: Ip4): Packet | undefined {
  if (parts.answer.decision.kind === 'silent') return undefined;
  const { packet, subnet } = parts;
  const leaseSeconds = leaseSecondsFor(packet, subnet);
  const boot = bootFields(parts);
  const options: Options = new Map(opening(parts, type));
  options.set(OPT.leaseTime, uint32(leaseSeconds));
  // T1 and T2 by RFC 2131 section 4.4.5.
  options.set(OPT.renewalTime, uint32(Math.floor(leaseSeconds * 0.5)));
  options.set(OPT.rebindingTime, uint32(Math.floor(leaseSeconds * 0.875)));
  if (boot) for (const [tag, value] of boot.options) options.set(tag, value);
  setNetworkOptions(parts, options);
  setEchoes(packet, options);
  return { ...answering(packet), ciaddr: type === 'ack' ? packet.ciaddr : NO_IP, yiaddr: ip, siaddr: boot?.siaddr ?? NO_IP, file: boot?.file ?? '', options };
}

/** ACK to an INFORM: the network's options, no address and no times (RFC 2131 section 4.3.5). */
export function renderInform(parts: ReplyParts): Packet | undefined {
  if (parts.answer.decision.kind === 'silent') return undefined;
  const { packet } = parts;
  const options: Options = new Map(opening(parts, 'ack'));
  setNetworkOptions(parts, options);
  setEchoes(packet, options);
  return { ...answering(packet), ciaddr: packet.ciaddr, options };
}

/**
 * The boot server's answer beside another server's lease (PXE 2.1 section 2.2): boot fields and no address. undefined when there is nothing to say:
 * a proxy that answers without a boot file would keep the machine from its own disk.
 *
 * A BIOS ROM and an iPXE take the boot file from the OFFER. UEFI gets none there and asks port 4011 for it: firmware that is offered both a
 * file and boot servers ignores the one or the other (TRAPS 1.1).
 */
export function renderProxy(parts: ReplyParts, type: 'offer' | 'ack'): Packet | undefined {
  const boot = bootFields(parts);
  if (!boot) return undefined;
  const { packet, request, answer: { quirks } } = parts;
  const options: Options = new Map(opening(parts, type));
  if (type === 'offer' && asksAt4011(request, quirks)) {
    options.set(OPT.vendorClass, text('PXEClient'));
    // Discovery control means a boot file that is not in this one: only what a quirk says itself.
    const vendor = (quirks?.option43 ?? 'auto') === 'auto' ? undefined : vendorSpecific(request, quirks);
    if (vendor) options.set(OPT.vendorSpecific, vendor);
    setEchoes(packet, options);
    return { ...answering(packet), siaddr: boot.siaddr, options };
  }
  for (const [tag, value] of boot.options) options.set(tag, value);
  // An iPXE that EDK2's PXE started takes this for its lease, whoever gave that (2.0; 1.0.0 asks again): without mask and router it would know no way beyond its link.
  if (type === 'ack' && parts.subnet.mode === 'full') setNetworkOptions(parts, options);
  // What makes an iPXE wait for a proxy is answered by being one; its vendor class tells it that this is one (ipxe: dhcp_discovery_rx).
  if (request.asker === 'ipxe') options.set(OPT.vendorClass, text('PXEClient'));
  setEchoes(packet, options);
  return { ...answering(packet), ciaddr: type === 'ack' ? packet.ciaddr : NO_IP, siaddr: boot.siaddr, file: boot.file, options };
}

/** Whether the boot file comes by a REQUEST to port 4011 only. HTTP Boot knows no such port. */
function asksAt4011({ asker, firmware }: BootRequest, { proxyStyle = 'auto' }: QuirkSend = {}): boolean {
  if (asker !== 'rom' || firmware === 'uefi-http') return false;
  return proxyStyle === 'auto' ? firmware === 'uefi' : proxyStyle === 'port-4011';
}

/** NAK: `why` is for the client's log. A relayed one is broadcast by the relay, since the client's address is wrong (RFC 2131 section 4.3.2). */
export function renderNak(packet: Packet, subnet: ServedSubnet, why: string): Packet {
  const options: Options = new Map([[OPT.messageType, message('nak')], [OPT.serverId, ips(subnet.serverIp)], [OPT.message, text(why.slice(0, 255))]]);
  setEchoes(packet, options);
  const flags = packet.giaddr === NO_IP ? packet.flags : packet.flags | BROADCAST_FLAG;
  return { ...answering(packet), flags, options };
}

/**
 * Where a reply goes (RFC 2131 section 4.1). A client without an address is always broadcast to, whatever its broadcast flag says: to send it
 * unicast, the kernel would need an ARP entry that only a raw socket or root's ioctl can make, and plain dgram drops it in silence (TRAPS 3).
 * A question to port 4011 is answered to where it came from: that client has its address.
 */
export function destination(request: Packet, reply: Packet, from: Ingress): Destination {
  if (from.port === 4011) return { address: from.from, port: from.fromPort };
  // RFC 2131 section 4.3.5: directly, also when its question came through a relay.
  if (messageOf(request.options) === 'inform') return { address: request.ciaddr, port: 68 };
  if (request.giaddr !== NO_IP) return { address: request.giaddr, port: 67 };
  // Only where we say that it is, too: else anybody could have us send packets anywhere, by a DISCOVER with an address in it.
  if (request.ciaddr !== NO_IP && request.ciaddr === reply.yiaddr) return { address: request.ciaddr, port: 68 };
  return { address: '255.255.255.255', port: 68 };
}

/** What the subnet says, or less when the client asks for less (option 51), in seconds. */
export function leaseSecondsFor({ options }: Packet, { leaseSeconds }: ServedSubnet): number {
  const asked = uint32Of(options, OPT.leaseTime);
  return asked === undefined ? leaseSeconds : Math.min(leaseSeconds, Math.max(asked, SHORTEST_LEASE_S));
}

/**
 * What may be left out of a reply that is too long for its client, which boots without; these stand last in `packet`, in the order of the client's list, so that
 * what it wants least goes first (RFC 2132 section 9.8).
 */
export function shortenable(reply: Packet, request: Packet): { readonly packet: Packet; readonly optional: readonly number[] } {
  const wanted = parameterListOf(request.options) ?? [];
  const rank = (tag: number) => (wanted.includes(tag) ? wanted.indexOf(tag) : wanted.length);
  const tags = [...reply.options.keys()];
  const optional = tags.filter((tag) => !NEVER_LEFT_OUT.has(tag)).sort((a, b) => rank(a) - rank(b));
  const order = [...tags.filter((tag) => NEVER_LEFT_OUT.has(tag)), ...optional];
  return { packet: { ...reply, options: new Map(order.map((tag) => [tag, reply.options.get(tag)!])) }, optional };
}

const NEVER_LEFT_OUT: ReadonlySet<number> = new Set([
  OPT.messageType, OPT.serverId, OPT.leaseTime, OPT.subnetMask, OPT.router, OPT.vendorClass, OPT.vendorSpecific, OPT.tftpServer, OPT.bootFile, OPT.clientId, OPT.clientUuid, OPT.relayAgent, OPT.ipxe,
]);

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
  // One that cannot fetch by HTTP is shown the reason of its hold by TFTP, the one way it has.
  if (request.asker === 'ipxe' && decision.kind !== 'loader') {
    const http = !request.features || request.features.includes('http');
    return fields(parts, http && request.mac ? `${base}${scriptPath(request.mac)}` : TFTP_SCRIPT);
  }
  const loader = decision.kind === 'loader' ? decision : decision.kind === 'hold' ? decision.loader : undefined;
  if (!loader) return undefined;
  const file = loaderName(loader.file, request.mac);
  return fields(parts, loader.via === 'http' ? `${base}${loaderPath(file)}` : file);
}

/** The boot file in the BOOTP field and in option 67: U-Boot reads only the field, others only the option (TRAPS 1.2). */
function fields({ request, answer, subnet, packet }: ReplyParts, file: string): BootFields {
  const { serverIp } = subnet;
  const options: (readonly [number, Uint8Array])[] = [[OPT.tftpServer, text(serverIp)], [OPT.bootFile, text(file)]];
  if (parameterListOf(packet.options)?.includes(OPT.tftpAddresses)) options.push([OPT.tftpAddresses, ips(serverIp)]);
  if (request.asker === 'rom') {
    // Without it the firmware takes the answer for one to somebody else.
    options.push([OPT.vendorClass, text(request.firmware === 'uefi-http' ? 'HTTPClient' : 'PXEClient')]);
    const vendor = vendorSpecific(request, answer.quirks);
    if (vendor) options.push([OPT.vendorSpecific, vendor]);
  }
  // Inside 175; as an option of its own it does nothing (TRAPS 1.5).
  if (request.asker === 'ipxe') options.push([OPT.ipxe, subOptions([[IPXE_NO_PXEDHCP, uint8(1)]])]);
  // Longer than the field: the option alone carries it.
  return { siaddr: serverIp, file: file.length < 128 ? file : '', options };
}

/** Option 43 of a PXE ROM: BIOS is told to use the boot file of this very answer, UEFI nothing (TRAPS 1.1), unless a quirk says otherwise. */
function vendorSpecific({ firmware }: BootRequest, { option43 = 'auto' }: QuirkSend = {}): Uint8Array | undefined {
  if (firmware === 'uefi-http' || option43 === 'none') return undefined;
  if (option43 !== 'auto') return Uint8Array.from(Buffer.from(option43.replaceAll(':', ''), 'hex'));
  return firmware === 'bios' || firmware === undefined ? subOptions([[PXE_DISCOVERY_CONTROL, uint8(PXE_SKIP_DISCOVERY)]]) : undefined;
}

function opening({ subnet }: ReplyParts, type: MessageName): [number, Uint8Array][] {
  return [[OPT.messageType, message(type)], [OPT.serverId, ips(subnet.serverIp)]];
}

/** What a subnet tells all of its machines, as bytes: made once, because it is sent with every answer. */
interface SubnetOptions {
  readonly all: ReadonlyMap<number, Uint8Array>;
  /** Mask and router go to everyone: there are ROMs that forget to ask. */
  readonly always: readonly number[];
}

const subnetOptions = new WeakMap<ServedSubnet, SubnetOptions>();

function optionsOf(subnet: ServedSubnet): SubnetOptions {
  const known = subnetOptions.get(subnet);
  if (known) return known;
  const { router, dns, domain, options } = subnet;
  const all = new Map<number, Uint8Array>([[OPT.subnetMask, ips(netmask(subnet.subnet))], [OPT.broadcast, ips(broadcastOf(subnet.subnet))]]);
  if (router) all.set(OPT.router, ips(router));
  if (dns.length > 0) all.set(OPT.dns, ips(...dns));
  if (domain) all.set(OPT.domain, text(domain));
  for (const tag in options) all.set(Number(tag), extraBytes(Number(tag), options[tag]!, router));
  const always = [OPT.subnetMask, ...(router ? [OPT.router] : []), ...Object.keys(options).map(Number).filter((tag) => options[tag]!.always)];
  const made = { all, always };
  subnetOptions.set(subnet, made);
  return made;
}

/** What the client asked for (option 55), all of it when it did not say. What an operator set for the node or profile beats the subnet's. */
function setNetworkOptions({ answer: { node }, packet, subnet }: ReplyParts, into: Options): void {
  const asked = parameterListOf(packet.options);
  const { all, always } = optionsOf(subnet);
  for (const tag of always) into.set(tag, all.get(tag)!);
  for (const tag of asked ?? all.keys()) {
    const value = all.get(tag);
    if (value) into.set(tag, value);
  }
  const name = node?.name ?? hostNameOf(packet.options);
  if (name && (!asked || asked.includes(OPT.hostName))) into.set(OPT.hostName, text(name));
  const fqdn = packet.options.get(OPT.fqdn);
  const reply = fqdn && name ? fqdnReply(fqdn, subnet.domain ? `${name}.${subnet.domain}` : name) : undefined;
  if (reply) into.set(OPT.fqdn, reply);
  for (const [key, option] of Object.entries(node?.dhcpOptions ?? {})) {
    const tag = Number(key);
    if (option.always || !asked || asked.includes(tag)) into.set(tag, extraBytes(tag, option, subnet.router));
  }
}

function extraBytes(tag: number, option: ExtraOption, router: Ip4 | undefined): Uint8Array {
  return tag === OPT.classlessRoutes ? withDefaultRoute(optionBytes(option), router) : optionBytes(option);
}

/** A client that takes option 121 must ignore the router option (RFC 3442): the way out has to stand in both. */
function withDefaultRoute(routes: Uint8Array, router: Ip4 | undefined): Uint8Array {
  for (let at = 0; at < routes.length; at += 5 + ((routes[at]! + 7) >> 3)) if (routes[at] === 0) return routes;
  return router === undefined ? routes : Uint8Array.of(...routes, 0, ...ips(router));
}

/** What a server sends back as it came: client id (RFC 6842), the PXE machine's UUID (PXE 2.1), the relay's information (RFC 3046). */
function setEchoes({ options }: Packet, into: Options): void {
  for (const tag of [OPT.clientId, OPT.clientUuid, OPT.relayAgent]) {
    const value = options.get(tag);
    if (value) into.set(tag, value);
  }
}

/** The header of any reply (RFC 2131 table 3). */
function answering(request: Packet): Packet {
  return { ...request, op: 2, hops: 0, secs: 0, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, sname: '', file: '', options: new Map() };
}
