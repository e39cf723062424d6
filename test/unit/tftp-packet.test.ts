// The TFTP codec: a table of datagrams as clients send them, and properties over any bytes.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeTftp, encodeTftp, TftpDecodeError, type TftpPacket } from '../../src/tftp/packet.ts';

const raw = (text: string) => Buffer.from(text, 'latin1');
const options = (...pairs: [string, string][]) => new Map(pairs);

describe('decodeTftp reads', () => {
  const rows: [string, Buffer, TftpPacket][] = [
    ['a bare read request', raw('\0\x01a\0octet\0'), { kind: 'rrq', file: 'a', mode: 'octet', options: options() }],
    ['a write request', raw('\0\x02a\0octet\0'), { kind: 'wrq', file: 'a', mode: 'octet', options: options() }],
    [
      'a request with three options, one of them empty',
      raw('\0\x01undionly.kpxe\0octet\0blksize\x001432\0tsize\x000\0multicast\0\0'),
      { kind: 'rrq', file: 'undionly.kpxe', mode: 'octet', options: options(['blksize', '1432'], ['tsize', '0'], ['multicast', '']) },
    ],
    ['a mode and option names in capitals as if they were lower case', raw('\0\x01a\0OcTeT\0BLKSIZE\x00512\0'), { kind: 'rrq', file: 'a', mode: 'octet', options: options(['blksize', '512']) }],
    ['the first of an option that is given twice', raw('\0\x01a\0octet\0tsize\x000\0TSIZE\x007\0'), { kind: 'rrq', file: 'a', mode: 'octet', options: options(['tsize', '0']) }],
    ['a request that is padded with NULs', raw('\0\x01a\0octet\0tsize\x000\0\0\0\0'), { kind: 'rrq', file: 'a', mode: 'octet', options: options(['tsize', '0']) }],
    ['an option called __proto__ as an option', raw('\0\x01a\0octet\0__proto__\x001\0'), { kind: 'rrq', file: 'a', mode: 'octet', options: options(['__proto__', '1']) }],
    ['a file name byte by byte, whatever its encoding', raw('\0\x01\xff\xe4\0octet\0'), { kind: 'rrq', file: '\xff\xe4', mode: 'octet', options: options() }],
    ['data', raw('\0\x03\0\x07xyz'), { kind: 'data', block: 7, data: new Uint8Array(raw('xyz')) }],
    ['the empty block that ends a file', raw('\0\x03\xff\xff'), { kind: 'data', block: 65535, data: new Uint8Array(0) }],
    ['an acknowledgement', raw('\0\x04\x01\x02'), { kind: 'ack', block: 258 }],
    ['an acknowledgement that is padded to the shortest frame', raw('\0\x04\0\x01' + '\0'.repeat(14)), { kind: 'ack', block: 1 }],
    ['an error', raw('\0\x05\0\x08User aborted\0'), { kind: 'error', code: 8, message: 'User aborted' }],
    ['an error without text', raw('\0\x05\0\0'), { kind: 'error', code: 0, message: '' }],
    ['an error whose text has no NUL', raw('\0\x05\0\x02no'), { kind: 'error', code: 2, message: 'no' }],
    ['an option acknowledgement', raw('\0\x06blksize\x001468\0'), { kind: 'oack', options: options(['blksize', '1468']) }],
  ];
  test.each(rows)('%s', (_name, datagram, packet) => {
    const got = decodeTftp(datagram);
    if (got.kind === 'data' && packet.kind === 'data') expect({ ...got, data: [...got.data] }).toEqual({ ...packet, data: [...packet.data] });
    else expect(got).toEqual(packet);
  });
});

describe('decodeTftp refuses', () => {
  test.each<[string, Buffer]>([
    ['an empty datagram', raw('')],
    ['an opcode without anything behind it', raw('\0\x04')],
    ['half a block number', raw('\0\x04\0')],
    ['opcode 0', raw('\0\0\0\0')],
    ['opcode 7', raw('\0\x07\0\0')],
    ['a request without a mode', raw('\0\x01abc\0')],
    ['a mode without its NUL', raw('\0\x01abc\0octet')],
    ['a request without any NUL', raw('\0\x01abcdef')],
    ['an empty file name', raw('\0\x01\0octet\0')],
    ['an option without a value', raw('\0\x01a\0octet\0tsize\0')],
    ['an option value without its NUL', raw('\0\x01a\0octet\0tsize\x000')],
    ['an option acknowledgement that is cut off', raw('\0\x06blksize\x0014')],
  ])('%s', (_name, datagram) => {
    expect(() => decodeTftp(datagram)).toThrow(TftpDecodeError);
  });
});

const latin1 = (minLength: number) =>
  fc.array(fc.integer({ min: 1, max: 255 }), { minLength, maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString('latin1'));
const name = latin1(1).map((text) => text.toLowerCase()).filter((text) => /^[\x01-\xff]+$/.test(text));
const pairs = (minLength: number) => fc.uniqueArray(fc.tuple(name, latin1(0)), { minLength, maxLength: 6, selector: ([key]) => key }).map((list) => new Map(list));
const word = fc.integer({ min: 0, max: 65535 });
const packets: fc.Arbitrary<TftpPacket> = fc.oneof(
  fc.record({ kind: fc.constantFrom('rrq' as const, 'wrq' as const), file: latin1(1), mode: name, options: pairs(0) }),
  fc.record({ kind: fc.constant('data' as const), block: word, data: fc.uint8Array({ maxLength: 1500 }) }),
  fc.record({ kind: fc.constant('ack' as const), block: word }),
  fc.record({ kind: fc.constant('error' as const), code: word, message: latin1(0) }),
  fc.record({ kind: fc.constant('oack' as const), options: pairs(1) }),
);

describe('for any input', () => {
  test('decode(encode(packet)) is the packet', () => {
    fc.assert(
      fc.property(packets, (packet) => {
        const got = decodeTftp(encodeTftp(packet));
        if (got.kind === 'data' && packet.kind === 'data') {
          expect(got.block).toBe(packet.block);
          expect(Buffer.compare(got.data, packet.data)).toBe(0);
        } else expect(got).toEqual(packet);
      }),
      { numRuns: 2000 },
    );
  });

  test('decode answers a packet or throws TftpDecodeError, over any bytes behind any opcode', () => {
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 600 }), fc.tuple(fc.integer({ min: 0, max: 8 }), fc.uint8Array({ maxLength: 100, max: 4 })).map(([opcode, rest]) => Uint8Array.from([0, opcode, ...rest])));
    fc.assert(
      fc.property(bytes, (datagram) => {
        try {
          decodeTftp(datagram);
        } catch (error) {
          expect(error).toBeInstanceOf(TftpDecodeError);
        }
      }),
      { numRuns: 5000 },
    );
  });

  test('a packet that was cut short anywhere is refused or shorter, never an exception of another kind', () => {
    fc.assert(
      fc.property(packets, fc.nat(), (packet, cut) => {
        const whole = encodeTftp(packet);
        try {
          decodeTftp(whole.subarray(0, cut % (whole.length + 1)));
        } catch (error) {
          expect(error).toBeInstanceOf(TftpDecodeError);
        }
      }),
    );
  });
});
