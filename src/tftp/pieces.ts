// Which blocks can be sent at this moment: all of a file in memory, or those whose piece is in the transfer's ring, read ahead of the peer. Pure.

/** What one reading from the disk brings. In lock-step at 150 MB/s that is 1,200 readings a second, 128 KiB each, three of them ahead. */
export const PIECE_BYTES = 128 * 1024;
const PIECES = 4;
/** A ring holds so many pieces of a file, one behind the other: piece n lies where piece n - 4 lay. Whatever the file's size. */
export const RING_BYTES = PIECES * PIECE_BYTES;

/** `length` bytes of the file from byte `from` on, to be laid at byte `to` of the ring. */
export interface Reading {
  readonly piece: number;
  readonly from: number;
  readonly length: number;
  readonly to: number;
}

/** Blocks count from 1, as in transfer-state.ts. */
export interface Pieces {
  has(first: number, count: number): boolean;
  /** Where in memory the block begins, in bytes; only of those that it has. */
  placeOf(block: number): number;
  /** Of the blocks up to this one none is sent again: what lies there may be written over. */
  passed(block: number): void;
  /** The reading of that piece is done. */
  arrived(piece: number): void;
}

/** A file that is whole in memory. */
export function wholeFile(blockSize: number): Pieces {
  return { has: () => true, placeOf: (block) => (block - 1) * blockSize, passed() {}, arrived() {} };
}

/** A piece is as many whole blocks as fit, so that no block lies in two. `read` is called once for each piece, in order, when there is a place for it. */
export function piecesInRing({ size, blockSize }: { readonly size: number; readonly blockSize: number }, read: (reading: Reading) => void): Pieces {
  const blocks = blocksOf(blockSize);
  const length = blocks * blockSize;
  /** The place that a piece has is piece % PIECES; which one is there. */
  const there = Array<number>(PIECES).fill(-1);
  const last = Math.floor(size / length);
  let asked = 0;
  const pieceOf = (block: number) => Math.floor((block - 1) / blocks);
  const placeOf = (piece: number) => piece % PIECES;
  return {
    has(first, count) {
      for (let piece = pieceOf(first); piece <= pieceOf(first + count - 1); piece++) if (there[placeOf(piece)] !== piece) return false;
      return true;
    },
    placeOf: (block) => placeOf(pieceOf(block)) * PIECE_BYTES + ((block - 1) % blocks) * blockSize,
    passed(block) {
      for (const end = Math.min(last + 1, pieceOf(block + 1) + PIECES); asked < end; asked++) {
        const from = asked * length;
        there[placeOf(asked)] = -1;
        read({ piece: asked, from, length: Math.min(length, size - from), to: placeOf(asked) * PIECE_BYTES });
      }
    },
    arrived: (piece) => void (there[placeOf(piece)] = piece),
  };
}

/** The largest window of a transfer from a ring, in blocks: with the block that may follow it out of order it never reaches over all of the pieces. */
export function largestWindow(blockSize: number): number {
  return (PIECES - 1) * blocksOf(blockSize) - 1;
}

function blocksOf(blockSize: number): number {
  return Math.floor(PIECE_BYTES / blockSize);
}
