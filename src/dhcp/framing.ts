// Options as bytes: tag, length, value one after the other; parts of one option joined and split (RFC 3396).
import { OPT } from './option-numbers.ts';

/** Raw options in the order in which they first appeared. Pad (0), end (255) and overload (52) are framing and never in it. */
export type Options = Map<number, Uint8Array>;

/** Values of options that came in more than one part, until they are joined. */
type Parts = Map<number, Uint8Array[]>;

/**
 * Reads tag-length-value areas one after the other as if they were one buffer, and joins what has the same tag (RFC 3396 section 5).
 * Liberal, because ROMs are not: an area may lack its end marker, and a last option that runs over the edge is left out. Values are copies.
 */
export function readOptions(areas: readonly Uint8Array[], into: Options = new Map()): Options {
  let parts: Parts | undefined;
  for (const area of areas) parts = readArea(area, 0, area.length, into, parts);
  return joinParts(into, parts);
}

/** As readOptions, for `bytes` from `at` to `end`. A part that goes on an option is collected, and joined at the end: thousands of them cost no more than their bytes. */
export function readArea(bytes: Uint8Array, at: number, end: number, into: Options, parts?: Parts): Parts | undefined {
  while (at < end) {
    const tag = bytes[at++]!;
    if (tag === OPT.pad) continue;
    if (tag === OPT.end || at >= end) break;
    const next = at + 1 + bytes[at]!;
    if (next > end) break;
    const value = bytes.slice(at + 1, next);
    const before = into.get(tag);
    if (before === undefined) into.set(tag, value);
    else {
      parts ??= new Map();
      const known = parts.get(tag);
      if (known) known.push(value);
      else parts.set(tag, [before, value]);
    }
    at = next;
  }
  return parts;
}

export function joinParts(into: Options, parts: Parts | undefined): Options {
  for (const [tag, values] of parts ?? []) {
    const whole = new Uint8Array(values.reduce((sum, value) => sum + value.length, 0));
    let at = 0;
    for (const value of values) {
      whole.set(value, at);
      at += value.length;
    }
    into.set(tag, whole);
  }
  return into;
}

/** Pad, end and overload are framing, which the writer sets itself. */
export function isFraming(tag: number): boolean {
  return tag === OPT.pad || tag === OPT.end || tag === OPT.overload;
}

/** What a value of this length takes, with the header of each of its parts. */
export function sizeOf(length: number): number {
  return length <= 255 ? length + 2 : length + 2 * Math.ceil(length / 255);
}

/** How many bytes writeInto writes. */
export function optionsSize(options: Options): number {
  let size = 0;
  for (const [tag, value] of options) if (!isFraming(tag)) size += sizeOf(value.length);
  return size;
}

/**
 * Writes options from `at` on, without an end marker, and returns where the next byte goes. The message type comes first, since some clients look only there;
 * the relay's information last, because relays cut it off there (RFC 3046 section 2.1); longer values are split (RFC 3396).
 */
export function writeInto(bytes: Uint8Array, at: number, options: Options): number {
  const type = options.get(OPT.messageType);
  if (type) at = writeOption(bytes, at, OPT.messageType, type);
  for (const [tag, value] of options) {
    if (tag !== OPT.messageType && tag !== OPT.relayAgent && !isFraming(tag)) at = writeOption(bytes, at, tag, value);
  }
  const relay = options.get(OPT.relayAgent);
  return relay ? writeOption(bytes, at, OPT.relayAgent, relay) : at;
}

/** One option, in parts of at most 255 bytes. */
export function writeOption(bytes: Uint8Array, at: number, tag: number, value: Uint8Array): number {
  let from = 0;
  do {
    const length = Math.min(255, value.length - from);
    bytes[at++] = tag;
    bytes[at++] = length;
    // Most values are so short that a loop beats the call.
    if (length <= 16) for (let i = 0; i < length; i++) bytes[at + i] = value[from + i]!;
    else bytes.set(length === value.length ? value : value.subarray(from, from + length), at);
    at += length;
    from += length;
  } while (from < value.length);
  return at;
}

/** The bytes of options without an end marker, as writeInto has them. */
export function writeOptions(options: Options): Uint8Array {
  const bytes = new Uint8Array(optionsSize(options));
  writeInto(bytes, 0, options);
  return bytes;
}
