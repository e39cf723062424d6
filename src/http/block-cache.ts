// Blocks of blobs in memory, for many downloads at once: a fixed number of slots that connections write from without a copy.
import { allocatePages, SLOT, type Slot as PageSlot } from '../net/pages.ts';
import type { VerifiedBlob } from '../store/verified.ts';

/** Bytes. */
export const BLOCK = SLOT;

/** A block that stays as it is until it is given back. */
export interface LentBlock {
  /** A Buffer of its own for each call. */
  readonly bytes: Buffer;
  /** Of `bytes`. */
  readonly length: number;
  /** Where they lie in memory, for who lends them to the kernel; undefined without koffi. What was lent stays as it is after `release`, too. */
  readonly address: number | undefined;
  /** Exactly once, when the kernel has the bytes. */
  release(): void;
}

/** One download: its blob, and where it stands, which tells the cache what will be wanted next. */
export interface BlockReader {
  /**
   * The block of that number; undefined when each slot is in use by somebody: then the reader reads pieces of its own, so that memory stays
   * bounded. Rejects as the blob's `read` does.
   */
  take(index: number): Promise<LentBlock | undefined>;
  /** That block, and those behind it that are in memory: `most` in all; while much of the cache is lent only such as are lent already. None when `take` has none. */
  takeRun(index: number, most: number): Promise<LentBlock[]>;
  /** Begins to read a block that is wanted soon. */
  ahead(index: number): void;
  /** Gives the blob back as soon as nothing is being read from it any more. */
  close(): void;
}

export interface BlockCache {
  read(blob: VerifiedBlob): BlockReader;
}

interface Slot {
  readonly page: PageSlot;
  digest: string;
  index: number;
  length: number;
  /** Connections that write from it; it keeps its content as long. */
  users: number;
  usedAt: number;
  loading: Promise<void> | undefined;
}

interface Reader {
  readonly digest: string;
  next: number;
}

/** How many slots are looked at for the one to give up. */
const SAMPLE = 16;

/**
 * `bytes` is what it may take; less than one block: nothing is cached. A block is known by its blob's digest, so it holds the right bytes
 * whatever becomes of the file. Of a sample of slots the one goes that no download comes to soonest (we know where each one stands), and among
 * those that none comes to the one that was used longest ago: so an image that is larger than the cache does not drive itself out as it would
 * by age alone, and downloads that follow one another closely read it from the disk once.
 */
export function createBlockCache(bytes: number): BlockCache {
  const capacity = Math.floor(bytes / BLOCK);
  const pages = allocatePages(capacity);
  const slots: Slot[] = [];
  const byBlock = new Map<string, Slot>();
  const readers = new Map<string, Set<Reader>>();
  let clock = 0;
  /** Slots with users. */
  let lent = 0;

  const keyOf = (digest: string, index: number): string => `${digest}/${index}`;

  /** Blocks until the next download arrives at this one. */
  function distance({ digest, index }: Slot): number {
    let nearest = Infinity;
    for (const { next } of readers.get(digest) ?? []) if (next <= index && index - next < nearest) nearest = index - next;
    return nearest;
  }

  function victim(): Slot | undefined {
    const from = Math.floor(Math.random() * slots.length);
    const stride = 1 + Math.floor(Math.random() * (slots.length / SAMPLE));
    let best: Slot | undefined;
    let farthest = -1;
    const consider = (slot: Slot): void => {
      if (slot.users > 0 || slot.loading) return;
      const far = distance(slot);
      if (far > farthest || (far === farthest && slot.usedAt < best!.usedAt)) [best, farthest] = [slot, far];
    };
    for (let n = 0; n < Math.min(SAMPLE, slots.length); n += 1) consider(slots[(from + n * stride) % slots.length]!);
    // Nearly all are in use: any other will do.
    for (let n = 0; !best && n < slots.length; n += 1) consider(slots[n]!);
    return best;
  }

  function freeSlot(): Slot | undefined {
    if (slots.length < capacity) {
      const slot: Slot = { page: pages.slots[slots.length]!, digest: '', index: 0, length: 0, users: 0, usedAt: 0, loading: undefined };
      slots.push(slot);
      return slot;
    }
    const slot = victim();
    if (!slot) return undefined;
    byBlock.delete(keyOf(slot.digest, slot.index));
    slot.page.renew();
    return slot;
  }

  function use(slot: Slot): void {
    if (slot.users++ === 0) lent++;
    slot.usedAt = ++clock;
  }
  /** A class, because an accessor in a literal is defined anew for each block, at the price of all else here. */
  class Block implements LentBlock {
    readonly #slot: Slot;
    constructor(slot: Slot) {
      this.#slot = slot;
    }
    get bytes() {
      return this.#slot.page.bytes.subarray(0, this.#slot.length);
    }
    get length() {
      return this.#slot.length;
    }
    get address() {
      return this.#slot.page.address;
    }
    release() {
      if (--this.#slot.users === 0) lent--;
    }
  }

  function load(blob: VerifiedBlob, index: number): Slot | undefined {
    const slot = freeSlot();
    if (!slot) return undefined;
    const at = index * BLOCK;
    Object.assign(slot, { digest: blob.digest, index, length: Math.min(BLOCK, blob.size - at), usedAt: ++clock });
    const key = keyOf(blob.digest, index);
    byBlock.set(key, slot);
    slot.loading = blob.read(slot.page.bytes, slot.length, at).then(
      () => void (slot.loading = undefined),
      (error: unknown) => {
        slot.loading = undefined;
        byBlock.delete(key);
        // Nobody's: the first to go.
        Object.assign(slot, { digest: '', usedAt: 0 });
        throw error;
      },
    );
    return slot;
  }

  return {
    read(blob) {
      const reader: Reader = { digest: blob.digest, next: 0 };
      const others = readers.get(blob.digest) ?? new Set();
      readers.set(blob.digest, others.add(reader));
      const reading = new Set<Promise<void>>();
      /** Our own reads, which need the blob to stay open. */
      const loadOwn = (index: number): Slot | undefined => {
        const slot = load(blob, index);
        const own = slot?.loading?.catch(() => undefined);
        if (own) {
          reading.add(own);
          void own.then(() => reading.delete(own));
        }
        return slot;
      };
      async function take(index: number): Promise<LentBlock | undefined> {
        reader.next = index;
        for (;;) {
          const known = byBlock.get(keyOf(blob.digest, index));
          const slot = known ?? loadOwn(index);
          if (!slot) return undefined;
          use(slot);
          try {
            await slot.loading;
          } catch (error) {
            new Block(slot).release();
            // Another download's file may be another one than ours.
            if (known) continue;
            throw error;
          }
          return new Block(slot);
        }
      }
      return {
        take,
        async takeRun(index, most) {
          const first = await take(index);
          if (!first) return [];
          const run = [first];
          while (run.length < most) {
            const slot = byBlock.get(keyOf(blob.digest, index + run.length));
            if (!slot || slot.loading) break;
            // Half of the slots are for those who come to a block that nobody has yet; one that is lent is none of these.
            if (slot.users === 0 && 2 * lent >= capacity) break;
            use(slot);
            run.push(new Block(slot));
            reader.next = index + run.length - 1;
          }
          return run;
        },
        ahead(index) {
          if (index * BLOCK < blob.size && !byBlock.has(keyOf(blob.digest, index))) loadOwn(index);
        },
        close() {
          others.delete(reader);
          if (others.size === 0 && readers.get(blob.digest) === others) readers.delete(blob.digest);
          void Promise.all(reading).then(() => blob.close());
        },
      };
    },
  };
}
