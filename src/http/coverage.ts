// Which bytes of a file each boot was sent, so that a stage is seen only when the parts of a resumed download make the whole.
import type { Booter } from '../booter.ts';
import type { Digest } from '../digest.ts';

/** What one response sent of a kernel or initrd. Bytes; the last one is included. */
export interface SentPart {
  readonly stage: 'kernel' | 'initrd';
  readonly digest: Digest;
  /** Of the whole file. */
  readonly size: number;
  readonly first: number;
  readonly last: number;
  /** The connection ended under it: up to `last` the bytes were given to it, and nobody knows how many of them arrived. */
  readonly isCut: boolean;
  readonly durationMs: number;
}

/** One for all threads: a client that goes on with a download may well get another thread. */
export interface PartsBook {
  /** Tells the Booter of the stage once the whole file went out. Never throws, as `seen`. */
  sent(bootId: string, part: SentPart): Promise<void>;
}

export interface Coverage {
  /**
   * Notes that the bytes from `first` to `last` went out; true when with them all `size` bytes did, and then it is forgotten. A part that was cut
   * counts for all but the file's last byte: only when the client asks for what follows did it have what is before. It may be told of late, since a
   * connection that broke without a word is noticed after 30 s.
   */
  add(key: string, first: number, last: number, size: number, isCut?: boolean): boolean;
}

/** Parts of one file that lie apart: a client that resumes makes one or two. */
const MOST_PARTS = 64;
/** Kernels and initrds that boots are in the middle of. */
const MOST_FILES = 4096;

/** Of more than `limit` files the one that was begun first is forgotten: its stage is then not seen, and never inferred. Pure. */
export function createCoverage(limit: number): Coverage {
  const sent = new Map<string, (readonly [first: number, last: number])[]>();
  return {
    add(key, first, last, size, isCut = false) {
      const end = isCut ? Math.min(last, size - 2) : last;
      if (isCut && end < first) return false;
      const parts = [...(sent.get(key) ?? []), [first, end] as const].sort((a, b) => a[0] - b[0]);
      const merged: [number, number][] = [];
      for (const [from, to] of parts) {
        const before = merged.at(-1);
        if (before && from <= before[1] + 1) before[1] = Math.max(before[1], to);
        else merged.push([from, to]);
      }
      const [whole] = merged;
      if (merged.length === 1 && whole![0] === 0 && whole![1] === size - 1) {
        sent.delete(key);
        return true;
      }
      if (merged.length <= MOST_PARTS) sent.set(key, merged);
      if (sent.size > limit) sent.delete(sent.keys().next().value!);
      return false;
    },
  };
}

export function createPartsBook({ seen }: Pick<Booter, 'seen'>): PartsBook {
  const coverage = createCoverage(MOST_FILES);
  return {
    async sent(bootId, { stage, digest, size, first, last, isCut, durationMs }) {
      if (coverage.add(`${bootId} ${digest}`, first, last, size, isCut)) await seen(bootId, stage, { bytes: size, durationMs });
    },
  };
}
