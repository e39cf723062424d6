// `rackseed loader list`: the loader set as the daemon would read it now, and which firmware gets what of it.
import { chooseLoader, LOADER_TABLE, type LoaderRow } from '../boot/loader.ts';
import { readSettings } from '../config/settings.ts';
import { loadLoaders, type LoaderFile } from '../loaders.ts';
import { bytes, render, type Column, type Format } from './output.ts';

export interface LoaderOptions {
  readonly config?: string;
  /** In place of the settings' `loaders.dir`. */
  readonly dir?: string;
  readonly output: Format;
}

/** A file of the set; `gets`: machines that are given it unasked, `byChoice`: those that could run it, if their profile asked for it. */
interface Listed extends LoaderFile {
  readonly gets: readonly string[];
  readonly byChoice: readonly string[];
}

/** Reads the directory itself, so that it works before the daemon runs; LOADER_MISSING and CONFIG_* as AppError. */
export async function loaderList({ config, dir, output }: LoaderOptions): Promise<string> {
  const { files } = await loadLoaders(dir ?? readSettings(config).loadersDir);
  const given = (row: LoaderRow, wish?: string): string | undefined => {
    const chosen = chooseLoader({ firmware: row.firmware, ...(row.arch ? { arch: row.arch } : {}) }, files, wish);
    return 'file' in chosen ? chosen.file : undefined;
  };
  const listed = files.map((file): Listed => ({
    ...file,
    gets: LOADER_TABLE.filter((row) => given(row) === file.name).map(({ machine }) => machine),
    byChoice: LOADER_TABLE.filter((row) => given(row) !== file.name && given(row, file.name) === file.name).map(({ machine }) => machine),
  }));
  return render(output, { loaders: listed }, listed, COLUMNS);
}

const COLUMNS: readonly Column<Listed>[] = [
  { title: 'NAME', of: ({ name }) => name },
  { title: 'SIZE', of: ({ size }) => bytes(size) },
  { title: 'VERSION', of: ({ version }) => version },
  { title: 'SHA256', of: ({ digest }) => digest.slice('sha256:'.length, 'sha256:'.length + 12) },
  { title: 'RUNS ON', of: ({ runsOn }) => runsOn },
  { title: 'GIVEN TO', of: ({ gets }) => gets.join('; ') },
  { title: 'BY CHOICE', of: ({ byChoice }) => byChoice.join('; '), wide: true },
];
