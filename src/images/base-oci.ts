// A root from a container image: an archive of `docker save` or an OCI layout, as directory or archive. Every part is held against its digest.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, createWriteStream, lstatSync, openSync, statSync } from 'node:fs';
import { join, normalize } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { createGunzip } from 'node:zlib';
import { digestOfBytes, isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { flatten } from './layers.ts';
import type { BuiltArch } from './spec.ts';
import { readAll, tarEntries, type TarSource } from './layer-tar.ts';

interface Descriptor {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType?: string;
  readonly platform?: { readonly architecture?: string; readonly os?: string };
}

/** The files of the archive, whichever form it has. */
interface Archive {
  /** Undefined when there is no such file. */
  open(name: string): TarSource | undefined;
  close(): void;
}

/** Of JSON documents; layers have no such limit. */
const MOST_JSON = 16 << 20;

/** What an image is, for the digest of a build's inputs: its index names everything else by digest. */
export function ociIdentity(path: string): Digest {
  return reading(path, () => {
    const archive = openArchive(path);
    try {
      const texts = ['index.json', 'manifest.json'].flatMap((name) => (archive.open(name) ? [bytesOf(archive, name).toString()] : []));
      if (texts.length === 0) throw new Error('neither an OCI layout (it has no index.json) nor an archive of docker save (it has no manifest.json)');
      return digestOfBytes(texts.join('\n'));
    } finally {
      archive.close();
    }
  });
}

/** Writes the image's root as one archive `to`; `dir` is for files in between. IMAGE_BUILD_FAILED names the part at fault. */
export async function ociRoot(path: string, arch: BuiltArch, dir: string, to: string): Promise<void> {
  const archive = reading(path, () => openArchive(path));
  const files: number[] = [];
  try {
    const { layers, diffIds } = archive.open('index.json') ? ociLayers(archive, arch) : dockerLayers(archive, arch);
    if (layers.length !== diffIds.length) throw new Error(`has ${layers.length} layers, and its configuration says ${diffIds.length}`);
    const sources: TarSource[] = [];
    for (const [index, layer] of layers.entries()) {
      sources.push(await unpacked(layer, diffIds[index]!, join(dir, `layer-${index + 1}`), files).catch((error: unknown) => Promise.reject(new Error(`layer ${index + 1}: ${lineOf(error)}`))));
    }
    flatten(sources, to);
  } catch (error) {
    throw wrong(path, error);
  } finally {
    for (const fd of files) closeSync(fd);
    archive.close();
  }
}

function reading<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw wrong(path, error);
  }
}

function wrong(path: string, error: unknown): AppError {
  return error instanceof AppError ? error : new AppError('IMAGE_BUILD_FAILED', `${path}: ${lineOf(error)}`, 'base.oci in image.yaml: save the image anew (docker save, skopeo copy … oci:DIR)', error);
}

function openArchive(path: string): Archive {
  if (statSync(path).isDirectory()) {
    const open: number[] = [];
    return {
      open(name) {
        const file = join(path, name);
        const found = lstatSync(file, { throwIfNoEntry: false });
        if (!found?.isFile()) return undefined;
        const fd = openSync(file, 'r');
        open.push(fd);
        return { fd, offset: 0, size: found.size };
      },
      close: () => open.splice(0).forEach((fd) => closeSync(fd)),
    };
  }
  const fd = openSync(path, 'r');
  try {
    const magic = readAll(fd, 0, 4).toString('hex');
    if (/^(1f8b|28b52ffd|fd377a58)/.test(magic)) throw new Error('is compressed: unpack it first (gunzip, zstd -d)');
    const entries = new Map([...tarEntries({ fd, offset: 0, size: statSync(path).size })].map((entry) => [normalize(entry.path).replace(/^\.?\//, ''), entry]));
    const find = (name: string, links = 0): TarSource | undefined => {
      const entry = entries.get(name);
      // Older Dockers write a layer that two images share once, and links to it.
      if (entry?.type === 'symlink' && links < 8) return find(join(name, '..', entry.target), links + 1);
      return entry?.type === 'file' ? entry.data : undefined;
    };
    return { open: (name) => find(name), close: () => closeSync(fd) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function bytesOf(archive: Archive, name: string): Buffer {
  const source = archive.open(name);
  if (!source) throw new Error(`has no ${name}`);
  if (source.size > MOST_JSON) throw new Error(`${name} has ${source.size} bytes, which is no document`);
  return readAll(source.fd, source.offset, source.size);
}

function json(bytes: Buffer, what: string): Record<string, unknown> {
  try {
    const value = JSON.parse(bytes.toString()) as unknown;
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // Told below.
  }
  throw new Error(`${what} is no JSON`);
}

interface Layer {
  readonly source: TarSource;
  /** Of the bytes as they are in the archive; docker's own form says none. */
  readonly digest?: Digest;
}

function ociLayers(archive: Archive, arch: BuiltArch): { layers: Layer[]; diffIds: Digest[] } {
  const blob = (one: Descriptor, what: string): TarSource => {
    if (!isDigest(one.digest)) throw new Error(`${what}: ${JSON.stringify(one.digest)} is no sha256 digest`);
    const source = archive.open(`blobs/sha256/${one.digest.slice('sha256:'.length)}`);
    if (!source) throw new Error(`${what} ${one.digest} is not in it`);
    if (source.size !== one.size) throw new Error(`${what} ${one.digest} has ${source.size} bytes, not ${one.size}`);
    return source;
  };
  const document = (one: Descriptor, what: string): Record<string, unknown> => {
    const { fd, offset, size } = blob(one, what);
    if (size > MOST_JSON) throw new Error(`${what} has ${size} bytes, which is no document`);
    const bytes = readAll(fd, offset, size);
    if (digestOfBytes(bytes) !== one.digest) throw new Error(`${what} ${one.digest}: its content has another digest`);
    return json(bytes, what);
  };
  // An index may list indexes; attestations, which Docker adds, are for no platform.
  const manifests = (index: Record<string, unknown>, depth: number): { one: Descriptor; manifest: Record<string, unknown> }[] =>
    (Array.isArray(index['manifests']) ? (index['manifests'] as Descriptor[]) : []).flatMap((one) => {
      const { architecture = arch, os = 'linux' } = one.platform ?? {};
      if (architecture !== arch || os !== 'linux') return [];
      const found = document(one, 'manifest');
      if (!Array.isArray(found['manifests'])) return [{ one, manifest: found }];
      if (depth > 3) throw new Error('index in index without end');
      return manifests(found, depth + 1);
    });
  const fitting = manifests(json(bytesOf(archive, 'index.json'), 'index.json'), 0).flatMap(({ manifest }) => {
    const config = document(manifest['config'] as Descriptor, 'configuration');
    return config['architecture'] === arch ? [{ manifest, config }] : [];
  });
  if (fitting.length !== 1) throw new Error(`has ${fitting.length === 0 ? 'no image' : `${fitting.length} images`} for linux on ${arch}, and must have one`);
  const { manifest, config } = fitting[0]!;
  const layers = (manifest['layers'] as Descriptor[]).map((one, index) => ({ source: blob(one, `layer ${index + 1}`), digest: one.digest }));
  return { layers, diffIds: diffIdsOf(config) };
}

function dockerLayers(archive: Archive, arch: BuiltArch): { layers: Layer[]; diffIds: Digest[] } {
  const list = json(bytesOf(archive, 'manifest.json'), 'manifest.json') as unknown as { Config: string; Layers: string[] }[];
  if (!Array.isArray(list) || list.length !== 1) throw new Error(`has ${Array.isArray(list) ? list.length : 'no'} images, and must have one: docker save one`);
  const { Config, Layers } = list[0]!;
  const bytes = bytesOf(archive, String(Config));
  const hex = /([0-9a-f]{64})(\.json)?$/.exec(String(Config))?.[1];
  if (hex === undefined || digestOfBytes(bytes) !== `sha256:${hex}`) throw new Error(`configuration ${Config}: its content has another digest`);
  const config = json(bytes, 'configuration');
  if (config['architecture'] !== arch) throw new Error(`is for ${String(config['architecture'])}, not for ${arch}`);
  const layers = Layers.map((name) => {
    const source = archive.open(name);
    if (!source) throw new Error(`layer ${name} is not in it`);
    return { source };
  });
  return { layers, diffIds: diffIdsOf(config) };
}

function diffIdsOf(config: Record<string, unknown>): Digest[] {
  const ids = (config['rootfs'] as { diff_ids?: unknown } | undefined)?.diff_ids;
  if (!Array.isArray(ids) || !ids.every((id): id is Digest => typeof id === 'string' && isDigest(id))) throw new Error('its configuration has no rootfs.diff_ids');
  return ids;
}

/** The layer as a tar archive: where it is, or in `file` when it is compressed. Its bytes are held against both digests. */
async function unpacked({ source, digest }: Layer, diffId: Digest, file: string, open: number[]): Promise<TarSource> {
  const magic = readAll(source.fd, source.offset, 4).toString('hex');
  const compressed = /^1f8b/.test(magic) ? 'gzip' : magic === '28b52ffd' ? 'zstd' : undefined;
  // A stream of an open file closes it unless told not to; end counts the last byte too.
  const bytes = () => createReadStream('', { fd: source.fd, autoClose: false, start: source.offset, end: source.offset + source.size - 1 });
  if (digest !== undefined && (await hashOf(bytes())) !== digest) throw new Error(`${digest}: its content has another digest`);
  let tar = source;
  if (compressed !== undefined) {
    if (compressed === 'gzip') await pipeline(bytes(), createGunzip(), createWriteStream(file));
    else {
      await pipeline(bytes(), createWriteStream(`${file}.zst`));
      await promisify(execFile)('zstd', ['--decompress', '--quiet', '--force', '--rm', '-o', file, `${file}.zst`]);
    }
    const fd = openSync(file, 'r');
    open.push(fd);
    tar = { fd, offset: 0, size: statSync(file).size };
  }
  const found = await hashOf(createReadStream('', { fd: tar.fd, autoClose: false, start: tar.offset, end: tar.offset + tar.size - 1 }));
  if (found !== diffId) throw new Error(`unpacked it is ${found}, and the configuration says ${diffId}`);
  return tar;
}

async function hashOf(stream: NodeJS.ReadableStream): Promise<Digest> {
  const hash = createHash('sha256');
  for await (const chunk of stream) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}
