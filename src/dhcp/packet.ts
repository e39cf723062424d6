// The DHCP packet: bytes <-> values (RFC 2131 section 2), liberal in reading, strict in writing.
import { ip4FromNumber, ip4ToNumber, type Ip4, type Mac } from '../addr.ts';
import { latin1, OPT, readOptions, text, uint8Of, writeOptions, type Options } from './options.ts';

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

/** The only thing that decode throws. */
export class DhcpDecodeError extends Error {
  override readonly name = 'DhcpDecodeError';
}

/** A packet that must not be sent: cut short it would boot something else, or nothing. */
export interface Unsendable {
  readonly kind: 'unsendable';
  readonly why: string;
}

/** Throws DhcpDecodeError, and nothing else, on bytes that are no DHCP packet. */
export function decode(datagram: Uint8Array): Packet {
  // Not as a Buffer: its slice shares memory with the datagram instead of copying.
  const bytes = new Uint8Array(datagram.buffer, datagram.byteOffset, datagram.byteLength);
  if (bytes.length < MIN_BYTES) throw new DhcpDecodeError(`${bytes.length} bytes, the shortest packet has ${MIN_BYTES}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const op = bytes[0]!;
  if (op !== 1 && op !== 2) throw new DhcpDecodeError(`op ${op} is neither request nor reply`);
  const hlen = bytes[2]!;
  if (hlen > 16) throw new DhcpDecodeError(`hlen ${hlen}, the address field has 16 bytes`);
  if (view.getUint32(236) !== MAGIC) throw new DhcpDecodeError('no DHCP magic cookie: plain BOOTP or something else');
  const ip = (at: number) => ip4FromNumber(view.getUint32(at));
  const snameField = bytes.subarray(44, 108);
  const fileField = bytes.subarray(108, 236);
  const options = readOptions([bytes.subarray(240)]);
  // RFC 3396 section 5: the options field, then file, then sname count as one buffer.
  const overload = uint8Of(options, OPT.overload) ?? 0;
  if (overload & 1) readOptions([fileField], options);
  if (overload & 2) readOptions([snameField], options);
  options.delete(OPT.overload);
  return {
    op,
    htype: bytes[1]!,
    hlen,
    hops: bytes[3]!,
    xid: view.getUint32(4),
    secs: view.getUint16(8),
    flags: view.getUint16(10),
    ciaddr: ip(12),
    yiaddr: ip(16),
    siaddr: ip(20),
    giaddr: ip(24),
    chaddr: bytes.slice(28, 44),
    sname: overload & 2 ? '' : latin1(snameField),
    file: overload & 1 ? '' : latin1(fileField),
    options,
  };
}

/** The packet's bytes, at least 300. What does not fit `maxBytes` of UDP payload, or a fixed field, is `unsendable`, never truncated. */
export function encode(packet: Packet, maxBytes = 65_507): Uint8Array | Unsendable {
  for (const [field, value, room] of [['sname', packet.sname, 64], ['file', packet.file, 128]] as const) {
    if (value.length > room) return { kind: 'unsendable', why: `${field} has ${value.length} characters, the field ${room}` };
  }
  const options = writeOptions(packet.options);
  const length = MIN_BYTES + options.length + 1;
  if (length > maxBytes) return { kind: 'unsendable', why: `the packet has ${length} bytes, the client takes ${maxBytes}` };
  const bytes = new Uint8Array(Math.max(MIN_SENT_BYTES, length));
  const view = new DataView(bytes.buffer);
  bytes.set([packet.op, packet.htype, packet.hlen, packet.hops]);
  view.setUint32(4, packet.xid);
  view.setUint16(8, packet.secs);
  view.setUint16(10, packet.flags);
  view.setUint32(12, ip4ToNumber(packet.ciaddr));
  view.setUint32(16, ip4ToNumber(packet.yiaddr));
  view.setUint32(20, ip4ToNumber(packet.siaddr));
  view.setUint32(24, ip4ToNumber(packet.giaddr));
  bytes.set(packet.chaddr.subarray(0, 16), 28);
  bytes.set(text(packet.sname), 44);
  bytes.set(text(packet.file), 108);
  view.setUint32(236, MAGIC);
  bytes.set(options, MIN_BYTES);
  bytes[length - 1] = OPT.end;
  return bytes;
}

/** The Ethernet address in chaddr; undefined for any other hardware. */
export function macOf(packet: Packet): Mac | undefined {
  if (packet.htype !== 1 || packet.hlen !== 6) return undefined;
  return Array.from(packet.chaddr.subarray(0, 6), (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** UDP payload that this client takes: option 57 counts the IP datagram (RFC 2132 section 9.10), and 576 is what all must take. */
export function maxBytesFor(request: Packet): number {
  const value = request.options.get(OPT.maxSize);
  const asked = value && value.length >= 2 ? (value[0]! << 8) | value[1]! : 0;
  return Math.min(Math.max(asked - 28, DEFAULT_MAX_BYTES), 1472);
}
