// What one DHCP answer tells a booting machine, as plain values that are safe to print. Pure.
import { ip4ToNumber, parseIp4, type Ip4 } from '../addr.ts';
import { ipOf, ipsOf, messageOf, OPT, subOptionsOf, textOf, uint32Of, uint8Of, PXE_DISCOVERY_CONTROL } from '../dhcp/options.ts';
import { NO_IP, type Packet } from '../dhcp/packet.ts';
import type { Role } from './firmware.ts';

/** Where a machine would fetch its next program, or why it could not. `server` and `url` are the answer's own words, cleaned. */
export type Target =
  | { readonly via: 'tftp'; readonly server: Ip4; readonly file: string }
  | { readonly via: 'http'; readonly url: string }
  | { readonly via: 'none'; readonly why: string };

/** One answer; every text in it came from a stranger and is cleaned. Absent members were not in the packet. */
export interface ProbeAnswer {
  /** `offer` gives an address; `proxy` only says what to boot (a proxyDHCP server). */
  readonly kind: 'offer' | 'proxy';
  /** The packet's source address: the server, or the relay before it. */
  readonly from: Ip4;
  /** Option 54. */
  readonly server?: Ip4;
  /** giaddr: set when a relay brought it. */
  readonly relay?: Ip4;
  /** After the first DISCOVER, in milliseconds. */
  readonly afterMs: number;
  /** How often it came, word for word. */
  readonly times: number;
  readonly address?: Ip4;
  readonly netmask?: Ip4;
  readonly router?: readonly Ip4[];
  readonly leaseSeconds?: number;
  readonly hostName?: string;
  readonly siaddr?: Ip4;
  readonly sname?: string;
  readonly file?: string;
  /** Option 66. */
  readonly tftpServer?: string;
  /** Option 67. */
  readonly bootFile?: string;
  /** Option 60. */
  readonly vendorClass?: string;
  /** Option 43, in hex. */
  readonly vendorSpecific?: string;
  /** Option 43 sub-option 6: what the ROM shall do to find its boot server. */
  readonly pxeDiscovery?: string;
  /** The script's or loader's URL, when there is one. */
  readonly url?: string;
  readonly target: Target;
}

/** The bits of PXE 2.1's PXE_DISCOVERY_CONTROL. */
const DISCOVERY_BITS = ['no broadcast', 'no multicast', 'listed boot servers only', 'boot the file of this answer'];

/** undefined: no offer. `afterMs` as in ProbeAnswer. */
export function readAnswer(packet: Packet, from: Ip4, role: Role, afterMs: number): ProbeAnswer | undefined {
  const { options } = packet;
  if (packet.op !== 2 || messageOf(options) !== 'offer') return undefined;
  const server = ipOf(options, OPT.serverId);
  const router = ipsOf(options, OPT.router);
  const netmask = ipOf(options, OPT.subnetMask);
  const leaseSeconds = uint32Of(options, OPT.leaseTime);
  const vendor = options.get(OPT.vendorSpecific);
  const control = uint8Of(subOptionsOf(options, OPT.vendorSpecific), PXE_DISCOVERY_CONTROL);
  const target = targetOf(packet, role);
  const bootFile = textOf(options, OPT.bootFile) || packet.file;
  return {
    kind: packet.yiaddr === NO_IP ? 'proxy' : 'offer',
    from,
    ...(server ? { server } : {}),
    ...(packet.giaddr !== NO_IP ? { relay: packet.giaddr } : {}),
    afterMs,
    times: 1,
    ...(packet.yiaddr !== NO_IP ? { address: packet.yiaddr } : {}),
    ...(netmask ? { netmask } : {}),
    ...(router.length > 0 ? { router } : {}),
    ...(leaseSeconds !== undefined ? { leaseSeconds } : {}),
    ...said('hostName', textOf(options, OPT.hostName)),
    ...(packet.siaddr !== NO_IP ? { siaddr: packet.siaddr } : {}),
    ...said('sname', packet.sname),
    ...said('file', packet.file),
    ...said('tftpServer', textOf(options, OPT.tftpServer)),
    ...said('bootFile', textOf(options, OPT.bootFile)),
    ...said('vendorClass', textOf(options, OPT.vendorClass)),
    ...(vendor ? { vendorSpecific: Buffer.from(vendor.subarray(0, 64)).toString('hex') } : {}),
    ...(control !== undefined ? { pxeDiscovery: DISCOVERY_BITS.filter((_, bit) => control & (1 << bit)).join(', ') || 'all ways' } : {}),
    ...(bootFile.includes('://') ? { url: shown(bootFile) } : {}),
    target,
  };
}

/**
 * Option 67 before the BOOTP field, siaddr before option 66: the order of most ROMs; servers that fill all of them alike (TRAPS 1.2) leave
 * nobody in doubt.
 */
function targetOf(packet: Packet, role: Role): Target {
  const { options } = packet;
  const file = textOf(options, OPT.bootFile) || packet.file;
  const vendorClass = textOf(options, OPT.vendorClass) ?? '';
  if (file === '') return { via: 'none', why: 'it names no boot file (neither the file field nor option 67)' };
  // What cannot be printed cannot be meant; it would also end a line of the request.
  if (shown(file, 1024) !== file) return { via: 'none', why: 'its boot file has control characters' };
  const url = /^([a-z]+):\/\//i.exec(file)?.[1]?.toLowerCase();
  if (role === 'uefi-http') {
    // UEFI 2.10 section 24.7.3: without it HTTP Boot takes the answer for another client's.
    if (!vendorClass.startsWith('HTTPClient')) return { via: 'none', why: 'its option 60 is not HTTPClient, so UEFI HTTP Boot passes it over' };
    return url === 'http' ? { via: 'http', url: file } : { via: 'none', why: `UEFI HTTP Boot needs an http URL, this is ${shown(file, 60)}` };
  }
  if (url === 'http' && role === 'ipxe') return { via: 'http', url: file };
  if (url) return { via: 'none', why: role === 'ipxe' ? `the probe follows http URLs and TFTP, not ${url}` : `${shown(file, 60)} is a URL, and a ${role} ROM knows TFTP only` };
  const server = packet.siaddr !== NO_IP ? packet.siaddr : parseIp4(textOf(options, OPT.tftpServer) ?? '');
  if (!server) return { via: 'none', why: 'it names a boot file, but no server that has it (siaddr is 0.0.0.0 and option 66 is no address)' };
  return { via: 'tftp', server, file };
}

/** Text of strangers, one line, without anything that moves a cursor, at most `most` characters. */
export function shown(text: string, most = 255): string {
  const clean = text.replace(/[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, '?');
  return clean.length > most ? `${clean.slice(0, most - 1)}…` : clean;
}

function said<Key extends string>(key: Key, text: string | undefined): Partial<Record<Key, string>> {
  return text ? ({ [key]: shown(text) } as Record<Key, string>) : {};
}

/** Equal answers as one, in the order in which they first came. */
export function merged(answers: readonly ProbeAnswer[]): ProbeAnswer[] {
  const byContent = new Map<string, ProbeAnswer>();
  for (const answer of answers) {
    const key = JSON.stringify({ ...answer, afterMs: 0, times: 0 });
    const before = byContent.get(key);
    byContent.set(key, before ? { ...before, times: before.times + answer.times } : answer);
  }
  return [...byContent.values()];
}

/** Whether two addresses share a link, by the netmask that the card has. */
export function sameLink(a: Ip4, b: Ip4, netmask: Ip4): boolean {
  const mask = ip4ToNumber(netmask);
  return (ip4ToNumber(a) & mask) >>> 0 === (ip4ToNumber(b) & mask) >>> 0;
}
