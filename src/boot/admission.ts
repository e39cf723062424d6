// Admission to images: how many machines fetch one at once, and who is next. Pure: time comes in as a number, nothing here waits.
import type { Digest } from '../digest.ts';
import type { BootSet } from './profile.ts';

/** Where a machine stands that waits for an image slot. */
export interface Queue {
  /** 1 = next. */
  readonly place: number;
  /** Seconds until its turn, as recent streams suggest; absent while that is not known. */
  readonly etaS?: number;
  /** It has its slot, and as many streams in that as a machine may have: it waits for one of its own to end. */
  readonly ownStreams?: true;
}

export interface Asker {
  /** The node's name, or the address of a machine that is none: one machine has one slot, however many connections it tries. */
  readonly key: string;
  /** Strangers (`serve: discovered` or `any`) have nothing of ours to boot: nodes go first. */
  readonly rank: 'node' | 'stranger';
}

export interface Admitted {
  readonly kind: 'admitted';
  readonly ticket: string;
  /** Since it asked first, when it had to wait; milliseconds. */
  readonly waitedMs?: number;
}

export interface Waiting extends Queue {
  readonly kind: 'waiting';
  /** When it is to ask again. Who asks later than `KEEP_TIMES` this loses its place. */
  readonly retryAfterS: number;
  /** It is time to write down that this machine waits. */
  readonly tell: boolean;
}

/**
 * How the stream of a ticket ended. `whole`: at the image's last byte, after a good part of it, so that its time says how long others will take; `cut`:
 * the connection broke before, and the machine will come for the rest; `nothing`: neither, as after a refusal or a few bytes.
 */
export type StreamEnd = 'whole' | 'cut' | 'nothing';

export interface Admission {
  /**
   * A ticket, or a place in the queue. Who has a ticket and asks again gets one more for the same slot, up to `STREAMS_OF_MACHINE`: its connection broke.
   * `now` in milliseconds.
   */
  ask(asker: Asker, now: number): Admitted | Waiting;
  /**
   * The stream ended; with the last ticket of a slot the slot is free. If that was `cut`, a node is the next one for `CUT_KEEP_MS`. Each ticket must be given
   * back, for no time limit does it: a stream at 50 KiB/s takes an hour. Unknown tickets, and those given back already, change nothing.
   */
  release(ticket: string, how: StreamEnd, now: number): void;
  /** How many have a slot and how many wait. */
  figures(now: number): { readonly streams: number; readonly waiting: number };
}

export const DEFAULT_MAX_STREAMS = 256;
/**
 * Of one machine at a time: a download and the one that resumes it. One that broke without a word is noticed 30 s later, and a machine that gives up after 20 s
 * without a byte (the initrd stage) is back before that; with no limit, whoever has a slot has all of the server by as many connections.
 */
export const STREAMS_OF_MACHINE = 2;
/** When a machine with all its streams is to ask again: what is broken is noticed by and by. */
const OWN_RETRY_S = 5;
/** A place is kept for so many times the Retry-After, and at least so long: a SYN that is lost twice is sent again after 3 s, thrice after 7 s. */
export const KEEP_TIMES = 3;
export const KEEP_LEAST_MS = 10_000;
/**
 * A free slot is kept for who is to ask within this time, and lent to who asks now when those before it sleep longer. Simulated, 40-600 machines, 1-64 slots,
 * streams of 5-40 s: slots are idle 5-11 % of the time, and 6-17 % when each is kept for the first; with 2 s it would hardly be better than that.
 */
export const SOON_MS = 500;
/** Who is later than this holds up nobody, though it keeps its place: a SYN that is lost twice arrives after 3 s. */
export const LATE_MS = 4_000;
/** Who was passed so often in its sleep has its slot kept, however long it sleeps: nobody waits for ever. */
export const MOST_PASSED = 3;
/** A cut connection is resumed after 1-2 s (`pause` of the initrd stage). */
export const CUT_KEEP_MS = 10_000;
export const RETRY_MOST_S = 30;
/** Asked again after up to this long while no stream has ended yet. */
const RETRY_UNKNOWN_S = 10;
/** Who waits is written down so often. */
export const TELL_EVERY_MS = 60_000;
/** Nodes are as many as the profiles name; strangers are not, and have no place beyond this many. */
export const MOST_STRANGERS = 1024;
/** Weight of the newest stream in the mean, as of SRTT (RFC 6298). */
const NEWEST = 1 / 8;

interface Slot {
  readonly key: string;
  readonly rank: Asker['rank'];
  /** One of each connection of the machine: one that broke may be noticed long after the next has begun. */
  readonly tickets: Set<string>;
  /** Of the stream's first connection. */
  readonly startedAt: number;
  /** A stream of it ended `whole`. */
  done: boolean;
}

interface Waiter {
  readonly askedAt: number;
  readonly keptUntil: number;
  /** From when until when a free slot is kept for it. */
  readonly dueFrom: number;
  readonly dueUntil: number;
  /** So often a slot that would have been its own was lent. */
  passed: number;
  readonly toldAt: number;
  /** Its stream began before it was cut. */
  readonly startedAt?: number;
}

export function createAdmission(maxStreams: number = DEFAULT_MAX_STREAMS): Admission {
  const slots = new Map<string, Slot>();
  const keyOf = new Map<string, string>();
  // In the order in which they are served, each in the order of first asking.
  const resuming = new Map<string, Waiter>();
  const nodes = new Map<string, Waiter>();
  const strangers = new Map<string, Waiter>();
  const queues = [resuming, nodes, strangers];
  /** Strangers together: a guest of the LAN with many addresses must leave slots for nodes. */
  const strangersMost = Math.max(1, Math.floor(maxStreams / 4));
  let tickets = 0;
  let meanMs: number | undefined;

  function give({ key, rank }: Asker, startedAt: number): string {
    const ticket = `slot-${++tickets}`;
    const slot = slots.get(key) ?? { key, rank, tickets: new Set<string>(), startedAt, done: false };
    slot.tickets.add(ticket);
    slots.set(key, slot);
    keyOf.set(ticket, key);
    return ticket;
  }

  function forgetLate(now: number): void {
    for (const queue of queues) for (const [key, { keptUntil }] of queue) if (keptUntil < now) queue.delete(key);
  }

  /** Those before it, in their order; for a machine that is in no queue, before the place that it would get. */
  function before({ key, rank }: Asker): { readonly ahead: readonly Waiter[]; readonly queue: Map<string, Waiter>; readonly ofQueue: readonly Waiter[] } {
    const queue = rank === 'stranger' ? strangers : resuming.has(key) ? resuming : nodes;
    const ofQueue: Waiter[] = [];
    for (const [other, waiter] of queue) {
      if (other === key) break;
      ofQueue.push(waiter);
    }
    return { ahead: [...queues.slice(0, queues.indexOf(queue)).flatMap((one) => [...one.values()]), ...ofQueue], queue, ofQueue };
  }

  /** Until `turns` more slots have become free: each stream is taken to last as long as the mean, and what lasts longer ends in a tenth of it. */
  function etaS(turns: number, now: number): number | undefined {
    if (meanMs === undefined) return undefined;
    const began = [...slots.values()].map(({ startedAt }) => startedAt).sort((a, b) => a - b);
    const startedAt = began[(turns - 1) % maxStreams];
    const leftMs = startedAt === undefined ? meanMs : Math.max(meanMs - (now - startedAt), meanMs / 10);
    return Math.max(1, Math.ceil((leftMs + Math.floor((turns - 1) / maxStreams) * meanMs) / 1000));
  }

  return {
    ask(asker, now) {
      forgetLate(now);
      const held = slots.get(asker.key);
      if (held && held.tickets.size >= STREAMS_OF_MACHINE) return { kind: 'waiting', place: 1, ownStreams: true, retryAfterS: OWN_RETRY_S, tell: false };
      if (held) return { kind: 'admitted', ticket: give(asker, now) };
      const { ahead, queue, ofQueue } = before(asker);
      const mine = queue.get(asker.key);
      const free = maxStreams - slots.size;
      const place = ahead.length + 1;
      // Nodes lend nothing to strangers.
      const lends = (one: Waiter): boolean => asker.rank === 'node' && now < one.dueFrom && one.passed < MOST_PASSED;
      const isKept = (one: Waiter): boolean => now <= one.dueUntil && !lends(one);
      const kept = (those: readonly Waiter[]): number => those.reduce((sum, one) => sum + (isKept(one) ? 1 : 0), 0);
      const mayHave = asker.rank === 'node' || strangersHeld(slots) + kept(ofQueue) < strangersMost;
      if (free > 0 && kept(ahead) < free && mayHave) {
        queue.delete(asker.key);
        // The slots that are free are those of as many of the first: the last of them that sleeps is who has none now.
        const lender = place > free ? ahead.slice(0, free).findLast(lends) : undefined;
        if (lender) lender.passed++;
        return { kind: 'admitted', ticket: give(asker, mine?.startedAt ?? now), ...(mine && mine.toldAt > -Infinity ? { waitedMs: now - mine.askedAt } : {}) };
      }
      // When a stranger's turn is, depends on nodes that have not asked yet.
      const eta = asker.rank === 'node' ? etaS(Math.max(1, place - free), now) : undefined;
      const retryAfterS = retryAfter(asker.key, eta);
      const dueAt = now + retryAfterS * 1000;
      const isStored = mine !== undefined || asker.rank === 'node' || strangers.size < MOST_STRANGERS;
      // When one that is not remembered was told last is not known: it would be written down each time.
      const tell = isStored && now - (mine?.toldAt ?? -Infinity) >= TELL_EVERY_MS;
      if (isStored) {
        queue.set(asker.key, {
          ...mine,
          askedAt: mine?.askedAt ?? now,
          keptUntil: now + Math.max(KEEP_TIMES * retryAfterS * 1000, KEEP_LEAST_MS),
          dueFrom: dueAt - SOON_MS,
          dueUntil: dueAt + LATE_MS,
          passed: mine?.passed ?? 0,
          toldAt: tell ? now : mine!.toldAt,
        });
      }
      return { kind: 'waiting', place, ...(eta === undefined ? {} : { etaS: eta }), retryAfterS, tell };
    },

    release(ticket, how, now) {
      const slot = slots.get(keyOf.get(ticket) ?? '');
      if (!slot) return;
      keyOf.delete(ticket);
      slot.tickets.delete(ticket);
      const { key, rank, startedAt } = slot;
      if (how === 'whole' && !slot.done) {
        slot.done = true;
        meanMs = meanMs === undefined ? now - startedAt : meanMs + (now - startedAt - meanMs) * NEWEST;
      }
      if (slot.tickets.size > 0) return;
      slots.delete(key);
      if (how !== 'cut' || slot.done || rank !== 'node') return;
      resuming.set(key, { askedAt: now, keptUntil: now + CUT_KEEP_MS, dueFrom: now, dueUntil: now + CUT_KEEP_MS, passed: 0, toldAt: -Infinity, startedAt });
    },

    figures(now) {
      forgetLate(now);
      return { streams: slots.size, waiting: queues.reduce((sum, queue) => sum + [...queue.values()].filter(({ toldAt }) => toldAt > -Infinity).length, 0) };
    },
  };
}

function strangersHeld(slots: ReadonlyMap<string, Slot>): number {
  let held = 0;
  for (const { rank } of slots.values()) if (rank === 'stranger') held++;
  return held;
}

/** Between half of the time until its turn and all of it: machines that were turned away in one second come back spread out. */
function retryAfter(key: string, eta: number = RETRY_UNKNOWN_S): number {
  const most = Math.min(Math.max(eta, 2), RETRY_MOST_S);
  return Math.max(1, Math.round((most / 2) * (1 + fractionOf(key))));
}

/** FNV-1a: the same key has the same number in [0, 1) everywhere; then MurmurHash3's finalizer, without which `n4` and `n5` are neighbours. */
function fractionOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

/**
 * Not everybody who fetches a kernel or an initrd can wait (an iPXE does as Retry-After says, without a word on its console; GRUB gives up), nor can a
 * post-boot step that fetches an artifact (curl gives up after a few tries). These need no slot, and a rack that fetches them has few of them at once: its images came one after the other.
 */
export function needsSlot(blob: Digest | undefined, bootSets: Iterable<BootSet>): boolean {
  if (blob === undefined) return true;
  for (const { image, artifacts } of bootSets) {
    if (image.kernel.digest === blob || image.initrds.some(({ digest }) => digest === blob)) return false;
    for (const name in artifacts) if (artifacts[name]!.digest === blob) return false;
  }
  return true;
}

/** `place 12, about 40 s` */
export function placeWords({ place, etaS }: Queue): string {
  return `place ${place}${etaS === undefined ? '' : `, about ${etaS} s`}`;
}

/**
 * The reason phrase of a 503 to a machine that waits: `place 12, about 40 s, again in 17 s`. busybox wget shows neither header nor body of an error,
 * but its status line; the initrd stage reads this there (`await_turn` in images/common/initrd/lib/rackseed/root.sh).
 */
export function waitingPhrase(queue: Queue, retryAfterS: number): string {
  return `${placeWords(queue)}, again in ${retryAfterS} s`;
}
