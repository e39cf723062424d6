// The addresses of one subnet in memory: leases, offers, quarantine, and which address is free next. A cache of the lease store; no clock of its own.
import { ip4FromNumber, ip4ToNumber, type Ip4, type IpRange, type Mac } from '../addr.ts';
import type { Pool } from './subnet.ts';

/** A row of the lease store. */
export interface KnownLease {
  readonly ip: Ip4;
  readonly mac: Mac;
  /** Whose it is: the node's name, or the MAC of a machine that is no node. */
  readonly holder: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** In quarantine until then, and nobody's. */
  readonly declinedUntil?: number;
}

/** An address that was offered and not yet asked for. The lease store settles who gets it. */
export interface Hold {
  readonly mac: Mac;
  readonly holder: string;
  /** Milliseconds since 1970. */
  readonly until: number;
}

export interface AddressBook {
  leaseAt(ip: Ip4): KnownLease | undefined;
  /** The holder's lease, ended or not. */
  leaseOf(holder: string): KnownLease | undefined;
  holdAt(ip: Ip4): Hold | undefined;
  /** What the holder was offered last, and has not asked for yet. */
  offerTo(holder: string): Ip4 | undefined;
  /**
   * A free address of the pool that `accept` takes: one that nobody ever had, else the one whose lease ended longest ago, so that machines find
   * their old address again. Constant time but for what `accept` turns down. `now` in milliseconds since 1970.
   */
  nextFree(pool: Pool, now: number, accept: (ip: Ip4) => boolean): Ip4 | undefined;
  /** The oldest offer of the pool to a machine that `from` names; it is that machine's no more. */
  takeBackOffer(pool: Pool, now: number, from: (hold: Hold) => boolean): Ip4 | undefined;
  /** One offer a holder: an earlier one is free again. */
  hold(ip: Ip4, hold: Hold): void;
  /** The holder's offer is free again, if it has one. */
  unhold(holder: string): void;
  /** The lease as the store has it now, a quarantine too; the holder's other lease is gone. */
  put(lease: KnownLease): void;
  remove(ip: Ip4): void;
  all(): Iterable<KnownLease>;
  readonly size: number;
}

/** What is kept of a lease, no more than is needed: there may be a hundred thousand. Its address is where it is kept. */
type Kept = Omit<KnownLease, 'ip'>;

/** What is free in one pool, in the order in which it is given out. */
interface Shelf {
  readonly pool: Pool;
  /** Addresses before it were looked at once; those that nobody had are taken from here on. */
  range: number;
  next: number;
  /** Before the cursor, and yet nobody's: offers that ran out, ends of quarantine, what was turned down. */
  readonly returned: Set<number>;
  /** Leases given back. */
  readonly released: Set<number>;
  /** The others, last renewed last: with one lease time for all, which few clients change, those that end first come first. */
  readonly leased: Set<number>;
  /** By the end of quarantine, which is as long for all. */
  readonly quarantined: Set<number>;
  /** When all of `leased` was last looked through. */
  searchedAt: number;
}

/** Machines may ask for shorter leases, which end out of turn: a pool that seems used up is searched for them so often, in milliseconds. */
const SEARCH_EVERY_MS = 1000;

/** So many addresses of each kind are looked at before the pool counts as used up for now: a bound on the work of one DISCOVER. */
const MOST_TURNED_DOWN = 512;

export function createAddressBook(pools: readonly Pool[], leases: Iterable<KnownLease> = []): AddressBook {
  const byIp = new Map<number, Kept>();
  const byHolder = new Map<string, number>();
  const holds = new Map<number, Hold>();
  const holdOf = new Map<string, number>();
  const shelves: Shelf[] = pools.map((pool) => ({ pool, range: 0, next: pool.ranges[0]?.first ?? 0, returned: new Set(), released: new Set(), leased: new Set(), quarantined: new Set(), searchedAt: -Infinity }));
  const leaseAt = (n: number): KnownLease | undefined => {
    const kept = byIp.get(n);
    return kept && { ip: ip4FromNumber(n), ...kept };
  };
  const shelfOf = (n: number) => shelves.find(({ pool }) => inRanges(pool.ranges, n));

  /** An address changes its place: where it now belongs is told by its lease alone. */
  function shelve(n: number): void {
    const shelf = shelfOf(n);
    if (!shelf) return;
    for (const place of [shelf.returned, shelf.released, shelf.leased, shelf.quarantined]) place.delete(n);
    const lease = byIp.get(n);
    if (lease?.declinedUntil !== undefined) shelf.quarantined.add(n);
    else if (lease) (lease.expiresAt === 0 ? shelf.released : shelf.leased).add(n);
    else if (isBehind(shelf, n)) shelf.returned.add(n);
  }

  function dropHold(n: number): void {
    const hold = holds.get(n);
    if (!hold) return;
    holds.delete(n);
    holdOf.delete(hold.holder);
    const lease = byIp.get(n);
    if (!lease || lease.declinedUntil !== undefined) shelve(n);
    // An ended lease that was offered to another has left its place.
    else if (shelfOf(n)?.leased.has(n) === false) shelfOf(n)?.released.add(n);
  }

  function forget(n: number): void {
    const lease = byIp.get(n);
    if (!lease) return;
    byIp.delete(n);
    if (byHolder.get(lease.holder) === n) byHolder.delete(lease.holder);
    shelve(n);
  }

  /** Offers and quarantines that ran out, from the oldest on: both last as long for all. */
  function sweep(shelf: Shelf, now: number): void {
    for (const [n, hold] of holds) {
      if (hold.until > now) break;
      dropHold(n);
    }
    for (const n of shelf.quarantined) {
      if ((byIp.get(n)?.declinedUntil ?? 0) > now) break;
      forget(n);
    }
  }

  function fresh(shelf: Shelf): number | undefined {
    const { ranges } = shelf.pool;
    for (; shelf.range < ranges.length; shelf.next = ranges[++shelf.range]?.first ?? 0) {
      while (shelf.next <= ranges[shelf.range]!.last) {
        const n = shelf.next++;
        if (!byIp.has(n) && !holds.has(n)) return n;
      }
    }
    return undefined;
  }

  /** One that was somebody's, or that was turned down before. What is turned down now goes to the end of its place: the next search begins behind it. */
  function again(shelf: Shelf, now: number, accept: (ip: Ip4) => boolean): Ip4 | undefined {
    for (const place of [shelf.returned, shelf.released, shelf.leased]) {
      const passedBy: number[] = [];
      let found: Ip4 | undefined;
      for (const n of place) {
        if (passedBy.length === MOST_TURNED_DOWN || (place === shelf.leased && byIp.get(n)!.expiresAt > now)) break;
        const ip = ip4FromNumber(n);
        if (!holds.has(n) && accept(ip)) {
          found = ip;
          break;
        }
        passedBy.push(n);
      }
      for (const n of passedBy) {
        place.delete(n);
        // Those whose lease ended are no more in the order of ends.
        (place === shelf.leased ? shelf.released : place).add(n);
      }
      if (found) return found;
    }
    return undefined;
  }

  const book: AddressBook = {
    leaseAt: (ip) => leaseAt(ip4ToNumber(ip)),
    leaseOf(holder) {
      const n = byHolder.get(holder);
      return n === undefined ? undefined : leaseAt(n);
    },
    holdAt: (ip) => holds.get(ip4ToNumber(ip)),
    offerTo(holder) {
      const n = holdOf.get(holder);
      return n === undefined ? undefined : ip4FromNumber(n);
    },
    nextFree(pool, now, accept) {
      const shelf = shelves.find((one) => one.pool === pool);
      if (!shelf) return undefined;
      sweep(shelf, now);
      for (let n = fresh(shelf); n !== undefined; n = fresh(shelf)) {
        const ip = ip4FromNumber(n);
        // It may be wanted by another, or later.
        shelf.returned.add(n);
        if (accept(ip)) return ip;
      }
      const free = again(shelf, now, accept);
      if (free || now - shelf.searchedAt < SEARCH_EVERY_MS) return free;
      shelf.searchedAt = now;
      for (const n of shelf.leased) {
        if (byIp.get(n)!.expiresAt > now) continue;
        shelf.leased.delete(n);
        shelf.released.add(n);
      }
      return again(shelf, now, accept);
    },
    takeBackOffer(pool, now, from) {
      for (const [n, hold] of holds) {
        const lease = byIp.get(n);
        if (!from(hold) || !inRanges(pool.ranges, n) || (lease && lease.expiresAt > now)) continue;
        dropHold(n);
        return ip4FromNumber(n);
      }
      return undefined;
    },
    hold(ip, hold) {
      const n = ip4ToNumber(ip);
      book.unhold(hold.holder);
      dropHold(n);
      holds.set(n, hold);
      holdOf.set(hold.holder, n);
      const shelf = shelfOf(n);
      shelf?.returned.delete(n);
      shelf?.released.delete(n);
      // Somebody else's ended lease: so that looking for a free address does not pass by it again and again.
      if (byIp.get(n)?.holder !== hold.holder) shelf?.leased.delete(n);
    },
    unhold(holder) {
      const n = holdOf.get(holder);
      if (n !== undefined) dropHold(n);
    },
    put(lease) {
      const n = ip4ToNumber(lease.ip);
      const before = byIp.get(n);
      if (before && byHolder.get(before.holder) === n) byHolder.delete(before.holder);
      const other = lease.declinedUntil === undefined ? byHolder.get(lease.holder) : undefined;
      // Also what the same card had before its machine became a node.
      const older = lease.declinedUntil === undefined ? byHolder.get(lease.mac) : undefined;
      for (const gone of [other, older]) if (gone !== undefined && gone !== n) forget(gone);
      book.unhold(lease.holder);
      // Whoever was offered what is another's now, because our record of it was lost.
      if (lease.declinedUntil === undefined) dropHold(n);
      const { mac, expiresAt, declinedUntil } = lease;
      // A machine that is no node is told by its MAC, and one string is enough for both.
      const holder = lease.holder === mac ? mac : lease.holder;
      byIp.set(n, declinedUntil === undefined ? { mac, holder, expiresAt } : { mac, holder, expiresAt, declinedUntil });
      if (declinedUntil === undefined) byHolder.set(holder, n);
      shelve(n);
    },
    remove: (ip) => forget(ip4ToNumber(ip)),
    *all() {
      for (const n of byIp.keys()) yield leaseAt(n)!;
    },
    get size() {
      return byIp.size;
    },
  };
  // The order of the store is the order of addresses; the order of ends is wanted.
  for (const lease of [...leases].sort((a, b) => a.expiresAt - b.expiresAt)) book.put(lease);
  return book;
}

export function inRanges(ranges: readonly IpRange[], n: number): boolean {
  return ranges.some(({ first, last }) => n >= first && n <= last);
}

function isBehind({ pool, range, next }: Shelf, n: number): boolean {
  const at = pool.ranges.findIndex(({ first, last }) => n >= first && n <= last);
  return at < range || (at === range && n < next);
}
