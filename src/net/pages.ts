// Memory in slots of whole huge pages, from which the kernel may still be sending what a slot held before: it is given new pages, never written over.
import { libc } from './libc.ts';
import { must } from './socket-calls.ts';

/** A huge page of x86-64 and of arm64 with pages of 4 KiB; a slot must not share one, or its neighbour's pages would be split. */
export const SLOT = 2 * 1024 * 1024;

export interface Pages {
  readonly slots: readonly Slot[];
}

export interface Slot {
  /** Its content is undefined after `renew`. */
  readonly bytes: Buffer;
  /** Where it lies in memory; undefined where it cannot be renewed, and then nobody but Node sends from it. */
  readonly address: number | undefined;
  /** Before new content: what a socket still has of the old one stays as it is. Nothing may be reading into the slot. Throws when the kernel gives none. */
  renew(): void;
}

/**
 * From 32 MiB on glibc's malloc always maps memory of its own. What is less may come from a heap, and when its thread ends be somebody else's while a socket still
 * sends it. What is not written to takes no memory.
 */
const OWN_MAPPING = 64 * 1024 * 1024;
/** <asm-generic/mman-common.h>. */
const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;

/** `count` slots. They take memory once they are written to. */
export function allocatePages(count: number): Pages {
  const c = libc();
  if (!c || count === 0) return { slots: Array.from({ length: count }, () => ({ bytes: Buffer.allocUnsafeSlow(SLOT), address: undefined, renew: () => undefined })) };
  // A huge page begins somewhere in the first slot.
  const whole = Buffer.allocUnsafeSlow(Math.max((count + 1) * SLOT, OWN_MAPPING));
  const address = Number(c.addressOf(whole));
  const from = (SLOT - (address % SLOT)) % SLOT;
  const aligned = whole.subarray(from, from + count * SLOT);
  // Copying from pages of 4 KiB is a tenth slower (measured). Where the kernel has no huge pages it is those.
  c.madvise(aligned, aligned.length, MADV_HUGEPAGE);
  // A kernel that cannot renew (locked memory) must not be lent anything.
  const isLent = c.madvise(aligned, aligned.length, MADV_DONTNEED) === 0;
  return {
    slots: Array.from({ length: count }, (_, index) => {
      const bytes = aligned.subarray(index * SLOT, (index + 1) * SLOT);
      return { bytes, address: isLent ? address + from + index * SLOT : undefined, renew: () => void must(c, c.madvise(bytes, SLOT, MADV_DONTNEED), 'new pages for a block') };
    }),
  };
}
