// What waits to be answered: nodes before strangers, bounded, the oldest goes first when it is full; and how often one machine may ask. Pure.
import type { Mac } from '../addr.ts';
import { createBudget } from '../budget.ts';

export interface InboxLimits {
  /** Datagrams that wait, in each of the two lanes. */
  readonly capacity: number;
  /** A client has given up on a question that is older, in milliseconds. */
  readonly maxAgeMs: number;
  /** Of one machine: packets a second, and at once. */
  readonly perSecond: number;
  readonly burst: number;
  /** Machines whose budget is remembered, at least: at most twice as many. */
  readonly machines: number;
}

/** A burst of 5,000 machines fits; the rate is what no firmware needs: four DISCOVERs take them 15 s or more. */
export const INBOX_LIMITS: InboxLimits = { capacity: 8192, maxAgeMs: 4000, perSecond: 5, burst: 10, machines: 32_768 };

export interface Waiting<T> {
  readonly item: T;
  /** When it came in, in milliseconds. */
  readonly at: number;
}

export interface InboxCounters {
  /** More packets of one machine than are needed to boot. */
  limited: number;
  /** Driven out of a full inbox by newer ones. */
  overrun: number;
  /** Waited so long that its client has asked again. */
  stale: number;
}

export interface Inbox<T> {
  /** `known`: it is a node. False when it is over that machine's limit, and was not taken. */
  put(item: T, mac: Mac, known: boolean, at: number): boolean;
  /** The next to answer; stale ones are passed over. */
  next(now: number): Waiting<T> | undefined;
  readonly counters: Readonly<InboxCounters>;
}

/** First in, first out, in a ring. */
interface Lane<T> {
  readonly slots: (Waiting<T> | undefined)[];
  head: number;
  length: number;
}

export function createInbox<T>(limits: InboxLimits = INBOX_LIMITS): Inbox<T> {
  const { capacity, maxAgeMs, perSecond, burst, machines } = limits;
  const counters: InboxCounters = { limited: 0, overrun: 0, stale: 0 };
  const lanes: readonly [nodes: Lane<T>, strangers: Lane<T>] = [{ slots: [], head: 0, length: 0 }, { slots: [], head: 0, length: 0 }];
  const budget = createBudget<Mac>({ burst, perSecond, keys: machines });

  function shift(lane: Lane<T>): Waiting<T> {
    const first = lane.slots[lane.head]!;
    lane.slots[lane.head] = undefined;
    lane.head = (lane.head + 1) % capacity;
    lane.length--;
    return first;
  }

  return {
    counters,
    put(item, mac, known, at) {
      if (!budget.take(mac, at)) {
        counters.limited++;
        return false;
      }
      const lane = lanes[known ? 0 : 1];
      if (lane.length === capacity) {
        shift(lane);
        counters.overrun++;
      }
      lane.slots[(lane.head + lane.length++) % capacity] = { item, at };
      return true;
    },
    next(now) {
      for (const lane of lanes) {
        while (lane.length > 0) {
          const first = shift(lane);
          if (now - first.at <= maxAgeMs) return first;
          counters.stale++;
        }
      }
      return undefined;
    },
  };
}
