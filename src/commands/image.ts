// `rackseed image build|list|show|uki`: images are built beside a running daemon; what boots changes at its next reload.
import { copyFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { readSettings } from '../config/settings.ts';
import { nearest } from '../config/faults.ts';
import { isDigest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { buildImage, PHASES, type BuildProgress } from '../images/build.ts';
import { createImageStore, type ImageManifest, type ImageRefQuery } from '../images/manifest.ts';
import { makeUki } from '../images/uki.ts';
import { hasUki } from '../images/verify.ts';
import { SHIPPED } from '../shipped.ts';
import { createBlobStore } from '../store/blobs.ts';
import { bytes, duration, render, type Column, type Format } from './output.ts';
import { progressBar } from './progress.ts';

interface ImageOptions {
  readonly config?: string;
  /** Instead of the settings' state directory. */
  readonly state?: string;
  readonly output: Format;
}

const COLUMNS: readonly Column<ImageManifest>[] = [
  { title: 'NAME', of: (image) => image.name },
  { title: 'DIGEST', of: (image) => image.digest.slice(0, 'sha256:'.length + 12) },
  { title: 'ARCH', of: (image) => image.arch },
  { title: 'KERNEL', of: (image) => image.kernel.version },
  { title: 'INITRD', of: (image) => bytes(image.initrds.reduce((sum, initrd) => sum + initrd.size, 0)) },
  { title: 'SQUASHFS', of: (image) => bytes(image.squashfs.size) },
  { title: 'AGE', of: (image) => duration(Date.now() - image.builtAt) },
  { title: 'PACKAGES', of: (image) => image.packages.length, wide: true },
  { title: 'FULL DIGEST', of: (image) => image.digest, wide: true },
];

/** Builds `images/<name>` of this rackseed. On a table's stdout: one line that says what is there now. */
export async function imageBuild(name: string, options: ImageOptions & { readonly force?: boolean }): Promise<string> {
  const stateDir = stateOf(options);
  const began = performance.now();
  const { onProgress, stop } = progressBar(`building ${name}`, 'percent');
  const built = await buildImage({
    name,
    imagesDir: SHIPPED.images,
    stateDir,
    ...(options.force ? { force: true } : {}),
    onProgress: (progress) => onProgress(share(progress), 100),
  }).finally(stop);
  const { manifest, unchanged, phases } = built;
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { ...shown(manifest), unchanged, phases }, [], []);
  const times = phases.map(({ phase, ms }) => `${phase} ${(ms / 1000).toFixed(1)} s`).join(', ');
  const what = unchanged ? 'unchanged' : `built in ${duration(performance.now() - began)} (${times})`;
  const lost = (await hasUki(manifest, createBlobStore(stateDir))) ? '' : `; its UKI is lost, make it again: rackseed image uki ${name}`;
  return `image ${name} ${what}${lost}\n${render(options.output, shown(manifest), [manifest], COLUMNS)}`;
}

export async function imageList(options: ImageOptions): Promise<string> {
  const images = await createImageStore(stateOf(options)).list();
  return render(options.output, { images: images.map(shown) }, images, COLUMNS);
}

/** `ref` is `name`, `name:tag` or `name@sha256:<digest>`. IMAGE_UNKNOWN when there is no such build. */
export async function imageShow(ref: string, options: ImageOptions): Promise<string> {
  const store = createImageStore(stateOf(options));
  const { name, query } = parseRef(ref);
  const image = await store.get(name, query);
  if (image) return render(options.output, { ...shown(image), tags: await tagsOf(store, image) }, [image], COLUMNS);
  const names = await store.names();
  const near = nearest(name, names);
  const hint = names.includes(name) ? 'rackseed image list shows the builds that there are' : near ? `did you mean ${near}?` : `build it: rackseed image build ${name}`;
  throw new AppError('IMAGE_UNKNOWN', `there is no image ${ref}`, hint);
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
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, shown(manifest), [], []);
  return `UKI of image ${name}: ${bytes(uki.size)}, ${uki.signed ? 'signed' : 'not signed'}, ${uki.digest}; rackseed reload lets it boot\n${render(options.output, shown(manifest), [manifest], COLUMNS)}`;
}

/** As programs see an image: the manifest, and `initrd` beside `initrds` because ours is one. */
function shown(manifest: ImageManifest): object {
  return { ...manifest, initrd: manifest.initrds[0], builtAt: new Date(manifest.builtAt).toISOString() };
}

async function tagsOf(store: ReturnType<typeof createImageStore>, image: ImageManifest): Promise<string[]> {
  return Object.entries(await store.tags(image.name)).flatMap(([tag, digest]) => (digest === image.digest ? [tag] : []));
}

function parseRef(ref: string): { readonly name: string; readonly query: ImageRefQuery } {
  const at = ref.indexOf('@');
  if (at >= 0) {
    const digest = ref.slice(at + 1);
    if (!isDigest(digest)) throw new AppError('USAGE', `${digest} is not a digest`, 'sha256: and 64 hex digits');
    return { name: ref.slice(0, at), query: { digest } };
  }
  const [name = '', tag] = ref.split(':');
  return { name, query: tag === undefined ? {} : { tag } };
}

/** Whether this is root, and the directory somebody else's. */
async function isOthers(dir: string): Promise<boolean> {
  return process.getuid?.() === 0 && ((await stat(dir).catch(() => undefined))?.uid ?? 0) !== 0;
}

function stateOf(options: ImageOptions): string {
  return options.state === undefined ? readSettings(options.config).stateDir : resolve(options.state);
}

/** Each phase's part of a build's time, in percent (measured, packages fetched). */
const WEIGHT: Readonly<Record<BuildProgress['phase'], number>> = { packages: 80, root: 3, initrd: 5, squashfs: 10, store: 2 };

function share({ phase, fraction }: BuildProgress): number {
  const before = PHASES.slice(0, PHASES.indexOf(phase)).reduce((sum, earlier) => sum + WEIGHT[earlier], 0);
  return before + WEIGHT[phase] * fraction;
}
