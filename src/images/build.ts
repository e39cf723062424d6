// From image.yaml to kernel, initrd and squashfs in the blob store, and a manifest that names them.
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError, lineOf } from '../errors.ts';
import { createBlobStore } from '../store/blobs.ts';
import { aptSources } from './base-debian.ts';
import { unpackBase } from './bases.ts';
import { readStatus } from './dpkg.ts';
import { finishScript } from './finish.ts';
import { placeGenerated } from './generated.ts';
import { NO_TRUST, trustEntries, withMinisign, type ImageTrust } from './image-keys.ts';
import { compressed, INITRD_PROGRAMS, initrdArchive } from './initrd.ts';
import { BUILDER, inputDigest } from './inputs.ts';
import { interruptible } from './interrupt.ts';
import { lockDigest, type LockChange, type LockedPackages } from './lock.ts';
import { lockOf, lockOfImage, mustBeLocked, pinned, type LockOfImage } from './locked.ts';
import { createImageStore, latestTag, type ImageManifest } from './manifest.ts';
import { blobOf, recordImage } from './record.ts';
import { checkKernel, findBusybox, findKernel, installedPackages, placeFiles, placeTree, type KernelFiles } from './rootfs.ts';
import { rootContents } from './sbom.ts';
import { isOthers, isSignedBy, signedBy } from './sign.ts';
import { commonDir, forArch, readImage, type ArchSpec, type BuiltArch, type ImagesDirs, type ImageSource } from './spec.ts';
import { addVerity, makeSquashfs } from './squash.ts';
import { hasFiles } from './verify.ts';
import { must, needTools, openWorkshop, type Workshop } from './workshop.ts';

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
  readonly imagesDir: ImagesDirs;
  /** One of image.yaml's processors; default: its first. */
  readonly arch?: BuiltArch;
  readonly stateDir: string;
  /** Build although nothing changed: newer packages may have come. */
  readonly force?: boolean;
  /** Take exactly the packages of the image's lock, which must be there. */
  readonly locked?: boolean;
  /** Keys for the initrd, and the one that signs; default: none. */
  readonly trust?: ImageTrust;
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
  /** The lock that this build wrote, because there was none. */
  readonly lockWritten?: string;
  /** Packages that are of another version than the lock has, in a build that was not bound to it. */
  readonly unlocked?: readonly LockChange[];
}

/**
 * Builds the image unless its inputs are those of an earlier build. A failed or interrupted build changes nothing and leaves nothing but
 * its log. AppErrors: IMAGE_UNKNOWN, IMAGE_SPEC_INVALID, PACKAGES_MISSING, IMAGE_BUILD_FAILED, STORE_UNUSABLE.
 */
export async function buildImage(options: BuildOptions): Promise<BuildResult> {
  const { name, imagesDir, stateDir, trust = NO_TRUST } = options;
  const source = readImage(imagesDir, name);
  const spec = withMinisign(forArch(source.spec, options.arch), trust);
  const input = inputDigest(spec, source.dir, commonDir(imagesDir), trust);
  const images = createImageStore(stateDir);
  const lock = lockOfImage(stateDir, source.dir, name, spec, input);
  const wanted = options.locked ? lock.packages() : undefined;
  if (!options.force) {
    const blobs = createBlobStore(stateDir);
    for (const built of (await images.list()).filter((manifest) => manifest.name === name && manifest.input === input && (!wanted || manifest.lock === lockDigest(wanted)))) {
      if (!(await hasFiles(built, blobs))) continue;
      // Somebody else can write to that store: what is signed for the first time is what is built now.
      if (trust.signer && (await isOthers(stateDir)) && !(await isSignedBy(built, trust.signer, blobs))) continue;
      const manifest = await signedBy(built, trust.signer, stateDir);
      await images.tag(name, latestTag(tagSuffix(source, spec)), built.digest);
      return { manifest, unchanged: true, phases: [] };
    }
  }
  const emulation = needTools(spec.arch, options.emulator);
  return interruptible(options.signal, async (signal) => {
    const shop = openWorkshop(stateDir, name, emulation, signal);
    try {
      return await build(options, source, spec, input, { lock, wanted }, shop);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof AppError) throw error;
      throw new AppError('IMAGE_BUILD_FAILED', `image ${name}: ${lineOf(error)}`, `the log is ${shop.log}`, error);
    } finally {
      shop.close();
    }
  });
}

/** The first of image.yaml's processors has the plain tags. */
function tagSuffix(source: ImageSource, { arch }: ArchSpec): string | undefined {
  return arch === source.spec.arch[0] ? undefined : arch;
}

async function build({ name, imagesDir, stateDir, force, trust = NO_TRUST, onProgress }: BuildOptions, source: ImageSource, spec: ArchSpec, input: string, { lock, wanted }: { readonly lock: LockOfImage; readonly wanted: LockedPackages | undefined }, shop: Workshop): Promise<BuildResult> {
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

  const installed = await phase('packages', async (at) => {
    const debs = join(stateDir, 'cache', 'apt');
    const pins = wanted && 'debian' in spec.base ? await pinned(shop, wanted, { image: name, lock: lock.file, suite: spec.base.debian, arch: spec.arch, sources: aptSources(spec.base), debs }) : [];
    let installed: LockedPackages | undefined;
    const onInstalled = (): void => {
      if (!('debian' in spec.base)) return;
      installed = lockOf(readStatus(root), debs);
      if (wanted) mustBeLocked(name, wanted, installed);
    };
    await unpackBase(source, spec, { root, stateDir, shop, at, mmdebstrap: pins, onInstalled, ...(force ? { force } : {}) });
    return installed;
  });
  const { kernel, packages } = await phase('root', async () => {
    const kernel = findKernel(root);
    checkKernel(spec.arch, kernel);
    copyFileSync(kernel.image, kernelFile);
    const common = join(commonDir(imagesDir), 'root');
    if (existsSync(common)) placeTree(common, root);
    placeGenerated(spec, root);
    placeFiles(spec, root, source.dir);
    const script = join(shop.dir, 'finish.sh');
    writeFileSync(script, finishScript(spec));
    await must(shop, ['sh', script, root], 'the root could not be finished');
    return { kernel, packages: installedPackages(root) };
  });
  await phase('initrd', () => initrd(spec, trust, kernel, root, join(commonDir(imagesDir), 'initrd'), initrdFile));
  const locked = installed ? { lock: lockDigest(installed) } : {};
  const contents = rootContents(root, spec.arch);
  const verity = await phase('squashfs', async (at) => {
    const [kernelBlob, initrdBlob] = await Promise.all([kernelFile, initrdFile].map(blobOf));
    placeTree(await identity(shop, { name, arch: spec.arch, kernel: { version: kernel.version, ...kernelBlob }, initrds: [initrdBlob], packages, input, ...locked, builder: BUILDER }), root);
    await makeSquashfs(root, squashfsFile, shop, at);
    return addVerity(squashfsFile, shop);
  });
  const manifest = await phase('store', async () => {
    const files = { kernel: kernelFile, initrd: initrdFile, squashfs: squashfsFile };
    const distribution = 'debian' in spec.base ? { distribution: { name: 'debian', suite: spec.base.debian } } : {};
    const manifest = await recordImage(stateDir, { name, arch: spec.arch, files, kernelVersion: kernel.version, verity, packages, input, builder: BUILDER, ...(spec.kernel.cmdline.length > 0 ? { cmdline: spec.kernel.cmdline } : {}), ...locked, contents: { ...contents, ...distribution, checksums: installed ?? {} } }, trust);
    await createImageStore(stateDir).tagBuilt(name, manifest.digest, manifest.builtAt, tagSuffix(source, spec));
    return manifest;
  });
  return { manifest, unchanged: false, phases, ...(installed && !wanted ? lock.after(installed) : {}) };
}

async function initrd(spec: ArchSpec, trust: ImageTrust, kernel: KernelFiles, root: string, stage: string, to: string): Promise<void> {
  const { archive } = await initrdArchive({
    busybox: findBusybox(root, spec.arch),
    stage,
    modules: kernel.modules,
    kernelVersion: kernel.version,
    required: spec.kernel.modules,
    optional: spec.kernel.optionalModules,
    root,
    programs: INITRD_PROGRAMS,
    requiredPrograms: trust.keys.length > 0 ? ['/usr/bin/minisign'] : [],
    files: trustEntries(trust),
    firmware: spec.kernel.firmware,
  });
  writeFileSync(to, await compressed(archive));
}

/** What a running node can say of the image it runs. The image's own digest cannot be in it: it depends on this file. */
async function identity(shop: Workshop, value: object): Promise<string> {
  const tree = join(shop.dir, 'identity');
  mkdirSync(join(tree, 'etc/rackseed'), { recursive: true });
  writeFileSync(join(tree, 'etc/rackseed/image.json'), `${JSON.stringify(value, null, 2)}\n`);
  return tree;
}
