// From image.yaml to kernel, initrd and squashfs in the blob store, and a manifest that names them.
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError, lineOf } from '../errors.ts';
import { createBlobStore } from '../store/blobs.ts';
import { isForeign } from './emulation.ts';
import { compressed, initrdArchive } from './initrd.ts';
import { BUILDER, inputDigest } from './inputs.ts';
import { createImageStore, imageDigest, LATEST, type ImageManifest } from './manifest.ts';
import { aptSources, checkKernel, dpkgExcludes, findBusybox, findKernel, finishScript, installedPackages, mmdebstrapArgs, placeFiles, placeTree, reasonIn, type KernelFiles } from './rootfs.ts';
import { keptRoot } from './roots.ts';
import { readImageSpec, type ImageSpec } from './spec.ts';
import { CHUNK_SIZE, chunkDigests, hasFiles } from './verify.ts';
import { EPOCH, needTools, openWorkshop, type Workshop } from './workshop.ts';

export const PHASES = ['packages', 'root', 'initrd', 'squashfs', 'store'] as const;
export type Phase = (typeof PHASES)[number];

export interface BuildProgress {
  readonly phase: Phase;
  /** 0 to 1, of this phase. */
  readonly fraction: number;
  readonly message?: string;
}

export interface BuildOptions {
  readonly name: string;
  /** Has `<name>/image.yaml` and `common/`. */
  readonly imagesDir: string;
  readonly stateDir: string;
  /** Build although nothing changed: newer packages may have come. */
  readonly force?: boolean;
  /** QEMU's user emulator of another processor than this machine's; default: Debian's, by PATH. */
  readonly emulator?: string;
  readonly onProgress?: (progress: BuildProgress) => void;
  /** Ends the build; without one, SIGINT and SIGTERM of this process do while it runs. */
  readonly signal?: AbortSignal;
}

export interface BuildResult {
  readonly manifest: ImageManifest;
  /** The inputs were those of an earlier build, whose manifest this is. */
  readonly unchanged: boolean;
  /** Milliseconds; nothing when unchanged. */
  readonly phases: readonly { readonly phase: Phase; readonly ms: number }[];
}

/** Measured on the whole root (docs/decisions/initrd.md): 15 takes four times as long for 5 % less. */
const SQUASHFS_LEVEL = 9;

/**
 * Builds the image unless its inputs are those of an earlier build. A failed or interrupted build changes nothing and leaves nothing but
 * its log. AppErrors: IMAGE_UNKNOWN, IMAGE_SPEC_INVALID, PACKAGES_MISSING, IMAGE_BUILD_FAILED, STORE_UNUSABLE.
 */
export async function buildImage(options: BuildOptions): Promise<BuildResult> {
  const { name, imagesDir, stateDir } = options;
  const spec = readImageSpec(imagesDir, name);
  const input = inputDigest(spec, join(imagesDir, name), join(imagesDir, 'common'));
  const images = createImageStore(stateDir);
  if (!options.force) {
    const blobs = createBlobStore(stateDir);
    for (const built of (await images.list()).filter((manifest) => manifest.name === name && manifest.input === input)) {
      if (!(await hasFiles(built, blobs))) continue;
      await images.tag(name, LATEST, built.digest);
      return { manifest: built, unchanged: true, phases: [] };
    }
  }
  const emulation = needTools(spec.arch, options.emulator);
  return interruptible(options.signal, async (signal) => {
    const shop = openWorkshop(stateDir, name, emulation, signal);
    try {
      return await build(options, spec, input, shop);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof AppError) throw error;
      throw new AppError('IMAGE_BUILD_FAILED', `image ${name}: ${lineOf(error)}`, `the log is ${shop.log}`, error);
    } finally {
      shop.close();
    }
  });
}

async function build({ name, imagesDir, stateDir, force, onProgress }: BuildOptions, spec: ImageSpec, input: string, shop: Workshop): Promise<BuildResult> {
  const phases: { phase: Phase; ms: number }[] = [];
  const phase = async <T>(phase: Phase, work: (at: (fraction: number, message?: string) => void) => Promise<T>): Promise<T> => {
    const started = performance.now();
    const at = (fraction: number, message?: string): void => onProgress?.({ phase, fraction, ...(message === undefined ? {} : { message }) });
    at(0);
    const result = await work(at);
    phases.push({ phase, ms: Math.round(performance.now() - started) });
    at(1);
    return result;
  };
  const root = join(shop.dir, 'root');
  const [kernelFile, initrdFile, squashfsFile] = ['kernel', 'initrd', 'squashfs'].map((file) => join(shop.dir, file)) as [string, string, string];

  await phase('packages', async (at) => {
    const kept = isForeign(spec.arch) ? keptRoot(stateDir, spec) : undefined;
    if (!force && (await kept?.restore(shop, root))) return;
    await debian(spec, root, stateDir, shop, at);
    const why = await kept?.keep(shop, root);
    if (why !== undefined) at(0.99, `not kept for later builds: ${why}`);
  });
  const { kernel, packages } = await phase('root', async () => {
    const kernel = findKernel(root);
    checkKernel(spec.arch, kernel);
    copyFileSync(kernel.image, kernelFile);
    const common = join(imagesDir, 'common', 'root');
    if (existsSync(common)) placeTree(common, root);
    placeFiles(spec, root, join(imagesDir, name));
    placeTree(await identity(shop, { name, arch: spec.arch, input, builder: BUILDER }), root);
    const script = join(shop.dir, 'finish.sh');
    writeFileSync(script, finishScript(spec));
    await must(shop, ['sh', script, root], 'the root could not be finished');
    return { kernel, packages: installedPackages(root) };
  });
  await phase('initrd', () => initrd(spec, kernel, root, join(imagesDir, 'common', 'initrd'), initrdFile));
  await phase('squashfs', (at) => squash(root, squashfsFile, shop, at));
  const manifest = await phase('store', async () => {
    const blobs = createBlobStore(stateDir);
    const stored = { kernel: await blobs.add(kernelFile), initrd: await blobs.add(initrdFile), squashfs: await blobs.add(squashfsFile) };
    const content = {
      arch: spec.arch,
      kernel: { ...stored.kernel, version: kernel.version },
      initrds: [stored.initrd],
      squashfs: { ...stored.squashfs, chunkSize: CHUNK_SIZE, chunks: await chunkDigests(squashfsFile) },
    };
    const manifest: ImageManifest = { name, digest: imageDigest(content), ...content, packages, input, builder: BUILDER, builtAt: Date.now() };
    const images = createImageStore(stateDir);
    await images.put(manifest);
    await images.tag(name, LATEST, manifest.digest);
    return manifest;
  });
  return { manifest, unchanged: false, phases };
}

/** mmdebstrap's lines that tell how far it is, with the share of its time that has passed by then (measured). */
const MILESTONES: readonly (readonly [RegExp, number])[] = [
  [/running apt-get update/, 0.02],
  [/downloading packages/, 0.1],
  [/extracting archives/, 0.25],
  [/installing essential/, 0.35],
  [/installing remaining/, 0.45],
  [/cleaning package lists/, 0.98],
];

async function debian(spec: ImageSpec, root: string, stateDir: string, shop: Workshop, at: (fraction: number, message?: string) => void): Promise<void> {
  const debs = join(stateDir, 'cache', 'apt');
  mkdirSync(debs, { recursive: true });
  const paths = { root, debs, sources: join(shop.dir, 'sources.list'), excludes: join(shop.dir, 'dpkg.cfg') };
  writeFileSync(paths.sources, aptSources(spec));
  writeFileSync(paths.excludes, dpkgExcludes(spec));
  const code = await shop.asRoot(mmdebstrapArgs(spec, paths), (line) => {
    const milestone = MILESTONES.find(([pattern]) => line.startsWith('I: ') && pattern.test(line));
    if (milestone) at(milestone[1], line.slice(3).replace(/\.+$/, ''));
  });
  if (code !== 0) throw new AppError('IMAGE_BUILD_FAILED', `mmdebstrap: ${reasonIn(shop.said())}`, `the whole log is ${shop.log}`);
  forgetOld(debs);
}

/** Packages that no build has used for a month will not be asked for again. */
function forgetOld(debs: string): void {
  const month = Date.now() - 30 * 86_400_000;
  for (const name of readdirSync(debs)) if (statSync(join(debs, name)).mtimeMs < month) rmSync(join(debs, name), { force: true });
}

async function initrd(spec: ImageSpec, kernel: KernelFiles, root: string, stage: string, to: string): Promise<void> {
  const { archive } = await initrdArchive({
    busybox: findBusybox(root),
    stage,
    modules: kernel.modules,
    kernelVersion: kernel.version,
    required: spec.kernel.modules,
    optional: spec.kernel.optionalModules,
  });
  writeFileSync(to, await compressed(archive));
}

async function squash(root: string, to: string, shop: Workshop, at: (fraction: number) => void): Promise<void> {
  const options = ['-noappend', '-progress', '-comp', 'zstd', '-Xcompression-level', String(SQUASHFS_LEVEL)];
  // mksquashfs takes either the variable, which only cuts off later times, or the options, which set all of them.
  const argv = ['env', '-u', 'SOURCE_DATE_EPOCH', 'mksquashfs', root, to, ...options, '-mkfs-time', String(EPOCH), '-all-time', String(EPOCH)];
  await must(shop, argv, 'the squashfs could not be made', (line) => {
    const percent = /(\d+)%$/.exec(line)?.[1];
    if (percent) at(Number(percent) / 100);
  });
}

/** What a running node can say of the image it runs. The image's own digest cannot be in it: it depends on this file. */
async function identity(shop: Workshop, value: object): Promise<string> {
  const tree = join(shop.dir, 'identity');
  mkdirSync(join(tree, 'etc/rackseed'), { recursive: true });
  writeFileSync(join(tree, 'etc/rackseed/image.json'), `${JSON.stringify(value, null, 2)}\n`);
  return tree;
}

async function must(shop: Workshop, argv: readonly string[], what: string, onLine?: (line: string) => void): Promise<void> {
  let last = '';
  const code = await shop.asRoot(argv, (line) => {
    if (line.trim() !== '') last = line.trim();
    onLine?.(line);
  });
  if (code !== 0) throw new AppError('IMAGE_BUILD_FAILED', `${what}: ${last || `${argv[0]} ended with ${code}`}`, `the whole log is ${shop.log}`);
}

/** Runs the work with a signal that SIGINT and SIGTERM abort, unless the caller has one of their own. */
async function interruptible<T>(given: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const own = new AbortController();
  const stop = (): void => own.abort(new AppError('IMAGE_BUILD_FAILED', 'the build was interrupted', 'nothing was changed; build it again when you like'));
  given?.addEventListener('abort', stop, { once: true });
  if (given?.aborted) stop();
  const signals = given ? [] : (['SIGINT', 'SIGTERM'] as const);
  for (const name of signals) process.on(name, stop);
  try {
    return await work(own.signal);
  } finally {
    given?.removeEventListener('abort', stop);
    for (const name of signals) process.off(name, stop);
  }
}
