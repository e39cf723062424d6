// How a thread that dies is started anew: at once at first, then later and later, until one has lived long enough.
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from './clock.ts';

/** A fault at the start must not eat a core, nor one that each client can bring about. */
const PAUSE_MS = { first: 100, longest: 30_000 } as const;
/** Who lived this long died of something else than the one before. */
const SETTLED_MS = 60_000;

/**
 * One life after the other until `signal` aborts; resolves then, with the last one over. `first` is running already. Each resolves, with the reason, when
 * it is over; one that rejects could not begin (file numbers, threads of this user), which must not end the daemon and counts as a death.
 * `onDeath` hears of each that was not asked for.
 */
export async function keepAlive(first: Promise<unknown>, live: () => Promise<unknown>, signal: AbortSignal, onDeath: (why: unknown, againInMs: number) => void): Promise<void> {
  let pause: number = PAUSE_MS.first;
  let bornAt = monotonicMs();
  for (let life = first; ; life = live()) {
    const why = await life.catch((error: unknown) => error);
    if (signal.aborted) return;
    if (monotonicMs() - bornAt >= SETTLED_MS) pause = PAUSE_MS.first;
    onDeath(why, pause);
    await sleep(pause, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    pause = Math.min(pause * 2, PAUSE_MS.longest);
    bornAt = monotonicMs();
  }
}
