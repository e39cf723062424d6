// A subnet as the DHCP rules see it: how it is served, which addresses may be given out, and what its machines are told.
import type { Ip4, IpRange, Subnet } from '../addr.ts';
import type { Serve } from '../boot/request.ts';
import type { ExtraOptions } from './option-values.ts';

/** `proxy`: boot fields beside another server's addresses · `full`: addresses too. */
export type DhcpMode = 'proxy' | 'full';

/** Addresses that are given out by ourselves, and to whom. */
export interface Pool {
  /** Sorted and disjoint, exclusions cut out. */
  readonly ranges: readonly IpRange[];
  /** Only nodes of these profiles; absent: every machine that the subnet serves. */
  readonly profiles?: readonly string[];
  /** Only nodes that carry all of these labels. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** What rackseed.yaml says of a subnet, and the rules read as it stands there. */
export interface SubnetTerms {
  readonly subnet: Subnet;
  /** In the order in which they are tried; none in proxy mode. */
  readonly pools: readonly Pool[];
  readonly router?: Ip4;
  readonly dns: readonly Ip4[];
  readonly domain?: string;
  readonly leaseSeconds: number;
  /** What its machines are told beside the above. */
  readonly options: ExtraOptions;
  /** Whether a new dynamic address is looked for on the link before it is offered. */
  readonly conflictCheck: boolean;
}

/** What this machine's cards made of it. */
export interface ServedSubnet extends SubnetTerms {
  readonly mode: DhcpMode;
  readonly serve: Serve;
  /** Our own address towards its machines: option 54, siaddr, the host of every URL. */
  readonly serverIp: Ip4;
  /** The card on whose link the subnet lies; absent: its machines reach us through a relay only. */
  readonly link?: string;
}
