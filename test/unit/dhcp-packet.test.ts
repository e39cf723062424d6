// The DHCP codec: RFC 2131's layout, RFC 3396, overload, and what real ROMs get wrong.
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ip4FromNumber } from '../../src/addr.ts';
import { messageOf, OPT, readOptions, subOptions, subOptionsOf, text, textOf, uint16s, uint16sOf, uint32, uint32Of, uint8, userClasses, userClassesOf, uuid, uuidOf, writeOptions } from '../../src/dhcp/options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, peekMac, type Packet } from '../../src/dhcp/packet.ts';

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
const sent = (packet: Packet, maxBytes?: number, optional: readonly number[] = []) => {
  const bytes = encode(packet, maxBytes, { optional });
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
    ['more than the client takes, and no field is empty', { options: new Map([[67, new Uint8Array(400)]]), sname: 's', file: 'f' }, 548, /has 645 bytes, the client takes 548/],
    ['more than overload can take too', { options: new Map([[67, new Uint8Array(500)]]) }, 548, /has 745 bytes, the client takes 548/],
    ['a file name longer than its field', { file: 'f'.repeat(129) }, undefined, /file has 129/],
    ['a server name longer than its field', { sname: 's'.repeat(65) }, undefined, /sname has 65/],
  ])('%s is a refusal, not a shorter packet', (_what, more, max, why) => {
    expect(encode({ ...empty, ...more }, max)).toEqual({ kind: 'unsendable', why: expect.stringMatching(why) });
  });

  it('puts the message type first, whenever it was set', () => {
    const bytes = sent({ ...empty, options: new Map([[82, uint8(9)], [12, uint8(65)], [53, uint8(2)]]) });
    expect([...bytes.subarray(240, 250)]).toEqual([53, 1, 2, 12, 1, 65, 82, 1, 9, 255]);
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

describe('the sender of a datagram, before it is read', () => {
  it.each<[string, Uint8Array, string | undefined]>([
    ['a request of an Ethernet machine', HEADER, '52:54:00:00:00:01'],
    ['a reply', HEADER.map((byte, i) => (i === 0 ? 2 : byte)), undefined],
    ['other hardware', HEADER.map((byte, i) => (i === 1 ? 32 : byte)), undefined],
    ['an address of another length', HEADER.map((byte, i) => (i === 2 ? 8 : byte)), undefined],
    ['too short for DHCP', HEADER.subarray(0, 239), undefined],
    ['nothing', new Uint8Array(), undefined],
  ])('%s', (_what, bytes, mac) => {
    expect(peekMac(bytes)).toBe(mac);
  });
});

describe('overload (RFC 2132 section 9.3)', () => {
  const filled = (tag: number, length: number): [number, Uint8Array] => [tag, Uint8Array.from({ length }, (_, i) => tag + i)];
  /** Option 53, then these; 548 bytes have room for 304 bytes of options beside 52 and the end. */
  const packed = (options: readonly [number, Uint8Array][], more: Partial<Packet> = {}) => ({ ...empty, ...more, options: new Map([[53, uint8(2)] as [number, Uint8Array], ...options]) });
  const tagsIn = (field: Uint8Array) => [...readOptions([field]).keys()];
  const main = (bytes: Uint8Array) => tagsIn(bytes.subarray(240));

  it('is not used while the options fit', () => {
    // 240 of header, 3 for option 53, 304 for 67 and its lengths, the end.
    const bytes = sent(packed([filled(67, 300)]), 548);
    expect([bytes.length, main(bytes)]).toEqual([548, [53, 67]]);
  });

  it('one byte more, and the file field takes an option; 52 comes right behind 53', () => {
    const packet = packed([filled(67, 200), filled(17, 99)]);
    const bytes = sent(packet, 546);
    expect([...bytes.subarray(240, 246)]).toEqual([53, 1, 2, 52, 1, 1]);
    expect([main(bytes), tagsIn(bytes.subarray(108, 236))]).toEqual([[53, 52, 67], [17]]);
    expect(decode(bytes)).toEqual(packet);
  });

  it('leaves a file name alone and takes the sname field', () => {
    const packet = packed([filled(67, 250), filled(17, 60)], { file: 'ipxe.efi' });
    const bytes = sent(packet, 548);
    expect([bytes[245], tagsIn(bytes.subarray(44, 108))]).toEqual([2, [17]]);
    expect(decode(bytes)).toEqual(packet);
  });

  it('takes file and sname when one is too little, each closed by an end marker', () => {
    const packet = packed([filled(67, 250), filled(17, 125), filled(40, 61)]);
    const bytes = sent(packet, 548);
    expect([bytes[245], tagsIn(bytes.subarray(108, 236)), tagsIn(bytes.subarray(44, 108))]).toEqual([3, [17], [40]]);
    expect([bytes[235], bytes[107]]).toEqual([255, 255]);
    expect(decode(bytes)).toEqual(packet);
  });

  it('an option that fits no field whole goes on in the next one (RFC 3396 section 5)', () => {
    const packet = packed([filled(43, 200), filled(67, 200)]);
    const bytes = sent(packet, 548);
    expect(bytes.length).toBeLessThanOrEqual(548);
    expect([main(bytes), tagsIn(bytes.subarray(108, 236))]).toEqual([[53, 52, 43, 67], [67]]);
    expect(decode(bytes)).toEqual(packet);
  });

  it('option 82 stays last in the options field', () => {
    const packet = packed([[82, uint8(9)], filled(67, 250), filled(17, 100)]);
    const bytes = sent(packet, 548);
    expect(main(bytes).at(-1)).toBe(82);
    expect(decode(bytes)).toEqual(packet);
  });

  it('what is optional is left out last, from the back, and no more of it than must be', () => {
    const bytes = sent(packed([filled(43, 250), filled(17, 125), filled(40, 61), filled(42, 100), filled(26, 2), filled(119, 40)]), 548, [40, 42, 119]);
    expect([...decode(bytes).options.keys()].sort()).toEqual([17, 26, 40, 43, 53]);
  });

  it('nothing optional is left out while overload has room', () => {
    const packet = packed([filled(43, 250), filled(17, 100)]);
    expect(decode(sent(packet, 548, [17]))).toEqual(packet);
  });

  it('without enough that is optional the packet is not sent', () => {
    expect(encode(packed([filled(43, 250), filled(17, 255), filled(40, 255)]), 548, { optional: [40] })).toEqual({ kind: 'unsendable', why: 'the packet has 1010 bytes, the client takes 548' });
  });

  it('a client that takes next to nothing gets nothing', () => {
    expect(encode(packed([]), 242)).toMatchObject({ kind: 'unsendable' });
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
  // Neither expect() inside a property nor shrinking: the one draws diffs of packets, the other wanders for minutes among lengths that just fit.
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
      { numRuns: RUNS, endOnFailure: true },
    );
  });

  it('decode(encode(x)) is x', () => {
    fc.assert(
      fc.property(packet, (value) => {
        if (!isDeepStrictEqual(decode(sent(value)), { ...value })) throw new Error('read otherwise');
      }),
      { numRuns: Math.ceil(RUNS / 4), endOnFailure: true },
    );
  });

  it('decode(encode(x)) is x whatever the client takes, or it is not sent', () => {
    const counts = { sent: 0, overloaded: 0, refused: 0 };
    const full = fc.tuple(packet, fc.uniqueArray(fc.tuple(tag, fc.uint8Array({ minLength: 20, maxLength: 280, size: 'max' })), { selector: ([code]) => code, minLength: 1, maxLength: 6 })).map(([value, entries]) => ({ ...value, options: new Map(entries) }));
    fc.assert(
      fc.property(full, fc.integer({ min: 300, max: 1000 }), fc.boolean(), fc.boolean(), (value, most, noFile, noSname) => {
        const packet = { ...value, ...(noFile ? { file: '' } : {}), ...(noSname ? { sname: '' } : {}) };
        const bytes = encode(packet, most);
        if (!(bytes instanceof Uint8Array)) return void counts.refused++;
        counts[readOptions([bytes.subarray(240)]).has(OPT.overload) ? 'overloaded' : 'sent']++;
        if (bytes.length > most || !isDeepStrictEqual(decode(bytes), packet)) throw new Error('too long, or read otherwise');
      }),
      { numRuns: RUNS, endOnFailure: true },
    );
    expect(Math.min(...Object.values(counts)), JSON.stringify(counts)).toBeGreaterThan(RUNS / 50);
  });

  it('of what is optional alone something is lost, and only when it must be', () => {
    const optional = [1, 12, 15, 17, 42, 66, 67, 119, 121, 200];
    let lossy = 0;
    fc.assert(
      fc.property(packet, fc.integer({ min: 400, max: 1472 }), fc.uniqueArray(fc.tuple(fc.constantFrom(...optional), fc.uint8Array({ maxLength: 250, size: 'max' })), { selector: ([code]) => code }), (value, most, extra) => {
        const required = [...value.options].filter(([code]) => !optional.includes(code)).slice(0, 2).map(([code, bytes]): [number, Uint8Array] => [code, bytes.subarray(0, 60)]);
        const packet = { ...value, options: new Map([...required, ...extra]) };
        const all = encode(packet, most);
        const bytes = encode(packet, most, { optional });
        if (!(bytes instanceof Uint8Array)) return expect.fail(bytes.why);
        if (all instanceof Uint8Array) {
          if (!isDeepStrictEqual(bytes, all)) throw new Error('something was left out without need');
          return;
        }
        lossy++;
        const kept = decode(bytes).options;
        const same = (code: number) => isDeepStrictEqual(kept.get(code), packet.options.get(code));
        if (bytes.length > most || kept.size >= packet.options.size) throw new Error('too long, or nothing was left out');
        if (!required.every(([code]) => same(code)) || ![...kept.keys()].every(same)) throw new Error('lost, or changed');
      }),
      { numRuns: Math.ceil(RUNS / 2), endOnFailure: true },
    );
    expect(lossy).toBeGreaterThan(RUNS / 50);
  });
});
