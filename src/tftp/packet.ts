// The TFTP codec (RFC 1350, options of RFC 2347): bytes <-> packets. Opens no socket and knows no policy.

/** RFC 1350 section 5 and RFC 2347: the error codes of the wire. */
export const TFTP_ERROR = {
  undefined: 0,
  notFound: 1,
  accessViolation: 2,
  diskFull: 3,
  illegalOperation: 4,
  unknownTransferId: 5,
  fileExists: 6,
  noSuchUser: 7,
  optionsRefused: 8,
} as const;

/** Option names in lower case; of an option that was given twice the first value counts. */
export type TftpOptions = ReadonlyMap<string, string>;

export interface TftpRequest {
  readonly kind: 'rrq' | 'wrq';
  /** As sent, one character a byte (latin1): a name is compared, never used as a path. */
  readonly file: string;
  /** In lower case: `octet`, `netascii`, `mail`, or whatever the client made up. */
  readonly mode: string;
  readonly options: TftpOptions;
}

export type TftpPacket =
  | TftpRequest
  | { readonly kind: 'data'; readonly block: number; readonly data: Uint8Array }
  | { readonly kind: 'ack'; readonly block: number }
  | { readonly kind: 'error'; readonly code: number; readonly message: string }
  | { readonly kind: 'oack'; readonly options: TftpOptions };

/** The only error that decodeTftp throws. */
export class TftpDecodeError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'TftpDecodeError';
  }
}

const OPCODES = { rrq: 1, wrq: 2, data: 3, ack: 4, error: 5, oack: 6 } as const;

/** Reads one datagram; `data` of a DATA packet is a view of it, not a copy. Throws TftpDecodeError and nothing else. */
export function decodeTftp(bytes: Uint8Array): TftpPacket {
  if (bytes.length < 4) throw new TftpDecodeError(`${bytes.length} bytes are too short for any packet`);
  const datagram = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const opcode = datagram.readUInt16BE(0);
  switch (opcode) {
    case OPCODES.rrq:
    case OPCODES.wrq: {
      const file = readString(datagram, 2, 'file name');
      const mode = readString(datagram, file.end, 'mode');
      if (file.text === '') throw new TftpDecodeError('the file name is empty');
      return { kind: opcode === OPCODES.rrq ? 'rrq' : 'wrq', file: file.text, mode: mode.text.toLowerCase(), options: readOptions(datagram, mode.end) };
    }
    case OPCODES.data:
      return { kind: 'data', block: datagram.readUInt16BE(2), data: bytes.subarray(4) };
    case OPCODES.ack:
      // Some firmware pads its ACK to the shortest Ethernet frame: what follows the block number says nothing.
      return { kind: 'ack', block: datagram.readUInt16BE(2) };
    case OPCODES.error: {
      // An ERROR is believed even without its text or the NUL behind it: dropping it would mean to go on sending to a peer that has gone.
      const end = datagram.indexOf(0, 4);
      return { kind: 'error', code: datagram.readUInt16BE(2), message: datagram.toString('latin1', 4, end < 0 ? datagram.length : end) };
    }
    case OPCODES.oack:
      return { kind: 'oack', options: readOptions(datagram, 2) };
    default:
      throw new TftpDecodeError(`opcode ${opcode} is not one of TFTP's six`);
  }
}

/** Writes one datagram. Strings must be latin1 without NUL, block and code 0-65535: this is our own output, so nothing is checked. */
export function encodeTftp(packet: TftpPacket): Uint8Array {
  switch (packet.kind) {
    case 'rrq':
    case 'wrq':
      return Buffer.concat([head(packet.kind), zeroEnded(packet.file), zeroEnded(packet.mode), ...[...packet.options].flat().map(zeroEnded)]);
    case 'data': {
      const datagram = Buffer.allocUnsafe(4 + packet.data.length);
      datagram.writeUInt16BE(OPCODES.data, 0);
      datagram.writeUInt16BE(packet.block, 2);
      datagram.set(packet.data, 4);
      return datagram;
    }
    case 'ack':
      return head('ack', packet.block);
    case 'error':
      return Buffer.concat([head('error', packet.code), zeroEnded(packet.message)]);
    case 'oack':
      return Buffer.concat([head('oack'), ...[...packet.options].flat().map(zeroEnded)]);
  }
}

function head(kind: keyof typeof OPCODES, second?: number): Buffer {
  const bytes = Buffer.alloc(second === undefined ? 2 : 4);
  bytes.writeUInt16BE(OPCODES[kind], 0);
  if (second !== undefined) bytes.writeUInt16BE(second, 2);
  return bytes;
}

function zeroEnded(text: string): Buffer {
  return Buffer.from(`${text}\0`, 'latin1');
}

function readString(datagram: Buffer, start: number, what: string): { readonly text: string; readonly end: number } {
  const end = datagram.indexOf(0, start);
  if (end < 0) throw new TftpDecodeError(`the ${what} does not end with a NUL`);
  return { text: datagram.toString('latin1', start, end), end: end + 1 };
}

function readOptions(datagram: Buffer, start: number): TftpOptions {
  const options = new Map<string, string>();
  let at = start;
  while (at < datagram.length) {
    const name = readString(datagram, at, 'option name');
    // An empty name is padding with NULs up to a fixed size, not an option.
    if (name.text === '') break;
    const value = readString(datagram, name.end, 'option value');
    const key = name.text.toLowerCase();
    if (!options.has(key)) options.set(key, value.text);
    at = value.end;
  }
  return options;
}
