// The leases of every subnet: the store's rows and their cache in memory, changed together, the store first.
import { formatSubnet, ip4ToNumber, subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { ForeignLease, Lease, LeasePage, LeaseStore, Skipped } from '../store/leases.ts';
import { createAddressBook, inRanges, type AddressBook } from './book.ts';
import type { Addresses, Candidate } from './lease.ts';
import type { Reserve } from './ready.ts';
import type { Pool, ServedSubnet } from './subnet.ts';

export interface LedgerParts {
  readonly subnets: readonly ServedSubnet[];
  readonly leases: LeaseStore;
  /** The node that the current generation reserves an address for. */
  readonly reserved: (ip: Ip4) => string | undefined;
  /** The reserve of checked addresses of a pool on a link of ours; absent: no address is checked. */
  readonly reserveFor?: (subnet: ServedSubnet, pool: Pool, book: AddressBook) => Reserve;
  /** Why this subnet gives out no new address just now. */
  readonly noNew?: (subnet: ServedSubnet) => string | undefined;
  /** Addresses that another server of the same wire may rule. */
  readonly ruledElsewhere?: (ip: Ip4) => boolean;
  /** Until when leases may be missing, because they come from a snapshot; in milliseconds since 1970. */
  readonly cautiousUntil?: (subnet: ServedSubnet) => number | undefined;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface LeaseDetails {
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  readonly hostname?: string;
  readonly clientId?: string;
}

export interface Ledger {
  /** Reads all leases; to be done before anything is asked. */
  load(): Promise<void>;
  addressesOf(subnet: ServedSubnet): Addresses;
  /** Durable when it resolves true; false: another machine has it. STORE_UNUSABLE when it cannot be written. */
  take(subnet: ServedSubnet, ip: Ip4, who: Candidate, details: LeaseDetails): Promise<boolean>;
  /** The card that has the address now. */
  leasedTo(ip: Ip4): Mac | undefined;
  release(ip: Ip4, mac: Mac): Promise<void>;
  /** Out of use until then. */
  quarantine(ip: Ip4, until: number): Promise<void>;
  /**
   * A machine was seen with an address that is free here. While leases may be missing, from a snapshot, it is taken for its holder, whose lease was lost: it
   * keeps the address when it renews. Else, and when it holds another one, nobody gets the address before `until`.
   */
  inUse(ip: Ip4, mac: Mac, until: number): Promise<void>;
  /** Leases for people, active and ended. */
  list(subnet?: string, page?: LeasePage): Promise<readonly Lease[]>;
  /** Takes leases over from another server; answers what became of each that was not taken. */
  import(rows: readonly Omit<ForeignLease, 'subnet'>[], dryRun?: boolean): Promise<{ readonly taken: number; readonly skipped: readonly Skipped[] }>;
  remove(ip: Ip4): Promise<boolean>;
  /** Leases in memory. */
  readonly size: number;
}

interface Entry {
  readonly subnet: ServedSubnet;
  readonly name: string;
  book: AddressBook;
  reserves: ReadonlyMap<Pool, Reserve>;
}

export function createLedger(parts: LedgerParts): Ledger {
  const { leases, now, reserved } = parts;
  const entries = new Map<ServedSubnet, Entry>();
  for (const subnet of parts.subnets) {
    if (subnet.mode === 'full') entries.set(subnet, { subnet, name: formatSubnet(subnet.subnet), book: createAddressBook(subnet.pools), reserves: new Map() });
  }
  const entryAt = (ip: Ip4) => {
    for (const entry of entries.values()) if (subnetContains(entry.subnet.subnet, ip)) return entry;
    return undefined;
  };

  async function quarantine(ip: Ip4, until: number): Promise<void> {
    const entry = entryAt(ip);
    if (!entry) return;
    await leases.decline(ip, entry.name, until);
    const row = await leases.at(ip);
    if (row) entry.book.put(row);
  }

  return {
    async load() {
      for (const entry of entries.values()) {
        const { subnet } = entry;
        entry.book = createAddressBook(subnet.pools, await leases.list(entry.name));
        const { reserveFor } = parts;
        if (reserveFor && subnet.link !== undefined && (subnet.conflictCheck || parts.cautiousUntil)) entry.reserves = new Map(subnet.pools.map((pool) => [pool, reserveFor(subnet, pool, entry.book)]));
      }
    },
    addressesOf(subnet) {
      const { book, reserves } = entries.get(subnet)!;
      const at = now();
      const cautious = (parts.cautiousUntil?.(subnet) ?? 0) > at;
      // After the time of caution only where it is asked for.
      const checks = reserves.size > 0 && (subnet.conflictCheck || cautious);
      const checked: Addresses['checked'] = checks ? (pool, accept) => reserves.get(pool)?.take(accept) : undefined;
      return { subnet, book, reserved, now: at, noNew: parts.noNew?.(subnet), cautious, checked, ruledElsewhere: parts.ruledElsewhere };
    },
    async take(subnet, ip, { mac, holder, booting }, details) {
      const { name, book } = entries.get(subnet)!;
      const lease = await leases.take({ ip, mac, holder, subnet: name, takeOver: booting, ...details }, now());
      if (lease) book.put(lease);
      return lease !== undefined;
    },
    leasedTo(ip) {
      const lease = entryAt(ip)?.book.leaseAt(ip);
      return lease && lease.expiresAt > now() && lease.declinedUntil === undefined ? lease.mac : undefined;
    },
    async release(ip, mac) {
      await leases.release(ip, mac);
      const book = entryAt(ip)?.book;
      const lease = book?.leaseAt(ip);
      if (book && lease?.mac === mac) book.put({ ...lease, expiresAt: 0 });
    },
    quarantine,
    async inUse(ip, mac, until) {
      const entry = entryAt(ip);
      const cautiousUntil = entry ? (parts.cautiousUntil?.(entry.subnet) ?? 0) : 0;
      if (entry && cautiousUntil > now() && entry.book.leaseOf(mac) === undefined) {
        const lease = await leases.take({ ip, mac, subnet: entry.name, expiresAt: cautiousUntil }, now());
        if (lease) return entry.book.put(lease);
      }
      await quarantine(ip, until);
    },
    list: (subnet, page) => leases.list(subnet, page),
    async import(rows, dryRun) {
      const refused: Skipped[] = [];
      const wanted = rows.flatMap((row) => {
        const entry = entryAt(row.ip);
        const why = entry ? refuseImport(entry, row.ip, reserved(row.ip)) : 'is in no subnet that is served in full mode here';
        if (entry && why === undefined) return [{ ...row, subnet: entry.name }];
        refused.push({ ip: row.ip, why: why! });
        return [];
      });
      const { taken, skipped } = await leases.put(wanted, now(), dryRun);
      if (!dryRun) for (const lease of taken) entryAt(lease.ip)?.book.put(lease);
      return { taken: taken.length, skipped: [...refused, ...skipped] };
    },
    async remove(ip) {
      const known = await leases.remove(ip);
      entryAt(ip)?.book.remove(ip);
      return known;
    },
    get size() {
      return [...entries.values()].reduce((sum, { book }) => sum + book.size, 0);
    },
  };
}

function refuseImport({ subnet }: Entry, ip: Ip4, owner: string | undefined): string | undefined {
  if (ip === subnet.serverIp || ip === subnet.router) return 'is the server or the router';
  if (owner !== undefined) return `is reserved for ${owner}, which gets it anyway`;
  return subnet.pools.some(({ ranges }) => inRanges(ranges, ip4ToNumber(ip))) ? undefined : 'is in no pool: its machine would lose it at the next renewal';
}
