// Work of the command line that SIGINT and SIGTERM end.
import { AppError } from '../errors.ts';

/** Runs the work with a signal that SIGINT and SIGTERM abort, unless the caller has one of their own. */
export async function interruptible<T>(given: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const own = new AbortController();
  const stop = (): void => own.abort(new AppError('IMAGE_BUILD_FAILED', 'the build was interrupted', 'nothing was changed; build it again when you like'));
  given?.addEventListener('abort', stop, { once: true });
  if (given?.aborted) stop();
  const signals = given ? [] : (['SIGINT', 'SIGTERM'] as const);
  for (const name of signals) process.on(name, stop);
  try {
    return await work(own.signal);
  } finally {
    given?.removeEventListener('abort', stop);
    for (const name of signals) process.off(name, stop);
  }
}
