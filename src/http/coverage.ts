// Which bytes of a file each boot was sent, so that a stage is seen only when the parts of a resumed download make the whole.

export interface Coverage {
  /** Notes that the bytes from `first` to `last` went out; true when with them all `size` bytes did, and then it is forgotten. */
  add(key: string, first: number, last: number, size: number): boolean;
}

/** Parts of one file that lie apart: a client that resumes makes one or two. */
const MOST_PARTS = 64;

/** Of more than `limit` files the one that was begun first is forgotten: its stage is then not seen, and never inferred. Pure. */
export function createCoverage(limit: number): Coverage {
  const sent = new Map<string, (readonly [first: number, last: number])[]>();
  return {
    add(key, first, last, size) {
      const parts = [...(sent.get(key) ?? []), [first, last] as const].sort((a, b) => a[0] - b[0]);
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
