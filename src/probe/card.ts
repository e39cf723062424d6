// The network card that the probe speaks through, and which addresses are on its link.
import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import type { Ip4, Mac } from '../addr.ts';
import { AppError } from '../errors.ts';
import { sameLink, shown } from './answers.ts';

export interface Card {
  readonly name: string;
  readonly mac: Mac;
  /** The first one is the one that packets are sent from. */
  readonly addresses: readonly [CardAddress, ...CardAddress[]];
}

export interface CardAddress {
  readonly address: Ip4;
  readonly netmask: Ip4;
}

/**
 * PROBE_FAILED when there is no such card, or it has no IPv4 address: without one every broadcast leaves by the card of the default route,
 * which is the wrong network to ask (TRAPS 3; Node has no SO_BINDTODEVICE).
 */
export function findCard(name: string): Card {
  const all = networkInterfaces();
  const found = (all[name] ?? []).filter((entry) => entry.family === 'IPv4');
  const addresses = found.map(({ address, netmask }) => ({ address, netmask }));
  const [first, ...more] = addresses;
  if (first) return { name, mac: found[0]!.mac, addresses: [first, ...more] };
  const known = namesOf();
  if (!known.includes(name)) throw new AppError('PROBE_FAILED', `there is no network interface ${shown(name)}`, `this machine has ${known.join(', ')}`);
  throw new AppError(
    'PROBE_FAILED',
    `interface ${name} is down or has no IPv4 address, and without one a broadcast would leave by another card`,
    `\`ip link set ${name} up && ip address add <a free address of the boot LAN>/24 dev ${name}\` (as root; \`ip address del\` takes it away again)`,
  );
}

/** Cards without an address too, which os.networkInterfaces leaves out. From /proc, because /sys can show another namespace. */
function namesOf(): string[] {
  return [...readFileSync('/proc/self/net/dev', 'utf8').matchAll(/^\s*([^\s:|]+):/gm)].map((match) => match[1]!);
}

/** Whether a packet to this address stays in the card's broadcast domain. */
export function isOnLink(card: Card, ip: Ip4): boolean {
  return card.addresses.some(({ address, netmask }) => sameLink(address, ip, netmask));
}
