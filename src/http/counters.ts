// What the machines' HTTP threads count, in memory that they share with the main thread: read at each scrape, and nobody is asked.

/** Responses by the class of their status, and why connections were cut: a closed set. */
export const STATUS_CLASSES = ['2xx', '3xx', '4xx', '5xx'] as const;
/**
 * slow: no complete request in time. stalled: the peer took no byte of a response. crowded: too many of one peer, or requests of one connection. full: gave its place to another one, or found none that did.
 * malformed: what came is no HTTP, or no TLS.
 */
export const CUTS = ['slow', 'stalled', 'crowded', 'full', 'malformed'] as const;
const SLOTS = [...STATUS_CLASSES, ...CUTS, 'bytes', 'connections'] as const;

export type Counter = (typeof SLOTS)[number];
export type Figures = Readonly<Record<Counter, number>>;

export interface Counters {
  /** For the thread that counts. */
  readonly shared: SharedArrayBuffer;
  add(what: Counter, count?: number): void;
  /** `connections` counts those that are open: those of a thread that died are not. */
  forgetConnections(): void;
  read(): Figures;
}

export function createCounters(shared = new SharedArrayBuffer(SLOTS.length * 8)): Counters {
  const slots = new BigInt64Array(shared);
  const at = Object.fromEntries(SLOTS.map((name, index) => [name, index])) as Record<Counter, number>;
  return {
    shared,
    add: (what, count = 1) => void Atomics.add(slots, at[what], BigInt(count)),
    forgetConnections: () => void Atomics.store(slots, at.connections, 0n),
    read: () => Object.fromEntries(SLOTS.map((name, index) => [name, Number(Atomics.load(slots, index))])) as Record<Counter, number>,
  };
}

/** Of all threads together. */
export function sumOf(all: readonly Figures[]): Figures {
  return Object.fromEntries(SLOTS.map((name) => [name, all.reduce((sum, one) => sum + one[name], 0)])) as Record<Counter, number>;
}
