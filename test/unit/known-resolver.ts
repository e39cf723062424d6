// A resolver over plain values: the one image, artifact and repository that broken-profiles.ts counts on.
import type { ImageRef } from '../../src/boot/profile.ts';
import type { Resolver } from '../../src/config/resolver.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { KNOWN } from './broken-profiles.ts';

const blob = (content: string) => ({ digest: digestOfBytes(content), size: content.length });

export const IMAGE: ImageRef = { name: KNOWN.image, digest: digestOfBytes('image'), arch: 'amd64', kernel: blob('kernel'), initrds: [blob('initrd')], squashfs: blob('squashfs') };
export const COMMIT = 'c0ffee'.padEnd(40, '0');

export const knownResolver: Resolver = {
  image: async (name, ref) => (name === KNOWN.image && ref?.tag === undefined && (ref?.digest ?? IMAGE.digest) === IMAGE.digest ? IMAGE : undefined),
  imageNames: async () => [KNOWN.image],
  artifact: async (name, version) => (name === KNOWN.artifact && version === KNOWN.version ? { version, ...blob('k0s') } : undefined),
  artifactNames: async () => [KNOWN.artifact],
  artifactVersions: async () => [KNOWN.version],
  commit: async (repo, ref) => (repo === KNOWN.repo && ref === KNOWN.ref ? COMMIT : undefined),
  repoNames: async () => [KNOWN.repo],
  hasSteps: async (_repo, _commit, dir) => dir === KNOWN.steps,
  stepDirs: async () => [KNOWN.steps],
  loaderSets: async () => ({ default: 'default', sets: new Map([['default', ['undionly.kpxe', 'snponly.efi', 'ipxe-arm64.efi']], ['ipxe-2.0', ['snponly.efi']]]) }),
};
