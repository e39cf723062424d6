// The reserve of a pool: free addresses that were looked for on the link ahead of time, so that no client waits for a conflict check.
import type { Ip4, Mac } from '../addr.ts';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Verdict } from './conflict.ts';

export interface ReserveParts {
  /** Kept ready when nobody asks; default 32. */
  readonly size?: number;
  /** As far as it grows when it runs dry; default 256. */
  readonly mostSize?: number;
  /** A check that is older counts for nothing; default 10 minutes. */
  readonly maxAgeMs?: number;
  /** An address of the pool that is free by the books and that `accept` takes; undefined: there is no other. */
  readonly next: (accept: (ip: Ip4) => boolean) => Ip4 | undefined;
  readonly check: (ip: Ip4) => Promise<Verdict>;
  /** Somebody uses it. It is not handed out by the reserve; the caller puts it in quarantine. */
  readonly onInUse: (ip: Ip4, mac: Mac) => void;
  readonly log: Log;
  /** Milliseconds; only differences count. */
  readonly now: () => number;
}

export interface Reserve {
  /**
   * A checked address that `accept` takes, the longest checked first; it is the reserve's no more. Undefined: none is ready, and more are being
   * looked for, also when `accept` turned all of them down.
   */
  take(accept: (ip: Ip4) => boolean): Ip4 | undefined;
  /** Whether this very address was checked and is ready. */
  has(ip: Ip4): boolean;
  /** It was given out by another way, or is not free any more. */
  forget(ip: Ip4): void;
  /** Looks for more if some are missing: call it when addresses came back to a pool that had none. */
  refill(): void;
  /** Resolves when nothing is being looked for. */
  settled(): Promise<void>;
  readonly status: { readonly ready: number; readonly checking: number; readonly size: number; readonly dry: number; readonly inUse: number };
  stop(): void;
}

/** Asked for at once; the check's own bound is of all pools together. */
const AT_ONCE = 64;
/** Checked again before it is too old, so that a reserve that nobody used is not empty for a moment. */
const RECHECK_AT = 0.75;
/** An address that was handed out, in use, or could not be asked for is left alone for a while, whatever the books say. */
const LEFT_ALONE_MS = 60_000;
/** So many used addresses of one MAC and none free: a router that answers for all (proxy ARP), not so many machines. */
const SUSPICIOUS = 16;
/** After an address could not be asked for: the card is down, or has no ARP. */
const PAUSE_MS = 5_000;

export function createReserve(parts: ReserveParts): Reserve {
  const { size: leastSize = 32, mostSize = 256, maxAgeMs = 600_000, next, check, onInUse, log, now } = parts;
  /** When each was found free; the oldest first. */
  const ready = new Map<Ip4, number>();
  const checking = new Set<Ip4>();
  const leftAlone = new Map<Ip4, number>();
  const idle: (() => void)[] = [];
  const answersFor = { mac: '' as Mac, count: 0 };
  let size = leastSize;
  let dryAt = now();
  let dry = 0;
  let inUse = 0;
  let stopped = false;
  let pausedUntil = -Infinity;
  let resuming: NodeJS.Timeout | undefined;
  let saidUnknown = -Infinity;
  const sweeping = setInterval(sweep, maxAgeMs / 10).unref();

  const resume = (): void => {
    resuming = undefined;
    refill();
  };
  const isNew = (ip: Ip4): boolean => !ready.has(ip) && !checking.has(ip) && (leftAlone.get(ip) ?? -Infinity) <= now();
  const isFresh = (checkedAt: number): boolean => now() - checkedAt < maxAgeMs;

  function refill(): void {
    while (!stopped && now() >= pausedUntil && checking.size < AT_ONCE && ready.size + checking.size < size) {
      const ip = next(isNew);
      if (ip === undefined) break;
      start(ip);
    }
    if (checking.size === 0) for (const done of idle.splice(0)) done();
  }

  function start(ip: Ip4): void {
    checking.add(ip);
    void check(ip).catch((error: unknown): Verdict => ({ kind: 'unknown', why: lineOf(error) })).then((verdict) => {
      // Forgotten meanwhile: somebody has it.
      const wanted = checking.delete(ip) && !stopped;
      if (wanted) settle(ip, verdict);
      refill();
    });
  }

  function settle(ip: Ip4, verdict: Verdict): void {
    // Found again, it goes behind those that were checked before it.
    ready.delete(ip);
    if (verdict.kind === 'free') {
      ready.set(ip, now());
      answersFor.count = 0;
      return;
    }
    leftAlone.set(ip, now() + LEFT_ALONE_MS);
    if (verdict.kind === 'unknown') {
      // When one cannot be asked for, mostly none can: not the whole pool in one turn of the event loop.
      pausedUntil = now() + PAUSE_MS;
      resuming ??= setTimeout(resume, PAUSE_MS).unref();
      // One line a minute: when one cannot be asked for, mostly none can.
      if (now() - saidUnknown < LEFT_ALONE_MS) return;
      saidUnknown = now();
      log.warn({ ip, why: verdict.why, hint: 'conflictCheck: off offers addresses of this subnet unchecked' }, 'dhcp: conflict check impossible');
      return;
    }
    inUse++;
    answersFor.count = answersFor.mac === verdict.mac ? answersFor.count + 1 : 1;
    answersFor.mac = verdict.mac;
    if (answersFor.count === SUSPICIOUS) log.error({ mac: verdict.mac, hint: 'a router with proxy ARP? switch it off there, or set conflictCheck: off for this subnet' }, 'dhcp: one machine answers for every free address');
    // A router that answers for all takes no address: they are left alone, not put into quarantine one by one.
    if (answersFor.count < SUSPICIOUS) onInUse(ip, verdict.mac);
  }

  /** Those that get old are checked again, and stay ready meanwhile; what a quiet time does not need is given back. */
  function sweep(): void {
    for (const [ip, until] of leftAlone) if (until <= now()) leftAlone.delete(ip);
    if (size > leastSize && now() - dryAt >= maxAgeMs) {
      size = Math.max(leastSize, size >> 1);
      dryAt = now();
    }
    for (const [ip, checkedAt] of ready) {
      if (ready.size > size || !isFresh(checkedAt)) ready.delete(ip);
      else if (now() - checkedAt >= maxAgeMs * RECHECK_AT && checking.size < AT_ONCE && !checking.has(ip)) start(ip);
    }
    refill();
  }

  refill();
  return {
    take(accept) {
      for (const [ip, checkedAt] of ready) {
        if (!isFresh(checkedAt)) ready.delete(ip);
        else if (accept(ip)) {
          ready.delete(ip);
          // What is under way for it came before the machine that gets it now; and the books may hear of it later than we.
          checking.delete(ip);
          leftAlone.set(ip, now() + LEFT_ALONE_MS);
          refill();
          return ip;
        }
      }
      dry++;
      dryAt = now();
      size = Math.min(mostSize, size * 2);
      refill();
      return undefined;
    },
    has: (ip) => isFresh(ready.get(ip) ?? -Infinity),
    forget(ip) {
      ready.delete(ip);
      checking.delete(ip);
      refill();
    },
    refill,
    settled: () => (checking.size === 0 ? Promise.resolve() : new Promise((resolve) => idle.push(resolve))),
    get status() {
      return { ready: ready.size, checking: checking.size, size, dry, inUse };
    },
    stop() {
      stopped = true;
      clearInterval(sweeping);
      clearTimeout(resuming);
      for (const done of idle.splice(0)) done();
    },
  };
}
