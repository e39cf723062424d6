// Option overload (52): which option goes where when a packet's options field is too small (RFC 2132 section 9.3, RFC 3396 section 5).
import { isFraming, sizeOf, type Options } from './framing.ts';
import { OPT } from './option-numbers.ts';

/** What stands in one area, in this order; `used` counts headers and the end marker. */
export interface Area {
  readonly parts: readonly (readonly [tag: number, bytes: Uint8Array])[];
  readonly used: number;
}

interface Filling {
  readonly parts: (readonly [number, Uint8Array])[];
  /** Bytes left before the end marker. */
  room: number;
}

/** The bytes of option 52 itself. */
const OVERLOAD_SIZE = 3;
const END_SIZE = 1;

/**
 * The options of a packet in three areas of these sizes, in bytes; `file` and `sname` are 0 when they carry text. As few areas as will do: clients that do
 * not know overload read the first one all the same. undefined: they do not fit.
 */
export function layOut(options: Options, main: number, file: number, sname: number): { readonly main: Area; readonly file: Area; readonly sname: Area } | undefined {
  for (const [withFile, withSname] of [[file, 0], [0, sname], [file, sname]] as const) {
    if (withFile === 0 && withSname === 0) continue;
    const laid = fill(options, main, withFile, withSname);
    if (laid) return laid;
  }
  return undefined;
}

function fill(options: Options, main: number, file: number, sname: number): { main: Area; file: Area; sname: Area } | undefined {
  const flags = (file > 0 ? 1 : 0) | (sname > 0 ? 2 : 0);
  // The relay's information stays last in the options field, where relays look for it.
  const relay = options.get(OPT.relayAgent);
  const areas: [Filling, Filling, Filling] = [area(main - OVERLOAD_SIZE - (relay ? sizeOf(relay.length) : 0)), area(file), area(sname)];
  const type = options.get(OPT.messageType);
  if (areas[0].room < (type ? sizeOf(type.length) : 0)) return undefined;
  const rest = [...options].filter(([tag]) => !isFraming(tag) && tag !== OPT.messageType && tag !== OPT.relayAgent);
  const entries: (readonly [number, Uint8Array])[] = type ? [[OPT.messageType, type], ...rest] : rest;
  // First whole options, each where it fits first; a client may not know how to join parts. Then those that fit nowhere whole.
  const long = entries.filter(([tag, value]) => {
    const place = value.length <= 255 ? areas.find(({ room }) => room >= value.length + 2) : undefined;
    if (place) put(place, tag, value);
    return !place;
  });
  for (const [tag, value] of long) if (!putInParts(areas, tag, value)) return undefined;
  const [first, second, third] = areas;
  first.parts.splice(first.parts[0]?.[0] === OPT.messageType ? 1 : 0, 0, [OPT.overload, Uint8Array.of(flags)]);
  if (relay) for (let from = 0; from === 0 || from < relay.length; from += 255) first.parts.push([OPT.relayAgent, relay.subarray(from, from + 255)]);
  return { main: finished(first), file: finished(second), sname: finished(third) };
}

function area(size: number): Filling {
  return { parts: [], room: size - END_SIZE };
}

function put(to: Filling, tag: number, part: Uint8Array): void {
  to.parts.push([tag, part]);
  to.room -= part.length + 2;
}

/** Parts of one option lie in the order of the areas; none is empty. */
function putInParts(areas: readonly Filling[], tag: number, value: Uint8Array): boolean {
  let from = 0;
  for (const to of areas) {
    while (from < value.length && to.room > 2) {
      const part = value.subarray(from, from + Math.min(255, to.room - 2));
      put(to, tag, part);
      from += part.length;
    }
  }
  return from === value.length && value.length > 0;
}

function finished({ parts }: Filling): Area {
  return { parts, used: parts.reduce((sum, [, part]) => sum + part.length + 2, 0) + (parts.length > 0 ? END_SIZE : 0) };
}
