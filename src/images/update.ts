// `rackseed image update`: the lock moves to what the mirror has today; nothing is built.
import { aptSources, wantedPackages } from './base-debian.ts';
import { openApt } from './apt.ts';
import { AppError } from '../errors.ts';
import { NO_TRUST, withMinisign, type ImageTrust } from './image-keys.ts';
import { inputDigest } from './inputs.ts';
import { interruptible } from './interrupt.ts';
import { lockChanges, lockPath, readLock, withPackages, writeLock, type ImageLock, type LockChange } from './lock.ts';
import { commonDir, forArch, readImage, type ImagesDirs } from './spec.ts';
import { needTools, openWorkshop } from './workshop.ts';

export interface LockUpdate {
  readonly file: string;
  /** By architecture; all of them were new where there was no lock. */
  readonly changes: Readonly<Record<string, readonly LockChange[]>>;
  readonly packages: number;
}

export interface UpdateOptions {
  readonly name: string;
  readonly imagesDir: ImagesDirs;
  readonly stateDir: string;
  /** As at a build: an initrd that verifies signatures takes a package more. */
  readonly trust?: ImageTrust;
  /** Ends it; without one, SIGINT and SIGTERM of this process do. */
  readonly signal?: AbortSignal;
}

/** Asks for every architecture of the image. AppErrors: IMAGE_UNKNOWN, IMAGE_SPEC_INVALID, PACKAGES_MISSING, IMAGE_BUILD_FAILED. */
export async function updateLock({ name, imagesDir, stateDir, trust = NO_TRUST, signal: given }: UpdateOptions): Promise<LockUpdate> {
  const { spec, dir } = readImage(imagesDir, name);
  const { base } = spec;
  if (!('debian' in base)) throw new AppError('IMAGE_BUILD_FAILED', `image ${name}: only packages of Debian can be locked, and its base is none`, 'there is nothing to update: build it');
  needTools(undefined);
  const file = lockPath(stateDir, dir, name);
  const before = readLock(file);
  return interruptible(given, async (signal) => {
    const shop = openWorkshop(stateDir, name, undefined, signal);
    try {
      const head = { image: name, suite: base.debian, mirror: base.mirror };
      let lock: ImageLock = { ...head, locked: {} };
      const changes: Record<string, readonly LockChange[]> = {};
      for (const arch of spec.arch) {
        const one = withMinisign(forArch(spec, arch), trust);
        const packages = await (await openApt(shop, { sources: aptSources(base), arch })).resolve(base.debian, wantedPackages(one));
        changes[arch] = lockChanges(before?.locked[arch]?.packages ?? {}, packages);
        lock = withPackages(lock, head, arch, { input: inputDigest(one, dir, commonDir(imagesDir), trust), packages });
      }
      writeLock(file, lock);
      return { file, changes, packages: Object.values(lock.locked).reduce((sum, { packages }) => sum + Object.keys(packages).length, 0) };
    } finally {
      shop.close();
    }
  });
}
