// A root of Alpine's packages: its minirootfs, held against the digest that the mirror names, and apk inside of it.
import { createReadStream, createWriteStream, existsSync, mkdirSync, openSync, closeSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { readYaml } from '../config/document.ts';
import { sha256Hex } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { flatten } from './layers.ts';
import type { BuiltArch, ImageBase } from './spec.ts';

type AlpineBase = Extract<ImageBase, { readonly alpine: string }>;

const ARCHES: Readonly<Record<BuiltArch, string>> = { amd64: 'x86_64', arm64: 'aarch64' };

/** Packages that every Alpine image gets: an init, and what the initrd is made of. */
export const ALPINE_ALWAYS = ['alpine-base', 'busybox-static', 'kmod', 'openrc'];

/** What apk reads from: the release's own packages, and those of its community, where git and curl's friends are. */
export function apkRepositories({ alpine, mirror }: AlpineBase): string {
  return ['main', 'community'].map((name) => `${mirror.replace(/\/+$/, '')}/${alpine}/${name}\n`).join('');
}

/** Writes the release's minirootfs as one archive `to`. IMAGE_BUILD_FAILED when the mirror has it not, or not as its own list says. */
export async function alpineRoot(base: AlpineBase, arch: BuiltArch, stateDir: string, dir: string, to: string): Promise<void> {
  const at = `${base.mirror.replace(/\/+$/, '')}/${base.alpine}/releases/${ARCHES[arch]}`;
  const { file, sha256 } = await newest(`${at}/latest-releases.yaml`);
  const cache = join(stateDir, 'cache', 'alpine');
  const kept = join(cache, `${sha256}.tar.gz`);
  if (!existsSync(kept)) {
    mkdirSync(cache, { recursive: true });
    const bytes = Buffer.from(await (await get(`${at}/${file}`)).arrayBuffer());
    if (sha256Hex(bytes) !== sha256) throw failed(`${at}/${file}: its sha256 is ${sha256Hex(bytes)}, and latest-releases.yaml says ${sha256}`);
    const made = join(dir, 'minirootfs.tar.gz');
    writeFileSync(made, bytes);
    renameSync(made, kept);
  }
  const tar = join(dir, 'minirootfs.tar');
  try {
    await pipeline(createReadStream(kept), createGunzip(), createWriteStream(tar));
  } catch (error) {
    rmSync(kept, { force: true });
    throw failed(`${at}/${file}: ${lineOf(error)}`);
  }
  const fd = openSync(tar, 'r');
  try {
    flatten([{ fd, offset: 0, size: statSync(tar).size }], to);
  } catch (error) {
    throw failed(`${at}/${file}: ${lineOf(error)}`);
  } finally {
    closeSync(fd);
    rmSync(tar, { force: true });
  }
}

/** The list is one of maps, one for each kind of medium; text all through, since `3.22` is no number. */
async function newest(url: string): Promise<{ file: string; sha256: string }> {
  const { value } = readYaml(await (await get(url)).text(), url, { scalars: 'text' });
  const entries = Array.isArray(value) ? (value as Readonly<Record<string, unknown>>[]) : [];
  const found = entries.find((entry) => entry['flavor'] === 'alpine-minirootfs');
  const [file, sha256] = [String(found?.['file']), String(found?.['sha256'])];
  if (!found || !/^[A-Za-z0-9][A-Za-z0-9._-]*\.tar\.gz$/.test(file) || !/^[0-9a-f]{64}$/.test(sha256)) throw failed(`${url} names no minirootfs with its sha256`);
  return { file, sha256 };
}

async function get(url: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(300_000) });
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? lineOf(error.cause) : lineOf(error);
    throw failed(`${url}: ${cause || 'no answer'}`);
  }
  if (!response.ok) throw failed(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

function failed(message: string): AppError {
  return new AppError('IMAGE_BUILD_FAILED', message, 'base.mirror in image.yaml can name another mirror of Alpine, such as one of your own');
}
