// The addresses of one subnet in memory: in which order they are given out, and never one to two machines.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ip4FromNumber, ip4ToNumber, parseRange, type Ip4 } from '../../src/addr.ts';
import { createAddressBook, type AddressBook, type KnownLease } from '../../src/dhcp/book.ts';
import type { Pool } from '../../src/dhcp/subnet.ts';
import { NOW } from './boot-world.ts';

const HOUR = 3600_000;
const pool: Pool = { ranges: [parseRange('10.77.0.100-10.77.0.101')!, parseRange('10.77.0.105-10.77.0.106')!] };
const mac = (n: number) => `52:54:00:00:00:0${n}`;
const lease = (ip: Ip4, n: number, more: Partial<KnownLease> = {}): KnownLease => ({ ip, mac: mac(n), holder: mac(n), expiresAt: NOW + HOUR, ...more });
const hold = (n: number, until = NOW + 60_000) => ({ mac: mac(n), holder: mac(n), until });
const any = () => true;
/** Everything that can be had now, each kept from the next. */
function rest(book: AddressBook, now = NOW, accept: (ip: Ip4) => boolean = any): string[] {
  const given: string[] = [];
  for (let ip = book.nextFree(pool, now, accept); ip !== undefined && given.length < 10; ip = book.nextFree(pool, now, accept)) {
    book.hold(ip, { mac: 'x', holder: `x${given.length}`, until: now + 60_000 });
    given.push(ip.slice(8));
  }
  return given;
}

describe('the next free address', () => {
  it.each<[string, readonly KnownLease[], number, string[]]>([
    ['goes through the ranges one after the other', [], NOW, ['100', '101', '105', '106']],
    ['passes over leases and those outside of the pool', [lease('10.77.0.100', 1), lease('10.77.0.50', 2)], NOW, ['101', '105', '106']],
    ['an ended lease comes after all that nobody had', [lease('10.77.0.100', 1)], NOW + 2 * HOUR, ['101', '105', '106', '100']],
    ['of those the one that ended longest ago is first', [lease('10.77.0.100', 1, { expiresAt: NOW - 1 }), lease('10.77.0.101', 2, { expiresAt: NOW - 9 }), lease('10.77.0.105', 3, { expiresAt: NOW - 5 })], NOW, ['106', '101', '105', '100']],
    ['a released one comes before one that ended', [lease('10.77.0.100', 1, { expiresAt: NOW - 1 }), lease('10.77.0.101', 2, { expiresAt: 0 })], NOW, ['105', '106', '101', '100']],
    ['quarantine counts until it is over', [lease('10.77.0.100', 1, { expiresAt: NOW + 1, declinedUntil: NOW + 1 }), lease('10.77.0.101', 2, { expiresAt: NOW, declinedUntil: NOW })], NOW, ['101', '105', '106']],
  ])('%s', (_what, leases, now, given) => {
    expect(rest(createAddressBook([pool], leases), now)).toEqual(given);
  });

  it('a lease with a shorter time than the others is free again when it ends', () => {
    const book = createAddressBook([pool]);
    for (const [i, n] of [100, 101, 105, 106].entries()) book.put(lease(`10.77.0.${n}`, i, { expiresAt: NOW + (n === 106 ? 60_000 : HOUR) }));
    expect(rest(book, NOW + 120_000)).toEqual(['106']);
  });

  it('what is turned down comes back for who takes it', () => {
    const book = createAddressBook([pool]);
    expect(book.nextFree(pool, NOW, (ip) => ip.endsWith('105'))).toBe('10.77.0.105');
    expect(rest(book)).toEqual(['106', '100', '101', '105']);
  });

  it('a pool of another subnet has none', () => {
    expect(createAddressBook([pool]).nextFree({ ranges: pool.ranges }, NOW, any)).toBeUndefined();
  });
});

describe('offers', () => {
  it('are kept from others until they end, or another address is offered to the same machine', () => {
    const book = createAddressBook([pool]);
    book.hold('10.77.0.100', hold(1));
    expect([book.holdAt('10.77.0.100')?.mac, book.offerTo(mac(1)), book.offerTo(mac(2))]).toEqual([mac(1), '10.77.0.100', undefined]);
    book.hold('10.77.0.105', hold(1));
    expect([book.holdAt('10.77.0.100'), book.offerTo(mac(1))]).toEqual([undefined, '10.77.0.105']);
    expect(rest(book)).toEqual(['100', '101', '106']);
    expect(rest(book, NOW + 61_000)).toContain('105');
  });

  it('a lease ends its holder\'s offer', () => {
    const book = createAddressBook([pool]);
    book.hold('10.77.0.100', hold(1));
    book.put(lease('10.77.0.101', 1));
    expect(book.offerTo(mac(1))).toBeUndefined();
    expect(rest(book)).toEqual(['100', '105', '106']);
  });

  it('the oldest one that may be taken back is', () => {
    const book = createAddressBook([pool]);
    for (const [i, ip] of ['10.77.0.100', '10.77.0.101', '10.77.0.105'].entries()) book.hold(ip, hold(i));
    expect(book.takeBackOffer(pool, NOW, ({ mac: of }) => of !== mac(0))).toBe('10.77.0.101');
    expect([book.offerTo(mac(1)), book.offerTo(mac(0))]).toEqual([undefined, '10.77.0.100']);
    expect(book.takeBackOffer(pool, NOW, () => false)).toBeUndefined();
  });

  it('an offer of its own running lease is not taken back', () => {
    const book = createAddressBook([pool], [lease('10.77.0.100', 1)]);
    book.hold('10.77.0.100', hold(1));
    expect(book.takeBackOffer(pool, NOW, any)).toBeUndefined();
  });
});

describe('leases', () => {
  it('a holder has one: the older one is gone', () => {
    const book = createAddressBook([pool], [lease('10.77.0.100', 1)]);
    book.put(lease('10.77.0.105', 1));
    expect([book.leaseOf(mac(1))?.ip, book.leaseAt('10.77.0.100'), book.size]).toEqual(['10.77.0.105', undefined, 1]);
  });

  it('an ended one stays known to its holder, until another takes the address', () => {
    const book = createAddressBook([pool], [lease('10.77.0.100', 1, { expiresAt: 0 })]);
    expect(book.leaseOf(mac(1))?.ip).toBe('10.77.0.100');
    book.put(lease('10.77.0.100', 2));
    expect([book.leaseOf(mac(1)), book.leaseOf(mac(2))?.ip]).toEqual([undefined, '10.77.0.100']);
  });

  it('a quarantine is nobody\'s', () => {
    const book = createAddressBook([pool], [lease('10.77.0.100', 1)]);
    book.put(lease('10.77.0.100', 1, { declinedUntil: NOW + HOUR }));
    expect([book.leaseOf(mac(1)), book.leaseAt('10.77.0.100')?.declinedUntil]).toEqual([undefined, NOW + HOUR]);
  });

  it('a removed one is free', () => {
    const book = createAddressBook([pool], [lease('10.77.0.100', 1)]);
    book.remove('10.77.0.100');
    book.remove('10.77.0.101');
    expect([book.size, book.leaseOf(mac(1)), rest(book)]).toEqual([0, undefined, ['100', '101', '105', '106']]);
  });
});

/** What one machine does, or what time does. */
type Step =
  | { readonly do: 'discover' | 'take' | 'release' | 'forget'; readonly who: number }
  | { readonly do: 'claim'; readonly who: number; readonly n: number; readonly ms: number }
  | { readonly do: 'decline' | 'remove'; readonly n: number }
  | { readonly do: 'takeBack' | 'pass'; readonly ms: number };

const POOL = [100, 101, 105, 106].map((n) => `10.77.0.${n}`);
const who = fc.integer({ min: 0, max: 5 });
const n = fc.integer({ min: 0, max: POOL.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constantFrom('discover' as const, 'take' as const, 'release' as const, 'forget' as const), who }),
  fc.record({ do: fc.constant('claim' as const), who, n, ms: fc.constantFrom(60_000, HOUR) }),
  fc.record({ do: fc.constantFrom('decline' as const, 'remove' as const), n }),
  fc.record({ do: fc.constantFrom('takeBack' as const, 'pass' as const), ms: fc.constantFrom(1, 30_000, 61_000, HOUR) }),
);

describe('against a naive book', () => {
  it('never two machines for one address, never an address outside of the pool, and none is lost', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const book = createAddressBook([pool]);
        const leases = new Map<Ip4, KnownLease>();
        const holds = new Map<Ip4, { mac: string; holder: string; until: number }>();
        let now = NOW;
        const isFree = (ip: Ip4) => (leases.get(ip)?.expiresAt ?? 0) <= now && (leases.get(ip)?.declinedUntil ?? 0) <= now && (holds.get(ip)?.until ?? 0) <= now;
        const unhold = (holder: string) => {
          for (const [ip, held] of holds) if (held.holder === holder) holds.delete(ip);
        };
        const put = (row: KnownLease) => {
          book.put(row);
          if (row.declinedUntil === undefined) for (const [ip, other] of leases) if (other.holder === row.holder && other.declinedUntil === undefined) leases.delete(ip);
          unhold(row.holder);
          // What another was offered after its lease had ended.
          if (row.declinedUntil === undefined) holds.delete(row.ip);
          leases.set(row.ip, row);
        };
        for (const it of steps) {
          switch (it.do) {
            case 'discover': {
              const ip = book.nextFree(pool, now, any);
              if (ip === undefined) {
                expect(POOL.filter(isFree), 'an address that is free, and not found').toEqual([]);
                break;
              }
              expect(POOL).toContain(ip);
              expect(isFree(ip), `${ip} is another's`).toBe(true);
              unhold(mac(it.who));
              book.hold(ip, hold(it.who, now + 60_000));
              holds.delete(ip);
              holds.set(ip, hold(it.who, now + 60_000));
              break;
            }
            case 'take': {
              const ip = book.offerTo(mac(it.who));
              if (ip !== undefined && holds.get(ip)?.holder === mac(it.who) && (leases.get(ip)?.declinedUntil ?? 0) <= now) put(lease(ip, it.who, { expiresAt: now + HOUR }));
              break;
            }
            case 'claim': {
              const ip = POOL[it.n]!;
              if (isFree(ip) || (leases.get(ip)?.holder === mac(it.who) && leases.get(ip)?.declinedUntil === undefined)) put(lease(ip, it.who, { expiresAt: now + it.ms }));
              break;
            }
            case 'release': {
              const own = [...leases.values()].find(({ holder, declinedUntil }) => holder === mac(it.who) && declinedUntil === undefined);
              if (own) put({ ...own, expiresAt: 0 });
              break;
            }
            case 'decline':
              put({ ip: POOL[it.n]!, mac: 'nobody', holder: 'nobody', expiresAt: now + 24 * HOUR, declinedUntil: now + 24 * HOUR });
              break;
            case 'remove':
              book.remove(POOL[it.n]!);
              leases.delete(POOL[it.n]!);
              break;
            case 'forget':
              book.unhold(mac(it.who));
              unhold(mac(it.who));
              break;
            case 'takeBack': {
              const ip = book.takeBackOffer(pool, now, any);
              if (ip === undefined) break;
              expect(holds.has(ip)).toBe(true);
              expect((leases.get(ip)?.expiresAt ?? 0) <= now).toBe(true);
              holds.delete(ip);
              break;
            }
            case 'pass':
              now += it.ms;
          }
          for (const ip of POOL) {
            const row = leases.get(ip);
            // Over, a quarantine may be forgotten at any time.
            if (row?.declinedUntil === undefined || row.declinedUntil > now) expect(book.leaseAt(ip)).toEqual(row);
            const held = holds.get(ip);
            if (held && held.until > now) expect(book.holdAt(ip)).toEqual(held);
          }
          for (let i = 0; i <= 5; i++) expect(book.leaseOf(mac(i))).toEqual([...leases.values()].find(({ holder }) => holder === mac(i)));
        }
      }),
      { numRuns: 300 },
    );
  });

  it('a pool of 65,536 addresses is given out to the last, each once', () => {
    const wide: Pool = { ranges: [parseRange('10.78.0.0-10.78.255.255')!] };
    const book = createAddressBook([wide]);
    const seen = new Set<number>();
    for (let ip = book.nextFree(wide, NOW, any); ip !== undefined; ip = book.nextFree(wide, NOW, any)) {
      seen.add(ip4ToNumber(ip));
      book.put({ ip, mac: `m${seen.size}`, holder: `m${seen.size}`, expiresAt: NOW + HOUR });
    }
    expect([seen.size, ip4FromNumber(Math.max(...[...seen].slice(-10)))]).toEqual([65_536, '10.78.255.255']);
  });
});
