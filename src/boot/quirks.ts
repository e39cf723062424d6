// Machines that need something else than their firmware's row: what they are known by, what they are sent instead, and why. Pure.
import type { Mac } from '../addr.ts';
import type { ExitMethod } from './node.ts';
import type { Arch } from './request.ts';

/** In which answer of a proxied subnet a ROM finds its boot file: in the OFFER, or in the ACK of port 4011 alone. */
export const PROXY_STYLES = ['auto', 'offer', 'port-4011'] as const;
export type ProxyStyle = (typeof PROXY_STYLES)[number];

/** What a machine is known by; all that are written must fit. `*` in a text stands for anything, and upper and lower case are the same. */
export interface QuirkMatch {
  /** DHCP's option 60 of the DISCOVER that starts a boot. */
  readonly vendorClass?: string;
  readonly arch?: Arch;
  /** The first bytes of a MAC, as `08:00:27`. */
  readonly mac?: string;
  /** SMBIOS, as the initrd stage reports it. */
  readonly manufacturer?: string;
  readonly product?: string;
}

/** What is sent in place of the usual; `auto` (and `exit: exit`) is the usual, to take back what a later quirk says. */
export interface QuirkSend {
  readonly proxyStyle?: ProxyStyle;
  /** To PXE ROMs: `none`, or the option's bytes in hex with colons. */
  readonly option43?: string;
  /** The most bytes of a TFTP block. */
  readonly blksize?: number;
  readonly exit?: ExitMethod;
  /** A choice of the loader table, or a file of the loader set. Where that cannot run, the usual one goes out. */
  readonly loader?: string;
}

export interface Quirk {
  readonly name: string;
  /** Where it was seen: a URL, or a capture. */
  readonly evidence?: string;
  readonly match: QuirkMatch;
  readonly send: QuirkSend;
}

/** A quirk that fits a machine. */
export interface AppliedQuirk {
  readonly name: string;
  /** `mac prefix 08:00:27`, in the order of QuirkMatch. */
  readonly by: readonly string[];
  /** What counts of it: not what an earlier quirk, the node or its profile says. May be empty. */
  readonly send: QuirkSend;
}

/** Of an answer, and of what is decided from: what the machine's quirks send, with all that node and profile do not say themselves; absent when nothing fits. */
export interface Quirked {
  readonly quirks?: QuirkSend;
}

/** What is known of a machine; what is not known fits nothing. */
export interface KnownMachine {
  readonly vendorClass?: string;
  readonly arch?: Arch;
  /** The card that asks, or all of the node's. */
  readonly macs: readonly Mac[];
  readonly manufacturer?: string;
  readonly product?: string;
}

/** Each was read where its evidence says; docs/HARDWARE.md has the same rows, and a test compares them. */
export const SHIPPED_QUIRKS: readonly Quirk[] = [
  {
    // Its UNDI does not get along with undionly.kpxe; iPXE's own driver of the card does.
    name: 'virtualbox-bios',
    evidence: 'https://github.com/RackHD/RackHD/issues/192',
    match: { vendorClass: 'PXEClient:Arch:00000*', mac: '08:00:27' },
    send: { loader: 'ipxe' },
  },
  {
    // Hangs when a loader goes back to the BIOS, as `exit` does; the disk starts by INT 13h.
    name: 'hp-proliant-gen8',
    evidence: 'https://github.com/redhat-cip/edeploy/issues/224',
    match: { manufacturer: 'HP', product: 'ProLiant *Gen8' },
    send: { exit: 'sanboot' },
  },
  {
    // Reads the BOOTP file field of the proxy's OFFER and asks no port 4011. EDK2 on arm64 calls itself the same, and goes on to ask 4011.
    name: 'u-boot-arm64-proxy',
    evidence: 'https://github.com/siderolabs/booter/issues/11',
    match: { vendorClass: 'PXEClient:Arch:00011*', arch: 'arm64' },
    send: { proxyStyle: 'offer' },
  },
];

/**
 * All that fit, the operators' before the shipped ones, each list in its order; of each member of `send` the first quirk that has it counts. `own`: what the
 * node or its profile says itself, which comes before any quirk.
 */
export function quirksOf(machine: KnownMachine, operators: readonly Quirk[] = [], own: Pick<QuirkSend, 'loader' | 'exit'> = {}): readonly AppliedQuirk[] {
  const said = new Set<string>((['loader', 'exit'] as const).filter((member) => own[member] !== undefined));
  return [...operators, ...SHIPPED_QUIRKS].flatMap(({ name, match, send }): AppliedQuirk[] => {
    const by = fits(match, machine);
    if (!by) return [];
    const counts = Object.entries(send).filter(([member]) => !said.has(member));
    for (const [member] of counts) said.add(member);
    return [{ name, by, send: Object.fromEntries(counts) }];
  });
}

/** What all of them come to; undefined when nothing is sent otherwise. */
export function sentBy(applied: readonly AppliedQuirk[]): QuirkSend | undefined {
  return applied.length === 0 ? undefined : Object.assign({}, ...applied.map(({ send }) => send));
}

/** `virtualbox-bios (by mac prefix 08:00:27; loader ipxe)`. */
export function quirkWords({ name, by, send }: AppliedQuirk): string {
  // What was written down has its members in another order.
  const sends = Object.entries(send).map(([member, value]) => `${member} ${String(value)}`).sort();
  return `${name} (by ${by.join(', ')}; ${sends.join(', ') || 'all of it is said elsewhere'})`;
}

/** By what it fits, or undefined. */
function fits(match: QuirkMatch, machine: KnownMachine): readonly string[] | undefined {
  const tests: readonly (readonly [words: string, wanted: string | undefined, fit: (wanted: string) => boolean])[] = [
    ['vendor class', match.vendorClass, (glob) => like(glob, machine.vendorClass)],
    ['arch', match.arch, (arch) => machine.arch === arch],
    ['mac prefix', match.mac, (prefix) => machine.macs.some((mac) => mac.startsWith(prefix))],
    ['manufacturer', match.manufacturer, (glob) => like(glob, machine.manufacturer)],
    ['product', match.product, (glob) => like(glob, machine.product)],
  ];
  const wanted = tests.filter(([, value]) => value !== undefined);
  return wanted.length > 0 && wanted.every(([, value, fit]) => fit(value!)) ? wanted.map(([words, value]) => `${words} ${value}`) : undefined;
}

/** No regular expression: both sides may be written by somebody else. */
function like(glob: string, text: string | undefined): boolean {
  if (text === undefined) return false;
  const [first = '', ...rest] = glob.toLowerCase().split('*');
  const whole = text.toLowerCase();
  if (rest.length === 0) return whole === first;
  if (!whole.startsWith(first)) return false;
  const last = rest.pop()!;
  let at = first.length;
  for (const part of rest) {
    const found = whole.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return whole.length - last.length >= at && whole.endsWith(last);
}
