// Mutation of bytes for fuzz tests: from a seed, so that a failure can be run again.

/** Numbers in [0, 1) that follow from the seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The bytes at which parsers break: signs, ends of ranges, markers of DHCP's framing, DNS's pointers. */
const SPITEFUL = [0, 1, 2, 3, 4, 52, 53, 61, 63, 64, 77, 81, 82, 93, 97, 127, 128, 175, 192, 254, 255];

type Change = (bytes: Uint8Array, below: (end: number) => number) => Uint8Array;

const CHANGES: readonly Change[] = [
  // A flipped bit.
  (bytes, below) => changed(bytes, below(bytes.length), (byte) => byte ^ (1 << below(8))),
  // Another byte.
  (bytes, below) => changed(bytes, below(bytes.length), () => below(256)),
  // A spiteful byte; twice as often.
  (bytes, below) => changed(bytes, below(bytes.length), () => SPITEFUL[below(SPITEFUL.length)]!),
  (bytes, below) => changed(bytes, below(bytes.length), () => SPITEFUL[below(SPITEFUL.length)]!),
  // One more or less, as a length that is wrong by one.
  (bytes, below) => changed(bytes, below(bytes.length), (byte) => byte + (below(2) === 0 ? 1 : -1)),
  // Cut short.
  (bytes, below) => bytes.slice(0, below(bytes.length + 1)),
  // A piece taken out.
  (bytes, below) => {
    const from = below(bytes.length);
    return spliced(bytes, from, from + 1 + below(16), new Uint8Array());
  },
  // Something put in.
  (bytes, below) => {
    const at = below(bytes.length + 1);
    return spliced(bytes, at, at, Uint8Array.from({ length: 1 + below(16) }, () => below(256)));
  },
  // A piece repeated elsewhere.
  (bytes, below) => {
    const from = below(bytes.length);
    const at = below(bytes.length + 1);
    return spliced(bytes, at, at, bytes.slice(from, from + 1 + below(64)));
  },
  // A piece overwritten with one byte.
  (bytes, below) => {
    const from = below(bytes.length);
    return bytes.slice().fill(SPITEFUL[below(SPITEFUL.length)]!, from, from + 1 + below(32));
  },
  // A long tail of one byte.
  (bytes, below) => spliced(bytes, bytes.length, bytes.length, new Uint8Array(below(1200)).fill(SPITEFUL[below(SPITEFUL.length)]!)),
];

export interface MutateLimits {
  /** The bytes before this one stay as they are, so that a header is still read. */
  readonly from?: number;
  /** No more bytes than this. */
  readonly most?: number;
}

/** A copy with one to five changes; `random` gives numbers in [0, 1). */
export function mutate(bytes: Uint8Array, random: () => number, { from = 0, most = 4096 }: MutateLimits = {}): Uint8Array {
  const below = (end: number): number => Math.floor(random() * end);
  let tail: Uint8Array = bytes.slice(from);
  for (let left = 1 + below(5); left > 0; left--) tail = CHANGES[below(CHANGES.length)]!(tail, below);
  return spliced(bytes, from, bytes.length, tail).slice(0, most);
}

function changed(bytes: Uint8Array, at: number, to: (byte: number) => number): Uint8Array {
  const copy = bytes.slice();
  if (at < copy.length) copy[at] = to(copy[at]!);
  return copy;
}

function spliced(bytes: Uint8Array, from: number, to: number, put: Uint8Array): Uint8Array {
  const tail = bytes.subarray(Math.min(to, bytes.length));
  const result = new Uint8Array(from + put.length + tail.length);
  result.set(bytes.subarray(0, from));
  result.set(put, from);
  result.set(tail, from + put.length);
  return result;
}
