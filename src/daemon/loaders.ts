// The loader sets of the daemon: read at its start and with each generation, and handed out from when that generation is taken.
import type { ChosenSet } from '../boot/loader-set.ts';
import type { LoaderNames } from '../config/resolver.ts';
import { AppError, type Fault } from '../errors.ts';
import { chosenSet, loaderNames, readLoaderSets, servedBy, troubleLine, type LoaderSets, type LoaderSources } from '../loader-sets.ts';
import { createShelf, type Shelf } from '../loaders.ts';
import type { Log } from '../log.ts';
import { LOADER_LEFT_OUT, type EventStore } from '../store/events.ts';

export interface LoaderParts extends LoaderSources {
  /** The settings, for a fault of them, and where `default` stands there. */
  readonly file: string;
  readonly at: { readonly line: number; readonly column: number };
  readonly events: Pick<EventStore, 'add'>;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface ServedSets {
  /** What is handed out now. */
  readonly shelf: Shelf;
  current(): LoaderSets;
  /** What a decision goes by now. */
  of(set: string | undefined): ChosenSet;
  /** Reads them again for the generation that is compiled next; what is handed out stays. A fault where none can be had. */
  readAgain(): Promise<readonly Fault[]>;
  /** As they were read last: what a generation is held against. */
  names(): LoaderNames;
  /** What was read last is handed out from now on; true where that is something else than before. */
  take(): boolean;
}

/** LOADER_MISSING and CONFIG_INVALID as AppError where the daemon cannot start with them. */
export async function startLoaders(parts: LoaderParts): Promise<ServedSets> {
  const { log, events, now } = parts;
  let next = await readLoaderSets(parts);
  let current = next;
  const shelf = createShelf(servedBy(current));
  let told = new Set<string>();

  function tell(): void {
    const lines = new Map(current.troubles.map((trouble) => [troubleLine(trouble), trouble]));
    for (const [line, { set, file, why, rotten }] of lines) {
      if (told.has(line)) continue;
      log.error({ set, file, why }, 'a loader is left out');
      if (rotten) void events.add({ at: now(), kind: LOADER_LEFT_OUT, detail: { set, file, why } }).catch((error: unknown) => log.error({ err: error }, 'event not recorded'));
    }
    told = new Set(lines.keys());
  }
  tell();

  return {
    shelf,
    current: () => current,
    of: (set) => chosenSet(current, set),
    async readAgain() {
      try {
        next = await readLoaderSets(parts);
        return [];
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        return [{ file: parts.file, ...parts.at, message: error.message, ...(error.hint ? { hint: error.hint } : {}) }];
      }
    },
    names: () => loaderNames(next),
    take() {
      const isOther = fingerprint(next) !== fingerprint(current);
      current = next;
      tell();
      if (!isOther) return false;
      shelf.put(servedBy(current));
      log.info({ sets: current.sets.map(({ name, names }) => `${name} (${names.length})`) }, 'other loaders are handed out');
      return true;
    },
  };
}

function fingerprint({ sets, default: defaultSet }: LoaderSets): string {
  return JSON.stringify([defaultSet, sets.map(({ name, digests }) => [name, digests])]);
}
