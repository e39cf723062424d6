// Kernels and initrds as threads send them: loaded once into memory that they share, the least recently used go first; the largest are read piece by piece.
import type { BlobRef } from '../boot/profile.ts';
import { AppError } from '../errors.ts';
import type { VerifiedBlob, VerifiedBlobs } from '../store/verified.ts';
import { createRings, fileThroughRing, type FilePieces, type Ring } from './rings.ts';

/** A kernel and the initrds of one or two images, each read from the disk once, however many ask. What is larger than this goes through a ring. */
export const FILE_CACHE_BYTES = 64 * 1024 * 1024;

/** No firmware verifies what comes by TFTP, so its bytes are those of their digests. */
export interface HeldFile {
  /** On a SharedArrayBuffer. All of the file: nobody may write to them. With `pieces`: this transfer's ring. */
  readonly bytes: Uint8Array;
  readonly pieces?: FilePieces;
  /** When no thread reads the bytes any more: another file may be written over them from then on. A second call does nothing. */
  release(): void;
}

export interface FileCache {
  /** These blobs, one behind the other; undefined while what is being sent leaves no room. BLOB_UNKNOWN when one is not there, or was rotten. */
  get(parts: readonly BlobRef[]): Promise<HeldFile | undefined>;
}

interface Place {
  readonly at: number;
  readonly size: number;
}

interface File extends Place {
  readonly key: string;
  readonly bytes: Uint8Array;
  readonly loaded: Promise<void>;
  /** Who waits for it or sends it. */
  users: number;
}

/**
 * `mostBytes` are kept for who comes next; what is being sent may take as much again, so that a new image can be served beside the old one. One piece
 * of memory for all, because a shared buffer that is dropped stays until the garbage collector of every thread that saw it has run, and V8 does not
 * count it as a reason to run. What is being sent is never loaded once more beside itself (681 MiB for two files of 40 MiB and 16 transfers,
 * measured). Only what was written to is resident.
 */
export function createFileCache(blobs: Pick<VerifiedBlobs, 'open'>, mostBytes: number = FILE_CACHE_BYTES): FileCache {
  const room = 2 * mostBytes;
  const takeRing = createRings();
  let memory: SharedArrayBuffer | undefined;
  /** In the order of their last use. All that has a place is here. */
  const files = new Map<string, File>();

  const drop = (file: File) => void files.delete(file.key);
  const idle = (): File | undefined => [...files.values()].find(({ users }) => users === 0);

  function placeFor(size: number): Place | undefined {
    for (;;) {
      const at = gapFor(size, room, files.values());
      if (at !== undefined) return { at, size };
      const oldest = idle();
      if (!oldest) return undefined;
      drop(oldest);
    }
  }

  function trim(): void {
    let total = sizeOf([...files.values()]);
    for (let oldest = idle(); oldest && total > mostBytes; oldest = idle()) {
      drop(oldest);
      total -= oldest.size;
    }
  }

  /** Loads go beside one another: a disk that hangs holds up only who wants that file, and the room for it. */
  function begin(key: string, parts: readonly BlobRef[]): File | undefined {
    const place = placeFor(sizeOf(parts));
    if (!place) return undefined;
    memory ??= new SharedArrayBuffer(room);
    const bytes = new Uint8Array(memory, place.at, place.size);
    const file: File = { ...place, key, bytes, loaded: load(bytes, parts), users: 0 };
    // Nothing writes there any more: a load ends with its last read.
    file.loaded.catch(() => drop(file));
    files.set(key, file);
    return file;
  }

  async function load(bytes: Uint8Array, parts: readonly BlobRef[]): Promise<void> {
    let at = 0;
    for (const part of parts) {
      const blob = await open(part);
      try {
        await blob.read(bytes.subarray(at, at + part.size), part.size, 0);
      } finally {
        blob.close();
      }
      at += part.size;
    }
  }

  async function open({ digest, size }: BlobRef): Promise<VerifiedBlob> {
    const blob = await blobs.open(digest);
    if (blob?.size === size) return blob;
    blob?.close();
    throw new AppError('BLOB_UNKNOWN', `${digest}, which a boot set names, is not in the blob store, or was damaged`, 'build the image again');
  }

  /** Open until it is released: a file that loses its name meanwhile is sent to its end. */
  async function through(ring: Ring, parts: readonly BlobRef[]): Promise<HeldFile> {
    const opened: VerifiedBlob[] = [];
    try {
      for (const part of parts) opened.push(await open(part));
    } catch (error) {
      opened.forEach((blob) => blob.close());
      ring.giveBack();
      throw error;
    }
    return fileThroughRing(ring, opened);
  }

  return {
    async get(parts) {
      if (sizeOf(parts) > mostBytes) {
        const ring = takeRing();
        return ring && through(ring, parts);
      }
      const key = parts.map(({ digest }) => digest).join(' ');
      const file = files.get(key) ?? begin(key, parts);
      if (!file) return undefined;
      files.delete(key);
      files.set(key, file);
      file.users++;
      trim();
      await file.loaded;
      let held = true;
      return {
        bytes: file.bytes,
        release() {
          if (!held) return;
          held = false;
          file.users--;
          trim();
        },
      };
    },
  };
}

/** Where so many bytes are free between the places that are taken: the first such gap. */
function gapFor(size: number, room: number, taken: Iterable<Place>): number | undefined {
  let free = 0;
  for (const { at, size: length } of [...taken].sort((a, b) => a.at - b.at)) {
    if (at - free >= size) return free;
    free = at + length;
  }
  return room - free >= size ? free : undefined;
}

function sizeOf(parts: readonly { readonly size: number }[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}
