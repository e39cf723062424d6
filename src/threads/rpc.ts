// Calls from one thread to another over a MessagePort: what one side exposes, the other calls as if it had it.
import type { MessagePort } from 'node:worker_threads';
import { AppError, type ErrorCode } from '../errors.ts';
import type { Log } from '../log.ts';

/** The names of T's methods that answer by a promise; only those can be called from afar. Arguments and answers must survive a structured clone. */
export type AsyncMethods<T> = { [Name in keyof T]: T[Name] extends (...args: never[]) => Promise<unknown> ? Name : never }[keyof T] & string;

/** An AppError as it crosses; any other error is none of the caller's business and crosses as BUG. */
export interface CrossingError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
}

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

type Outcome = { readonly id: number; readonly value: unknown } | { readonly id: number; readonly error: CrossingError };

/** Calls in flight of one port. Whoever is behind by more than this is helped by none of the next. */
const MOST_CALLS = 10_000;

export function toCrossing(error: unknown): CrossingError | undefined {
  return error instanceof AppError ? { code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) } : undefined;
}

export function fromCrossing({ code, message, hint }: CrossingError): AppError {
  return new AppError(code, message, hint);
}

/** Answers calls of these methods until the port closes. What goes wrong other than by an AppError is logged here, whole. */
export function expose<T extends object, Name extends AsyncMethods<T>>(port: MessagePort, object: T, methods: readonly Name[], log: Pick<Log, 'error'>): void {
  const answer = async ({ id, method, args }: Call): Promise<void> => {
    let outcome: Outcome;
    try {
      if (!(methods as readonly string[]).includes(method)) throw new Error(`${method} cannot be called from another thread`);
      outcome = { id, value: await (object[method as Name] as (...args: readonly unknown[]) => Promise<unknown>)(...args) };
      port.postMessage(outcome);
    } catch (error) {
      const crossing = toCrossing(error);
      if (!crossing) log.error({ err: error, method }, 'a call from another thread failed');
      port.postMessage({ id, error: crossing ?? { code: 'BUG', message: 'rackseed failed to answer; its log says more' } } satisfies Outcome);
    }
  };
  port.on('message', (call: Call) => void answer(call));
}

/**
 * The exposed methods. They reject with the AppError of the other side; with BUSY when too many calls wait, but for those of `always`, which give back what
 * others took; with BUG when arguments cannot be cloned or the other side has gone, calls in flight included.
 */
export function remote<T extends object, Name extends AsyncMethods<T>>(port: MessagePort, methods: readonly Name[], { mostCalls = MOST_CALLS, always = [] }: { readonly mostCalls?: number; readonly always?: readonly Name[] } = {}): Pick<T, Name> {
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: unknown): void }>();
  let lastId = 0;
  let closed = false;
  const gone = () => new AppError('BUG', 'the thread that answers has gone');
  port.on('message', (outcome: Outcome) => {
    const call = waiting.get(outcome.id);
    waiting.delete(outcome.id);
    if ('error' in outcome) call?.reject(fromCrossing(outcome.error));
    else call?.resolve(outcome.value);
  });
  port.once('close', () => {
    closed = true;
    for (const call of waiting.values()) call.reject(gone());
    waiting.clear();
  });
  const call = (method: Name) => (...args: readonly unknown[]) =>
    new Promise((resolve, reject) => {
      if (closed) return reject(gone());
      if (waiting.size >= mostCalls && !always.includes(method)) return reject(new AppError('BUSY', 'too many calls wait for an answer of the main thread'));
      const id = ++lastId;
      try {
        port.postMessage({ id, method, args } satisfies Call);
      } catch (error) {
        return reject(new AppError('BUG', `the arguments of ${method} cannot go to another thread`, undefined, error));
      }
      waiting.set(id, { resolve, reject });
    });
  return Object.fromEntries(methods.map((method) => [method, call(method)])) as unknown as Pick<T, Name>;
}
