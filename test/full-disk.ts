// A disk that is full, in tests of what happens then.
import { closeSync, openSync, writeSync } from 'node:fs';

/** Writes to `file` to the last byte that its file system gives. */
export function fillDisk(file: string): void {
  const fd = openSync(file, 'a');
  try {
    for (const size of [1 << 20, 4096, 1]) {
      const piece = Buffer.alloc(size, 1);
      for (;;) writeSync(fd, piece);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    closeSync(fd);
  }
}
