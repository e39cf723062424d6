// All loader sets of a daemon: the built-in one, those of rackseed.yaml and those that were added. Read whole; nothing of it changes afterwards.
import { BUILT_IN_SET, servedName, type ChosenSet } from './boot/loader-set.ts';
import { nearest } from './config/faults.ts';
import type { LoaderNames } from './config/resolver.ts';
import { AppError, lineOf } from './errors.ts';
import { loaderSetOf, loadLoaders, type LoaderSet, type ServedLoaders } from './loaders.ts';
import { addedSetNames, readAddedFile, readAddedSet } from './store/loader-sets.ts';

export interface LoaderSources {
  /** The directory of the built-in set. */
  readonly dir: string;
  /** Directories by the names of their sets. */
  readonly sets: Readonly<Record<string, string>>;
  /** The set of machines for which none is named. */
  readonly default: string;
  /** Where sets were added. */
  readonly stateDir: string;
}

export interface NamedSet extends LoaderSet {
  readonly name: string;
  /** Its directory; absent: it was added. */
  readonly dir?: string;
  /** Milliseconds since 1970, of one that was added. */
  readonly addedAt?: number;
}

/** What was left out, and why. `rotten`: it is not what was added. */
export interface LoaderTrouble {
  readonly set: string;
  readonly file?: string;
  readonly why: string;
  readonly rotten?: true;
}

export interface LoaderSets {
  readonly default: string;
  /** The built-in one first, the others by name. */
  readonly sets: readonly NamedSet[];
  readonly troubles: readonly LoaderTrouble[];
}

/** Of all sets together: they stay in memory. */
export const MOST_LOADER_BYTES = 128 << 20;

/**
 * Reads all of them. What is wrong with one that is not the built-in one is a trouble, and the set or file is left out. LOADER_MISSING as AppError where the
 * built-in one cannot be read, CONFIG_INVALID where the default is none of them.
 */
export async function readLoaderSets(sources: LoaderSources): Promise<LoaderSets> {
  const troubles: LoaderTrouble[] = [];
  const sets: NamedSet[] = [{ ...(await loadLoaders(sources.dir)), name: BUILT_IN_SET, dir: sources.dir }];
  const added = await addedSetNames(sources.stateDir);
  for (const name of [...new Set([...Object.keys(sources.sets), ...added])].sort()) {
    try {
      const dir = sources.sets[name];
      if (dir !== undefined && added.includes(name)) troubles.push({ set: name, why: 'one of that name was added, and loaders.sets names another: that one counts' });
      const set = dir === undefined ? await addedSet(sources.stateDir, name, troubles) : { ...(await loadLoaders(dir, { required: null })), name, dir };
      if (set.names.length === 0) troubles.push({ set: name, why: 'it has no loader' });
      sets.push(set);
    } catch (error) {
      troubles.push({ set: name, why: error instanceof AppError ? error.message : lineOf(error) });
    }
  }
  if (!sets.some(({ name }) => name === sources.default)) {
    const near = nearest(sources.default, sets.map(({ name }) => name));
    throw new AppError('CONFIG_INVALID', `loaders.default is ${sources.default}, and there is no such loader set${troubleOf(sources.default, troubles)}`, near ? `did you mean ${near}?` : `add it: rackseed loader add ${sources.default} PATH`);
  }
  return { default: sources.default, sets: bounded(sets, troubles), troubles };
}

async function addedSet(stateDir: string, name: string, troubles: LoaderTrouble[]): Promise<NamedSet> {
  const { addedAt, files } = await readAddedSet(stateDir, name);
  const found = new Map<string, Uint8Array>();
  for (const file of files) {
    try {
      found.set(file.name, await readAddedFile(stateDir, file));
    } catch (error) {
      troubles.push({ set: name, file: file.name, why: lineOf(error), rotten: true });
    }
  }
  return { ...loaderSetOf(found), name, addedAt };
}

/** The sets as far as they fit, the built-in one first; what does not is a trouble. */
function bounded(sets: readonly NamedSet[], troubles: LoaderTrouble[]): NamedSet[] {
  let room = MOST_LOADER_BYTES;
  return sets.filter((set) => {
    const size = set.files.reduce((sum, file) => sum + file.size, 0);
    const fits = set.name === BUILT_IN_SET || size <= room;
    if (fits) room -= size;
    else troubles.push({ set: set.name, why: `${size} bytes, and all loader sets together may have ${MOST_LOADER_BYTES}` });
    return fits;
  });
}

function troubleOf(name: string, troubles: readonly LoaderTrouble[]): string {
  const trouble = troubles.find(({ set }) => set === name);
  return trouble ? `: ${trouble.why}` : '';
}

/** What one machine's decision goes by; a set that is not there has no loader. */
export function chosenSet(sets: LoaderSets, name = sets.default): ChosenSet {
  const set = sets.sets.find((one) => one.name === name);
  return { ...(name === BUILT_IN_SET ? {} : { loaderSet: name }), loaders: set?.files ?? [] };
}

export function loaderNames({ sets, default: defaultSet }: LoaderSets): LoaderNames {
  return { default: defaultSet, sets: new Map(sets.map(({ name, names }) => [name, names])) };
}

/** All files by the names that machines ask for. */
export function servedBy({ sets, default: defaultSet }: LoaderSets): ServedLoaders {
  const files = sets.flatMap(({ name: set, files: ofSet, get }) => ofSet.map(({ name, digest, version }) => ({ name: servedName(set, name), digest, version, bytes: get(name)! })));
  return { ...(defaultSet === BUILT_IN_SET ? {} : { defaultSet }), files };
}

export function troubleLine({ set, file, why }: LoaderTrouble): string {
  return `loader set ${set}${file === undefined ? '' : `: ${file}`}: ${why}`;
}
