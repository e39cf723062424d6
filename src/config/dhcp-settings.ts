// The `dhcp:` section as the daemon uses it, and what a schema of single values cannot say of it: who lies in whom, who contradicts whom.
import { broadcastOf, ip4FromNumber, ip4ToNumber, parseRange, parseSubnet, subnetContains, type Ip4, type IpRange, type Subnet } from '../addr.ts';
import type { ExtraOptions } from '../dhcp/option-values.ts';
import { overlaps, type DhcpSettings, type InterfaceSettings, type LinkMode, type SubnetSettings } from '../dhcp/links.ts';
import type { Pool } from '../dhcp/subnet.ts';
import type { Fault } from '../errors.ts';
import type { RawDhcp, RawSubnet } from './dhcp-schema.ts';
import type { YamlFile } from './document.ts';
import type { Path } from './faults.ts';
import { readOptions } from './options-map.ts';
import { rangeOf, seconds } from './scalars.ts';

type Tell = (path: Path, message: string, hint?: string) => void;

/** What is settled only beside the cards of this machine is left to `resolveLinks`. With faults the settings are not to be used. */
export function dhcpSettings(raw: RawDhcp, yaml: YamlFile): { readonly dhcp: DhcpSettings; readonly faults: readonly Fault[] } {
  const faults: Fault[] = [];
  const tell: Tell = (path, message, hint) => void faults.push({ file: yaml.file, ...yaml.place(['dhcp', ...path]), message, ...(hint ? { hint } : {}) });
  const at = (path: Path): string => {
    const { line, column } = yaml.place(['dhcp', ...path]);
    return `${yaml.file}:${line}:${column}`;
  };

  const interfaces = raw.interfaces.map((entry): InterfaceSettings => {
    if (typeof entry === 'string') return { name: entry };
    return { name: entry.name, ...(entry.mode ? { mode: entry.mode } : {}), ...(entry.serve ? { serve: entry.serve } : {}) };
  });
  interfaces.forEach(({ name }, index) => {
    const first = interfaces.findIndex((one) => one.name === name);
    if (first < index) tell(['interfaces', index], `interface ${name} stands twice, also at ${at(['interfaces', first])}`);
  });

  const subnets = raw.subnets.map((entry, index): SubnetSettings => {
    const path: Path = ['subnets', index];
    const { options, faults: wrong } = readOptions(entry.options, yaml, ['dhcp', ...path, 'options']);
    faults.push(...wrong);
    const known = subnetOf(entry, tell, path);
    tellContradictions(entry, interfaces, raw.mode, tell, path, at);
    raw.subnets.slice(0, index).forEach((other, before) => {
      if (overlaps(parseSubnet(other.subnet)!, known)) tell([...path, 'subnet'], `subnet ${entry.subnet} overlaps ${other.subnet}, at ${at(['subnets', before, 'subnet'])}`);
    });
    return asSettings(entry, known, poolsOf(entry, known, tell, path, at), options);
  });
  const { mode, serve, onConflict, otherServers } = raw;
  return { dhcp: { mode, serve, interfaces, onConflict, otherServers, subnets }, faults };
}

function asSettings(entry: RawSubnet, subnet: Subnet, pools: readonly Pool[], options: ExtraOptions): SubnetSettings {
  const { mode, serve, serverIp, relayed, router, dns, domain } = entry;
  return {
    subnet,
    ...(mode ? { mode } : {}),
    ...(serve ? { serve } : {}),
    ...(entry.interface ? { interface: entry.interface } : {}),
    ...(serverIp ? { serverIp } : {}),
    relayed,
    pools,
    ...(router ? { router } : {}),
    dns,
    ...(domain ? { domain } : {}),
    leaseSeconds: seconds(entry.leaseTime),
    options,
    conflictCheck: entry.conflictCheck === 'on' || entry.conflictCheck === true,
  };
}

/** A machine can have it: in the subnet, and neither its first nor its last address (RFC 3021: a /31 has no such two). */
function usable(subnet: Subnet, ip: Ip4): boolean {
  return subnetContains(subnet, ip) && (subnet.prefix > 30 || (ip !== ip4FromNumber(subnet.network) && ip !== broadcastOf(subnet)));
}

function subnetOf(entry: RawSubnet, tell: Tell, path: Path): Subnet {
  const subnet = parseSubnet(entry.subnet)!;
  const { serverIp, router } = entry;
  if (serverIp && !entry.relayed && !usable(subnet, serverIp)) tell([...path, 'serverIp'], `serverIp ${serverIp} is not in ${entry.subnet}`, subnetContains(subnet, serverIp) ? undefined : 'relayed: true, if its machines reach us through a relay');
  if (router && !usable(subnet, router)) tell([...path, 'router'], `router ${router} is not in ${entry.subnet}`);
  return subnet;
}

function tellContradictions(entry: RawSubnet, interfaces: readonly InterfaceSettings[], fallback: LinkMode, tell: Tell, path: Path, at: (path: Path) => string): void {
  if (entry.interface && entry.relayed) tell([...path, 'interface'], 'interface and relayed: true contradict each other', 'a relayed subnet lies on none of our cards');
  const index = interfaces.findIndex(({ name }) => name === entry.interface);
  const card = interfaces[index];
  if (entry.mode && entry.mode !== 'off' && card?.mode && card.mode !== entry.mode) {
    tell([...path, 'mode'], `mode ${entry.mode}, but interface ${card.name} is ${card.mode}, at ${at(['interfaces', index, 'mode'])}`, 'name the mode in one place only');
  }
  // The entry of a card that is not named here may bring the mode: that shows when the daemon starts.
  const mayInherit = !entry.relayed && !entry.interface && interfaces.some((one) => one.mode);
  const mode = entry.mode ?? card?.mode ?? (mayInherit ? undefined : fallback);
  const key = entry.pool === undefined ? 'pools' : 'pool';
  if (mode === 'proxy' && entry[key] !== undefined) tell([...path, key], `mode proxy gives no addresses, so ${key} has no meaning`, 'write mode: full, or take it away');
}

/** The pools with what is excluded cut out. */
function poolsOf(entry: RawSubnet, subnet: Subnet, tell: Tell, path: Path, at: (path: Path) => string): Pool[] {
  const inside = (range: IpRange) => usable(subnet, ip4FromNumber(range.first)) && usable(subnet, ip4FromNumber(range.last));
  if (entry.pool !== undefined && entry.pools !== undefined) tell([...path, 'pools'], `pool is the short form of pools: write one of them, also at ${at([...path, 'pool'])}`);
  const excluded = entry.exclude.map((text) => rangeOf(text)!);
  excluded.forEach((range, index) => {
    if (!subnetContains(subnet, ip4FromNumber(range.first)) || !subnetContains(subnet, ip4FromNumber(range.last))) tell([...path, 'exclude', index], `exclude ${entry.exclude[index]} is not in ${entry.subnet}`);
  });

  const seen: { readonly range: IpRange; readonly text: string; readonly path: Path }[] = [];
  const cut = (text: string, where: Path): IpRange[] => {
    const range = parseRange(text)!;
    const left = without(range, excluded);
    if (!inside(range)) tell(where, `pool ${text} is not in ${entry.subnet}`);
    else if (left.length === 0) tell(where, `exclude leaves no address of pool ${text}`);
    for (const [what, ip] of [['serverIp', entry.serverIp], ['router', entry.router]] as const) {
      if (ip && left.some(({ first, last }) => ip4ToNumber(ip) >= first && ip4ToNumber(ip) <= last)) tell(where, `pool ${text} contains ${what} ${ip}, which no machine can have`, `exclude: [${ip}]`);
    }
    const other = seen.find((one) => one.range.first <= range.last && range.first <= one.range.last);
    if (other) tell(where, `pool ${text} overlaps ${other.text}, at ${at(other.path)}`);
    seen.push({ range, text, path: where });
    return left;
  };
  if (entry.pool !== undefined) return [{ ranges: cut(entry.pool, [...path, 'pool']) }];
  return (entry.pools ?? []).map(({ range, profiles, labels }, index): Pool => {
    const where: Path = [...path, 'pools', index, 'range'];
    const ranges = typeof range === 'string' ? cut(range, where) : range.flatMap((text, part) => cut(text, [...where, part]));
    return {
      ranges: ranges.sort((a, b) => a.first - b.first),
      ...(profiles ? { profiles } : {}),
      ...(labels ? { labels: Object.fromEntries(Object.entries(labels).map(([key, value]) => [key, String(value)])) } : {}),
    };
  });
}

/** The parts of a range that none of the others covers. */
function without(range: IpRange, others: readonly IpRange[]): IpRange[] {
  return others.reduce<IpRange[]>(
    (left, { first, last }) =>
      left.flatMap((part) => {
        if (last < part.first || first > part.last) return [part];
        return [...(first > part.first ? [{ first: part.first, last: first - 1 }] : []), ...(last < part.last ? [{ first: last + 1, last: part.last }] : [])];
      }),
    [range],
  );
}

/**
 * Whether addresses outside of `subnets` may be right: a listed card serves the subnet of its own address without an entry, and which one that is
 * only its machine knows.
 */
export function servesUnlisted({ mode, interfaces, subnets }: DhcpSettings): boolean {
  return interfaces.some((entry) => (entry.mode ?? mode) !== 'off' && !subnets.some((one) => one.interface === entry.name));
}
