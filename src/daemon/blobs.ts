// The blobs of the daemon: verified for the main thread, scrubbed in the background, and what is told when one is rotten.
import type { Log } from '../log.ts';
import type { BlobFigures } from '../metrics.ts';
import type { EventStore } from '../store/events.ts';
import { startScrub } from '../store/scrub.ts';
import { createVerifiedBlobs, type OnRotten, type VerifiedBlobs } from '../store/verified.ts';

export interface BlobParts {
  readonly stateDir: string;
  /** Absent: never. */
  readonly scrubSeconds?: number;
  readonly events: Pick<EventStore, 'add'>;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface ServedBlobs {
  readonly verified: VerifiedBlobs;
  /** For what other threads find, too. */
  readonly onRotten: OnRotten;
  figures(): BlobFigures;
}

export function startBlobs({ stateDir, scrubSeconds, events, log, now }: BlobParts, stops: (() => unknown)[]): ServedBlobs {
  let rotten = 0;
  const onRotten: OnRotten = (digest, why, movedTo) => {
    rotten += 1;
    log.error({ digest, why, movedTo }, 'a blob is rotten');
    void events.add({ at: now(), kind: 'blob-rotten', detail: { digest, why, ...(movedTo ? { movedTo } : {}) } }).catch((error: unknown) => log.error({ err: error }, 'event not recorded'));
  };
  const verified = createVerifiedBlobs({ stateDir, onRotten });
  const scrub = scrubSeconds === undefined ? undefined : startScrub({ stateDir, blobs: verified, everyMs: scrubSeconds * 1000, log, now });
  if (scrub) stops.push(() => scrub.stop());
  return { verified, onRotten, figures: () => ({ rotten, scrubbedBytes: scrub?.figures().bytes ?? 0 }) };
}
