// The cards of this machine as they are now: names, IPv4 addresses, and the one that leads out.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import type { Card } from './links.ts';

/** Every card, those without an address and without a cable too; never throws. */
export function readCards(): Card[] {
  const names = read('/proc/net/dev').flatMap((line) => /^\s*([^\s:]+):/.exec(line)?.[1] ?? []);
  const found = new Map<string, Card['addresses'][number][]>(names.map((name) => [name, []]));
  const add = (name: string, address: string, prefix: number): void => {
    const addresses = found.get(name) ?? [];
    if (!addresses.some((one) => one.address === address)) found.set(name, [...addresses, { address, prefix }]);
  };
  for (const [label, addresses] of Object.entries(networkInterfaces())) {
    // An address with a label of its own (`eth0:1`) stands under that label (measured).
    for (const { family, address, cidr } of addresses ?? []) if (family === 'IPv4') add(label.split(':')[0]!, address, Number(cidr?.split('/')[1] ?? 32));
  }
  // A card without a cable is left out there, address or not (measured), and a daemon may start before the switch of its rack does.
  if ([...found.values()].some((addresses) => addresses.length === 0)) for (const { name, address, prefix } of askIp()) add(name, address, prefix);
  return [...found].map(([name, addresses]) => ({ name, addresses }));
}

/** The card of the IPv4 default route, of the best one when there are several; undefined without one. */
export function defaultRouteCard(): string | undefined {
  return bestDefaultRoute(read('/proc/net/route'));
}

/** `lines` of /proc/net/route: card, destination, gateway, flags, counts, metric, mask, in hex but for the metric. */
export function bestDefaultRoute(lines: readonly string[]): string | undefined {
  const routes = lines.flatMap((line) => {
    const [card, destination, , flags, , , metric, mask] = line.trim().split(/\s+/);
    // Flags: 1 = up, 0x200 = reject, which is a route to nowhere.
    const leadsOut = destination === '00000000' && mask === '00000000' && (Number.parseInt(flags!, 16) & 0x201) === 1;
    return leadsOut && card ? [{ card, metric: Number(metric) }] : [];
  });
  return routes.sort((a, b) => a.metric - b.metric)[0]?.card;
}

function askIp(): { readonly name: string; readonly address: string; readonly prefix: number }[] {
  const { stdout } = spawnSync('ip', ['-json', '-4', 'address', 'show'], { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    const cards = JSON.parse(stdout) as { readonly ifname?: string; readonly addr_info?: readonly { readonly local?: string; readonly prefixlen?: number }[] }[];
    return cards.flatMap(({ ifname, addr_info = [] }) => addr_info.flatMap(({ local, prefixlen }) => (ifname && local && prefixlen !== undefined ? [{ name: ifname, address: local, prefix: prefixlen }] : [])));
  } catch {
    // No iproute2 here: what the kernel told already must do.
    return [];
  }
}

function read(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n');
  } catch {
    return [];
  }
}
