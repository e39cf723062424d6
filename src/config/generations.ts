// The current generation and how the next one takes its place: all good and it is swapped whole, any fault and the old one stays.
import type { Generation } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import { AppError, lineOf, type Fault } from '../errors.ts';
import type { Log } from '../log.ts';

export interface Compiled {
  /** Absent when there are faults. */
  readonly generation?: Generation;
  readonly faults: readonly Fault[];
}

export interface Swap {
  readonly generation: string;
  readonly changed: boolean;
  readonly faults: readonly Fault[];
}

export interface Generations<Source = unknown> {
  current(): Generation;
  /** What the current generation was compiled from; undefined when that was before this daemon started and has been edited since. */
  source(): Source | undefined;
  /** Compiles `source`, else what would be read now, and takes nothing of it. A fault where it cannot be read. */
  preview(source?: Source): Promise<{ readonly source?: Source; readonly compiled: Compiled }>;
  /**
   * The first reading. YAML that did not change while the daemon was down is not compiled anew: a restart is no edit, so tags and refs
   * that moved meanwhile change nothing that boots.
   */
  start(): Promise<Swap>;
  /** What kept the last reload from taking effect. */
  faults(): readonly Fault[];
  /** Reads everything again; one reload at a time, each sees the newest files. `who` goes into the nodes' history. */
  reload(who: string): Promise<Swap>;
}

export interface GenerationsParts<Source> {
  /** What the daemon ran with last, and the digest of the YAML it came from. */
  readonly last?: { readonly generation: Generation; readonly source?: Digest } | undefined;
  /** Reads the YAML. */
  readonly read: () => Promise<Source>;
  /** Equal for equal YAML. */
  readonly digest: (source: Source) => Digest;
  /** Names, tags and refs are resolved here and nowhere else. */
  readonly compile: (source: Source) => Promise<Compiled>;
  /** Makes the next generation durable (pins its commits, writes the mapping MAC -> profile); when it throws, the old one stays. */
  readonly prepare: (next: Generation, who: string, source: Digest) => Promise<void>;
  /** A reading that took no effect, for the history. */
  readonly onRefused?: (faults: readonly Fault[], who: string) => void;
  readonly log: Log;
}

/** The generation of a daemon that has read no profile yet: it knows no machine, so it answers none. */
export const EMPTY_GENERATION: Generation = Object.freeze({ id: 'sha256:'.padEnd(71, '0'), profiles: {}, bootSets: {}, nodes: {}, nodeByMac: {}, nodeByIp: {} });

export function createGenerations<Source>({ last: before, read, digest, compile, prepare, onRefused, log }: GenerationsParts<Source>): Generations<Source> {
  let current = before?.generation ?? EMPTY_GENERATION;
  let from: Source | undefined;
  let faults: readonly Fault[] = [];
  let last: Promise<unknown> = Promise.resolve();

  async function swap(who: string, unless?: Digest): Promise<Swap> {
    const files = await read().catch(asFault);
    if (files === undefined) onRefused?.(faults, who);
    if (files === undefined) return { generation: current.id, changed: false, faults };
    const source = digest(files);
    if (source === unless) {
      // A state directory may have come back without its mirrors. A commit that cannot be had now is no reason not to serve the rest.
      await prepare(current, who, source).catch((error: unknown) => log.error({ err: error }, 'the last generation could not be prepared whole'));
      from = files;
      return { generation: current.id, changed: false, faults };
    }
    const compiled = await compile(files);
    faults = compiled.faults;
    const next = compiled.generation;
    if (!next || faults.length > 0) {
      for (const fault of faults) log.error({ ...fault }, 'profile fault');
      onRefused?.(faults, who);
      return { generation: current.id, changed: false, faults };
    }
    await prepare(next, who, source);
    from = files;
    if (next.id === current.id) return { generation: current.id, changed: false, faults };
    const old = current.id;
    current = next;
    log.info({ generation: next.id, old, nodes: Object.keys(next.nodes).length, profiles: Object.keys(next.profiles).length, who }, 'generation swapped');
    return { generation: next.id, changed: true, faults };
  }

  /** A directory that cannot be read is no reason to forget the machines that it named; a daemon that knows none yet shall not start. */
  function asFault(error: unknown): undefined {
    if (!(error instanceof AppError) || current === EMPTY_GENERATION) throw error;
    faults = [unreadable(error)];
    log.error({ err: error }, 'profiles cannot be read');
  }

  async function preview(source?: Source): Promise<{ readonly source?: Source; readonly compiled: Compiled }> {
    try {
      const files = source ?? (await read());
      return { source: files, compiled: await compile(files) };
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      return { compiled: { faults: [unreadable(error)] } };
    }
  }

  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work);
    last = turn.catch((error: unknown) => log.error({ err: error, why: lineOf(error) }, 'reload failed'));
    return turn;
  };

  return {
    current: () => current,
    source: () => from,
    preview: (source) => inTurn(() => preview(source)),
    faults: () => faults,
    start: () => inTurn(() => swap('start', before?.source)),
    reload: (who) => inTurn(() => swap(who)),
  };
}

function unreadable({ message, hint }: AppError): Fault {
  return { file: message, line: 1, column: 1, message: 'the profiles cannot be read', ...(hint ? { hint } : {}) };
}
