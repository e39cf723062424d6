// Which node claims which name, MAC and address; two that claim one are a fault that names both places.
import { broadcastOf, formatSubnet, ip4FromNumber, parseIp4, parseMac, subnetContains, type Ip4, type Subnet } from '../addr.ts';
import type { Fault } from '../errors.ts';
import type { YamlFile } from './document.ts';
import type { Path } from './faults.ts';

/** What of a subnet decides which addresses its machines can have. */
export interface AddressSpace {
  readonly subnet: Subnet;
  readonly serverIp?: Ip4;
  readonly router?: Ip4;
}

interface Claim {
  readonly node: string;
  readonly at: string;
}

/**
 * Values are looked at as they were written, so that a file with other faults still takes part. Whether a pool holds an address or excludes it does
 * not matter: a reservation comes before both. `elsewhere`: addresses outside of all `subnets` may be right.
 */
export function claimFaults(files: readonly YamlFile[], subnets: readonly AddressSpace[], elsewhere = false): Fault[] {
  const faults: Fault[] = [];
  const names = new Map<string, Claim>();
  const macs = new Map<string, Claim>();
  const ips = new Map<Ip4, Claim>();

  const claim = (taken: Map<string, Claim>, what: string, value: string, node: string, yaml: YamlFile, path: Path, key: boolean): void => {
    const place = yaml.place(path, { key });
    const first = taken.get(value);
    if (!first) {
      taken.set(value, { node, at: `${yaml.file}:${place.line}:${place.column}` });
    } else if (taken === names || first.node !== node) {
      const whose = taken === names ? '' : ` by node ${first.node}`;
      faults.push({ file: yaml.file, ...place, message: `${what} ${value} is taken${whose}, also at ${first.at}` });
    } else if (first.at.startsWith(`${yaml.file}:`)) {
      // The same node in another file is one mistake, and its name has reported it.
      faults.push({ file: yaml.file, ...place, message: `${what} ${value} stands twice, also at ${first.at}` });
    }
  };

  for (const yaml of files) {
    for (const [name, node] of entriesOf(member(yaml.value, 'nodes'))) {
      claim(names, 'node', name, name, yaml, ['nodes', name], true);
      const list = member(node, 'macs');
      for (const [index, text] of (Array.isArray(list) ? (list as unknown[]) : []).entries()) {
        const mac = typeof text === 'string' ? parseMac(text) : undefined;
        if (mac) claim(macs, 'mac', mac, name, yaml, ['nodes', name, 'macs', index], false);
      }
      const text = member(node, 'ip');
      const ip = typeof text === 'string' ? parseIp4(text) : undefined;
      if (!ip) continue;
      claim(ips, 'ip', ip, name, yaml, ['nodes', name, 'ip'], false);
      const why = whyUnusable(ip, subnets, elsewhere);
      if (why) faults.push({ file: yaml.file, ...yaml.place(['nodes', name, 'ip']), message: `ip ${ip} ${why}` });
    }
  }
  return faults;
}

/** Why no machine can have the address; undefined when one can. Without subnets nothing is known. */
function whyUnusable(ip: Ip4, subnets: readonly AddressSpace[], elsewhere: boolean): string | undefined {
  if (subnets.length === 0) return undefined;
  // That of a relayed subnet may lie in another one.
  if (subnets.some((entry) => entry.serverIp === ip)) return 'is our own (serverIp)';
  const home = subnets.find((entry) => subnetContains(entry.subnet, ip));
  if (!home) return elsewhere ? undefined : `is in no subnet that we serve: ${subnets.map((entry) => formatSubnet(entry.subnet)).join(', ')}`;
  if (ip === home.router) return "is the router's";
  const ends = home.subnet.prefix < 31 && (ip === ip4FromNumber(home.subnet.network) || ip === broadcastOf(home.subnet));
  return ends ? `is the first or last of ${formatSubnet(home.subnet)}, which no machine can have` : undefined;
}

/** The member of a map, if it is one. */
export function member(value: unknown, key: string): unknown {
  return isMapping(value) && Object.hasOwn(value, key) ? value[key] : undefined;
}

export function entriesOf(value: unknown): [string, unknown][] {
  return isMapping(value) ? Object.entries(value) : [];
}

export function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
