// Tar archives as exports are made of: plain files in a fixed order, written with equal bytes for equal content, and read without trusting anything in them.
import { Readable } from 'node:stream';

const BLOCK = 512;
/** What a pax header may have: names and times, never more. */
const PAX_LIMIT = 64 * 1024;

export class TarError extends Error {}

/** The header of a regular file (POSIX ustar): 0644, root's, of 1970. */
export function tarHeader(path: string, size: number): Buffer {
  if (Buffer.byteLength(path) > 100) throw new RangeError(`${path}: too long for a tar header`);
  const header = Buffer.alloc(BLOCK);
  header.write(path, 0, 100, 'utf8');
  header.write('0000644\0', 100, 'latin1');
  header.write('0000000\0', 108, 'latin1');
  header.write('0000000\0', 116, 'latin1');
  if (size < 8 ** 11) header.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  else {
    // GNU's form for 8 GiB and more: a set first bit, then the number in binary.
    header[124] = 0x80;
    header.writeBigUInt64BE(BigInt(size), 128);
  }
  header.write('00000000000\0', 136, 'latin1');
  header.write('0', 156, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  header.write(`${checksum(header).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

/** Behind a file's bytes, up to the next block. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

/** An archive ends with two empty blocks; tar fills up to 20, and so do we. */
export function tarEnd(written: number): Buffer {
  const record = 20 * BLOCK;
  return Buffer.alloc(2 * BLOCK + ((record - ((written + 2 * BLOCK) % record)) % record));
}

export interface TarEntry {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** To be read before the next entry is asked for; what is left of it is skipped. */
  readonly body: Readable;
}

/** Regular files in their order; directories are passed over. TarError for anything else, and for an archive that is damaged or cut short. Memory does not grow with it. */
export async function* readTar(input: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry, void> {
  const bytes = takeFrom(input);
  try {
    yield* entriesOf(bytes);
  } finally {
    await bytes.close();
  }
}

async function* entriesOf(bytes: Taker): AsyncGenerator<TarEntry, void> {
  let given: { readonly path?: string; readonly size?: number } = {};
  for (;;) {
    const header = await bytes.exactly(BLOCK, 'it ends without the mark of its end: it was cut short');
    if (header.every((byte) => byte === 0)) return;
    if (Number.parseInt(field(header, 148, 8).trim(), 8) !== checksum(header)) throw new TarError('a header has a wrong checksum: it is no tar archive, or damaged');
    const type = String.fromCharCode(header[156]!);
    const size = given.size ?? sizeOf(header);
    const prefix = field(header, 257, 5) === 'ustar' ? field(header, 345, 155) : '';
    const path = (given.path ?? (prefix === '' ? '' : `${prefix}/`) + field(header, 0, 100)).replace(/^(\.\/)+/, '');
    if (!Number.isSafeInteger(size) || size < 0) throw new TarError(`${path}: its size is no number`);
    given = {};
    if (type === 'x' || type === 'g') {
      if (size > PAX_LIMIT) throw new TarError(`a header of ${size} bytes`);
      const records = await bytes.exactly(size + tarPadding(size).length, `${path}: cut short`);
      if (type === 'x') given = paxOf(records.subarray(0, size).toString('utf8'));
      continue;
    }
    if (type !== '0' && type !== '\0' && type !== '5') throw new TarError(`${path}: ${TYPES[type] ?? 'neither a file nor a directory'}`);
    if (type === '5') {
      if (size !== 0) throw new TarError(`${path}: a directory with content`);
      continue;
    }
    let left = size;
    async function* body(): AsyncGenerator<Buffer> {
      while (left > 0) {
        const piece = await bytes.upTo(left);
        if (!piece) throw new TarError(`${path}: cut short, ${left} bytes are missing`);
        left -= piece.length;
        yield piece;
      }
    }
    const stream = Readable.from(body(), { objectMode: false, highWaterMark: 1 });
    // Whoever reads it is told; nobody has to.
    stream.on('error', () => undefined);
    yield { path, size, body: stream };
    while (left > 0) {
      const piece = await bytes.upTo(left);
      if (!piece) throw new TarError(`${path}: cut short, ${left} bytes are missing`);
      left -= piece.length;
    }
    await bytes.exactly(tarPadding(size).length, `${path}: cut short`);
  }
}

const TYPES: Readonly<Record<string, string>> = { '1': 'a hard link', '2': 'a symbolic link', '3': 'a device', '4': 'a device', '6': 'a FIFO', S: 'a sparse file', L: 'a name that is too long', K: 'a link whose name is too long' };

/** Pieces as they come, cut to what is asked for. */
interface Taker {
  upTo(count: number): Promise<Buffer | undefined>;
  exactly(count: number, otherwise: string): Promise<Buffer>;
  close(): Promise<unknown>;
}

function takeFrom(input: AsyncIterable<Uint8Array>): Taker {
  const source = input[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  const upTo = async (count: number): Promise<Buffer | undefined> => {
    while (rest.length === 0) {
      const { value, done } = await source.next();
      if (done) return undefined;
      rest = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
    const piece = rest.subarray(0, count);
    rest = rest.subarray(piece.length);
    return piece;
  };
  return {
    upTo,
    close: async () => source.return?.(),
    async exactly(count, otherwise) {
      const pieces: Buffer[] = [];
      for (let left = count; left > 0; ) {
        const piece = await upTo(left);
        if (!piece) throw new TarError(otherwise);
        pieces.push(piece);
        left -= piece.length;
      }
      return Buffer.concat(pieces);
    },
  };
}

function field(header: Buffer, at: number, length: number): string {
  const bytes = header.subarray(at, at + length);
  const end = bytes.indexOf(0);
  return bytes.subarray(0, end < 0 ? length : end).toString('utf8');
}

function sizeOf(header: Buffer): number {
  if (header[124]! & 0x80) return header[124] === 0x80 && header.readUInt32BE(124) === 0x80000000 ? Number(header.readBigUInt64BE(128)) : NaN;
  const text = field(header, 124, 12).trim();
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : NaN;
}

/** The sum of all bytes, with the checksum's own as spaces. */
function checksum(header: Buffer): number {
  let sum = 0;
  for (let at = 0; at < BLOCK; at++) sum += at >= 148 && at < 156 ? 32 : header[at]!;
  return sum;
}

/** `LENGTH KEY=VALUE\n`, again and again. */
function paxOf(text: string): { path?: string; size?: number } {
  const found: { path?: string; size?: number } = {};
  for (let bytes = Buffer.from(text); bytes.length > 0; ) {
    const [whole, length, key] = /^(\d{1,6}) ([^=\n]+)=/.exec(bytes.toString('utf8')) ?? [];
    const end = Number(length);
    if (whole === undefined || end > bytes.length || end <= whole.length) throw new TarError('a pax header that is not understood');
    const value = bytes.subarray(Buffer.byteLength(whole), end - 1).toString('utf8');
    if (key === 'path') found.path = value;
    else if (key === 'size') found.size = /^\d+$/.test(value) ? Number(value) : NaN;
    else if (key!.startsWith('GNU.sparse')) throw new TarError('a sparse file');
    bytes = bytes.subarray(end);
  }
  return found;
}
