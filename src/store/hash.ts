// The digest of an open file, read at a pace; and the wait after which its times tell whether it was changed.
import { createHash } from 'node:crypto';
import { fstat, read } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Digest } from '../digest.ts';

export interface Pace {
  readonly bytesPerSecond: number;
  readonly signal?: AbortSignal;
  readonly onRead?: (bytes: number) => void;
}

const [statOf, readFrom] = [promisify(fstat), promisify(read)];

/**
 * The kernel's file times advance with its tick, 10 ms at most: a second change within one tick leaves no trace in them (Git calls that "racily
 * clean"). So no file is judged by its times before they are this old, in milliseconds.
 */
const SETTLED_MS = 25;

/** Resolves when another change would show in the file's times. */
export async function settle(fd: number): Promise<void> {
  const { ctimeMs } = await statOf(fd);
  const wait = ctimeMs + SETTLED_MS - Date.now();
  // Times far ahead are of a clock that was set back: there is no use in waiting for it.
  if (wait > 0) await sleep(Math.min(wait, SETTLED_MS));
}

/** Reads `piece` bytes at a time; undefined when the signal stopped it. */
export async function digestOf(fd: number, piece: number, pace?: Pace): Promise<Digest | undefined> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(piece);
  const startedAt = performance.now();
  for (let at = 0; ; ) {
    const { bytesRead } = await readFrom(fd, buffer, 0, piece, at);
    if (bytesRead === 0) return `sha256:${hash.digest('hex')}`;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
    if (!pace) continue;
    pace.onRead?.(bytesRead);
    const ahead = (at / pace.bytesPerSecond) * 1000 - (performance.now() - startedAt);
    if (ahead > 0) await sleep(ahead, undefined, { ...(pace.signal ? { signal: pace.signal } : {}), ref: false }).catch(() => undefined);
    if (pace.signal?.aborted) return undefined;
  }
}
