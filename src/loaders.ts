// The loader programs that we hand out, read into memory once at start: a request never waits for a disk, and names no file.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOfBytes, type Digest } from './digest.ts';
import { AppError, lineOf } from './errors.ts';

export interface Loaders {
  /** Those that were found, in the order of LOADERS. */
  readonly names: readonly string[];
  readonly digests: Readonly<Record<string, Digest>>;
  /** A Buffer on a SharedArrayBuffer, so that a thread reads it without a copy; nobody may write to it. */
  get(name: string): Uint8Array | undefined;
}

/** Debian's `ipxe` package has all of them; a BIOS machine cannot start without the first. */
const LOADERS = [
  { name: 'undionly.kpxe', required: true },
  { name: 'snponly.efi', required: false },
  { name: 'ipxe.efi', required: false },
] as const;

/**
 * Reads the loaders of one directory; a symbolic link there is followed, as the directory is the operator's own choice, and so are its links.
 * LOADER_MISSING as AppError when the required one is absent or any one cannot be read.
 */
export async function loadLoaders(dir: string): Promise<Loaders> {
  const found = new Map<string, Uint8Array>();
  for (const { name, required } of LOADERS) {
    const file = join(dir, name);
    try {
      found.set(name, shared(await readFile(file)));
    } catch (error) {
      const absent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (absent && !required) continue;
      throw new AppError(
        'LOADER_MISSING',
        absent ? `${file}: no such file` : `${file} cannot be read: ${lineOf(error)}`,
        "install Debian's package: apt install ipxe; or set loaders.dir in rackseed.yaml to the directory that holds the iPXE binaries",
        error,
      );
    }
  }
  return {
    names: [...found.keys()],
    digests: Object.fromEntries([...found].map(([name, bytes]) => [name, digestOfBytes(bytes)])),
    get: (name) => found.get(name),
  };
}

function shared(bytes: Uint8Array): Uint8Array {
  const copy = Buffer.from(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}
