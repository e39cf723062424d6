// `rackseed image export|import`: builds as one file, for sites without a way to this one.
import { resolve } from 'node:path';
import { AppError } from '../errors.ts';
import { exportImages } from '../images/export.ts';
import { publicBeside, readPublicKey } from '../images/image-keys.ts';
import { importImages, type Imported } from '../images/import.ts';
import { createImageStore } from '../images/manifest.ts';
import { findBuild } from '../images/refs.ts';
import { COLUMNS, settingsOf, shortDigest, shown, stateOf, type ImageOptions } from './image-options.ts';
import { bytes, render, type Column } from './output.ts';
import { progressBar } from './progress.ts';

/** `words`: the builds and, unless `oci` says where they go, the file. `oci` ending in .tar is a file, too; both are the same layout. */
export async function imageExport(words: readonly string[], options: ImageOptions & { readonly oci?: string }): Promise<string> {
  const to = options.oci ?? words.at(-1)!;
  const refs = options.oci === undefined ? words.slice(0, -1) : words;
  const form = to.endsWith('.tar') ? 'tar' : 'directory';
  if (options.oci === undefined && form === 'directory') throw new AppError('USAGE', `${to}: a file's name ends in .tar`, 'rackseed image export NAME… FILE.tar; for a directory: --oci DIR');
  if (refs.length === 0) throw new AppError('USAGE', 'which images?', 'rackseed image export NAME… FILE.tar');
  const stateDir = stateOf(options);
  const store = createImageStore(stateDir);
  const builds = await Promise.all(refs.map(async (ref) => (await findBuild(store, ref)).image));
  const { onProgress, stop } = progressBar('exporting');
  const { images, bytes: written } = await exportImages({ stateDir, images: builds, to: resolve(to), form, onProgress }).finally(stop);
  const rows = images.map(({ image, tags }) => ({ ...image, tags }));
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { to: resolve(to), bytes: written, images: rows.map(shown) }, [], []);
  return `${to}: ${bytes(written)}; rackseed image import takes it\n${render(options.output, undefined, rows, COLUMNS)}`;
}

const IMPORTED: readonly Column<Imported>[] = [
  { title: 'NAME', of: ({ image }) => image.name },
  { title: 'DIGEST', of: ({ image }) => shortDigest(image.digest) },
  { title: 'ARCH', of: ({ image }) => image.arch },
  { title: 'WHAT', of: ({ how }) => (how === 'there' ? 'was here already' : how) },
  { title: 'TAGS', of: ({ tags }) => tags.join(',') },
  { title: 'TAGS THAT STAY ELSEWHERE', of: ({ kept }) => kept.join(',') },
  { title: 'FULL DIGEST', of: ({ image }) => image.digest, wide: true },
];

/** `key`: .pub files; with one, or with `images.keys` or `images.sign` in the settings, only what one of them has signed is taken. */
export async function imageImport(from: string, options: ImageOptions & { readonly key?: readonly string[]; readonly moveTags?: boolean }): Promise<string> {
  const stateDir = stateOf(options);
  const { sign, keys: trusted = [] } = settingsOf(options)?.images ?? {};
  const files = options.key ?? (trusted.length > 0 ? trusted : sign === undefined ? [] : [publicBeside(sign)]);
  const { onProgress, stop } = progressBar('importing');
  const imported = await importImages({ stateDir, from: resolve(from), keys: files.map((file) => readPublicKey(resolve(file))), ...(options.moveTags ? { moveTags: true } : {}), onProgress }).finally(stop);
  if (options.output === 'json' || options.output === 'yaml') {
    return render(options.output, { verified: files.length > 0, images: imported.map(({ image, how, tags, kept }) => ({ name: image.name, digest: image.digest, how, tags, kept })) }, [], []);
  }
  const said = files.length > 0 ? 'verified by digest and signature' : 'verified by digest; nobody was asked who made it (--key, or images.keys in rackseed.yaml)';
  const stay = imported.some(({ kept }) => kept.length > 0) ? '; --move-tags moves all tags' : '';
  return `${said}; profiles boot it after rackseed reload${stay}\n${render(options.output, undefined, imported, IMPORTED)}`;
}
