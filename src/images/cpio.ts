// A cpio archive in the "newc" form that the kernel unpacks as initramfs: entries in, bytes out, the same bytes each time.

/** One entry; ids are 0 and times are 0, so that equal content gives equal bytes whoever builds it and when. */
export interface CpioEntry {
  /** Without a leading slash. */
  readonly path: string;
  readonly kind: 'file' | 'directory' | 'symlink';
  /** Permission bits only. */
  readonly mode: number;
  /** A file's bytes or a symlink's target. */
  readonly data?: Uint8Array;
}

const TYPE_BITS = { file: 0o100000, directory: 0o040000, symlink: 0o120000 } as const;

/** The archive of the entries in path order (so a directory comes before what is in it), missing parent directories added. */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const byPath = new Map<string, CpioEntry>();
  for (const entry of entries) {
    const parts = entry.path.split('/');
    for (let depth = 1; depth < parts.length; depth++) {
      const parent = parts.slice(0, depth).join('/');
      if (!byPath.has(parent)) byPath.set(parent, { path: parent, kind: 'directory', mode: 0o755 });
    }
    byPath.set(entry.path, entry);
  }
  const sorted = [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  const pieces = sorted.map((entry, index) => record(entry.path, index + 1, TYPE_BITS[entry.kind] | entry.mode, entry.data ?? new Uint8Array(), entry.kind === 'directory' ? 2 : 1));
  return Buffer.concat([...pieces, record('TRAILER!!!', 0, 0, new Uint8Array(), 1)]);
}

/** Documentation/driver-api/early-userspace/buffer-format: header of 8-digit hex fields, name and data each padded to 4 bytes. */
function record(path: string, inode: number, mode: number, data: Uint8Array, links: number): Buffer {
  const name = Buffer.from(`${path}\0`);
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, 0, 0, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).toUpperCase().padStart(8, '0')).join('')}`);
  return Buffer.concat([header, name, padding(header.length + name.length), data, padding(data.length)]);
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}
