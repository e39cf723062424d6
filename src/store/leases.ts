// DHCP leases: taking one is a single operation whose uniqueness the database enforces.
import type { Ip4, Mac } from '../addr.ts';

export interface Lease {
  readonly ip: Ip4;
  readonly mac: Mac;
  /** The subnet's text form, `10.77.0.0/24`: a machine has at most one lease in each. */
  readonly subnet: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** Set while a machine that was told this address declined it: nobody gets it before then. */
  readonly declinedUntil?: number;
}

export interface LeaseStore {
  /**
   * Takes or renews `ip` for `mac`: durable when the promise resolves. Answers undefined, and changes nothing, when another machine
   * holds it or it is quarantined. An older lease of the same machine in the same subnet ends.
   */
  take(lease: { readonly ip: Ip4; readonly mac: Mac; readonly subnet: string; readonly expiresAt: number }, now: number): Promise<Lease | undefined>;
  /** Ends the lease if this machine holds it. */
  release(ip: Ip4, mac: Mac): Promise<void>;
  /** Quarantines the address until then, whoever held it. */
  decline(ip: Ip4, subnet: string, until: number): Promise<void>;
  /** The machine's lease in the subnet, expired or not: it gets the same address again when that is still free. */
  of(mac: Mac, subnet: string): Promise<Lease | undefined>;
  at(ip: Ip4): Promise<Lease | undefined>;
  /** Every lease and quarantine of a subnet, expired ones too. */
  list(subnet?: string): Promise<readonly Lease[]>;
}
