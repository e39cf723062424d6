// Which address a machine gets, and whether a REQUEST is acknowledged, refused or left to others. Pure.
import { broadcastOf, formatSubnet, ip4FromNumber, ip4ToNumber, subnetContains, type Ip4, type IpRange, type Mac, type Subnet } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import { ipOf, OPT } from './options.ts';
import { NO_IP, type Packet } from './packet.ts';

/** One subnet as rackseed.yaml describes it; the settings take it from here, since rules import nothing of config. */
export interface ServedSubnet {
  readonly subnet: Subnet;
  readonly serverIp: Ip4;
  readonly pool?: IpRange;
  readonly router?: Ip4;
  readonly dns: readonly Ip4[];
  readonly domain?: string;
  readonly leaseSeconds: number;
}

/** A row of the lease store. */
export interface KnownLease {
  readonly ip: Ip4;
  readonly mac: Mac;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** In quarantine until then. */
  readonly declinedUntil?: number;
}

/** An address that was offered and not yet asked for. Only a cache: the lease store settles who gets it. */
export interface Hold {
  readonly mac: Mac;
  /** Milliseconds since 1970. */
  readonly until: number;
}

/** How long an offered address is kept from others, in milliseconds. */
export const HOLD_MS = 60_000;
/** How long an address is out of use after a machine found it taken (DECLINE), in milliseconds. */
export const QUARANTINE_MS = 24 * 3600_000;

/** All that is known of a subnet's addresses when one machine asks. */
export interface Addresses {
  readonly subnet: ServedSubnet;
  /** Every lease and quarantine of the subnet, expired ones too. */
  readonly leases: readonly KnownLease[];
  readonly holds: ReadonlyMap<Ip4, Hold>;
  /** The node that an address is reserved for. */
  readonly reserved: (ip: Ip4) => string | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface Candidate {
  readonly node: Node;
  readonly mac: Mac;
  /** It is on its way up, so none of its cards can be in use: it may take its reservation over from another card of its own. */
  readonly booting: boolean;
}

export type AddressChoice = { readonly ip: Ip4 } | { readonly why: string };

/** Reservation, else the old lease, else what the machine asks for, else the first free one of the pool. */
export function chooseAddress(from: Addresses, who: Candidate, requested?: Ip4): AddressChoice {
  const { subnet, leases } = from;
  const reservation = who.node.ip && subnetContains(subnet.subnet, who.node.ip) ? who.node.ip : undefined;
  const refused = reservation && obstacle(from, who, reservation, leaseAt(from, reservation));
  if (reservation && !refused) return { ip: reservation };

  const old = leases.find((lease) => lease.mac === who.mac)?.ip;
  for (const ip of [old, requested]) {
    if (ip && inPool(subnet, ip) && !obstacle(from, who, ip, leaseAt(from, ip))) return { ip };
  }
  const free = firstFree(from, who);
  if (free) return { ip: free };
  const pool = subnet.pool ? `the pool of ${formatSubnet(subnet.subnet)} is exhausted` : `${formatSubnet(subnet.subnet)} has no pool`;
  if (refused) return { why: `its reserved address ${reservation} ${refused}, and ${pool}` };
  return { why: who.node.ip ? `its reserved address ${who.node.ip} is not in this subnet, and ${pool}` : pool };
}

/** Addresses that nobody ever had come first, then the one whose lease ended longest ago: machines find their old address again. */
function firstFree(from: Addresses, who: Candidate): Ip4 | undefined {
  const { pool } = from.subnet;
  if (!pool) return undefined;
  const known = new Map(from.leases.map((lease) => [lease.ip, lease]));
  let oldest: KnownLease | undefined;
  for (let n = pool.first; n <= pool.last; n++) {
    const ip = ip4FromNumber(n);
    const lease = known.get(ip);
    if (lease && oldest && oldest.expiresAt <= lease.expiresAt) continue;
    if (obstacle(from, who, ip, lease)) continue;
    if (!lease) return ip;
    oldest = lease;
  }
  return oldest?.ip;
}

/** Why this machine cannot have the address; undefined when it can. */
function obstacle(from: Addresses, who: Candidate, ip: Ip4, lease: KnownLease | undefined): string | undefined {
  const { subnet, now } = from;
  if (!subnetContains(subnet.subnet, ip)) return `is not in ${formatSubnet(subnet.subnet)}`;
  if (ip === subnet.serverIp || ip === subnet.router) return 'is the server or the router';
  // A /31 or /32 has no network and broadcast address (RFC 3021).
  if (subnet.subnet.prefix < 31 && (ip4ToNumber(ip) === subnet.subnet.network || ip === broadcastOf(subnet.subnet))) return 'is the network or broadcast address';
  const owner = from.reserved(ip);
  if (owner !== undefined && owner !== who.node.name) return `is reserved for ${owner}`;
  if (lease?.declinedUntil !== undefined && lease.declinedUntil > now) return 'is in quarantine: a machine found it in use';
  const mine = (mac: Mac) => mac === who.mac || (who.booting && ip === who.node.ip && who.node.macs.includes(mac));
  if (lease && lease.expiresAt > now && !mine(lease.mac)) return `is leased to ${lease.mac}`;
  const hold = from.holds.get(ip);
  if (hold && hold.until > now && !mine(hold.mac)) return `is offered to ${hold.mac}`;
  return undefined;
}

function leaseAt(from: Addresses, ip: Ip4): KnownLease | undefined {
  return from.leases.find((lease) => lease.ip === ip);
}

function inPool(subnet: ServedSubnet, ip: Ip4): boolean {
  const n = ip4ToNumber(ip);
  return subnet.pool !== undefined && n >= subnet.pool.first && n <= subnet.pool.last;
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
 * RFC 2131 section 4.3.2. A NAK only when the address is wrong for this subnet, or is somebody else's: then the machine must not go on using it.
 * An address in the subnet that is nobody's, and that we would never give, may be another server's: silence, and the machine discovers again.
 */
export function judgeRequest(from: Addresses, who: Candidate, asked: { readonly state: RequestState; readonly ip: Ip4 }): Verdict {
  const { ip, state } = asked;
  const wrong = obstacle(from, who, ip, leaseAt(from, ip));
  if (wrong) return { kind: 'nak', why: `${ip} ${wrong}` };
  const known = ip === who.node.ip || inPool(from.subnet, ip) || from.leases.some((lease) => lease.ip === ip && lease.mac === who.mac);
  if (known) return { kind: 'ack', ip };
  if (state === 'selecting') return { kind: 'nak', why: `${ip} was not offered` };
  return { kind: 'silent', why: `${ip} is neither in the pool nor reserved for ${who.node.name}` };
}

/** The subnet that a packet is about: where its relay stands, else where the machine is, else where it belongs, else the first. */
export function subnetFor(subnets: readonly ServedSubnet[], packet: Packet, reserved?: Ip4): ServedSubnet | undefined {
  const holding = (ip: Ip4 | undefined) => (ip === undefined || ip === NO_IP ? undefined : subnets.find((entry) => subnetContains(entry.subnet, ip)));
  if (packet.giaddr !== NO_IP) return holding(packet.giaddr);
  return holding(packet.ciaddr) ?? holding(reserved) ?? subnets[0];
}
