// Loader sets that were added: `<stateDir>/loaders/NAME.json` names the files of a set, whose bytes are blobs. So a set is there whole or not at all.
import { randomBytes } from 'node:crypto';
import { chmodSync, constants, mkdirSync } from 'node:fs';
import { link, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isLoaderSet } from '../boot/loader-set.ts';
import { digestOfBytes, isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { isLoaderName, readLoader } from '../loaders.ts';
import { blobFile, syncDirectory } from './blobs.ts';

export interface AddedFile {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly digest: Digest;
  readonly version: string;
  readonly runsOn: string;
  /** The path that it was read from. */
  readonly from: string;
}

export interface AddedSet {
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly addedAt: number;
  readonly files: readonly AddedFile[];
}

const FORMAT = 1;
const schema = z.object({
  format: z.literal(FORMAT),
  addedAt: z.number(),
  files: z.array(z.object({ name: z.string().refine(isLoaderName), size: z.number(), digest: z.custom<Digest>((value) => typeof value === 'string' && isDigest(value)), version: z.string(), runsOn: z.string(), from: z.string() })),
});

/** Names of the sets that were added, in order. */
export async function addedSetNames(stateDir: string): Promise<string[]> {
  const entries = await readdir(dirOf(stateDir)).catch((error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? [] : Promise.reject(unusable(stateDir, error))));
  return entries.filter((entry) => entry.endsWith('.json')).map((entry) => entry.slice(0, -'.json'.length)).filter(isLoaderSet).sort();
}

/** Throws where there is none of that name, or what stands there is no loader set. */
export async function readAddedSet(stateDir: string, name: string): Promise<AddedSet> {
  const { addedAt, files } = schema.parse(JSON.parse(await readFile(fileOf(stateDir, name), 'utf8')));
  return { name, addedAt, files };
}

/** The bytes that were added under that name; throws where they are others, or gone. */
export async function readAddedFile(stateDir: string, { digest }: AddedFile): Promise<Uint8Array> {
  const bytes = await readLoader(blobFile(stateDir, digest), constants.O_NOFOLLOW);
  if (digestOfBytes(bytes) !== digest) throw new Error(`its bytes are not those that were added (${digest})`);
  return bytes;
}

/** Durable when the promise resolves; its files are in the blob store by then. LOADER_INVALID where there is one of that name already, unless it is to be replaced. */
export async function writeAddedSet(stateDir: string, { name, addedAt, files }: AddedSet, replace: boolean): Promise<void> {
  const dir = dirOf(stateDir);
  const file = fileOf(stateDir, name);
  const temporary = join(dir, `.new-${randomBytes(6).toString('hex')}`);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 });
    const output = await open(temporary, 'wx', 0o644);
    try {
      await output.writeFile(`${JSON.stringify({ format: FORMAT, addedAt, files }, null, 1)}\n`);
      await output.sync();
    } finally {
      await output.close();
    }
    // The daemon's user reads what root added, whatever root's umask is.
    chmodSync(temporary, 0o644);
    // Two that add one name at once: the first link wins.
    await (replace ? rename(temporary, file) : link(temporary, file));
    await syncDirectory(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw existsAlready(name);
    throw unusable(stateDir, error);
  } finally {
    await rm(temporary, { force: true });
  }
}

export function existsAlready(name: string): AppError {
  return new AppError('LOADER_INVALID', `there is a loader set ${name} already`, 'choose another name, or --replace it; machines get the new files after rackseed reload');
}

function dirOf(stateDir: string): string {
  return join(stateDir, 'loaders');
}

/** A path is never made of foreign text. */
function fileOf(stateDir: string, name: string): string {
  if (!isLoaderSet(name)) throw new AppError('BUG', 'a loader set was asked for by something that is no name of one');
  return join(dirOf(stateDir), `${name}.json`);
}

function unusable(stateDir: string, error: unknown): AppError {
  return new AppError('STORE_UNUSABLE', `${dirOf(stateDir)}: ${lineOf(error)}`, 'check that this user may write there and that the disk works', error);
}
