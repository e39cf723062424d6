// What `rackseed loader add` takes: files, directories and FILE=NAME, each under the name that machines ask for, into the blob store and one record.
import { existsSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { BUILT_IN_SET, isLoaderSet, NO_LOADER_SET } from './boot/loader-set.ts';
import { AppError, lineOf } from './errors.ts';
import { isLoaderName, loaderFileOf, loadLoaders, readLoader, type LoaderFile } from './loaders.ts';
import { createBlobStore } from './store/blobs.ts';
import { addedSetNames, existsAlready, writeAddedSet, type AddedFile, type AddedSet } from './store/loader-sets.ts';

export interface AddLoaders {
  readonly stateDir: string;
  readonly name: string;
  /** Files, directories, and `FILE=NAME`. */
  readonly paths: readonly string[];
  readonly replace: boolean;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** What one file is added as. */
interface Source {
  readonly name: string;
  readonly from: string;
  readonly bytes: Uint8Array;
}

/**
 * Adds a whole set, or nothing of it that counts: without its record its blobs are nobody's. LOADER_INVALID as AppError when the name is none or taken, or what a
 * path leads to is no loader; STORE_UNUSABLE.
 */
export async function addLoaders({ stateDir, name, paths, replace, now }: AddLoaders): Promise<{ readonly set: AddedSet; readonly files: readonly LoaderFile[] }> {
  if (!isLoaderSet(name) || name === BUILT_IN_SET) throw new AppError('LOADER_INVALID', `${name}: ${name === BUILT_IN_SET ? 'this is the built-in set' : NO_LOADER_SET}`, 'such as ipxe-2.0');
  // Before much is read; writeAddedSet is the one that decides.
  if (!replace && (await addedSetNames(stateDir)).includes(name)) throw existsAlready(name);
  const sources = (await Promise.all(paths.map(sourcesOf))).flat();
  const twice = sources.find((source, at) => sources.findIndex((other) => other.name === source.name) < at);
  if (twice) throw new AppError('LOADER_INVALID', `two files would be ${twice.name}: ${sources.filter((source) => source.name === twice.name).map(({ from }) => from).join(' and ')}`, 'give one of them another name: FILE=NAME');
  const blobs = createBlobStore(stateDir);
  const files: AddedFile[] = [];
  for (const { name: as, from, bytes } of sources) {
    const { runsOn, version, size, digest } = loaderFileOf(as, bytes);
    await blobs.add(Readable.from([bytes]), { digest, size });
    files.push({ name: as, size, digest, version, runsOn, from });
  }
  const set: AddedSet = { name, addedAt: now, files };
  await writeAddedSet(stateDir, set, replace);
  return { set, files: sources.map(({ name: as, bytes }) => loaderFileOf(as, bytes)) };
}

const UNREADABLE = 'name a file or directory that this user can read';

async function sourcesOf(path: string): Promise<Source[]> {
  const [, file, name] = existsSync(path) ? [] : (/^(.+)=([^=/]+)$/.exec(path) ?? []);
  if (file !== undefined && name !== undefined) return [await sourceOf(file, name)];
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) throw new AppError('LOADER_INVALID', `${path}: no such file`, UNREADABLE);
  if (found.isDirectory()) return directory(path);
  return [await sourceOf(path, nameFor(basename(path)))];
}

async function sourceOf(file: string, name: string): Promise<Source> {
  if (!isLoaderName(name)) throw new AppError('LOADER_INVALID', `${name} cannot be the name of a loader`, 'it ends in .efi, .kpxe or .pxe, is not uki.efi, and has letters, digits and . _ - only: FILE=NAME says another one');
  const bytes = await readLoader(file).catch((error: unknown) => Promise.reject(new AppError('LOADER_INVALID', `${file}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, UNREADABLE, error)));
  if (bytes.length === 0) throw new AppError('LOADER_INVALID', `${file}: the file is empty`);
  return { name, from: resolve(file), bytes };
}

/** All loaders of a directory, as loadLoaders finds them. */
async function directory(dir: string): Promise<Source[]> {
  const { names, get } = await loadLoaders(dir, { required: null });
  if (names.length === 0) throw new AppError('LOADER_INVALID', `${dir} has no loader`, 'a loader ends in .efi, .efi.signed, .kpxe or .pxe; of a package it is often in usr/lib/ipxe or usr/lib/grub');
  // Debian's grubx64.efi.signed beside grubnetx64.efi.signed is the one for disks, which finds nothing over a network.
  const network = new Set(names.filter((name) => GRUB_NET.test(name)).map(nameFor));
  return names.filter((name) => GRUB_NET.test(name) || !network.has(nameFor(name))).map((name) => ({ name: nameFor(name), from: resolve(dir, name), bytes: get(name)! }));
}

/** Of Debian's signed packages. Its shim asks for `grubx64.efi`, whatever Debian calls the one for networks; for IA32 Debian has no shim, and firmware is told the name. */
const GRUB_NET = /^grubnet(x64|aa64)\.efi(\.signed)?$/;

function nameFor(file: string): string {
  return file.replace(/\.efi\.signed$/, '.efi').replace(/^grubnet(x64|aa64)\.efi$/, 'grub$1.efi');
}
