// Tar archives as container images have them: ustar with the extensions of pax and GNU. Read by their headers alone, and written again.
import { readSync, writeSync } from 'node:fs';

const BLOCK = 512;
/** Of one extended header; names and attributes have no more. */
const MOST_HEADER = 1 << 20;

/** Bytes of an open file. */
export interface TarSource {
  readonly fd: number;
  readonly offset: number;
  readonly size: number;
}

export type TarType = 'file' | 'dir' | 'symlink' | 'link' | 'device' | 'fifo';

export interface TarEntry {
  /** As it is written there: it may be absolute, or climb. */
  readonly path: string;
  readonly type: TarType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Of symlinks and hard links. */
  readonly target: string;
  /** `security.capability` and the like, by name. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
  readonly data: TarSource;
}

const TYPES: Readonly<Record<string, TarType>> = { '0': 'file', '\0': 'file', '7': 'file', '1': 'link', '2': 'symlink', '3': 'device', '4': 'device', '5': 'dir', '6': 'fifo' };

/** Every entry in its order. An Error with one line when it is no archive, is cut off, or has an entry that cannot be told apart. */
export function* tarEntries(source: TarSource): Generator<TarEntry> {
  const end = source.offset + source.size;
  const global = new Map<string, Buffer>();
  let next = new Map<string, Buffer>();
  for (let at = source.offset; at < end; ) {
    const header = readAll(source.fd, at, Math.min(BLOCK, end - at));
    if (header.length < BLOCK) throw new Error(`cut off after ${at - source.offset} bytes`);
    at += BLOCK;
    // Blocks of zeros end an archive; what comes behind is padding.
    if (header.every((byte) => byte === 0)) return;
    if (checksum(header) !== number(header, 148, 8)) throw new Error(at === source.offset + BLOCK ? 'not a tar archive' : `damaged at byte ${at - BLOCK - source.offset}`);
    const kind = String.fromCharCode(header[156]!);
    const extended = kind === 'x' || kind === 'g' || kind === 'L' || kind === 'K';
    const size = !extended && next.has('size') ? Number(next.get('size')) : number(header, 124, 12);
    if (!Number.isSafeInteger(size) || size < 0 || at + size > end) throw new Error(`cut off in ${JSON.stringify(text(header, 0, 100))}`);
    if (extended) {
      if (size > MOST_HEADER) throw new Error(`an extended header of ${size} bytes`);
      const body = readAll(source.fd, at, size);
      const zero = body.indexOf(0);
      if (kind === 'x') next = new Map([...next, ...records(body)]);
      else if (kind === 'g') for (const [key, value] of records(body)) global.set(key, value);
      else next.set(kind === 'L' ? 'path' : 'linkpath', body.subarray(0, zero < 0 ? body.length : zero));
    } else {
      const pax = new Map([...global, ...next]);
      next = new Map();
      const type = TYPES[kind];
      const entry = entryOf(header, pax, type ?? 'file', { fd: source.fd, offset: at, size: type === 'file' ? size : 0 });
      const sparse = kind === 'S' || [...pax.keys()].some((key) => key.startsWith('GNU.sparse.'));
      if (!type || sparse) throw new Error(`${entry.path}: ${sparse ? 'a sparse file, which only GNU tar can read' : `an entry of the unknown type ${JSON.stringify(kind)}`}`);
      yield entry;
    }
    at += Math.ceil(size / BLOCK) * BLOCK;
  }
}

function entryOf(header: Buffer, pax: ReadonlyMap<string, Buffer>, type: TarType, data: TarSource): TarEntry {
  const value = (key: string, otherwise: number): number => (pax.has(key) ? Math.trunc(Number(pax.get(key))) : otherwise);
  // GNU's own form has other things there.
  const prefix = header.subarray(257, 263).toString('latin1') === 'ustar\0' ? text(header, 345, 155) : '';
  const xattrs = [...pax].flatMap(([key, bytes]): [string, Buffer][] => (key.startsWith('SCHILY.xattr.') ? [[key.slice('SCHILY.xattr.'.length), bytes]] : []));
  const path = pax.get('path')?.toString() ?? (prefix === '' ? text(header, 0, 100) : `${prefix}/${text(header, 0, 100)}`);
  return {
    path,
    // Archives older than ustar tell a directory by its slash.
    type: type === 'file' && path.endsWith('/') ? 'dir' : type,
    mode: number(header, 100, 8) & 0o7777,
    uid: value('uid', number(header, 108, 8)),
    gid: value('gid', number(header, 116, 8)),
    mtime: value('mtime', number(header, 136, 12)),
    target: pax.get('linkpath')?.toString() ?? text(header, 157, 100),
    xattrs: new Map(xattrs),
    data,
  };
}

/** `LENGTH KEY=VALUE\n`, the length counting itself. Values may be any bytes. */
function records(body: Buffer): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (let at = 0; at < body.length && body[at] !== 0; ) {
    const space = body.indexOf(0x20, at);
    const length = Number(body.subarray(at, Math.max(at, space)).toString());
    const equals = body.indexOf(0x3d, space);
    if (space < 0 || !Number.isInteger(length) || length < 5 || at + length > body.length || equals < 0 || equals > at + length) throw new Error('a pax header that is damaged');
    found.set(body.subarray(space + 1, equals).toString(), body.subarray(equals + 1, at + length - 1));
    at += length;
  }
  return found;
}

function text(header: Buffer, at: number, length: number): string {
  const field = header.subarray(at, at + length);
  const end = field.indexOf(0);
  return field.subarray(0, end < 0 ? length : end).toString();
}

/** Octal text; or, with the first bit set, a big-endian number. */
function number(header: Buffer, at: number, length: number): number {
  if (header[at]! & 0x80) return header.subarray(at + 1, at + length).reduce((sum, byte) => sum * 256 + byte, header[at]! & 0x7f);
  const digits = text(header, at, length).trim();
  return digits === '' ? 0 : /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : NaN;
}

function checksum(header: Buffer): number {
  return header.reduce((sum, byte, index) => sum + (index >= 148 && index < 156 ? 0x20 : byte), 0);
}

/** Reads until there are so many bytes, or the file ends. */
export function readAll(fd: number, at: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  let have = 0;
  while (have < length) {
    const count = readSync(fd, buffer, have, length - have, at + have);
    if (count === 0) break;
    have += count;
  }
  return buffer.subarray(0, have);
}

const FLAGS: Readonly<Record<Exclude<TarType, 'device'>, string>> = { file: '0', link: '1', symlink: '2', dir: '5', fifo: '6' };

/** Appends one entry; a hard link's `target` is a path that was appended before. */
export function writeEntry(fd: number, entry: Omit<TarEntry, 'type'> & { readonly type: Exclude<TarType, 'device'> }): void {
  const { path, type, mode, uid, gid, mtime, target, xattrs, data } = entry;
  const size = type === 'file' ? data.size : 0;
  const more: [string, Buffer][] = [...xattrs].map(([name, value]) => [`SCHILY.xattr.${name}`, value]);
  const fits = (value: string): boolean => Buffer.byteLength(value) <= 100 && /^[\x20-\x7e]*$/.test(value);
  if (!fits(path)) more.push(['path', Buffer.from(path)]);
  if (!fits(target)) more.push(['linkpath', Buffer.from(target)]);
  for (const [key, value, most] of [['size', size, 0o77777777777], ['uid', uid, 0o7777777], ['gid', gid, 0o7777777]] as const) if (value > most) more.push([key, Buffer.from(String(value))]);
  if (more.length > 0) {
    const body = Buffer.concat(more.map(([key, value]) => record(key, value)));
    put(fd, headerOf('pax', 'x', 0o644, 0, 0, 0, body.length, ''));
    put(fd, Buffer.concat([body, Buffer.alloc((BLOCK - (body.length % BLOCK)) % BLOCK)]));
  }
  put(fd, headerOf(path, FLAGS[type], mode, uid, gid, mtime, size, target));
  for (let done = 0; done < size; ) {
    const chunk = readAll(data.fd, data.offset + done, Math.min(1 << 20, size - done));
    if (chunk.length === 0) throw new Error(`${path}: cut off`);
    put(fd, chunk);
    done += chunk.length;
  }
  put(fd, Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK));
}

/** What ends an archive. */
export function writeEnd(fd: number): void {
  put(fd, Buffer.alloc(2 * BLOCK));
}

/** Numbers that do not fit are in a pax header, and zero here. */
function headerOf(path: string, flag: string, mode: number, uid: number, gid: number, mtime: number, size: number, target: string): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, length: number): void => {
    const digits = Math.max(0, value).toString(8);
    header.write(`${(digits.length < length ? digits : '0').padStart(length - 1, '0')}\0`, at, 'latin1');
  };
  header.write(path, 0, 100);
  octal(mode, 100, 8);
  octal(uid, 108, 8);
  octal(gid, 116, 8);
  octal(size, 124, 12);
  octal(mtime, 136, 12);
  header.write(flag, 156, 'latin1');
  header.write(target, 157, 100);
  header.write('ustar\x0000', 257, 'latin1');
  header.write(`${checksum(header).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

function record(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length++;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function put(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}
