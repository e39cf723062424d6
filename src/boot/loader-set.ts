// Loader sets: what they are called, and under which names machines ask for their files. Pure.
import { parseMac } from '../addr.ts';
import { SHIM_STARTS, type LoaderProgram } from './loader.ts';
import type { Node } from './node.ts';

/** The set of `loaders.dir`: its files go by their plain names. */
export const BUILT_IN_SET = 'default';

/** A directory of its own in TFTP names and URLs, so nothing that is also a MAC: that stands there for a node. */
export const LOADER_SET = /^[a-z0-9][a-z0-9._-]{0,31}$/;

export const NO_LOADER_SET = 'not a loader set: small letters, digits and . _ -, at most 32, and no MAC address';

export function isLoaderSet(name: string): boolean {
  return LOADER_SET.test(name) && parseMac(name) === undefined;
}

/** What a decision goes by: the set of one machine. */
export interface ChosenSet {
  /** Absent: the built-in one. */
  readonly loaderSet?: string;
  readonly loaders: readonly LoaderProgram[];
}

/** A file as machines ask for it: `ipxe-2.0/snponly.efi`; of the built-in set `snponly.efi`. */
export function servedName(set: string | undefined, file: string): string {
  return set === undefined || set === BUILT_IN_SET ? file : `${set}/${file}`;
}

/**
 * The names to look for when a machine asks for `asked`, in order. A plain name is a file of the machine's own set before it is one of the built-in set: shim and
 * DHCP servers of others name files without a directory. Shim's GRUB may have the name that Debian's package gives it.
 */
export function namesFor(asked: string, node: Pick<Node, 'loaders'> | undefined, defaultSet: string | undefined): readonly string[] {
  const own = servedName(node?.loaders ?? defaultSet, asked);
  return [...new Set([own, asked].flatMap((name) => [name, ...(/(^|\/)grubx64\.efi$/.test(name) ? [name.replace(SHIM_STARTS.asks, SHIM_STARTS.debian)] : [])]))];
}
