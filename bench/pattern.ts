// Files of a benchmark: any number of bytes that no compression or sparse file makes cheaper, the same at each run.
import { createCipheriv, createHash } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';

const PIECE = 1 << 20;

/** Writes `bytes` bytes, others for each `name`; their sha256 in hex. */
export function writePattern(file: string, bytes: number, name: string): string {
  const key = createHash('sha256').update(name).digest();
  const stream = createCipheriv('aes-128-ctr', key.subarray(0, 16), key.subarray(16));
  const hash = createHash('sha256');
  const zeros = Buffer.alloc(PIECE);
  const fd = openSync(file, 'w');
  for (let left = bytes; left > 0; left -= PIECE) {
    const piece = stream.update(left < PIECE ? zeros.subarray(0, left) : zeros);
    hash.update(piece);
    writeSync(fd, piece);
  }
  closeSync(fd);
  return hash.digest('hex');
}
