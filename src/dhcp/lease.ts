// Which address a machine gets, and whether a REQUEST is acknowledged, refused or left to others. Pure.
import { broadcastOf, formatSubnet, ip4ToNumber, subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import { inRanges, type AddressBook, type KnownLease } from './book.ts';
import { ipOf, messageOf, OPT, relayLinkOf } from './options.ts';
import { NO_IP, type Packet } from './packet.ts';
import type { Pool, ServedSubnet } from './subnet.ts';
import type { Ingress } from './transport.ts';

/** How long an offered address is kept from others, in milliseconds. */
export const HOLD_MS = 60_000;
/** How long an address is out of use after a machine found it taken (DECLINE), in milliseconds. */
export const QUARANTINE_MS = 24 * 3600_000;

/** All that is known of a subnet's addresses when one machine asks. */
export interface Addresses {
  readonly subnet: ServedSubnet;
  readonly book: AddressBook;
  /** The node that an address is reserved for. */
  readonly reserved: (ip: Ip4) => string | undefined;
  /** Why no address is newly given out from a pool just now; reservations and renewals go on. */
  readonly noNew?: string | undefined;
  /** The leases are those of an old snapshot: who had an address since is not known. */
  readonly cautious?: boolean;
  /** Takes a dynamic address only when it was seen to be free on the link; absent: none is looked for. */
  readonly checked?: ((pool: Pool, accept: (ip: Ip4) => boolean) => Ip4 | undefined) | undefined;
  /** An address that another server of the same wire may rule: never the cause of a NAK. */
  readonly ruledElsewhere?: ((ip: Ip4) => boolean) | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface Candidate {
  readonly mac: Mac;
  /** The node's name, or the MAC of a machine that is no node: whoever holds one lease a subnet. */
  readonly holder: string;
  readonly node: Node | undefined;
  /** It is on its way up, so none of its cards can be in use: it may take the node's lease over from another card of its own. */
  readonly booting: boolean;
}

export type AddressChoice = { readonly ip: Ip4 } | { readonly why: string };

/** Reservation, else the old lease, else what the machine asks for, else a free one of the pools that it may use (RFC 2131 section 4.3.1). */
export function chooseAddress(from: Addresses, who: Candidate, requested?: Ip4): AddressChoice {
  const { subnet, book } = from;
  const held = leaseOf(book, who);
  const inUse = held && heldByOtherCard(from, who, held);
  if (inUse) return { why: inUse };
  const reservation = reservationIn(subnet, who);
  const refused = reservation && obstacle(from, who, reservation);
  if (reservation && !refused) return { ip: reservation };

  const pools = subnet.pools.filter((pool) => admits(pool, who));
  const sure = !from.cautious || (held && held.expiresAt > from.now);
  if (held && sure && isIn(pools, held.ip) && !obstacle(from, who, held.ip)) return { ip: held.ip };
  const why = from.noNew ?? giveFrom(from, who, pools, requested);
  if (typeof why === 'object') return why;
  if (refused) return { why: `its reserved address ${reservation} ${refused}, and ${why}` };
  return { why: who.node?.ip && !reservation ? `its reserved address ${who.node.ip} is not in this subnet, and ${why}` : why };
}

function giveFrom(from: Addresses, who: Candidate, pools: readonly Pool[], requested: Ip4 | undefined): AddressChoice | string {
  const { subnet, book, checked, now } = from;
  const accept = (ip: Ip4) => !obstacle(from, who, ip);
  // With the conflict check a wish is as unknown as any other address; our own offer to this machine was checked before.
  if (requested && isIn(pools, requested) && accept(requested) && (!checked || book.holdAt(requested)?.holder === who.holder)) return { ip: requested };
  // A DISCOVER sent again gets the same offer: the first may just be on its way, and may have been the last free address.
  const offered = book.offerTo(who.holder);
  if (offered && isIn(pools, offered) && accept(offered)) return { ip: offered };
  for (const pool of pools) {
    const ip = checked ? checked(pool, accept) : book.nextFree(pool, now, accept);
    if (ip) return { ip };
  }
  // An offer to a machine that nobody knows never costs a node its address.
  for (const pool of who.node ? pools : []) {
    const ip = book.takeBackOffer(pool, now, (hold) => hold.holder === hold.mac);
    if (ip && accept(ip)) return { ip };
  }
  const name = formatSubnet(subnet.subnet);
  if (subnet.pools.length === 0) return `${name} has no pool`;
  if (pools.length === 0) return `no pool of ${name} is for this machine`;
  return checked ? `the pool of ${name} is exhausted, or its reserve of checked addresses is just being filled` : `the pool of ${name} is exhausted`;
}

/** Why this machine cannot have the address; undefined when it can. */
function obstacle(from: Addresses, who: Candidate, ip: Ip4): string | undefined {
  const { subnet, book, now } = from;
  if (!subnetContains(subnet.subnet, ip)) return `is not in ${formatSubnet(subnet.subnet)}`;
  if (ip === subnet.serverIp || ip === subnet.router) return 'is the server or the router';
  // A /31 or /32 has no network and broadcast address (RFC 3021).
  if (subnet.subnet.prefix < 31 && (ip4ToNumber(ip) === subnet.subnet.network || ip === broadcastOf(subnet.subnet))) return 'is the network or broadcast address';
  const owner = from.reserved(ip);
  if (owner !== undefined && owner !== who.node?.name) return `is reserved for ${owner}`;
  const lease = book.leaseAt(ip);
  if (lease?.declinedUntil !== undefined && lease.declinedUntil > now) return 'is in quarantine: a machine found it in use';
  if (lease && lease.expiresAt > now && !(isOwn(lease, who) && mayTakeOver(who, lease.mac))) return `is leased to ${lease.mac}`;
  // What is its own is its own, whoever was offered it while we did not know.
  if (lease && lease.expiresAt > now) return undefined;
  const hold = book.holdAt(ip);
  if (hold && hold.until > now && hold.holder !== who.holder) return `is offered to ${hold.mac}`;
  return undefined;
}

/** One lease a node: while its machine runs, a second card of it gets no address beside the first one's. */
function heldByOtherCard({ now }: Addresses, who: Candidate, held: KnownLease): string | undefined {
  return held.expiresAt > now && !mayTakeOver(who, held.mac) ? `${who.holder} has ${held.ip} on its card ${held.mac}` : undefined;
}

function leaseOf(book: AddressBook, { holder, mac }: Candidate): KnownLease | undefined {
  return book.leaseOf(holder) ?? book.leaseOf(mac);
}

/** The same card counts whatever its machine was called when it took the lease: it may have become a node since, or be one no more. */
function isOwn(lease: KnownLease, who: Candidate): boolean {
  return lease.holder === who.holder || lease.mac === who.mac;
}

function mayTakeOver(who: Candidate, mac: Mac): boolean {
  return mac === who.mac || who.booting;
}

function reservationIn({ subnet }: ServedSubnet, { node }: Candidate): Ip4 | undefined {
  return node?.ip && subnetContains(subnet, node.ip) ? node.ip : undefined;
}

function admits({ profiles, labels }: Pool, { node }: Candidate): boolean {
  if (profiles && !(node && profiles.includes(node.profile))) return false;
  return !labels || Object.entries(labels).every(([name, value]) => node?.labels[name] === value);
}

function isIn(pools: readonly Pool[], ip: Ip4): boolean {
  const n = ip4ToNumber(ip);
  return pools.some(({ ranges }) => inRanges(ranges, n));
}

/** The state that a client is in when it sends a REQUEST (RFC 2131 section 4.3.2, table 4). */
export type RequestState = 'selecting' | 'init-reboot' | 'renewing';

export type Verdict =
  | { readonly kind: 'ack'; readonly ip: Ip4 }
  | { readonly kind: 'nak'; readonly why: string }
  /** Not ours to answer. */
  | { readonly kind: 'silent'; readonly why: string };

/**
 * RENEWING and REBINDING look alike but for the address they were sent to, and get the same answer. A REQUEST with neither an address
 * in option 50 nor in ciaddr is no REQUEST.
 */
export function stateOf(request: Packet): { readonly state: RequestState; readonly ip: Ip4; readonly server?: Ip4 } | undefined {
  const server = ipOf(request.options, OPT.serverId);
  const requested = ipOf(request.options, OPT.requestedIp);
  const ciaddr = request.ciaddr === NO_IP ? undefined : request.ciaddr;
  if (server) {
    // Clients that renew by SELECTING's form, with ciaddr instead of option 50, are common.
    const ip = requested ?? ciaddr;
    return ip ? { state: 'selecting', ip, server } : undefined;
  }
  if (ciaddr) return { state: 'renewing', ip: ciaddr };
  return requested ? { state: 'init-reboot', ip: requested } : undefined;
}

/**
 * RFC 2131 section 4.3.2. A NAK only when we are sure: the address is wrong for this subnet, somebody else's, or not what we offered. An address in
 * the subnet that is nobody's may be another server's: silence, and the machine discovers again.
 */
export function judgeRequest(from: Addresses, who: Candidate, asked: { readonly state: RequestState; readonly ip: Ip4 }): Verdict {
  const { ip, state } = asked;
  const { subnet, book } = from;
  const wrong = obstacle(from, who, ip);
  if (wrong && !subnetContains(from.subnet.subnet, ip) && from.ruledElsewhere?.(ip)) return { kind: 'silent', why: `${ip} may be another server's` };
  if (wrong) return { kind: 'nak', why: `${ip} ${wrong}` };
  const held = leaseOf(book, who);
  // Acknowledged, it would end the lease of a card that is in use.
  const inUse = held && heldByOtherCard(from, who, held);
  if (inUse) return { kind: 'nak', why: inUse };
  const lease = book.leaseAt(ip);
  if (ip === who.node?.ip || (lease && isOwn(lease, who)) || book.holdAt(ip)?.holder === who.holder) return { kind: 'ack', ip };
  const inPool = isIn(subnet.pools.filter((pool) => admits(pool, who)), ip);
  if (state === 'selecting') {
    // Our offer, forgotten by a restart: the lease store still knows whether it is free.
    if (inPool && from.noNew === undefined && !from.cautious) return { kind: 'ack', ip };
    return { kind: 'nak', why: `${ip} was not offered` };
  }
  // It has a lease of ours, and asks for another address of ours.
  if (state === 'init-reboot' && inPool && held && held.expiresAt > from.now) return { kind: 'nak', why: `${ip} is not its address, ${held.ip} is` };
  // A machine that uses an address of the pool which nobody else has: our record of it is lost. INIT-REBOOT without a record is left alone, a MUST.
  if (state === 'renewing' && inPool && from.noNew === undefined) return { kind: 'ack', ip };
  return { kind: 'silent', why: `${ip} is no lease of ${who.holder} that we know of` };
}

/**
 * The subnet that a packet is about (RFC 2131 section 4.3.1, RFC 3527): where its relay says the machine is, else where the relay stands; without a relay one
 * on the card's own link: where the machine is, where it belongs, or the first. `known` is the address that is reserved for the machine or that it asks for.
 */
export function subnetFor(subnets: readonly ServedSubnet[], packet: Packet, from: Ingress, known?: Ip4): ServedSubnet | undefined {
  const holding = (among: readonly ServedSubnet[], ip: Ip4 | undefined) => (ip === undefined || ip === NO_IP ? undefined : among.find((entry) => subnetContains(entry.subnet, ip)));
  if (packet.giaddr !== NO_IP) {
    const at = relayLinkOf(packet.options);
    if (at === undefined) return holding(subnets, packet.giaddr);
    // Our answer goes to giaddr, so it must be a relay of ours, or who sent this: else anybody could have us send packets anywhere.
    return holding(subnets, packet.giaddr) || from.from === packet.giaddr ? holding(subnets, at) : undefined;
  }
  const here = subnets.filter((entry) => entry.link === from.link);
  // A relayed machine renews by unicast, past its relay.
  const routed = packet.ciaddr !== NO_IP && from.from === packet.ciaddr ? holding(subnets, packet.ciaddr) : undefined;
  // Whoever has an address elsewhere sent this from afar, past every relay: it is on no link of ours. But for one who was carried here and
  // does not know it yet.
  const strays = from.from === packet.ciaddr && stateOf(packet)?.state === 'renewing' && messageOf(packet.options) === 'request';
  if (from.from !== NO_IP && !routed && !strays && !holding(here, from.from)) return undefined;
  return holding(here, packet.ciaddr) ?? routed ?? holding(here, known) ?? here[0];
}
