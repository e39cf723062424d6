// The scrub: reads each blob again every few days, slowly, so that rot is found before a node boots from it.
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDigest, type Digest } from '../digest.ts';
import { lineOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { blobDir } from './blobs.ts';
import type { VerifiedBlobs } from './verified.ts';

export interface ScrubParts {
  readonly stateDir: string;
  readonly blobs: Pick<VerifiedBlobs, 'scrub'>;
  readonly everyMs: number;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** 8 MiB/s: 4.6 TiB a week, and 1 % of a core. */
  readonly bytesPerSecond?: number;
  /** How long to rest when none is due, in milliseconds. */
  readonly restMs?: number;
}

export interface Scrub {
  /** Since the start. */
  figures(): { readonly bytes: number; readonly blobs: number };
  stop(): Promise<void>;
}

const BYTES_PER_SECOND = 8 * 1024 * 1024;
const REST_MS = 10 * 60_000;
/** Of how many at once those that are due are looked for; also how long a blob that could not be read is left alone. */
const DAY_MS = 86_400_000;

/**
 * Which blob was read when is kept in `<stateDir>/blobs/scrubbed.json`, so that a daemon that is restarted every day gets round all the same; where it
 * cannot be read or written, each blob counts as read at the start. A new blob is due after `everyMs`: it was hashed when it was added.
 */
export function startScrub({ stateDir, blobs, everyMs, log, now, bytesPerSecond = BYTES_PER_SECOND, restMs = REST_MS }: ScrubParts): Scrub {
  const record = join(stateDir, 'blobs', 'scrubbed.json');
  const readAt = readRecord(record);
  const stopping = new AbortController();
  const { signal } = stopping;
  const done = { bytes: 0, blobs: 0 };
  let complained = false;

  /** The one that is due for longest. Notes blobs that are new and forgets those that are gone. */
  async function nextDue(): Promise<Digest | undefined> {
    const there = (await readdir(blobDir(stateDir))).map((name) => `sha256:${name}`).filter(isDigest);
    const present = new Set(there);
    for (const digest of readAt.keys()) if (!present.has(digest)) readAt.delete(digest);
    // A clock that was set back must not put everything off.
    for (const digest of there) readAt.set(digest, Math.min(readAt.get(digest) ?? now(), now()));
    const due = there.filter((digest) => readAt.get(digest)! + everyMs <= now());
    return due.sort((a, b) => readAt.get(a)! - readAt.get(b)!)[0];
  }

  function write(): void {
    try {
      writeFileSync(`${record}.new`, JSON.stringify(Object.fromEntries(readAt)));
      renameSync(`${record}.new`, record);
    } catch (error) {
      if (!complained) log.warn({ err: error }, 'the scrub cannot write down how far it is: it starts over with the daemon');
      complained = true;
    }
  }

  async function scrubOne(digest: Digest): Promise<void> {
    const outcome = await blobs.scrub(digest, { bytesPerSecond, signal, onRead: (bytes) => void (done.bytes += bytes) });
    if (outcome === 'stopped') return;
    done.blobs += 1;
    log.debug({ digest, outcome }, 'blob read again');
    // One that was written to meanwhile is read again tomorrow, not at once and for ever.
    readAt.set(digest, outcome === 'changing' ? now() - everyMs + Math.min(DAY_MS, everyMs) : now());
  }

  const running = (async () => {
    while (!signal.aborted) {
      let due: Digest | undefined;
      try {
        due = await nextDue();
        if (due) await scrubOne(due);
      } catch (error) {
        log.error({ digest: due, why: lineOf(error) }, 'blob could not be read again');
        if (due) readAt.set(due, now() - everyMs + Math.min(DAY_MS, everyMs));
      }
      write();
      if (!due) await sleep(restMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  })();

  return {
    figures: () => ({ ...done }),
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

function readRecord(path: string): Map<Digest, number> {
  try {
    const read = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    return new Map(Object.entries(read).filter((entry): entry is [Digest, number] => isDigest(entry[0]) && Number.isFinite(entry[1])));
  } catch {
    return new Map();
  }
}
