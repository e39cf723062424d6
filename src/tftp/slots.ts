// What the main thread may know of the transfers of one thread while they run, in memory that both have: no message for each ACK.

/** One transfer's. */
export interface SlotWriter {
  /** `acked`: bytes that the peer has. */
  progress(atMs: number, heard: boolean, acked: number): void;
  /** The file numbers that it holds, for the main thread to close should this one die; 0 = none. */
  holds(peer: number, strangers: number): void;
}

export interface SlotReader {
  /** When the last new ACK came, or the transfer began; see monotonicMs(). */
  progressAt(): number;
  heard(): boolean;
  /** Bytes. */
  acked(): number;
  held(): readonly number[];
  clear(): void;
}

export interface Slots {
  readonly memory: SharedArrayBuffer;
  writer(slot: number): SlotWriter;
  reader(slot: number): SlotReader;
  /** Datagrams that were nobody's: of a stranger, or no TFTP. Any thread may call it. */
  stray(what: 'malformed' | 'wrongTid'): void;
  strays(): { readonly malformed: number; readonly wrongTid: number };
}

/** Eight bytes each: progressAt, heard, the two file numbers, and acked. */
const FIELDS = 5;
/** Two counters come first, in one place of eight bytes. */
const FIRST = 1;

/** `memory`: what the other side made; without it, new memory for `count` transfers. */
export function createSlots(from: { readonly memory: SharedArrayBuffer } | { readonly count: number }): Slots {
  const memory = 'memory' in from ? from.memory : new SharedArrayBuffer((FIRST + from.count * FIELDS) * 8);
  // A torn number cannot be: eight aligned bytes are written at once on every machine of 64 bits, and on others a glance at the time may be off.
  const numbers = new Float64Array(memory);
  const counters = new Int32Array(memory, 0, 2);
  const at = (slot: number) => FIRST + slot * FIELDS;
  return {
    memory,
    writer(slot) {
      const i = at(slot);
      return {
        progress(atMs, heard, acked) {
          numbers[i] = atMs;
          numbers[i + 1] = heard ? 1 : 0;
          numbers[i + 4] = acked;
        },
        holds(peer, strangers) {
          numbers[i + 2] = peer;
          numbers[i + 3] = strangers;
        },
      };
    },
    reader(slot) {
      const i = at(slot);
      return {
        progressAt: () => numbers[i]!,
        heard: () => numbers[i + 1] === 1,
        acked: () => numbers[i + 4]!,
        held: () => [numbers[i + 2]!, numbers[i + 3]!].filter((fd) => fd > 0),
        clear: () => void numbers.fill(0, i, i + FIELDS),
      };
    },
    stray: (what) => void Atomics.add(counters, what === 'malformed' ? 0 : 1, 1),
    strays: () => ({ malformed: Atomics.load(counters, 0), wrongTid: Atomics.load(counters, 1) }),
  };
}
