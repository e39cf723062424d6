// The DHCP codec: RFC 2131's layout, RFC 3396, overload, and what real ROMs get wrong.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ip4FromNumber } from '../../src/addr.ts';
import { messageOf, OPT, readOptions, subOptions, subOptionsOf, text, textOf, uint16s, uint16sOf, uint32, uint32Of, uint8, userClasses, userClassesOf, uuid, uuidOf, writeOptions } from '../../src/dhcp/options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, type Packet } from '../../src/dhcp/packet.ts';

const HEADER = Uint8Array.of(1, 1, 6, 0, 1, 2, 3, 4, ...new Uint8Array(20), 0x52, 0x54, 0, 0, 0, 1, ...new Uint8Array(10 + 64 + 128), 99, 130, 83, 99);
const raw = (...options: number[]) => Uint8Array.of(...HEADER, ...options);
const withField = (at: number, field: readonly number[], options: readonly number[]) => {
  const bytes = raw(...options);
  bytes.set(field, at);
  return bytes;
};
const SNAME = 44;
const FILE = 108;
const empty = decode(raw(255));
const sent = (packet: Packet, maxBytes?: number) => {
  const bytes = encode(packet, maxBytes);
  if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
  return bytes;
};

describe('reading', () => {
  it('takes the shortest packet that a ROM sends: header and cookie, no option, no end', () => {
    expect(macOf(decode(HEADER))).toBe('52:54:00:00:00:01');
    expect(decode(HEADER).options.size).toBe(0);
  });

  it.each<[string, Uint8Array]>([
    ['one byte less', HEADER.subarray(1)],
    ['nothing at all', new Uint8Array()],
    ['BOOTP without the cookie', HEADER.map((byte, i) => (i < 236 ? byte : 0))],
    ['neither a request nor a reply', HEADER.map((byte, i) => (i === 0 ? 3 : byte))],
    ['an address longer than its field', HEADER.map((byte, i) => (i === 2 ? 17 : byte))],
  ])('refuses %s with its own error', (_what, bytes) => {
    expect(() => decode(bytes)).toThrow(DhcpDecodeError);
  });

  it.each<[string, Uint8Array, [number, number[]][]]>([
    ['pads are skipped', raw(0, 0, 53, 1, 1, 0, 255), [[53, [1]]]],
    ['nothing is read after the end', raw(53, 1, 1, 255, 50, 4, 1, 2, 3, 4), [[53, [1]]]],
    ['a missing end marker is the end of the packet', raw(53, 1, 1), [[53, [1]]]],
    ['a last option that runs over the edge is left out', raw(53, 1, 1, 12, 9, 65), [[53, [1]]]],
    ['a last tag without a length is left out', raw(53, 1, 1, 12), [[53, [1]]]],
    ['an empty option is kept', raw(80, 0, 255), [[80, []]]],
    ['parts of one option are joined (RFC 3396)', raw(67, 2, 65, 66, 53, 1, 1, 67, 1, 67, 255), [[67, [65, 66, 67]], [53, [1]]]],
    ['overload 1: file has options', withField(FILE, [12, 1, 65, 255], [52, 1, 1, 53, 1, 1, 255]), [[53, [1]], [12, [65]]]],
    ['overload 2: sname has options', withField(SNAME, [12, 1, 65, 255], [52, 1, 2, 53, 1, 1, 255]), [[53, [1]], [12, [65]]]],
    ['overload 3: file comes before sname when parts are joined', [...[SNAME, FILE]].reduce((bytes, at) => (bytes.set([67, 1, at === FILE ? 66 : 67, 255], at), bytes), raw(52, 1, 3, 67, 1, 65, 255)), [[67, [65, 66, 67]]]],
  ])('%s', (_what, bytes, options) => {
    expect([...decode(bytes).options].map(([tag, value]) => [tag, [...value]])).toEqual(options);
  });

  it('an overloaded field is not text as well', () => {
    const packet = decode(withField(FILE, [12, 1, 65, 255], [52, 1, 1, 255]));
    expect(packet.file).toBe('');
  });

  it('sname and file need no terminator', () => {
    const packet = decode(withField(SNAME, [...text('s'.repeat(64)), ...text('f'.repeat(128))], [255]));
    expect([packet.sname, packet.file]).toEqual(['s'.repeat(64), 'f'.repeat(128)]);
  });

  it('a duplicate of a fixed-size option counts once, the first', () => {
    expect(messageOf(decode(raw(53, 1, 1, 53, 1, 3, 255)).options)).toBe('discover');
  });

  it('keeps nothing of the datagram\'s memory', () => {
    const datagram = Buffer.from(raw(12, 1, 65, 255));
    const packet = decode(datagram);
    datagram.fill(0);
    expect([packet.options.get(12), macOf(packet)]).toEqual([Uint8Array.of(65), '52:54:00:00:00:01']);
  });

  it('an address of other hardware is no MAC', () => {
    expect(macOf({ ...empty, htype: 32 })).toBeUndefined();
    expect(macOf({ ...empty, hlen: 8 })).toBeUndefined();
  });
});

describe('writing', () => {
  it('fills up to the 300 bytes of BOOTP', () => {
    expect(sent(empty)).toHaveLength(300);
  });

  it('splits what is longer than 255 bytes', () => {
    const value = new Uint8Array(600).fill(7);
    const bytes = writeOptions(new Map([[67, value]]));
    expect([bytes[1], bytes[258], bytes[515], bytes.length]).toEqual([255, 255, 90, 606]);
    expect(readOptions([bytes]).get(67)).toEqual(value);
  });

  it('puts option 82 last, whenever it was set', () => {
    const bytes = sent({ ...empty, options: new Map([[82, uint8(9)], [53, uint8(2)]]) });
    expect([...bytes.subarray(240, 247)]).toEqual([53, 1, 2, 82, 1, 9, 255]);
  });

  it.each<[string, Partial<Packet>, number | undefined, RegExp]>([
    ['more than the client takes', { options: new Map([[67, new Uint8Array(400)]]) }, 548, /has 645 bytes, the client takes 548/],
    ['a file name longer than its field', { file: 'f'.repeat(129) }, undefined, /file has 129/],
    ['a server name longer than its field', { sname: 's'.repeat(65) }, undefined, /sname has 65/],
  ])('%s is a refusal, not a shorter packet', (_what, more, max, why) => {
    expect(encode({ ...empty, ...more }, max)).toEqual({ kind: 'unsendable', why: expect.stringMatching(why) });
  });

  it.each<[string, number[], number]>([
    ['nothing said', [], 548],
    ['576', [57, 2, 2, 64], 548],
    ['less than all must take', [57, 2, 0, 100], 548],
    ['1472, as iPXE says', [57, 2, 5, 192], 1444],
    ['more than Ethernet carries', [57, 2, 255, 255], 1472],
    ['a mangled option', [57, 1, 5], 548],
  ])('option 57, %s: so many bytes of payload', (_what, options, bytes) => {
    expect(maxBytesFor(decode(raw(...options, 255)))).toBe(bytes);
  });
});

describe('values of options', () => {
  it.each<[string, Uint8Array, string[]]>([
    ['raw, as iPXE sends it', text('iPXE'), ['iPXE']],
    ['behind lengths, as RFC 3004 says', userClasses('rack', 'iPXE'), ['rack', 'iPXE']],
    ['raw with a length that does not fit', Uint8Array.of(4, 105, 80), ['\u0004iP']],
    ['empty', new Uint8Array(), []],
  ])('user class %s', (_what, value, classes) => {
    expect(userClassesOf(new Map([[OPT.userClass, value]]))).toEqual(classes);
  });

  it('a UUID is turned as SMBIOS prints it, both ways', () => {
    const value = uuid('00112233-4455-6677-8899-aabbccddeeff');
    expect(Buffer.from(value).toString('hex')).toBe('0033221100554477668899aabbccddeeff');
    expect(uuidOf(new Map([[97, value]]))).toBe('00112233-4455-6677-8899-aabbccddeeff');
  });

  it.each<[string, Uint8Array]>([
    ['all zeros', new Uint8Array(17)],
    ['all ones', Uint8Array.of(0, ...new Uint8Array(16).fill(255))],
    ['too short', new Uint8Array(16).fill(1)],
    ['of another type', new Uint8Array(17).fill(1)],
  ])('a UUID %s is none', (_what, value) => {
    expect(uuidOf(new Map([[97, value]]))).toBeUndefined();
  });

  it('text ends at a NUL, numbers need all their bytes, lists drop a broken end', () => {
    expect(textOf(new Map([[12, Uint8Array.of(110, 49, 0, 9)]]), 12)).toBe('n1');
    expect(uint32Of(new Map([[51, Uint8Array.of(1, 2, 3)]]), 51)).toBeUndefined();
    expect(uint32Of(new Map([[51, uint32(0xffffffff)]]), 51)).toBe(0xffffffff);
    expect(uint16sOf(new Map([[93, Uint8Array.of(...uint16s(7, 16), 9)]]), 93)).toEqual([7, 16]);
  });

  it('sub-options are read with and without an end marker', () => {
    expect(subOptionsOf(new Map([[175, Uint8Array.of(19, 1, 1, 255)]]), 175).get(19)).toEqual(uint8(1));
    expect(subOptionsOf(new Map([[175, subOptions([[176, uint8(1)]])]]), 175).get(176)).toEqual(uint8(1));
  });
});

describe('any input', () => {
  const RUNS = Number(process.env.FUZZ_RUNS ?? 2_000);
  const ip = fc.nat(0xffffffff).map(ip4FromNumber);
  const field = (max: number) => fc.string({ unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)), maxLength: max });
  const tag = fc.integer({ min: 1, max: 254 }).filter((code) => code !== OPT.overload);
  const packet: fc.Arbitrary<Packet> = fc.record({
    op: fc.constantFrom(1 as const, 2 as const),
    htype: fc.nat(255),
    hlen: fc.nat(16),
    hops: fc.nat(255),
    xid: fc.nat(0xffffffff),
    secs: fc.nat(0xffff),
    flags: fc.nat(0xffff),
    ciaddr: ip,
    yiaddr: ip,
    siaddr: ip,
    giaddr: ip,
    chaddr: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    sname: field(64),
    file: field(128),
    options: fc.uniqueArray(fc.tuple(tag, fc.uint8Array({ maxLength: 700 })), { selector: ([code]) => code, maxLength: 12 }).map((entries) => new Map(entries)),
  });

  it('decode throws nothing but its own error', () => {
    const anything = fc.oneof(fc.uint8Array({ maxLength: 700 }), fc.uint8Array({ maxLength: 400 }).map((options) => raw(...options)), fc.tuple(fc.uint8Array({ minLength: 192, maxLength: 192 }), fc.uint8Array({ maxLength: 64 })).map(([fields, options]) => withField(SNAME, [...fields], [52, 1, 3, ...options])));
    fc.assert(
      fc.property(anything, (bytes) => {
        try {
          const { options } = decode(bytes);
          userClassesOf(options);
          uuidOf(options);
          subOptionsOf(options, OPT.ipxe);
        } catch (error) {
          if (!(error instanceof DhcpDecodeError)) throw error;
        }
      }),
      { numRuns: RUNS },
    );
  });

  it('decode(encode(x)) is x', () => {
    fc.assert(
      fc.property(packet, (value) => {
        expect(decode(sent(value))).toEqual(value);
      }),
      { numRuns: Math.ceil(RUNS / 4) },
    );
  });
});
