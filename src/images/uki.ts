// A UKI: an image's kernel and initrds and a command line in one EFI program, by systemd's stub; signed with the operator's own key if wanted.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runsOn } from '../boot/loader.ts';
import { digestOfBytes, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { createBlobStore } from '../store/blobs.ts';
import { createImageStore, imageDigest, type ImageManifest, type ImageRefQuery, type UkiRef } from './manifest.ts';
import { withSections } from './pe.ts';
import { signEfi } from './signing.ts';

/** Debian's `systemd-boot-efi`. */
const STUBS: Readonly<Record<string, string>> = { amd64: '/usr/lib/systemd/boot/efi/linuxx64.efi.stub', arm64: '/usr/lib/systemd/boot/efi/linuxaa64.efi.stub' };

/** No node and no boot stands in it: the same file boots them all, and the initrd stage asks DHCP. The last console is the one that people see. */
export const UKI_CMDLINE = 'rackseed.net=dhcp console=ttyS0,115200 console=tty0';

export interface UkiOptions {
  readonly name: string;
  readonly query?: ImageRefQuery;
  readonly stateDir: string;
  /** Default UKI_CMDLINE. */
  readonly cmdline?: string;
  /** systemd's stub; default Debian's for the image's architecture. */
  readonly stub?: string;
  /** A directory with db.key and db.crt (`rackseed keys init secure-boot`). */
  readonly sign?: string;
}

/**
 * Makes the UKI of a built image, adds it to the blob store and records it in the image's manifest, in place of an earlier one. Equal inputs give
 * equal bytes. IMAGE_UNKNOWN, PACKAGES_MISSING, IMAGE_BUILD_FAILED, USAGE as AppErrors, and then nothing is changed.
 */
export async function makeUki(options: UkiOptions): Promise<{ readonly manifest: ImageManifest; readonly uki: UkiRef; readonly path: string }> {
  const { name, query, stateDir, cmdline = UKI_CMDLINE } = options;
  const images = createImageStore(stateDir);
  const blobs = createBlobStore(stateDir);
  const image = await images.get(name, query);
  if (!image) throw new AppError('IMAGE_UNKNOWN', `there is no image ${name}`, `build it: rackseed image build ${name}`);
  if (!/^[\x20-\x7e]{0,2000}$/.test(cmdline)) throw new AppError('USAGE', '--cmdline: printable ASCII, at most 2000 characters', 'kernel arguments with spaces between them');
  const stub = readStub(options.stub ?? STUBS[image.arch], image.arch);
  const again = `build it again: rackseed image build ${name} --force`;
  // The daemon's user can write to the store: what is signed here must be what was built, and what was asked for.
  const digest = query?.digest ?? image.digest;
  if (imageDigest(image) !== digest || image.digest !== digest) throw new AppError('IMAGE_BUILD_FAILED', `the manifest of image ${name} is not that of ${digest}`, again);
  const read = (what: string, digest: Digest): Buffer => {
    let bytes: Buffer;
    try {
      bytes = readFileSync(blobs.path(digest));
    } catch (error) {
      throw new AppError('IMAGE_BUILD_FAILED', `the ${what} of image ${name} cannot be read: ${lineOf(error)}`, again, error);
    }
    if (digestOfBytes(bytes) !== digest) throw new AppError('IMAGE_BUILD_FAILED', `the ${what} of image ${name} is not what was built: ${blobs.path(digest)} has another digest`, again);
    return bytes;
  };
  const parts: UkiParts = { cmdline, kernelVersion: image.kernel.version, kernel: read('kernel', image.kernel.digest), initrds: image.initrds.map((initrd) => read('initrd', initrd.digest)) };
  // Not in the state directory, whose owner could put another file in its place before it is signed.
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-uki-'));
  try {
    const file = join(dir, 'uki.efi');
    writeFileSync(file, asUki(stub, parts));
    if (options.sign !== undefined) await signEfi(file, options.sign);
    const blob = await blobs.add(file);
    const uki: UkiRef = { ...blob, cmdline, signed: options.sign !== undefined };
    const manifest: ImageManifest = { ...image, uki };
    await images.put(manifest);
    return { manifest, uki, path: blobs.path(blob.digest) };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

export interface UkiParts {
  readonly cmdline: string;
  readonly kernelVersion: string;
  readonly kernel: Uint8Array;
  readonly initrds: readonly Uint8Array[];
}

/** The sections that systemd's stub looks for (UAPI group, "Unified Kernel Image"). RangeError for a file that is no stub. */
export function ukiBytes(stub: Uint8Array, { cmdline, kernelVersion, kernel, initrds }: UkiParts): Buffer {
  const text = (value: string): Buffer => Buffer.from(value, 'latin1');
  return withSections(stub, [
    { name: '.osrel', data: text(`ID=rackseed\nNAME=rackseed\nPRETTY_NAME="rackseed, Linux ${kernelVersion}"\nVERSION_ID=${kernelVersion}\n`) },
    { name: '.cmdline', data: text(cmdline) },
    { name: '.uname', data: text(kernelVersion) },
    { name: '.initrd', data: Buffer.concat(initrds.map(aligned4)) },
    // Last: what a kernel needs beyond its file's end is then nobody's.
    { name: '.linux', data: kernel },
  ]);
}

function asUki(stub: Buffer, parts: UkiParts): Buffer {
  try {
    return ukiBytes(stub, parts);
  } catch (error) {
    throw new AppError('IMAGE_BUILD_FAILED', `the stub takes no sections: ${lineOf(error)}`, 'is it an unsigned one, as systemd-boot-efi brings it?', error);
  }
}

/** The kernel reads several archives one behind the other, each from a multiple of 4 on (Documentation/driver-api/early-userspace/buffer-format). */
function aligned4(archive: Uint8Array): Buffer {
  return Buffer.concat([archive, Buffer.alloc((4 - (archive.length % 4)) % 4)]);
}

function readStub(path: string | undefined, arch: string): Buffer {
  if (path === undefined) throw new AppError('IMAGE_BUILD_FAILED', `no EFI stub for ${arch} is known`, 'give one: --stub FILE');
  let stub: Buffer;
  try {
    stub = readFileSync(path);
  } catch (error) {
    throw new AppError('PACKAGES_MISSING', `${path}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, "install systemd's stub: apt-get install --no-install-recommends systemd-boot-efi; or give one: --stub FILE", error);
  }
  const target = runsOn(path, stub);
  if (target !== `efi-${arch}`) throw new AppError('IMAGE_BUILD_FAILED', `${path} is ${target === 'unknown' || target === 'bios' ? 'no EFI program' : `for ${target}`}, the image is for ${arch}`, 'leave --stub out, or give linuxx64.efi.stub of systemd-boot-efi or the like');
  return stub;
}
