// The loader programs that we hand out, read into memory once at start: a request never waits for a disk, and names no file.
import { constants } from 'node:fs';
import { lstat, open, readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LOADER_FILE, LOADER_TABLE, loaderVersion, runsOn, type LoaderProgram } from './boot/loader.ts';
import { digestOfBytes, type Digest } from './digest.ts';
import { AppError, lineOf } from './errors.ts';

export interface Loaders {
  /** Those that were found: the ones of the loader table in its order, then the rest by name. */
  readonly names: readonly string[];
  readonly digests: Readonly<Record<string, Digest>>;
  /** A Buffer on a SharedArrayBuffer, so that a thread reads it without a copy; nobody may write to it. */
  get(name: string): Uint8Array | undefined;
}

export interface LoaderFile extends LoaderProgram {
  /** Bytes. */
  readonly size: number;
  /** iPXE's own, or `unknown`. */
  readonly version: string;
  readonly digest: Digest;
}

/** All that is known of a directory of loaders. */
export interface LoaderSet extends Loaders {
  readonly files: readonly LoaderFile[];
}

/** Debian's `ipxe` package has it; a BIOS machine cannot start without. */
const REQUIRED = 'undionly.kpxe';
/** The names of the table; a link under one of them is followed. */
const KNOWN: readonly string[] = [...new Set(LOADER_TABLE.flatMap(({ files }) => Object.values(files).flat()))];
/** Firmware loads such a file into memory whole; a bigger one is none. */
const MOST_BYTES = 16 << 20;
const MOST_LINKS = 8;

/**
 * Reads the loaders of one directory: those of the table, and every other regular file with a loader's ending. A symbolic link under a name of the
 * table is followed, as the directory is the operator's own choice, and so are its links; under another name it could be anything, and is passed over.
 * LOADER_MISSING as AppError when the required one is absent or one of the table cannot be read.
 */
export async function loadLoaders(dir: string): Promise<LoaderSet> {
  const found = new Map<string, Uint8Array>();
  const root = unpackedRoot(dir);
  for (const name of KNOWN) {
    const file = join(dir, name);
    try {
      found.set(name, await read(root === undefined ? file : await inRoot(file, root), 0));
    } catch (error) {
      const absent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (absent && name !== REQUIRED) continue;
      throw new AppError(
        'LOADER_MISSING',
        absent ? `${file}: no such file` : `${file} cannot be read: ${lineOf(error)}`,
        "install Debian's package: apt install ipxe; or set loaders.dir in rackseed.yaml to the directory that holds the iPXE binaries",
        error,
      );
    }
  }
  for (const name of await otherNames(dir)) {
    // Whatever is wrong with it, nothing needs it: a profile that names it gets a fault.
    const bytes = await read(join(dir, name), constants.O_NOFOLLOW).catch(() => undefined);
    if (bytes) found.set(name, bytes);
  }
  const files = [...found].map(([name, bytes]): LoaderFile => ({ name, runsOn: runsOn(name, bytes), size: bytes.length, version: loaderVersion(bytes), digest: digestOfBytes(bytes) }));
  return { names: files.map(({ name }) => name), digests: Object.fromEntries(files.map(({ name, digest }) => [name, digest])), files, get: (name) => found.get(name) };
}

async function otherNames(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true });
  return entries.filter((entry) => entry.isFile() && LOADER_FILE.test(entry.name) && !KNOWN.includes(entry.name)).map(({ name }) => name).sort();
}

/** A FIFO in its place would else hold up the start for ever. */
async function read(file: string, flags: number): Promise<Uint8Array> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK | flags);
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw new Error('not a regular file');
    if (stat.size > MOST_BYTES) throw new Error(`${stat.size} bytes, a loader has at most ${MOST_BYTES}`);
    return shared(await handle.readFile());
  } finally {
    await handle.close();
  }
}

/** Where a package was unpacked beside the system: `/x` of `/x/usr/lib/ipxe`. */
function unpackedRoot(dir: string): string | undefined {
  return /^(\/.+)\/usr\/lib\/ipxe$/.exec(resolve(dir))?.[1];
}

/** Debian 12's ipxe.efi is a link to /boot/ipxe.efi: of an unpacked package that is its own file and never the system's, whatever version that has. */
async function inRoot(file: string, root: string, links = MOST_LINKS): Promise<string> {
  if (!(await lstat(file)).isSymbolicLink()) {
    // By `..`, or a directory that is a link.
    if (!(await realpath(file)).startsWith(`${await realpath(root)}/`)) throw new Error(`a link leads out of ${root}`);
    return file;
  }
  if (links === 0) throw new Error('too many symbolic links');
  const to = await readlink(file);
  return inRoot(to.startsWith('/') ? join(root, to) : join(dirname(file), to), root, links - 1);
}

function shared(bytes: Uint8Array): Uint8Array {
  const copy = Buffer.from(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}
