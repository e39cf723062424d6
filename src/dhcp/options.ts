// DHCP options as bytes and values: RFC 2132 numbers, RFC 3396 join and split, typed getters and builders for what we use.
import { ip4FromNumber, ip4ToNumber, type Ip4 } from '../addr.ts';

/** Raw options in the order in which they first appeared. Pad (0), end (255) and overload (52) are framing and never in it. */
export type Options = Map<number, Uint8Array>;

/** The options we read or write, by their IANA names. */
export const OPT = {
  pad: 0,
  subnetMask: 1,
  router: 3,
  dns: 6,
  hostName: 12,
  domain: 15,
  broadcast: 28,
  ntp: 42,
  vendorSpecific: 43,
  requestedIp: 50,
  leaseTime: 51,
  overload: 52,
  messageType: 53,
  serverId: 54,
  parameterList: 55,
  message: 56,
  maxSize: 57,
  renewalTime: 58,
  rebindingTime: 59,
  vendorClass: 60,
  clientId: 61,
  tftpServer: 66,
  bootFile: 67,
  userClass: 77,
  relayAgent: 82,
  clientArch: 93,
  clientNdi: 94,
  clientUuid: 97,
  ipxe: 175,
  end: 255,
} as const;

/** Option 53 (RFC 2132 section 9.6). */
export const MESSAGE = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;
export type MessageName = keyof typeof MESSAGE;

/** Sub-options of 175 and 43 that we write. */
export const IPXE_NO_PXEDHCP = 176;
export const PXE_DISCOVERY_CONTROL = 6;

/**
 * Reads tag-length-value areas one after the other as if they were one buffer, and joins what has the same tag (RFC 3396 section 5).
 * Liberal, because ROMs are not: an area may lack its end marker, and a last option that runs over the edge is left out.
 */
export function readOptions(areas: readonly Uint8Array[], into: Options = new Map()): Options {
  for (const area of areas) {
    let at = 0;
    while (at < area.length) {
      const tag = area[at++]!;
      if (tag === OPT.pad) continue;
      if (tag === OPT.end || at >= area.length) break;
      const end = at + 1 + area[at]!;
      if (end > area.length) break;
      const value = area.slice(at + 1, end);
      const before = into.get(tag);
      into.set(tag, before ? joined(before, value) : value);
      at = end;
    }
  }
  return into;
}

/** The bytes of options without an end marker: longer values split (RFC 3396), 82 last because relays cut it off there (RFC 3046 section 2.1). */
export function writeOptions(options: Options): Uint8Array {
  const order = [...options].filter(([tag]) => tag !== OPT.pad && tag !== OPT.end && tag !== OPT.overload);
  order.sort(([a], [b]) => Number(a === OPT.relayAgent) - Number(b === OPT.relayAgent));
  const bytes: number[] = [];
  for (const [tag, value] of order) {
    let at = 0;
    do {
      const part = value.subarray(at, at + 255);
      bytes.push(tag, part.length, ...part);
      at += 255;
    } while (at < value.length);
  }
  return Uint8Array.from(bytes);
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

// Getters: absent or too short is undefined, so that a mangled option counts as not sent. A duplicate of a fixed-size option was joined; its first copy counts.

export function uint8Of(options: Options, tag: number): number | undefined {
  return options.get(tag)?.[0];
}

export function uint16Of(options: Options, tag: number): number | undefined {
  return uint16sOf(options, tag)[0];
}

export function uint16sOf(options: Options, tag: number): number[] {
  const value = options.get(tag) ?? new Uint8Array();
  return Array.from({ length: value.length >> 1 }, (_, i) => (value[2 * i]! << 8) | value[2 * i + 1]!);
}

export function uint32Of(options: Options, tag: number): number | undefined {
  const value = options.get(tag);
  return value && value.length >= 4 ? uint32At(value, 0) : undefined;
}

export function ipOf(options: Options, tag: number): Ip4 | undefined {
  return ipsOf(options, tag)[0];
}

export function ipsOf(options: Options, tag: number): Ip4[] {
  const value = options.get(tag) ?? new Uint8Array();
  return Array.from({ length: value.length >> 2 }, (_, i) => ip4FromNumber(uint32At(value, 4 * i)));
}

/** Text up to the first NUL: some clients count the terminator in. Latin-1, so that any byte has a character. */
export function textOf(options: Options, tag: number): string | undefined {
  const value = options.get(tag);
  return value && latin1(value);
}

export function messageOf(options: Options): MessageName | undefined {
  const type = uint8Of(options, OPT.messageType);
  return (Object.keys(MESSAGE) as MessageName[]).find((name) => MESSAGE[name] === type);
}

/** The options inside an option (43, 82, 175). */
export function subOptionsOf(options: Options, tag: number): Options {
  const value = options.get(tag);
  return value ? readOptions([value]) : new Map();
}

/**
 * Option 77. iPXE sends its four letters raw; RFC 3004 clients send each class behind a length byte. When every length fits it is read
 * the RFC's way: `iPXE` read so would claim a first class of 105 bytes.
 */
export function userClassesOf(options: Options): string[] {
  const value = options.get(OPT.userClass);
  if (!value || value.length === 0) return [];
  const classes: string[] = [];
  for (let at = 0; at < value.length; ) {
    const end = at + 1 + value[at]!;
    if (value[at] === 0 || end > value.length) return [latin1(value)];
    classes.push(latin1(value.subarray(at + 1, end)));
    at = end;
  }
  return classes;
}

/** Option 97 as SMBIOS prints it: the first three fields are little-endian on the wire. All zeros or ones mean "not set" (SMBIOS 7.2.1). */
export function uuidOf(options: Options): string | undefined {
  const value = options.get(OPT.clientUuid);
  if (!value || value.length < 17 || value[0] !== 0) return undefined;
  const bytes = value.subarray(1, 17);
  if (bytes.every((byte) => byte === 0) || bytes.every((byte) => byte === 255)) return undefined;
  const hex = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((i) => bytes[i]!.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

// Builders: the bytes of one option's value.

export function uint8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

export function uint16s(...values: number[]): Uint8Array {
  return Uint8Array.from(values.flatMap((value) => [(value >> 8) & 255, value & 255]));
}

export function uint32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
}

export function ips(...values: readonly Ip4[]): Uint8Array {
  return Uint8Array.from(values.flatMap((ip) => [...uint32(ip4ToNumber(ip))]));
}

/** Characters above U+00FF have no byte here and become `?`. */
export function text(value: string): Uint8Array {
  return Uint8Array.from(value, (char) => (char.length === 1 && char.charCodeAt(0) < 256 ? char.charCodeAt(0) : 63));
}

export function message(name: MessageName): Uint8Array {
  return uint8(MESSAGE[name]);
}

export function subOptions(entries: Iterable<readonly [number, Uint8Array]>): Uint8Array {
  return writeOptions(new Map(entries));
}

/** Option 77 as RFC 3004 has it. */
export function userClasses(...classes: readonly string[]): Uint8Array {
  return Uint8Array.from(classes.flatMap((name) => [name.length, ...text(name)]));
}

/** Option 97 from the text that SMBIOS prints; the argument must be a UUID. */
export function uuid(value: string): Uint8Array {
  const bytes = value.replaceAll('-', '').match(/../g)!.map((pair) => Number.parseInt(pair, 16));
  return Uint8Array.of(0, ...[3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((i) => bytes[i]!));
}

/** Bytes up to the first NUL. */
export function latin1(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return String.fromCharCode(...(end < 0 ? bytes : bytes.subarray(0, end)));
}

function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
