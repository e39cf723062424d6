// `rackseed image build|list|uki`: images are built beside a running daemon; what boots changes at its next reload.
import { copyFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { AppError, lineOf } from '../errors.ts';
import { buildImage, PHASES, type BuildProgress, type BuildResult } from '../images/build.ts';
import { createImageStore, type ImageManifest } from '../images/manifest.ts';
import { parseRef } from '../images/refs.ts';
import { readImageSpec } from '../images/spec.ts';
import { isOthers } from '../images/sign.ts';
import { makeUki } from '../images/uki.ts';
import { hasUki } from '../images/verify.ts';
import { createBlobStore } from '../store/blobs.ts';
import { trustFor } from './image-sign.ts';
import { COLUMNS, shown, stateOf, withTags, type ImageOptions, type TaggedImage } from './image-options.ts';
import { imagesDirs } from './images-dirs.ts';
import { bytes, duration, render } from './output.ts';
import { progressBar } from './progress.ts';

/** Builds an image for each of its processors. On a table's stdout: one line for each that says what is there now. */
export async function imageBuild(name: string, options: ImageOptions & { readonly force?: boolean; readonly sign?: string; readonly locked?: boolean }): Promise<string> {
  const stateDir = stateOf(options);
  const imagesDir = imagesDirs(options);
  const { arch: arches } = readImageSpec(imagesDir, name);
  const trust = await trustFor(options);
  const lines: string[] = [];
  const built: (Omit<BuildResult, 'manifest'> & { readonly manifest: TaggedImage })[] = [];
  for (const arch of arches) {
    const began = performance.now();
    const { onProgress, stop } = progressBar(arches.length > 1 ? `building ${name} for ${arch}` : `building ${name}`, 'percent');
    const result = await buildImage({
      name,
      arch,
      imagesDir,
      stateDir,
      trust,
      ...(options.force ? { force: true } : {}),
      ...(options.locked ? { locked: true } : {}),
      onProgress: (progress) => onProgress(share(progress), 100),
    }).finally(stop);
    built.push({ ...result, manifest: await withTags(createImageStore(stateDir), result.manifest) });
    const { manifest, unchanged, phases, lockWritten, unlocked = [] } = result;
    const times = phases.map(({ phase, ms }) => `${phase} ${(ms / 1000).toFixed(1)} s`).join(', ');
    const what = unchanged ? 'unchanged' : `built in ${duration(performance.now() - began)} (${times})`;
    const lost = (await hasUki(manifest, createBlobStore(stateDir))) ? '' : `; its UKI is lost, make it again: rackseed image uki ${name}`;
    lines.push(`image ${name}${arches.length > 1 ? ` for ${arch}` : ''} ${what}${lost}${unsigned(manifest)}\n`);
    if (lockWritten !== undefined) lines.push(`its packages are locked in ${lockWritten}\n`);
    if (unlocked.length > 0) lines.push(`${unlocked.length} packages are not those of its lock (--locked takes those; rackseed image update ${name} shows them and moves it)\n`);
  }
  const all = built.map(({ manifest, unchanged, phases }) => ({ ...shown(manifest), unchanged, phases }));
  const value = all.length === 1 ? all[0]! : { images: all };
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, value, [], []);
  return `${lines.join('')}${render(options.output, value, built.map(({ manifest }) => manifest), COLUMNS)}`;
}

export async function imageList(options: ImageOptions): Promise<string> {
  const store = createImageStore(stateOf(options));
  const images = await Promise.all((await store.list()).map((image) => withTags(store, image)));
  return render(options.output, { images: images.map(shown) }, images, COLUMNS);
}

/** Why no node would boot it. */
function unsigned({ name, trusts, signed }: ImageManifest): string {
  return trusts && !signed ? `; NOT signed, and its initrd takes only what ${trusts.join(' or ')} signed: rackseed image sign ${name} --key FILE` : '';
}

/** What boots with `loader: uki`. On a table's stdout: one line that says what it is, then the image. */
export async function imageUki(ref: string, options: ImageOptions & { readonly cmdline?: string; readonly stub?: string; readonly sign?: string; readonly out?: string }): Promise<string> {
  const { name, query } = parseRef(ref);
  const { cmdline, stub, sign, out } = options;
  const stateDir = stateOf(options);
  if (sign !== undefined && query.digest === undefined && (await isOthers(stateDir))) {
    throw new AppError('USAGE', `--sign: ${stateDir} is not root's, and whose it is can change what ${ref} is`, `name the build by the digest that it printed when it was made (rackseed image build ${name} --force -o wide): ${name}@sha256:…`);
  }
  const { manifest, uki, path } = await makeUki({
    name,
    query,
    stateDir,
    ...(cmdline === undefined ? {} : { cmdline }),
    ...(stub === undefined ? {} : { stub: resolve(stub) }),
    ...(sign === undefined ? {} : { sign: resolve(sign) }),
  });
  if (out !== undefined) await copyFile(path, resolve(out)).catch((error: unknown) => Promise.reject(new AppError('USAGE', `--out: ${lineOf(error)}`, 'the UKI itself is in the store', error)));
  const tagged = await withTags(createImageStore(stateDir), manifest);
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, shown(tagged), [], []);
  return `UKI of image ${name}: ${bytes(uki.size)}, ${uki.signed ? 'signed' : 'not signed'}, ${uki.digest}; rackseed reload lets it boot\n${render(options.output, shown(tagged), [tagged], COLUMNS)}`;
}

/** Each phase's part of a build's time, in percent (measured, packages fetched). */
const WEIGHT: Readonly<Record<BuildProgress['phase'], number>> = { packages: 80, root: 3, initrd: 5, squashfs: 10, store: 2 };

function share({ phase, fraction }: BuildProgress): number {
  const before = PHASES.slice(0, PHASES.indexOf(phase)).reduce((sum, earlier) => sum + WEIGHT[earlier], 0);
  return before + WEIGHT[phase] * fraction;
}
