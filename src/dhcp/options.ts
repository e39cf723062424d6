// Typed getters and builders for the values of DHCP options that we use; their numbers and their framing come with them.
import type { Ip4, Subnet } from '../addr.ts';
import { HEX, ipAt, latin1, putIp, putText, uint32At } from './fields.ts';
import { readOptions, sizeOf, writeOption, type Options } from './framing.ts';
import { MESSAGE, OPT, RELAY, type MessageName } from './option-numbers.ts';

export { readOptions, writeOptions, type Options } from './framing.ts';
export { IPXE_NO_PXEDHCP, MESSAGE, OPT, PXE_DISCOVERY_CONTROL, RELAY, type MessageName } from './option-numbers.ts';

const MESSAGE_NAMES = Object.keys(MESSAGE) as MessageName[];

// Getters: absent or too short is undefined, so that a mangled option counts as not sent. A duplicate of a fixed-size option was joined; its first copy counts.

export function uint8Of(options: Options, tag: number): number | undefined {
  return options.get(tag)?.[0];
}

export function uint16Of(options: Options, tag: number): number | undefined {
  const value = options.get(tag);
  return value && value.length >= 2 ? (value[0]! << 8) | value[1]! : undefined;
}

export function uint16sOf(options: Options, tag: number): number[] {
  const value = options.get(tag);
  const numbers: number[] = [];
  for (let at = 0; value && at + 2 <= value.length; at += 2) numbers.push((value[at]! << 8) | value[at + 1]!);
  return numbers;
}

export function uint32Of(options: Options, tag: number): number | undefined {
  const value = options.get(tag);
  return value && value.length >= 4 ? uint32At(value, 0) : undefined;
}

export function ipOf(options: Options, tag: number): Ip4 | undefined {
  const value = options.get(tag);
  return value && value.length >= 4 ? ipAt(value, 0) : undefined;
}

export function ipsOf(options: Options, tag: number): Ip4[] {
  const value = options.get(tag) ?? new Uint8Array();
  return Array.from({ length: value.length >> 2 }, (_, i) => ipAt(value, 4 * i));
}

/** Text up to the first NUL: some clients count the terminator in. Latin-1, so that any byte has a character. */
export function textOf(options: Options, tag: number): string | undefined {
  const value = options.get(tag);
  return value && latin1(value);
}

export function messageOf(options: Options): MessageName | undefined {
  // The types count from 1, without a gap.
  return MESSAGE_NAMES[(options.get(OPT.messageType)?.[0] ?? 0) - 1];
}

/** Option 55 without repetitions, in the client's order; undefined when the client did not send it. */
export function parameterListOf(options: Options): number[] | undefined {
  const value = options.get(OPT.parameterList);
  return value && [...new Set(value)];
}

/** The link that a relay says the machine is on (option 82 sub-option 5, RFC 3527): it counts instead of giaddr when an address is chosen. */
export function relayLinkOf(options: Options): Ip4 | undefined {
  if (!options.has(OPT.relayAgent)) return undefined;
  const value = subOptionsOf(options, OPT.relayAgent).get(RELAY.linkSelection);
  return value?.length === 4 ? ipAt(value, 0) : undefined;
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
  let or = 0;
  let and = 255;
  for (let i = 1; i < 17; i++) {
    or |= value[i]!;
    and &= value[i]!;
  }
  if (or === 0 || and === 255) return undefined;
  let uuid = '';
  for (const i of UUID_ORDER) uuid += i < 0 ? '-' : HEX[value[i]!]!;
  return uuid;
}

/** Where the bytes of a UUID's text are in option 97; -1 is a dash. */
const UUID_ORDER = [4, 3, 2, 1, -1, 6, 5, -1, 8, 7, -1, 9, 10, -1, 11, 12, 13, 14, 15, 16];

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
  const bytes = new Uint8Array(4 * values.length);
  for (const [i, ip] of values.entries()) putIp(bytes, 4 * i, ip);
  return bytes;
}

/** Characters above U+00FF have no byte here and become `?`. */
export function text(value: string): Uint8Array {
  const bytes = new Uint8Array(value.length);
  const length = putText(bytes, 0, value);
  return length === bytes.length ? bytes : bytes.slice(0, length);
}

export function message(name: MessageName): Uint8Array {
  return uint8(MESSAGE[name]);
}

export function subOptions(entries: Iterable<readonly [number, Uint8Array]>): Uint8Array {
  const parts = [...entries];
  const bytes = new Uint8Array(parts.reduce((sum, [, value]) => sum + sizeOf(value.length), 0));
  parts.reduce((at, [tag, value]) => writeOption(bytes, at, tag, value), 0);
  return bytes;
}

/** Option 77 as RFC 3004 has it. */
export function userClasses(...classes: readonly string[]): Uint8Array {
  return Uint8Array.from(classes.flatMap((name) => [name.length, ...text(name)]));
}

/**
 * Option 121 (RFC 3442). A client that takes it ignores the routers of option 3: the default route must be in it too, as prefix 0. The router 0.0.0.0
 * means that the destination is on the link itself.
 */
export function classlessRoutes(routes: readonly { readonly subnet: Subnet; readonly router: Ip4 }[]): Uint8Array {
  return Uint8Array.from(routes.flatMap(({ subnet, router }) => [subnet.prefix, ...uint32(subnet.network).subarray(0, Math.ceil(subnet.prefix / 8)), ...ips(router)]));
}

/** Option 97 from the text that SMBIOS prints; the argument must be a UUID. */
export function uuid(value: string): Uint8Array {
  const bytes = value.replaceAll('-', '').match(/../g)!.map((pair) => Number.parseInt(pair, 16));
  return Uint8Array.of(0, ...[3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((i) => bytes[i]!));
}
