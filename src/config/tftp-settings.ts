// The `tftp:` section: what may stand in it, and its addresses as the daemon uses them.
import { z } from 'zod';
import { parseIp4, parseIp6, subnet6Of, subnetOf, type Ip4, type Ip6, type Subnet, type Subnet6 } from '../addr.ts';
import type { Fault } from '../errors.ts';
import { ETHERNET_BLOCK, LARGEST_BLOCK } from '../tftp/transfer.ts';
import type { YamlFile } from './document.ts';

/** An address of our own to listen on. */
export interface TftpAddress {
  readonly ip: Ip4 | Ip6;
  /** Its prefix was written: peers in there are answered beside the subnets that DHCP serves. IPv6 always has one. */
  readonly subnet?: Subnet | Subnet6;
}

export interface TftpSettings {
  readonly enabled: boolean;
  /** Absent: our address towards each subnet. */
  readonly listen?: readonly TftpAddress[];
  /** The most that is granted in bytes, by IPv4; by IPv6, whose header is longer, 20 less. */
  readonly blockSize: number;
}

/** What of an address can be wrong by itself, or the address. */
export function tftpAddress(text: string): TftpAddress | string {
  const [, written = '', length] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text.trim()) ?? [];
  const prefix = length === undefined ? undefined : Number(length);
  const ip4 = parseIp4(written);
  if (ip4 !== undefined) {
    if (ip4 === '0.0.0.0' || Number(ip4.split('.')[0]) >= 224) return 'must be an address of this machine';
    if (prefix === undefined) return { ip: ip4 };
    return prefix >= 1 && prefix <= 32 ? { ip: ip4, subnet: subnetOf(ip4, prefix) } : 'has a prefix that is not between 1 and 32';
  }
  const ip6 = parseIp6(written);
  if (ip6 === undefined) return 'not an IPv4 address, nor an IPv6 address with its prefix, such as fd00:77::1/64';
  if (/^::ffff:/.test(ip6)) return 'is an IPv4 address in the clothes of IPv6: write it as one';
  if (ip6 === '::' || /^ff/.test(ip6)) return 'must be an address of this machine';
  if (/^fe[89ab]/.test(ip6)) return 'is link-local, which says nothing without a card: write one of the card\'s other addresses';
  if (prefix === undefined) return 'needs its prefix, such as fd00:77::1/64: only peers in there are answered';
  return prefix >= 1 && prefix <= 128 ? { ip: ip6, subnet: subnet6Of(ip6, prefix) } : 'has a prefix that is not between 1 and 128';
}

const address = z.string().superRefine((text, context) => {
  const found = tftpAddress(text);
  if (typeof found === 'string') context.addIssue({ code: 'custom', message: found });
});

export const tftpSchema = z.strictObject({
  enabled: z.boolean().default(true),
  listen: z.array(address).min(1, 'needs at least one address').optional().describe('our own addresses: IPv4, with a prefix to answer its peers beside the served subnets; IPv6 with its prefix. Default: our address towards each subnet'),
  blockSize: z.number().int().min(512).max(LARGEST_BLOCK).default(ETHERNET_BLOCK).describe("the most bytes in a block; default what MTU 1500 carries; a subnet's option interface-mtu makes it less there"),
});

export function tftpSettings({ enabled, listen, blockSize }: z.output<typeof tftpSchema>, yaml: YamlFile): { readonly tftp: TftpSettings; readonly faults: readonly Fault[] } {
  const addresses = listen?.map((text) => tftpAddress(text) as TftpAddress);
  const faults = (addresses ?? []).flatMap(({ ip }, index): Fault[] => {
    const first = addresses!.findIndex((one) => one.ip === ip);
    return first < index ? [{ file: yaml.file, ...yaml.place(['tftp', 'listen', index]), message: `${ip} stands twice` }] : [];
  });
  return { tftp: { enabled, ...(addresses ? { listen: addresses } : {}), blockSize }, faults };
}
