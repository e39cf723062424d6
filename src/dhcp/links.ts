// Which card each subnet lies on, and what each card does: the settings held against the cards of this machine. Pure.
import { formatSubnet, ip4FromNumber, ip4ToNumber, netmask, subnetContains, type Ip4, type Subnet } from '../addr.ts';
import type { Serve } from '../boot/request.ts';
import type { DhcpMode, ServedSubnet, SubnetTerms } from './subnet.ts';

/** `off`: its machines are served through relays at most. */
export type LinkMode = 'off' | DhcpMode;

/** `mode` and `serve` as they were written; an entry that has none takes those of its card's entry, else those of `dhcp` itself. */
export interface InterfaceSettings {
  readonly name: string;
  readonly mode?: LinkMode;
  readonly serve?: Serve;
}

export interface SubnetSettings extends SubnetTerms {
  readonly mode?: LinkMode;
  readonly serve?: Serve;
  /** The card on whose link it lies. */
  readonly interface?: string;
  readonly serverIp?: Ip4;
  /** No card of ours is on it. */
  readonly relayed: boolean;
}

export interface DhcpSettings {
  readonly mode: LinkMode;
  readonly serve: Serve;
  readonly interfaces: readonly InterfaceSettings[];
  /** What to do when another DHCP server answers on a link that is served in full mode; `ignore`: never looked for. */
  readonly onConflict: 'refuse' | 'proxy' | 'ignore';
  /** DHCP servers that are known and welcome. */
  readonly otherServers: readonly Ip4[];
  readonly subnets: readonly SubnetSettings[];
}

/** A card of this machine with its IPv4 addresses, the first one first. */
export interface Card {
  readonly name: string;
  readonly addresses: readonly { readonly address: Ip4; readonly prefix: number }[];
}

/** A card that we listen on. */
export interface Link {
  readonly name: string;
  /** `off`: for relays only. */
  readonly mode: LinkMode;
  /** Our addresses that machines are sent to by this link: TFTP and HTTP are to listen on them. */
  readonly serverIps: readonly Ip4[];
}

export interface Refusal {
  readonly fault: string;
  readonly hint: string;
}

interface Place {
  readonly card: Card;
  readonly serverIp: Ip4;
}

/**
 * Decides what is served on which card; a refusal tells the first thing that this machine cannot do. `defaultRouteCard`: the card that leads out.
 * A listed card's own subnets need no entry in proxy mode. Without interfaces and subnets the answer is empty: nothing is to be bound.
 */
export function resolveLinks(dhcp: DhcpSettings, cards: readonly Card[], defaultRouteCard?: string): { readonly subnets: readonly ServedSubnet[]; readonly links: readonly Link[] } | Refusal {
  const listed = new Map(dhcp.interfaces.map((entry) => [entry.name, entry]));
  const missing = dhcp.interfaces.find((entry) => !cards.some((card) => card.name === entry.name));
  if (missing) return noSuchCard(missing.name, cards);
  const served: ServedSubnet[] = [];
  /** Where each entry of `subnets` lies, also when it is off. */
  const homes = new Map<SubnetSettings, string>();

  for (const entry of dhcp.subnets.filter((one) => !one.relayed)) {
    const place = placeOf(entry, cards, listed);
    const home = 'fault' in place ? entry.interface : place.card.name;
    if (home !== undefined) homes.set(entry, home);
    const card = home === undefined ? undefined : listed.get(home);
    const mode = entry.mode ?? card?.mode ?? dhcp.mode;
    if (mode === 'off') continue;
    if ('fault' in place) return place;
    const name = place.card.name;
    const text = formatSubnet(entry.subnet);
    if (card?.mode !== undefined && card.mode !== mode) return { fault: `subnet ${text} is ${mode}, but it lies on ${name}, which dhcp.interfaces has as ${card.mode}`, hint: 'name the mode in one place only' };
    if (mode === 'full' && name === defaultRouteCard && !card && entry.interface !== name) {
      return {
        fault: `subnet ${text} would be served in full mode on ${name}, the card of this machine's default route`,
        hint: `that is mostly somebody else's LAN, and a second DHCP server breaks it. If it is meant, write interface: ${name} in the subnet; if not, mode: proxy`,
      };
    }
    const other = served.find((one) => one.link === name && one.mode !== mode);
    if (other) return { fault: `${name} would be ${other.mode} for ${formatSubnet(other.subnet)} and ${mode} for ${text}`, hint: 'one link has one mode: a machine without an address cannot say which subnet it means' };
    const refused = poolRefusal(entry, mode);
    if (refused) return refused;
    served.push({ ...asServed(entry, mode, entry.serve ?? card?.serve ?? dhcp.serve, place.serverIp), link: name });
  }

  for (const entry of dhcp.interfaces) {
    const own = ownSubnets(entry, dhcp, cards.find((card) => card.name === entry.name)!, served, homes);
    if ('fault' in own) return own;
    served.push(...own.subnets);
  }
  return withRelayed(dhcp, cards, served);
}

/** The card of a subnet: the one it names, else the one that holds its serverIp, else the one that has an address in it. */
function placeOf(entry: SubnetSettings, cards: readonly Card[], listed: ReadonlyMap<string, unknown>): Place | Refusal {
  const { serverIp } = entry;
  const text = formatSubnet(entry.subnet);
  const addressOn = (card: Card): Ip4 | undefined => card.addresses.find(({ address }) => (serverIp === undefined ? subnetContains(entry.subnet, address) : address === serverIp))?.address;
  const add = (card: string) => `ip address add ${serverIp ?? '<our address>'}/${entry.subnet.prefix} dev ${card}`;
  if (entry.interface !== undefined) {
    const card = cards.find(({ name }) => name === entry.interface);
    if (!card) return noSuchCard(entry.interface, cards);
    const address = addressOn(card);
    return address === undefined ? { fault: `${card.name} has no address ${serverIp ?? `in ${text}`}, ${addressesOf([card])}`, hint: add(card.name) } : { card, serverIp: address };
  }
  const holding = cards.filter((card) => addressOn(card) !== undefined);
  const wanted = holding.filter((card) => listed.has(card.name));
  const [card, second] = wanted.length > 0 ? wanted : holding;
  if (!card) return { fault: `no card of this machine has an address ${serverIp ?? `in ${text}`}: ${addressesOf(cards)}`, hint: `${add('<card>')}; or relayed: true where relays bring its machines` };
  if (second) return { fault: `${holding.map(({ name }) => name).join(' and ')} both have an address ${serverIp ?? `in ${text}`}`, hint: `write interface: ${card.name} (or the other) in the subnet ${text}` };
  return { card, serverIp: addressOn(card)! };
}

/** What a listed card serves beside the entries of `subnets` that lie on it. */
function ownSubnets(entry: InterfaceSettings, dhcp: DhcpSettings, card: Card, served: readonly ServedSubnet[], homes: ReadonlyMap<SubnetSettings, string>): { readonly subnets: readonly ServedSubnet[] } | Refusal {
  const { name } = card;
  const onIt = served.find((one) => one.link === name);
  // A card that gives addresses in one subnet is no helper of another server's in the next.
  const mode = onIt?.mode ?? entry.mode ?? dhcp.mode;
  if (mode === 'off' || onIt?.mode === 'full') return { subnets: [] };
  if (card.addresses.length === 0) return { fault: `${name} has no IPv4 address, so nothing can be served there`, hint: `ip address add <our address>/24 dev ${name}; or mode: off, to listen there for relays only` };
  const subnets = new Map<string, ServedSubnet>();
  for (const { address, prefix } of card.addresses) {
    const subnet = subnetOf(address, prefix);
    const text = formatSubnet(subnet);
    // An entry without a home is off or relayed; the latter is refused below.
    const described = dhcp.subnets.some((one) => overlaps(one.subnet, subnet) && (homes.get(one) ?? name) === name);
    if (prefix === 32 || described || subnets.has(text)) continue;
    if (mode === 'full') return { fault: `${name} is in mode full, and no entry of dhcp.subnets says which addresses of ${text} it may give`, hint: `write under dhcp.subnets: { subnet: ${text}, interface: ${name}, mode: full, pool: <first>-<last> }` };
    subnets.set(text, { subnet, mode, serve: entry.serve ?? dhcp.serve, serverIp: address, link: name, pools: [], dns: [], leaseSeconds: 43_200, options: {}, conflictCheck: false });
  }
  return { subnets: [...subnets.values()] };
}

function withRelayed(dhcp: DhcpSettings, cards: readonly Card[], served: readonly ServedSubnet[]): { readonly subnets: readonly ServedSubnet[]; readonly links: readonly Link[] } | Refusal {
  const names = [...new Set([...dhcp.interfaces.map((entry) => entry.name), ...served.map((one) => one.link!)])];
  const links = names.map((name) => {
    const here = served.filter((one) => one.link === name);
    const card = cards.find((one) => one.name === name)!;
    return { name, card, mode: here[0]?.mode ?? ('off' as const), serverIps: new Set(here.length > 0 ? here.map((one) => one.serverIp) : card.addresses.map(({ address }) => address)) };
  });
  const subnets = [...served];
  for (const entry of dhcp.subnets) {
    const mode = entry.mode ?? dhcp.mode;
    if (!entry.relayed || mode === 'off') continue;
    const text = formatSubnet(entry.subnet);
    const [first] = links;
    if (!first) return { fault: `subnet ${text} is reached through relays, and no card is listed to hear them on`, hint: 'list the card that relays reach: dhcp.interfaces: [{ name: <card>, mode: off }] listens there for relays only' };
    for (const { name, card } of links) {
      const inside = card.addresses.find(({ address }) => subnetContains(entry.subnet, address));
      if (inside) return { fault: `subnet ${text} says relayed: true, but ${name} has ${inside.address} in it`, hint: `take relayed: true away, or ${name} out of dhcp.interfaces` };
    }
    const refused = poolRefusal(entry, mode);
    if (refused) return refused;
    const serverIp = entry.serverIp ?? links.flatMap((link) => [...link.serverIps])[0];
    if (serverIp === undefined) return { fault: `subnet ${text} has no serverIp, and ${names.join(', ')} has no address to stand in for it`, hint: `ip address add <our address>/24 dev ${first.name}` };
    const holder = cards.find((card) => card.addresses.some(({ address }) => address === serverIp));
    if (!holder) return { fault: `serverIp ${serverIp} of relayed subnet ${text} is no address of this machine: ${addressesOf(cards)}`, hint: `ip address add ${serverIp}/32 dev lo, or name one of those` };
    // Relays may reach it by any card; it is bound once.
    (links.find((link) => link.name === holder.name) ?? first).serverIps.add(serverIp);
    subnets.push(asServed(entry, mode, entry.serve ?? dhcp.serve, serverIp));
  }
  return { subnets, links: links.map(({ name, mode, serverIps }) => ({ name, mode, serverIps: [...serverIps] })) };
}

function asServed(entry: SubnetSettings, mode: DhcpMode, serve: Serve, serverIp: Ip4): ServedSubnet {
  const { subnet, pools, router, dns, domain, leaseSeconds, options, relayed } = entry;
  // What lies behind a relay cannot be asked with a datagram of our own.
  const conflictCheck = entry.conflictCheck && !relayed;
  return { subnet, mode, serve, serverIp, pools, ...(router === undefined ? {} : { router }), dns, ...(domain === undefined ? {} : { domain }), leaseSeconds, options, conflictCheck };
}

function poolRefusal(entry: SubnetSettings, mode: DhcpMode): Refusal | undefined {
  if (mode === 'full' || entry.pools.length === 0) return undefined;
  return { fault: `subnet ${formatSubnet(entry.subnet)} has a pool, and mode proxy gives no addresses`, hint: 'write mode: full, or take the pool away' };
}

function noSuchCard(name: string, cards: readonly Card[]): Refusal {
  return { fault: `this machine has no card ${name}`, hint: `it has ${cards.map((card) => card.name).join(', ') || 'none'}` };
}

function addressesOf(cards: readonly Card[]): string {
  return cards.map(({ name, addresses }) => `${name} has ${addresses.map(({ address, prefix }) => `${address}/${prefix}`).join(' and ') || 'none'}`).join(', ') || 'there is no card';
}

function subnetOf(address: Ip4, prefix: number): Subnet {
  return { network: (ip4ToNumber(address) & ip4ToNumber(netmask({ network: 0, prefix }))) >>> 0, prefix };
}

/** Whether two subnets have an address in common. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  return subnetContains(a, ip4FromNumber(b.network)) || subnetContains(b, ip4FromNumber(a.network));
}
