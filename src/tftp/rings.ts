// Files that are too large to be held in memory: each transfer has a ring of its own that the pieces of its file pass through.
import type { VerifiedBlob } from '../store/verified.ts';
import { RING_BYTES, type Reading } from './pieces.ts';

/** So many transfers of such files at once; 64 MiB, of which only what was used is resident. A rack has 42 machines, and all other files share theirs. */
export const MOST_RINGS = 128;

/** A file that passes through a ring. */
export interface FilePieces {
  /** Of the file, in bytes. */
  readonly size: number;
  /** Lays a piece into the ring; rejects when the file was changed since it was verified. */
  read(reading: Reading): Promise<void>;
}

export interface Ring {
  readonly bytes: Uint8Array;
  /** Once, when nobody reads or writes there any more. */
  giveBack(): void;
}

/** Undefined while all are in use. In one piece of memory that threads share and that never grows. */
export function createRings(most: number = MOST_RINGS): () => Ring | undefined {
  let memory: SharedArrayBuffer | undefined;
  // The one that was given back last is resident already.
  const free = Array.from({ length: most }, (_, i) => most - 1 - i);
  return () => {
    const ring = free.pop();
    if (ring === undefined) return undefined;
    memory ??= new SharedArrayBuffer(most * RING_BYTES);
    return { bytes: new Uint8Array(memory, ring * RING_BYTES, RING_BYTES), giveBack: () => void free.push(ring) };
  };
}

/** The blobs one behind the other. They are closed, and the ring given back, when it was released and no reading is under way any more. */
export function fileThroughRing({ bytes, giveBack }: Ring, blobs: readonly VerifiedBlob[]): { readonly bytes: Uint8Array; readonly pieces: FilePieces; release(): void } {
  let users = 1;
  const leave = () => {
    if (--users > 0) return;
    blobs.forEach((blob) => blob.close());
    giveBack();
  };
  let held = true;
  return {
    bytes,
    pieces: {
      size: blobs.reduce((sum, { size }) => sum + size, 0),
      async read(reading) {
        users++;
        await readAcross(blobs, reading, bytes).finally(leave);
      },
    },
    release() {
      if (held) leave();
      held = false;
    },
  };
}

async function readAcross(blobs: readonly VerifiedBlob[], { from, length, to }: Reading, ring: Uint8Array): Promise<void> {
  const end = from + length;
  let start = 0;
  for (const blob of blobs) {
    const [first, last] = [Math.max(from, start), Math.min(end, start + blob.size)];
    const place = to + first - from;
    if (first < last) await blob.read(ring.subarray(place, place + last - first), last - first, first - start);
    start += blob.size;
  }
}
