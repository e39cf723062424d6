// What makes two builds different: packages and sizes by their manifests, files by the lists of their squashfs.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { AppError } from '../errors.ts';
import { createBlobStore } from '../store/blobs.ts';
import { imageFiles, type ImageManifest } from './manifest.ts';

export interface Change<Value> {
  /** A package's name, a path, a file of the image. */
  readonly what: string;
  /** Absent: added. */
  readonly before?: Value;
  /** Absent: removed. */
  readonly after?: Value;
}

/** A file as the squashfs lists it. */
export interface ListedFile {
  /** `-rw-r--r--`, as ls writes it. */
  readonly mode: string;
  /** `0/0`: user and group. */
  readonly owner: string;
  /** Bytes of a regular file. */
  readonly size?: number;
  /** Of a symbolic link. */
  readonly target?: string;
}

export interface ImageDiff {
  readonly packages: readonly Change<string>[];
  /** Directories only where they came, went, or have another mode or owner. Absent: nobody looked. */
  readonly files?: readonly Change<ListedFile>[];
  /** Kernel, initrds, squashfs, in bytes; also those that are equal. */
  readonly sizes: readonly (Change<number> & { readonly same: boolean })[];
}

/**
 * `withFiles`: reads both squashfs, without unpacking. PACKAGES_MISSING without unsquashfs, BLOB_UNKNOWN when a squashfs is gone or cannot be read.
 */
export async function diffImages(stateDir: string, a: ImageManifest, b: ImageManifest, withFiles = true): Promise<ImageDiff> {
  const diff = { packages: changes(packagesOf(a), packagesOf(b)), sizes: sizesOf(a, b) };
  if (!withFiles) return diff;
  if (a.squashfs.digest === b.squashfs.digest) return { ...diff, files: [] };
  const before = await listSquashfs(stateDir, a);
  return { ...diff, files: changes(before, await listSquashfs(stateDir, b)) };
}

/** `name version`; of several versions of one name all. */
function packagesOf({ packages }: ImageManifest): Map<string, string> {
  const found = new Map<string, string>();
  for (const entry of packages) {
    const [name = '', version = ''] = entry.split(' ');
    found.set(name, found.has(name) ? `${found.get(name)}, ${version}` : version);
  }
  return found;
}

/** In the order of names. */
export function changes<Value>(before: ReadonlyMap<string, Value>, after: ReadonlyMap<string, Value>): Change<Value>[] {
  const text = (value: Value | undefined): string => JSON.stringify(value) ?? '';
  const names = [...new Set([...before.keys(), ...after.keys()])].sort();
  return names.flatMap((what): Change<Value>[] => {
    const [was, is] = [before.get(what), after.get(what)];
    if (text(was) === text(is)) return [];
    return [{ what, ...(was === undefined ? {} : { before: was }), ...(is === undefined ? {} : { after: is }) }];
  });
}

function sizesOf(a: ImageManifest, b: ImageManifest): ImageDiff['sizes'] {
  const files = (image: ImageManifest) => imageFiles(image).filter(({ kind }) => ['kernel', 'initrd', 'squashfs'].includes(kind));
  const [before, after] = [files(a), files(b)];
  return [...new Set([...before, ...after].map(({ file }) => file))].map((what) => {
    const [was, is] = [before, after].map((list) => list.find(({ file }) => file === what));
    return { what, ...(was ? { before: was.size } : {}), ...(is ? { after: is.size } : {}), same: was?.digest === is?.digest };
  });
}

/** `-rw-r--r-- 0/0     1234 2025-01-01 00:00 /etc/motd`; of a device two numbers stand for the size. */
const LINE = /^([-bcdlps][-rwxsStT]{9}) (\d+\/\d+) +(\d+|\d+, *\d+) \d{4}-\d\d-\d\d \d\d:\d\d (.*)$/;

export function parseListing(line: string): [path: string, file: ListedFile] | undefined {
  const [, mode, owner, size, name] = LINE.exec(line) ?? [];
  if (mode === undefined || owner === undefined || size === undefined || name === undefined) return undefined;
  const arrow = mode.startsWith('l') ? name.indexOf(' -> ') : -1;
  const path = arrow < 0 ? name : name.slice(0, arrow);
  // A directory's size says how its list is stored.
  return [path === '' ? '/' : path, { mode, owner, ...(mode.startsWith('-') ? { size: Number(size) } : {}), ...(arrow < 0 ? {} : { target: name.slice(arrow + 4) }) }];
}

async function listSquashfs(stateDir: string, { name, squashfs }: ImageManifest): Promise<Map<string, ListedFile>> {
  const path = createBlobStore(stateDir).path(squashfs.digest);
  const child = spawn('unsquashfs', ['-no-progress', '-d', '', '-lln', path], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C', TZ: 'UTC' } });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? new AppError('PACKAGES_MISSING', 'unsquashfs is not installed', 'apt-get install squashfs-tools; --no-files compares packages and sizes alone', error) : error),
    );
    child.on('close', resolve);
  });
  // Who reads the output below waits first.
  ended.catch(() => undefined);
  let complaint = '';
  child.stderr.on('data', (piece: Buffer) => void (complaint = (complaint + piece.toString()).slice(0, 1000)));
  const files = new Map<string, ListedFile>();
  for await (const line of createInterface({ input: child.stdout, crlfDelay: Infinity })) {
    const listed = parseListing(line);
    if (listed) files.set(...listed);
  }
  const code = await ended;
  if (code !== 0 || files.size === 0) throw new AppError('BLOB_UNKNOWN', `the squashfs of image ${name}, ${path}, cannot be read: ${complaint.trim().split('\n')[0] || `unsquashfs ended with ${code}`}`, 'build the image again, or compare packages and sizes alone: --no-files');
  return files;
}
