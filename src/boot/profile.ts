// What boots: profiles, boot sets and the generation that freezes them.
import type { Ip4, Mac } from '../addr.ts';
import type { Digest } from '../digest.ts';
import type { Node } from './node.ts';
import type { Quirk } from './quirks.ts';
import type { Arch } from './request.ts';

/** A content-addressed file: its digest names it in the blob store. */
export interface BlobRef {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

/** dm-verity, version 1, sha256, blocks of 4096 bytes, no salt, no superblock: the hash tree stands in the squashfs's own file, right after its blocks. */
export interface VerityRef {
  /** 64 hex digits. */
  readonly rootHash: string;
  /** Blocks of the squashfs, which is also where the hash tree starts. */
  readonly blocks: number;
}

export interface ImageRef {
  readonly name: string;
  /** Digest of the image's content. */
  readonly digest: Digest;
  readonly arch: Arch;
  readonly kernel: BlobRef;
  readonly initrds: readonly BlobRef[];
  readonly squashfs: BlobRef;
  /** Its blocks can be checked one by one, as they are read; absent in images of older builders. */
  readonly verity?: VerityRef;
  /** The signed manifest, as text for the initrd stage, and its minisign signature; absent where the image is not signed. */
  readonly signed?: { readonly manifest: BlobRef; readonly signature: BlobRef };
  /** What the image itself wants on the kernel's command line; the boot set's has it already. */
  readonly cmdline?: readonly string[];
  /** Kernel, initrds and a command line in one EFI program, when `rackseed image uki` made one. */
  readonly uki?: BlobRef;
}

/** What a boot set holds of an image, member by member: whatever else is known of it must not move the boot set's digest. */
export function imageRef(image: ImageRef): ImageRef {
  const { name, digest, arch, kernel, initrds, squashfs, verity, signed, cmdline, uki } = image;
  const blob = ({ digest, size }: BlobRef): BlobRef => ({ digest, size });
  return {
    name,
    digest,
    arch,
    kernel: blob(kernel),
    initrds: initrds.map(blob),
    squashfs: blob(squashfs),
    ...(verity ? { verity: { rootHash: verity.rootHash, blocks: verity.blocks } } : {}),
    ...(signed ? { signed: { manifest: blob(signed.manifest), signature: blob(signed.signature) } } : {}),
    ...(cmdline && cmdline.length > 0 ? { cmdline: [...cmdline] } : {}),
    ...(uki ? { uki: blob(uki) } : {}),
  };
}

/** `none`: a tmpfs; otherwise the file system that keeps state, by label. */
export type RootState = 'none' | `LABEL=${string}`;

/** A profile's `root`. What is not said is absent, so that boot sets keep their digests. */
export interface RootOptions {
  readonly state: RootState;
  /** Which disk may get the file system of `state` when nothing is on it, as in /dev/disk/by-path: `pci-0000:00:05.0`. */
  readonly disk?: string;
  /** What it is formatted with; default ext4. */
  readonly format?: 'ext4' | 'xfs';
  /** Format it at this boot, whatever is on it. */
  readonly wipe?: true;
  /** What becomes of a node whose disk is not there; default fail. */
  readonly onMissing?: 'fail' | 'ephemeral';
  /** `disk`: the squashfs is kept there; default none. */
  readonly cache?: 'none' | 'disk';
  /** Most that the overlay's tmpfs may take, as tmpfs writes it: `50%`, `2g`. */
  readonly size?: string;
  /** An image with an older serial is refused by the initrd stage. */
  readonly minSerial?: number;
}

export interface PostBootRef {
  readonly repo: string;
  /** Full id of the pinned commit. */
  readonly commit: string;
  /** Directory of the steps inside the repository. */
  readonly steps: string;
}

export interface ArtifactRef {
  readonly version: string;
  readonly digest: Digest;
  readonly size: number;
}

/** Everything that decides what boots. Immutable; its id is the digest of its content. */
export interface BootSet {
  readonly image: ImageRef;
  readonly cmdline: readonly string[];
  readonly root: RootOptions;
  readonly postBoot?: PostBootRef;
  readonly artifacts: Readonly<Record<string, ArtifactRef>>;
  readonly vars: Readonly<Record<string, string>>;
  /** Public keys that may log in as root, as lines of authorized_keys. */
  readonly sshKeys?: readonly string[];
  /** Text files for /config, by their path below it. */
  readonly config?: Readonly<Record<string, string>>;
  /** Whether the initrd stage may open a shell on the console when it fails. */
  readonly shell?: true;
}

export interface Profile {
  readonly name: string;
  /** Absent when the profile sends its nodes to their own disk (`boot: local`). */
  readonly bootSet?: Digest;
}

/** All YAML compiled into one frozen value; its id is the digest of the rest, equal on two daemons with the same input. */
export interface Generation {
  readonly id: Digest;
  readonly profiles: Readonly<Record<string, Profile>>;
  readonly bootSets: Readonly<Record<Digest, BootSet>>;
  readonly nodes: Readonly<Record<string, Node>>;
  readonly nodeByMac: Readonly<Record<Mac, string>>;
  readonly nodeByIp: Readonly<Record<Ip4, string>>;
  /** The operators' own, in their order; absent when there are none. */
  readonly quirks?: readonly Quirk[];
}
