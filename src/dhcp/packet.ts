// The DHCP packet: bytes <-> values (RFC 2131 section 2), liberal in reading, strict in writing.
import type { Ip4, Mac } from '../addr.ts';
import { HEX, ipAt, latin1, putIp, putText, uint32At } from './fields.ts';
import { joinParts, optionsSize, readArea, writeInto, type Options } from './framing.ts';
import { OPT } from './option-numbers.ts';
import { layOut, type Area } from './overload.ts';

export interface Packet {
  /** 1 = to a server, 2 = to a client. */
  readonly op: 1 | 2;
  readonly htype: number;
  readonly hlen: number;
  readonly hops: number;
  readonly xid: number;
  readonly secs: number;
  readonly flags: number;
  readonly ciaddr: Ip4;
  readonly yiaddr: Ip4;
  readonly siaddr: Ip4;
  readonly giaddr: Ip4;
  /** All 16 bytes of the field; `hlen` says how many count. */
  readonly chaddr: Uint8Array;
  /** Empty when the field carries options (52). At most 64 characters. */
  readonly sname: string;
  /** As sname, at most 128 characters. */
  readonly file: string;
  readonly options: Options;
}

export const NO_IP: Ip4 = '0.0.0.0';
/** The highest bit of `flags`: the client cannot take unicast before it has an address. */
export const BROADCAST_FLAG = 0x8000;
/** Header and magic cookie: the shortest packet that can be DHCP. Some ROMs send less than BOOTP's 300 bytes. */
export const MIN_BYTES = 240;
/** BOOTP's minimum (RFC 1542 section 2.1); Linux's own in-kernel client drops shorter replies. */
export const MIN_SENT_BYTES = 300;
/** What fits a client that says nothing: 576 bytes of IP datagram (RFC 2131 section 2) without IP and UDP headers. */
export const DEFAULT_MAX_BYTES = 548;
const MAGIC = 0x63825363;
/** Where the text fields stand: sname from 44, file from 108, the cookie from 236. */
const SNAME = 44;
const FILE = 108;
const COOKIE = 236;

/** The only thing that decode throws. */
export class DhcpDecodeError extends Error {
  override readonly name = 'DhcpDecodeError';
}

/** A packet that must not be sent: cut short it would boot something else, or nothing. */
export interface Unsendable {
  readonly kind: 'unsendable';
  readonly why: string;
}

/** Throws DhcpDecodeError, and nothing else, on bytes that are no DHCP packet. Nothing of the datagram's memory is kept. */
export function decode(datagram: Uint8Array): Packet {
  // Not as a Buffer: its slice shares memory with the datagram instead of copying.
  const bytes = new Uint8Array(datagram.buffer, datagram.byteOffset, datagram.byteLength);
  if (bytes.length < MIN_BYTES) throw new DhcpDecodeError(`${bytes.length} bytes, the shortest packet has ${MIN_BYTES}`);
  const op = bytes[0]!;
  if (op !== 1 && op !== 2) throw new DhcpDecodeError(`op ${op} is neither request nor reply`);
  const hlen = bytes[2]!;
  if (hlen > 16) throw new DhcpDecodeError(`hlen ${hlen}, the address field has 16 bytes`);
  if (uint32At(bytes, COOKIE) !== MAGIC) throw new DhcpDecodeError('no DHCP magic cookie: plain BOOTP or something else');
  const options: Options = new Map();
  // RFC 3396 section 5: the options field, then file, then sname count as one buffer.
  let parts = readArea(bytes, MIN_BYTES, bytes.length, options);
  const overload = options.get(OPT.overload)?.[0] ?? 0;
  if (overload & 1) parts = readArea(bytes, FILE, COOKIE, options, parts);
  if (overload & 2) parts = readArea(bytes, SNAME, FILE, options, parts);
  joinParts(options, parts);
  options.delete(OPT.overload);
  return {
    op,
    htype: bytes[1]!,
    hlen,
    hops: bytes[3]!,
    xid: uint32At(bytes, 4),
    secs: (bytes[8]! << 8) | bytes[9]!,
    flags: (bytes[10]! << 8) | bytes[11]!,
    ciaddr: ipAt(bytes, 12),
    yiaddr: ipAt(bytes, 16),
    siaddr: ipAt(bytes, 20),
    giaddr: ipAt(bytes, 24),
    chaddr: bytes.slice(28, 44),
    sname: overload & 2 ? '' : textIn(bytes, SNAME, FILE),
    file: overload & 1 ? '' : textIn(bytes, FILE, COOKIE),
    options,
  };
}

/** As decode; undefined for what is no DHCP packet, where nobody wants to know why. */
export function decodeIfDhcp(datagram: Uint8Array): Packet | undefined {
  try {
    return decode(datagram);
  } catch (error) {
    if (error instanceof DhcpDecodeError) return undefined;
    throw error;
  }
}

/**
 * The packet's bytes, at least 300. When they do not fit `maxBytes` of UDP payload, options move into the empty ones of `file` and `sname` (overload); when even
 * that is too little, those that are `optional` are left out, the last ones first. What does not fit then, or not into a fixed field, is `unsendable`, never
 * truncated.
 */
export function encode(packet: Packet, maxBytes = 65_507, { optional = [] }: { readonly optional?: Iterable<number> } = {}): Uint8Array | Unsendable {
  if (packet.sname.length > FILE - SNAME) return { kind: 'unsendable', why: `sname has ${packet.sname.length} characters, the field ${FILE - SNAME}` };
  if (packet.file.length > COOKIE - FILE) return { kind: 'unsendable', why: `file has ${packet.file.length} characters, the field ${COOKIE - FILE}` };
  const length = MIN_BYTES + optionsSize(packet.options) + 1;
  if (length <= maxBytes) return written(packet, packet.options, length);
  const spare = new Set(optional);
  let { options } = packet;
  for (;;) {
    const areas = layOut(options, maxBytes - MIN_BYTES, packet.file === '' ? COOKIE - FILE : 0, packet.sname === '' ? FILE - SNAME : 0);
    if (areas) return overloaded(packet, areas);
    const last = [...options.keys()].findLast((tag) => spare.has(tag));
    if (last === undefined) return { kind: 'unsendable', why: `the packet has ${length} bytes, the client takes ${maxBytes}` };
    options = new Map(options);
    options.delete(last);
    const shorter = MIN_BYTES + optionsSize(options) + 1;
    if (shorter <= maxBytes) return written(packet, options, shorter);
  }
}

function written(packet: Packet, options: Options, length: number): Uint8Array {
  const bytes = header(packet, length);
  bytes[writeInto(bytes, MIN_BYTES, options)] = OPT.end;
  return bytes;
}

function overloaded(packet: Packet, { main, file, sname }: { readonly main: Area; readonly file: Area; readonly sname: Area }): Uint8Array {
  const bytes = header(packet, MIN_BYTES + main.used);
  for (const [area, start] of [[main, MIN_BYTES], [file, FILE], [sname, SNAME]] as const) {
    let at = start;
    for (const [tag, part] of area.parts) {
      bytes[at] = tag;
      bytes[at + 1] = part.length;
      bytes.set(part, at + 2);
      at += 2 + part.length;
    }
    if (area.parts.length > 0) bytes[at] = OPT.end;
  }
  return bytes;
}

/** All but the options, in `length` bytes or BOOTP's least. */
function header(packet: Packet, length: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(MIN_SENT_BYTES, length));
  bytes[0] = packet.op;
  bytes[1] = packet.htype;
  bytes[2] = packet.hlen;
  bytes[3] = packet.hops;
  putUint32(bytes, 4, packet.xid);
  bytes[8] = packet.secs >>> 8;
  bytes[9] = packet.secs;
  bytes[10] = packet.flags >>> 8;
  bytes[11] = packet.flags;
  putIp(bytes, 12, packet.ciaddr);
  putIp(bytes, 16, packet.yiaddr);
  putIp(bytes, 20, packet.siaddr);
  putIp(bytes, 24, packet.giaddr);
  for (let i = 0; i < 16; i++) bytes[28 + i] = packet.chaddr[i] ?? 0;
  putText(bytes, SNAME, packet.sname);
  putText(bytes, FILE, packet.file);
  putUint32(bytes, COOKIE, MAGIC);
  return bytes;
}

/** The Ethernet address in chaddr; undefined for any other hardware. */
export function macOf({ htype, hlen, chaddr }: Packet): Mac | undefined {
  return htype === 1 && hlen === 6 ? macAt(chaddr, 0) : undefined;
}

/** The MAC of a client's datagram before anything is decoded; undefined when it cannot be a request of an Ethernet machine. */
export function peekMac(datagram: Uint8Array): Mac | undefined {
  const asks = datagram.length >= MIN_BYTES && datagram[0] === 1 && datagram[1] === 1 && datagram[2] === 6;
  return asks ? macAt(datagram, 28) : undefined;
}

function macAt(b: Uint8Array, at: number): Mac {
  return HEX[b[at]!]! + ':' + HEX[b[at + 1]!]! + ':' + HEX[b[at + 2]!]! + ':' + HEX[b[at + 3]!]! + ':' + HEX[b[at + 4]!]! + ':' + HEX[b[at + 5]!]!;
}

/** UDP payload that this client takes: option 57 counts the IP datagram (RFC 2132 section 9.10), and 576 is what all must take. */
export function maxBytesFor(request: Packet): number {
  const value = request.options.get(OPT.maxSize);
  const asked = value && value.length >= 2 ? (value[0]! << 8) | value[1]! : 0;
  return Math.min(Math.max(asked - 28, DEFAULT_MAX_BYTES), 1472);
}

function textIn(bytes: Uint8Array, at: number, end: number): string {
  return bytes[at] === 0 ? '' : latin1(bytes.subarray(at, end));
}

function putUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
