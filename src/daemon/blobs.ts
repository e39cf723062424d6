// The blobs of the daemon: verified for the main thread, scrubbed in the background, and what is told when one is rotten.
import { constants, lstat, open } from 'node:fs/promises';
import type { Log } from '../log.ts';
import type { BlobFigures } from '../metrics.ts';
import type { EventStore } from '../store/events.ts';
import { startScrub } from '../store/scrub.ts';
import { blobFile } from '../store/blobs.ts';
import type { OnRotten } from '../store/quarantine.ts';
import { createVerdicts, identityOf, type Verdict, type Verdicts, type VerdictStore } from '../store/verdicts.ts';
import { createVerifiedBlobs, type VerifiedBlobs } from '../store/verified.ts';

export interface BlobParts {
  readonly stateDir: string;
  /** Absent: never. */
  readonly scrubSeconds?: number;
  readonly events: Pick<EventStore, 'add'>;
  readonly kept: VerdictStore;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface ServedBlobs {
  readonly verified: VerifiedBlobs;
  /** The main thread's book, to which others' findings are told, and from which they hear. */
  readonly verdicts: Verdicts;
  /** For what other threads find, too. */
  readonly onRotten: OnRotten;
  figures(): BlobFigures;
}

export async function startBlobs({ stateDir, scrubSeconds, events, kept, log, now }: BlobParts, stops: (() => unknown)[]): Promise<ServedBlobs> {
  let rotten = 0;
  const onRotten: OnRotten = (digest, why, movedTo) => {
    rotten += 1;
    log.error({ digest, why, movedTo }, 'a blob is rotten');
    void events.add({ at: now(), kind: 'blob-rotten', detail: { digest, why, ...(movedTo ? { movedTo } : {}) } }).catch((error: unknown) => log.error({ err: error }, 'event not recorded'));
  };
  const verdicts = createVerdicts(await recall(stateDir, kept));
  /** One at a time, so that the file numbers and threads that wait for a slow disk are few. */
  let keeping = Promise.resolve();
  verdicts.onNote((verdict) => {
    keeping = keeping.then(() => keep(stateDir, kept, verdicts, verdict, now())).catch((error: unknown) => log.error({ digest: verdict.digest, err: error }, 'verdict on a blob not kept'));
  });
  stops.push(() => keeping);
  const verified = createVerifiedBlobs({ stateDir, onRotten, verdicts });
  const scrub = scrubSeconds === undefined ? undefined : startScrub({ stateDir, blobs: verified, everyMs: scrubSeconds * 1000, log, now });
  if (scrub) stops.push(() => scrub.stop());
  return { verified, verdicts, onRotten, figures: () => ({ rotten, scrubbedBytes: scrub?.figures().bytes ?? 0 }) };
}

/** Of files that are still what they were. The others' rows go. */
async function recall(stateDir: string, kept: VerdictStore): Promise<Verdict[]> {
  const good: Verdict[] = [];
  for (const verdict of await kept.all()) {
    const found = await lstat(blobFile(stateDir, verdict.digest), { bigint: true }).catch(() => undefined);
    if (found && identityOf(found) === verdict.identity) good.push(verdict);
    else await kept.drop(verdict.digest);
  }
  return good;
}

async function keep(stateDir: string, kept: VerdictStore, verdicts: Verdicts, { digest, identity, good }: Verdict, at: number): Promise<void> {
  const isNewest = (): boolean => verdicts.of(digest)?.identity === identity && verdicts.of(digest)?.good === good;
  if (!isNewest()) return;
  if (!good) return kept.drop(digest);
  const handle = await open(blobFile(stateDir, digest), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined);
  if (!handle) return;
  try {
    // What was hashed may have come from memory only. After a power cut the file must not be what it was by its times and something else by its bytes.
    await handle.sync();
    if (identityOf(await handle.stat({ bigint: true })) === identity && isNewest()) await kept.keep({ digest, identity, good }, at);
  } finally {
    await handle.close();
  }
}
