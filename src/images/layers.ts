// Layers of an OCI image as one tree: later ones over earlier ones, with whiteouts. What comes out is an archive that any tar may unpack as root: no path
// of it leads through a link.
import { closeSync, openSync } from 'node:fs';
import { tarEntries, writeEnd, writeEntry, type TarEntry, type TarSource } from './layer-tar.ts';

type Meta = Pick<TarEntry, 'mode' | 'uid' | 'gid' | 'mtime' | 'xattrs'>;
/** One inode: a hard link is a second name of the same one. */
type Inode =
  | { readonly type: 'dir'; meta: Meta; readonly names: Map<string, Inode> }
  | { readonly type: 'file'; readonly meta: Meta; readonly data: TarSource }
  | { readonly type: 'symlink'; readonly meta: Meta; readonly target: string }
  | { readonly type: 'fifo'; readonly meta: Meta };
type Dir = Extract<Inode, { type: 'dir' }>;

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const PLAIN: Meta = { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };
const NOTHING: TarSource = { fd: -1, offset: 0, size: 0 };
/** As the kernel's own limit (ELOOP). */
const MOST_LINKS = 40;
/** Others, such as SELinux's labels and overlayfs's marks, are of the system that made them. */
const KEPT_XATTR = /^(security\.capability$|user\.)/;

/** Writes the tree of these layers to the archive `to`. An Error with one line names the layer, from 1, and the path at fault. */
export function flatten(layers: readonly TarSource[], to: string): void {
  const root = emptyDir();
  for (const [index, layer] of layers.entries()) {
    try {
      apply(layer, root);
    } catch (error) {
      throw new Error(`layer ${index + 1}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
  const fd = openSync(to, 'w', 0o600);
  try {
    write(fd, '', root, new Map());
    writeEnd(fd);
  } finally {
    closeSync(fd);
  }
}

function emptyDir(): Dir {
  return { type: 'dir', meta: PLAIN, names: new Map() };
}

function apply(layer: TarSource, root: Dir): void {
  // Whiteouts hide what is below this layer, never what it has itself, wherever they stand in it.
  for (const entry of tarEntries(layer)) whiteOut(entry.path, root);
  for (const entry of tarEntries(layer)) add(entry, root);
}

function whiteOut(path: string, root: Dir): void {
  const parts = partsOf(path);
  const name = parts.pop();
  if (name === undefined || !name.startsWith(WHITEOUT)) return;
  const hidden = name.slice(WHITEOUT.length);
  if (name !== OPAQUE && (hidden === '' || hidden === '.' || hidden === '..')) throw new Error(`${path}: a whiteout of nothing`);
  const dir = directory(root, parts, path, false);
  if (name === OPAQUE) dir?.names.clear();
  else dir?.names.delete(hidden);
}

function add(entry: TarEntry, root: Dir): void {
  const { path, type, mode, uid, gid, mtime } = entry;
  const parts = partsOf(path);
  const name = parts.pop();
  const meta: Meta = { mode, uid, gid, mtime, xattrs: new Map([...entry.xattrs].filter(([key]) => KEPT_XATTR.test(key))) };
  if (name === undefined) {
    if (type !== 'dir') throw new Error(`${JSON.stringify(path)}: not a name of a file`);
    root.meta = meta;
    return;
  }
  // Device nodes are the running kernel's to make, in /dev.
  if (name.startsWith(WHITEOUT) || type === 'device') return;
  const dir = directory(root, parts, path, true)!;
  const before = dir.names.get(name);
  if (type === 'dir') {
    if (before?.type === 'dir') before.meta = meta;
    else dir.names.set(name, { type, meta, names: new Map() });
    return;
  }
  dir.names.set(name, type === 'link' ? linked(root, entry) : type === 'symlink' ? { type, meta, target: entry.target } : type === 'file' ? { type, meta, data: entry.data } : { type, meta });
}

function linked(root: Dir, { path, target }: TarEntry): Inode {
  const parts = partsOf(target);
  const name = parts.pop();
  const found = name === undefined ? undefined : directory(root, parts, path, false)?.names.get(name);
  if (!found || found.type === 'dir') throw new Error(`${path}: a hard link to ${target}, which is ${found ? 'a directory' : 'not there'}`);
  return found;
}

/** Absolute paths count from the root, as for tar; those that climb have no business in an image. */
function partsOf(path: string): string[] {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw new Error(`${path}: leads out of the root`);
  if (path.includes('\0')) throw new Error(`${JSON.stringify(path)}: not a name of a file`);
  return parts;
}

/** The directory at `parts`, links on the way followed inside of the root, as a container would; made where it is missing, or undefined. */
function directory(root: Dir, parts: readonly string[], path: string, make: boolean): Dir | undefined {
  const above: Dir[] = [root];
  const left = [...parts];
  for (let links = 0; left.length > 0; ) {
    const part = left.shift()!;
    if (part === '' || part === '.') continue;
    if (part === '..') {
      if (above.length > 1) above.pop();
      continue;
    }
    const at = above.at(-1)!;
    let found = at.names.get(part);
    if (found?.type === 'symlink') {
      if (++links > MOST_LINKS) throw new Error(`${path}: links go round in a circle`);
      if (found.target.startsWith('/')) above.splice(1);
      left.unshift(...found.target.split('/'));
      continue;
    }
    if (!found) {
      if (!make) return undefined;
      at.names.set(part, (found = emptyDir()));
    }
    if (found.type !== 'dir') {
      if (!make) return undefined;
      throw new Error(`${path}: ${part} is no directory`);
    }
    above.push(found);
  }
  return above.at(-1);
}

function write(fd: number, path: string, inode: Inode, written: Map<Inode, string>): void {
  const common = { path: path === '' ? './' : path, ...inode.meta, target: '', data: NOTHING };
  const first = written.get(inode);
  if (first !== undefined) return writeEntry(fd, { ...common, type: 'link', target: first, xattrs: new Map() });
  if (inode.type !== 'dir') written.set(inode, path);
  if (inode.type === 'file') writeEntry(fd, { ...common, type: 'file', data: inode.data });
  else if (inode.type === 'symlink') writeEntry(fd, { ...common, type: 'symlink', target: inode.target });
  else writeEntry(fd, { ...common, type: inode.type });
  if (inode.type !== 'dir') return;
  for (const [name, child] of [...inode.names].sort(([a], [b]) => (a < b ? -1 : 1))) write(fd, path === '' ? name : `${path}/${name}`, child, written);
}
