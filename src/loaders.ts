// The loader programs that we hand out, in memory: a request never waits for a disk, and names no file. And how a directory of them is read.
import { constants } from 'node:fs';
import { lstat, open, readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LOADER_FILE, LOADER_TABLE, loaderVersion, runsOn, type LoaderProgram } from './boot/loader.ts';
import { namesFor } from './boot/loader-set.ts';
import type { Node } from './boot/node.ts';
import { UKI_FILE } from './boot/urls.ts';
import { digestOfBytes, type Digest } from './digest.ts';
import { AppError, lineOf } from './errors.ts';

export interface Loaders {
  /** As machines ask for them: of each set the files of the loader table in its order, then the rest by name. */
  readonly names: readonly string[];
  readonly digests: Readonly<Record<string, Digest>>;
  readonly versions: Readonly<Record<string, string>>;
  /** The set of machines for which none is named; absent: the built-in one. */
  readonly defaultSet?: string;
  /** A Buffer on a SharedArrayBuffer, so that a thread reads it without a copy; nobody may write to it. */
  get(name: string): Uint8Array | undefined;
}

/** All of a `Loaders`, to be given to a thread: a structured clone shares the memory. */
export interface ServedLoaders {
  readonly defaultSet?: string;
  readonly files: readonly { readonly name: string; readonly digest: Digest; readonly version: string; readonly bytes: Uint8Array }[];
}

/** Loaders whose content can change: what was got from it before stays as it was. */
export interface Shelf extends Loaders {
  put(served: ServedLoaders): void;
}

/** One loader, as it is written down with the boot that got it. */
export interface FoundLoader {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly digest: Digest;
  readonly version: string;
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
/** Firmware loads such a file into memory whole; a bigger one is none. (The benchmark of TFTP has one of 32 MiB, with more blocks than there are numbers.) */
const MOST_BYTES = 32 << 20;
const MOST_LINKS = 8;

export function createShelf(first: ServedLoaders): Shelf {
  let files = new Map<string, Buffer>();
  const shelf = {
    put({ defaultSet, files: served }: ServedLoaders): void {
      // As Buffers, which fastify sends as they are, whatever memory they lie on; shared memory that is no Buffer it does not know.
      files = new Map(served.map(({ name, bytes }) => [name, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)]));
      Object.assign(shelf, { names: [...files.keys()], digests: Object.fromEntries(served.map(({ name, digest }) => [name, digest])), versions: Object.fromEntries(served.map(({ name, version }) => [name, version])), defaultSet });
    },
    get: (name: string) => files.get(name),
  } as unknown as Shelf;
  shelf.put(first);
  return shelf;
}

export function servedOf({ names, digests, versions, defaultSet, get }: Loaders): ServedLoaders {
  return { ...(defaultSet === undefined ? {} : { defaultSet }), files: names.map((name) => ({ name, digest: digests[name]!, version: versions[name]!, bytes: get(name)! })) };
}

/** What `node`, or a machine that is none, gets for a name that it asks for. */
export function findLoader(loaders: Loaders, asked: string, node: Pick<Node, 'loaders'> | undefined): FoundLoader | undefined {
  const name = namesFor(asked, node, loaders.defaultSet).find((one) => loaders.get(one) !== undefined);
  return name === undefined ? undefined : { name, bytes: loaders.get(name)!, digest: loaders.digests[name]!, version: loaders.versions[name]! };
}

/**
 * Reads the loaders of one directory: those of the table, and every other regular file with a loader's ending. A symbolic link under a name of the
 * table is followed, as the directory is the operator's own choice, and so are its links; under another name it could be anything, and is passed over.
 * LOADER_MISSING as AppError when `required` is absent, the directory cannot be read, or one of the table cannot.
 */
export async function loadLoaders(dir: string, { required = REQUIRED }: { readonly required?: string | null } = {}): Promise<LoaderSet> {
  const found = new Map<string, Uint8Array>();
  const root = unpackedRoot(dir);
  for (const name of KNOWN) {
    const file = join(dir, name);
    try {
      found.set(name, await readLoader(root === undefined ? file : await inRoot(file, root)));
    } catch (error) {
      const absent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (absent && name !== required) continue;
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
    const bytes = await readLoader(join(dir, name), constants.O_NOFOLLOW).catch(() => undefined);
    if (bytes) found.set(name, bytes);
  }
  return loaderSetOf(found);
}

/** What the bytes say of themselves. */
export function loaderSetOf(found: ReadonlyMap<string, Uint8Array>): LoaderSet {
  const files = [...found].map(([name, bytes]) => loaderFileOf(name, bytes));
  const by = <T>(of: (file: LoaderFile) => T): Record<string, T> => Object.fromEntries(files.map((file) => [file.name, of(file)]));
  return { names: files.map(({ name }) => name), digests: by(({ digest }) => digest), versions: by(({ version }) => version), files, get: (name) => found.get(name) };
}

export function loaderFileOf(name: string, bytes: Uint8Array): LoaderFile {
  return { name, runsOn: runsOn(name, bytes), size: bytes.length, version: loaderVersion(bytes), digest: digestOfBytes(bytes) };
}

/** Whether a set can have a file of that name. One is taken: each node's own UKI. */
export function isLoaderName(name: string): boolean {
  return LOADER_FILE.test(name) && name !== UKI_FILE;
}

async function otherNames(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((error: unknown) => Promise.reject(new AppError('LOADER_MISSING', `${dir} cannot be read: ${lineOf(error)}`, 'name a directory of loaders', error)));
  return entries.filter((entry) => entry.isFile() && isLoaderName(entry.name) && !KNOWN.includes(entry.name)).map(({ name }) => name).sort();
}

/** The bytes of a regular file of at most 32 MiB, shared. A FIFO in its place would else hold up the start for ever. */
export async function readLoader(file: string, flags = 0): Promise<Uint8Array> {
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
