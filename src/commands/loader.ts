// `rackseed loader list|add`: the loader sets as they are on this disk, and which firmware gets what of each; and new ones.
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { BUILT_IN_SET } from '../boot/loader-set.ts';
import { chooseLoader, LOADER_TABLE, type LoaderRow } from '../boot/loader.ts';
import { readSettings } from '../config/settings.ts';
import { AppError } from '../errors.ts';
import { readLoaderSets, troubleLine, type LoaderSets, type NamedSet } from '../loader-sets.ts';
import { loadLoaders, type LoaderFile } from '../loaders.ts';
import { createClient, type ClientOptions } from './client.ts';
import { bytes, render, type Column, type Format } from './output.ts';

export interface LoaderListOptions extends ClientOptions {
  /** This directory alone, whatever the settings say. */
  readonly dir?: string;
  readonly output: Format;
}

/** `reload`: the daemon hands out something else, or nothing, until it reads them again; `unknown`: it does not answer. */
type Served = 'yes' | 'after reload' | 'until reload' | 'unknown';

/** A file of a set; `gets`: machines that are given it unasked, `byChoice`: those that could run it, if their profile asked for it. */
interface Listed extends LoaderFile {
  readonly set: string;
  readonly served?: Served;
  readonly gets: readonly string[];
  readonly byChoice: readonly string[];
}

/** What the API tells of the sets that are handed out. */
type Running = Pick<LoaderSets, 'default' | 'troubles'> & { readonly sets: readonly Pick<NamedSet, 'name' | 'dir' | 'addedAt' | 'files'>[] };

/** Reads the disk itself, so that it works before the daemon runs, and asks a daemon that runs what it has read. LOADER_MISSING and CONFIG_* as AppError. */
export async function loaderList({ dir, output, ...client }: LoaderListOptions): Promise<string> {
  if (dir !== undefined) {
    const { files } = await loadLoaders(dir, { required: null });
    const listed = files.map((file): Listed => ({ set: '-', ...file, ...givenTo(file, files) }));
    return render(output, { loaders: listed }, listed, COLUMNS.filter(({ title }) => title !== 'SET' && title !== 'SERVED'));
  }
  const settings = readSettings(client.config);
  const here = await readLoaderSets({ ...settings.loaders, stateDir: settings.stateDir });
  const running = await createClient(client).get<Running>('/api/loaders').catch(() => undefined);
  const listed = here.sets.flatMap((set) => set.files.map((file): Listed => ({ set: set.name, ...file, served: running ? (hasFile(running.sets, set.name, file) ? 'yes' : 'after reload') : 'unknown', ...givenTo(file, set.files) })));
  const gone = (running?.sets ?? []).flatMap(({ name: set, files }) => files.filter((file) => !hasFile(here.sets, set, file)).map((file): Listed => ({ set, ...file, served: 'until reload', ...givenTo(file, files) })));
  const all = [...listed, ...gone].sort((a, b) => order(a.set, b.set));
  const sets = await Promise.all(here.sets.map(async (set) => ({ name: set.name, from: await originOf(set), isDefault: set.name === here.default })));
  const table = render(output, { default: here.default, daemon: running ? 'running' : 'unreachable', sets, loaders: all, troubles: here.troubles }, all, COLUMNS);
  if (output === 'json' || output === 'yaml') return table;
  const lines = [
    ...sets.map(({ name, from, isDefault }) => `${name}: ${from}${isDefault ? ', for machines whose profile names no set' : ''}`),
    ...here.troubles.map((trouble) => `LEFT OUT ${troubleLine(trouble)}`),
    ...(running && all.some(({ served }) => served !== 'yes') ? ['the daemon does not have all of this yet: rackseed reload'] : []),
    ...(running ? [] : ['the daemon does not answer: what it hands out is not known']),
  ];
  return `${table}\n${lines.map((line) => `${line.replace(/[\x00-\x1f\x7f-\x9f]/g, '?')}\n`).join('')}`;
}

const COLUMNS: readonly Column<Listed>[] = [
  { title: 'SET', of: ({ set }) => set },
  { title: 'NAME', of: ({ name }) => name },
  { title: 'SIZE', of: ({ size }) => bytes(size) },
  { title: 'VERSION', of: ({ version }) => version },
  { title: 'SHA256', of: ({ digest }) => digest.slice('sha256:'.length, 'sha256:'.length + 12) },
  { title: 'RUNS ON', of: ({ runsOn }) => runsOn },
  { title: 'SERVED', of: ({ served }) => served },
  { title: 'GIVEN TO', of: ({ gets }) => gets.join('; ') },
  { title: 'BY CHOICE', of: ({ byChoice }) => byChoice.join('; '), wide: true },
];

/** Rows of the loader table, by what this set would answer to each. */
function givenTo(file: LoaderFile, set: readonly LoaderFile[]): Pick<Listed, 'gets' | 'byChoice'> {
  const given = (row: LoaderRow, wish?: string): string | undefined => {
    const chosen = chooseLoader({ firmware: row.firmware, ...(row.arch ? { arch: row.arch } : {}) }, set, wish);
    return 'file' in chosen ? chosen.file : undefined;
  };
  return {
    gets: LOADER_TABLE.filter((row) => given(row) === file.name).map(({ machine }) => machine),
    byChoice: LOADER_TABLE.filter((row) => given(row) !== file.name && given(row, file.name) === file.name).map(({ machine }) => machine),
  };
}

function hasFile(sets: Running['sets'], set: string, { name, digest }: LoaderFile): boolean {
  return sets.some((one) => one.name === set && one.files.some((file) => file.name === name && file.digest === digest));
}

function order(a: string, b: string): number {
  return a === b ? 0 : a === BUILT_IN_SET ? -1 : b === BUILT_IN_SET ? 1 : a < b ? -1 : 1;
}

async function originOf({ dir, addedAt }: NamedSet): Promise<string> {
  if (dir !== undefined) return `${dir}, ${await packageOf(dir)}`;
  return `added ${new Date(addedAt ?? 0).toISOString().slice(0, 16).replace('T', ' ')} UTC`;
}

/** The Debian package that owns the directory, with its version, where dpkg knows one. */
async function packageOf(dir: string): Promise<string> {
  const run = async (...args: string[]): Promise<string> => (await promisify(execFile)('dpkg-query', args)).stdout;
  try {
    // Of the file: a directory may be several packages'.
    const owner = /^([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)?: /.exec(await run('-S', join(dir, 'undionly.kpxe')))?.[1];
    if (owner !== undefined) return `package ${owner} ${(await run('-W', '-f', '${Version}', owner)).trim()}`;
  } catch {
    // No dpkg, or nobody's directory.
  }
  return 'package unknown';
}

export interface LoaderAddOptions {
  readonly config?: string;
  readonly replace?: boolean;
  readonly output: Format;
}

/** Adds a set; it is handed out once the daemon was told to read it. LOADER_INVALID, STORE_UNUSABLE and CONFIG_* as AppError. */
export async function loaderAdd(name: string, paths: readonly string[], { config, replace = false, output }: LoaderAddOptions): Promise<string> {
  const { stateDir, loaders } = readSettings(config);
  if (Object.hasOwn(loaders.sets, name)) throw new AppError('LOADER_INVALID', `${name} is a directory of loaders.sets in rackseed.yaml`, 'choose another name');
  const { addLoaders } = await import('../loader-files.ts');
  const { set, files } = await addLoaders({ stateDir, name, paths, replace, now: Date.now() });
  const listed = files.map((file): Listed => ({ set: name, ...file, ...givenTo(file, files) }));
  const table = render(output, set, listed, COLUMNS.filter(({ title }) => title !== 'SERVED'));
  return output === 'json' || output === 'yaml' ? table : `${table}\n${replace ? 'machines get it' : `profiles can name it (loaders: ${name})`} after: rackseed reload\n`;
}
