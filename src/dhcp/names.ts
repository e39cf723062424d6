// Names on the wire: host names that clients send, made harmless; the client FQDN option (RFC 4702); lists of domains (RFC 3397).
import { latin1 } from './fields.ts';
import type { Options } from './framing.ts';
import { OPT } from './option-numbers.ts';
import { text, textOf } from './options.ts';

/** Flags of option 81: the server updates A records, it overrode the client's wish, the name is in DNS wire form, nobody updates anything. */
export const FQDN = { s: 1, o: 2, e: 4, n: 8 } as const;
/** Flags and the two RCODEs that RFC 4702 section 2.2 retired. */
const FQDN_HEADER = 3;
const MAX_LABEL = 63;
/** A name's bytes on the wire, lengths and root counted (RFC 1035 section 3.1). */
const MAX_NAME = 255;
/** What a compression pointer can reach. */
const MAX_POINTER = 0x3fff;

/**
 * One harmless label of what a machine calls itself, from option 81, else 12: a server ignores the second beside the first (RFC 4702 section 4). undefined when
 * nothing of it is left.
 */
export function hostNameOf(options: Options): string | undefined {
  const fqdn = fqdnOf(options);
  const label = fqdn && hostLabel(fqdn.name);
  if (label !== undefined) return label;
  const said = textOf(options, OPT.hostName);
  return said === undefined ? undefined : hostLabel(said);
}

/**
 * The first label: letters, digits and inner dashes, lower case, at most 63 characters. undefined when that is nothing: an empty name must never go on as
 * one (Kea's CVE-2025-11232).
 */
export function hostLabel(name: string): string | undefined {
  // Cut first: a name can be as long as a datagram.
  const [first = ''] = name.slice(0, MAX_NAME).split('.', 1);
  const kept = first.toLowerCase().replace(/[^a-z0-9-]/g, '').replace(/^-+/, '').slice(0, MAX_LABEL).replace(/-+$/, '');
  return kept === '' ? undefined : kept;
}

export interface Fqdn {
  readonly flags: number;
  /** With dots, without the last one; as the client wrote it. Empty when the client leaves its name to the server. */
  readonly name: string;
}

/** Option 81 in both encodings; undefined when absent or mangled. */
export function fqdnOf(options: Options): Fqdn | undefined {
  const value = options.get(OPT.fqdn);
  if (!value || value.length < FQDN_HEADER) return undefined;
  const flags = value[0]!;
  if (!(flags & FQDN.e)) return { flags, name: latin1(value.subarray(FQDN_HEADER)).replace(/\.$/, '') };
  const labels: string[] = [];
  for (let at = FQDN_HEADER; at < value.length && value[at] !== 0; ) {
    const end = at + 1 + value[at]!;
    // Compression pointers are lengths over 63, and not allowed here (section 2.3.1): nothing to follow, nothing to loop in.
    if (value[at]! > MAX_LABEL || end > value.length || end - FQDN_HEADER >= MAX_NAME) return undefined;
    labels.push(latin1(value.subarray(at + 1, end)));
    at = end;
  }
  return { flags, name: labels.join('.') };
}

/**
 * The value of our option 81 to a client that sent `asked`: its name is `name`, in the client's encoding, and we update no DNS (RFC 4702 section 4). A name
 * without a dot goes as a partial one. undefined when the client's option is mangled or the name cannot be written.
 */
export function fqdnReply(asked: Uint8Array, name: string): Uint8Array | undefined {
  if (asked.length < FQDN_HEADER || !isDomain(name)) return undefined;
  const flags = asked[0]!;
  const header = [FQDN.n | (flags & FQDN.e) | (flags & FQDN.s ? FQDN.o : 0), 255, 255];
  if (!(flags & FQDN.e)) return Uint8Array.of(...header, ...text(name));
  return Uint8Array.of(...header, ...labelBytes(name), ...(name.includes('.') ? [0] : []));
}

/** Option 119: names one after the other, each end that was written before is pointed to (RFC 3397 section 2). All must be `isDomain`. */
export function domains(names: readonly string[]): Uint8Array {
  const bytes: number[] = [];
  const written = new Map<string, number>();
  for (const name of names) {
    let rest = name.replace(/\.$/, '').toLowerCase();
    while (rest !== '' && !written.has(rest)) {
      if (bytes.length <= MAX_POINTER) written.set(rest, bytes.length);
      const [label = ''] = rest.split('.', 1);
      bytes.push(label.length, ...text(label));
      rest = rest.slice(label.length + 1);
    }
    const before = written.get(rest);
    if (before === undefined) bytes.push(0);
    else bytes.push(0xc0 | (before >> 8), before & 255);
  }
  return Uint8Array.from(bytes);
}

/** `rack.example`, with or without the dot of the root. Underscores are in use (`_tcp`), so they are let through. */
export function isDomain(name: string): boolean {
  const bare = name.replace(/\.$/, '');
  return bare.length <= MAX_NAME - 2 && bare.split('.').every((label) => /^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$/.test(label));
}

function labelBytes(name: string): number[] {
  return name.replace(/\.$/, '').split('.').flatMap((label) => [label.length, ...text(label)]);
}
