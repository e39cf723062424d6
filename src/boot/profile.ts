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

export interface ImageRef {
  readonly name: string;
  /** Digest of the image's content. */
  readonly digest: Digest;
  readonly arch: Arch;
  readonly kernel: BlobRef;
  readonly initrds: readonly BlobRef[];
  readonly squashfs: BlobRef;
  /** Kernel, initrds and a command line in one EFI program, when `rackseed image uki` made one. */
  readonly uki?: BlobRef;
}

/** `none`: a tmpfs; otherwise the file system that keeps state, by label. */
export type RootState = 'none' | `LABEL=${string}`;

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
  readonly root: { readonly state: RootState };
  readonly postBoot?: PostBootRef;
  readonly artifacts: Readonly<Record<string, ArtifactRef>>;
  readonly vars: Readonly<Record<string, string>>;
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
