// Calls from one thread to another over a MessagePort: what one side exposes, the other calls as if it had it.
import type { MessagePort } from 'node:worker_threads';
import { AppError, type ErrorCode } from '../errors.ts';
import type { Log } from '../log.ts';
import { createQueue } from './queue.ts';
import { createTurns } from './turns.ts';

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
  /** Waits for no turn. */
  readonly atOnce: boolean;
}

type Outcome = { readonly id: number; readonly value: unknown } | { readonly id: number; readonly error: CrossingError };

/** Calls that wait for an answer or for their turn, of one port. Whoever is behind by more than this is helped by none of the next. */
const MOST_CALLS = 10_000;
/** Of these, so many are with the other side at a time: what it has read it has in memory, and it reads all that has come before it does anything else. */
const MOST_POSTED = 64;

/**
 * All ports have one loop, and so one measure. Measured with two threads that call 5,000 times at once, 0.1 ms each, on two busy cores: 6,401 of them were answered
 * in one turn of the loop, 922 ms, and 20 are with this.
 */
const inTurn = createTurns();

export interface RemoteLimits<Name extends string> {
  readonly mostCalls?: number;
  readonly mostPosted?: number;
  /** Are posted and answered at once, whatever waits, and never refused: they give back what others took, or tell what is over. */
  readonly always?: readonly Name[];
}

export function toCrossing(error: unknown): CrossingError | undefined {
  return error instanceof AppError ? { code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) } : undefined;
}

export function fromCrossing({ code, message, hint }: CrossingError): AppError {
  return new AppError(code, message, hint);
}

/** Answers calls of these methods until the port closes, in turns of the event loop. What goes wrong other than by an AppError is logged here, whole. */
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
  port.on('message', (call: Call) => (call.atOnce ? void answer(call) : inTurn(() => void answer(call))));
}

interface Pending {
  readonly method: string;
  readonly args: readonly unknown[];
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/**
 * The exposed methods. Calls are posted in their order, those of `always` before all that wait; arguments are cloned when they are posted, so nobody may change
 * them after the call. They reject with the AppError of the other side; with BUSY when too many wait; with BUG when arguments cannot be cloned or the other side
 * has gone, calls that wait included.
 */
export function remote<T extends object, Name extends AsyncMethods<T>>(port: MessagePort, methods: readonly Name[], { mostCalls = MOST_CALLS, mostPosted = MOST_POSTED, always = [] }: RemoteLimits<Name> = {}): Pick<T, Name> {
  const posted = new Map<number, Pending & { readonly atOnce: boolean }>();
  const queue = createQueue<Pending>();
  /** Of those that are posted, the ones that are not `always`. */
  let paced = 0;
  let lastId = 0;
  let closed = false;
  const gone = () => new AppError('BUG', 'the thread that answers has gone');

  /** False when it cannot be posted, and has been told so. */
  function post(call: Pending, atOnce: boolean): boolean {
    const id = ++lastId;
    try {
      port.postMessage({ id, method: call.method, args: call.args, atOnce } satisfies Call);
    } catch (error) {
      call.reject(new AppError('BUG', `the arguments of ${call.method} cannot go to another thread`, undefined, error));
      return false;
    }
    posted.set(id, { ...call, atOnce });
    return true;
  }

  function postNext(): void {
    while (paced < mostPosted && queue.size() > 0) if (post(queue.take(), false)) paced++;
  }

  port.on('message', (outcome: Outcome) => {
    const call = posted.get(outcome.id);
    if (!call) return;
    posted.delete(outcome.id);
    if (!call.atOnce) paced--;
    if ('error' in outcome) call.reject(fromCrossing(outcome.error));
    else call.resolve(outcome.value);
    postNext();
  });
  port.once('close', () => {
    closed = true;
    for (const call of posted.values()) call.reject(gone());
    posted.clear();
    while (queue.size() > 0) queue.take().reject(gone());
  });

  const call = (method: Name) => (...args: readonly unknown[]) =>
    new Promise((resolve, reject) => {
      const pending: Pending = { method, args, resolve, reject };
      if (closed) return reject(gone());
      if (always.includes(method)) return void post(pending, true);
      if (paced + queue.size() >= mostCalls) return reject(new AppError('BUSY', 'too many calls wait for an answer of the main thread'));
      queue.put(pending);
      postNext();
    });
  return Object.fromEntries(methods.map((method) => [method, call(method)])) as unknown as Pick<T, Name>;
}
