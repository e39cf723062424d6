// A node: one machine with a name and MACs, as a generation holds it.
import type { Ip4, Mac } from '../addr.ts';
import type { ExtraOptions } from '../dhcp/option-values.ts';

/**
 * How a node leaves the loader when it shall boot from its disk; iPXE's `exit` does not fall through on many BIOSes (TRAPS 1.9). A name that ends in `.efi` is a file
 * of the disk's EFI system partition.
 */
export type ExitMethod = 'exit' | 'sanboot' | `${string}.efi`;

/** What a node does when it starts next. `boot-once`: from us until one boot got ready, from its disk from then on. */
export const NEXTS = ['netboot', 'boot-once', 'local'] as const;
export type Next = (typeof NEXTS)[number];

export interface Node {
  /** Also its hostname. */
  readonly name: string;
  readonly macs: readonly Mac[];
  readonly ip?: Ip4;
  readonly labels: Readonly<Record<string, string>>;
  readonly vars: Readonly<Record<string, string>>;
  /** As its YAML says; absent: what a quirk says, else `exit`. */
  readonly exit?: ExitMethod;
  /** As its YAML says; what an operator said counts before it. */
  readonly next?: Next;
  /** The loader that its own entry or its profile asks for: a choice or a file of the set (boot/loader.ts). Absent: by its firmware. */
  readonly loader?: string;
  /** The loader set that its own entry or its profile names (boot/loader-set.ts). Absent: the daemon's default. */
  readonly loaders?: string;
  /** What it is told by DHCP beside its subnet's options; its own and its profile's in one. */
  readonly dhcpOptions?: ExtraOptions;
  /** Public keys that may log in as root beside its boot set's, as lines of authorized_keys; absent: none. */
  readonly sshKeys?: readonly string[];
  /** Text files for its /config, over its boot set's; absent: none. */
  readonly config?: Readonly<Record<string, string>>;
  /** The profile's name, a key of the generation's `profiles`. */
  readonly profile: string;
  readonly source: 'yaml' | 'api';
}

/** A node that left the YAML while its machine was booting: that boot goes on with what its own row knows. */
export function bareNode(boot: { readonly node: string; readonly mac: Mac; readonly profile: string }): Node {
  return { name: boot.node, macs: [boot.mac], labels: {}, vars: {}, profile: boot.profile, source: 'yaml' };
}
