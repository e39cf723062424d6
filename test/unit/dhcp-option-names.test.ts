// Names, relays' links, parameter lists and routes: the bytes of the RFCs' own examples, and what is left of names that mean harm.
import { describe, expect, it } from 'vitest';
import { parseSubnet } from '../../src/addr.ts';
import { domains, fqdnOf, fqdnReply, hostLabel, hostNameOf, isDomain } from '../../src/dhcp/names.ts';
import { classlessRoutes, OPT, parameterListOf, relayLinkOf, subOptions, text, uint8 } from '../../src/dhcp/options.ts';

const hex = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString('hex');
const options = (...entries: [number, Uint8Array][]) => new Map(entries);
const wire = (...labels: string[]) => Uint8Array.from(labels.flatMap((label) => [label.length, ...text(label)]));
const fqdn = (flags: number, name: Uint8Array) => Uint8Array.of(flags, 0, 0, ...name);

describe('host names of clients', () => {
  it.each<[string, string, string | undefined]>([
    ['a plain one', 'node-7', 'node-7'],
    ['upper case', 'Node7', 'node7'],
    ['the first label of a full name', 'n1.rack.example', 'n1'],
    ['blanks, quotes and underscores go', 'Bob\'s_new PC', 'bobsnewpc'],
    ['dashes at the ends go', '--n1--', 'n1'],
    ['a dash that a removed character leaves at the end goes too', 'n1-!', 'n1'],
    ['a shell\'s words are only letters', '$(reboot);', 'reboot'],
    ['escapes', '\x1b[31mred', '31mred'],
    ['63 characters at most', 'x'.repeat(80), 'x'.repeat(63)],
    ['a dash at the cut goes', `${'x'.repeat(62)}-y`, 'x'.repeat(62)],
    ['letters of other alphabets go', 'n\u00f6de', 'nde'],
    ['nothing', '', undefined],
    ['nothing but bad characters (Kea CVE-2025-11232)', '__!!__', undefined],
    ['nothing but dashes', '---', undefined],
    ['an empty first label', '.rack.example', undefined],
  ])('%s', (_what, said, label) => {
    expect(hostLabel(said)).toBe(label);
  });

  it.each<[string, Map<number, Uint8Array>, string | undefined]>([
    ['81 counts before 12 (RFC 4702 section 4)', options([12, text('a')], [81, fqdn(0, text('b.example'))]), 'b'],
    ['81 when 12 is missing', options([81, fqdn(0, text('b.example'))]), 'b'],
    ['12 when nothing of 81 is left', options([12, text('a')], [81, fqdn(4, wire('!!', 'example'))]), 'a'],
    ['12 when 81 leaves the name to the server', options([12, text('a')], [81, fqdn(5, new Uint8Array())]), 'a'],
    ['12 when 81 is mangled', options([12, text('a')], [81, Uint8Array.of(4)]), 'a'],
    ['neither', options(), undefined],
    ['both are nothing but bad characters', options([12, text('!!')], [81, fqdn(0, text('**'))]), undefined],
    ['a mangled 81', options([81, Uint8Array.of(4, 0)]), undefined],
    ['a terminator inside', options([12, Uint8Array.of(110, 49, 0, 120)]), 'n1'],
  ])('%s', (_what, said, name) => {
    expect(hostNameOf(said)).toBe(name);
  });
});

describe('client FQDN, option 81 (RFC 4702)', () => {
  it.each<[string, Uint8Array, { flags: number; name: string } | undefined]>([
    ['as ASCII', fqdn(1, text('client.example')), { flags: 1, name: 'client.example' }],
    ['as ASCII with the dot of the root', fqdn(1, text('client.example.')), { flags: 1, name: 'client.example' }],
    ['in DNS wire form', fqdn(5, wire('client', 'example', '')), { flags: 5, name: 'client.example' }],
    ['in wire form without an end: a partial name', fqdn(4, wire('client')), { flags: 4, name: 'client' }],
    ['without a name', fqdn(4, new Uint8Array()), { flags: 4, name: '' }],
    ['what follows the root is not read', fqdn(4, wire('a', '', 'b')), { flags: 4, name: 'a' }],
    ['of 126 labels, all that a name can have', fqdn(4, wire(...Array<string>(126).fill('a'))), { flags: 4, name: Array(126).fill('a').join('.') }],
    ['of more labels than a name can have', fqdn(4, wire(...Array<string>(128).fill('a'))), undefined],
    ['with a compression pointer', fqdn(4, Uint8Array.of(0xc0, 3)), undefined],
    ['with a label that runs over the edge', fqdn(4, Uint8Array.of(9, 65)), undefined],
    ['too short for its flags', Uint8Array.of(4, 0), undefined],
    ['empty', new Uint8Array(), undefined],
  ])('%s', (_what, value, read) => {
    expect(fqdnOf(options([OPT.fqdn, value]))).toEqual(read);
  });

  it.each<[string, number, string, string | undefined]>([
    ['a client that wants us to update: N, and O because we override it', 0x01, 'n1.rack.example', `0affff${hex(text('n1.rack.example'))}`],
    ['the same in wire form: E is copied', 0x05, 'n1.rack.example', `0effff026e31047261636b076578616d706c6500`],
    ['a client that updates itself: N alone, for we would not', 0x00, 'n1.rack.example', `08ffff${hex(text('n1.rack.example'))}`],
    ['a client that wants no update at all', 0x0c, 'n1', '0cffff026e31'],
    ['bits that must be zero are', 0xf0, 'n1', '08ffff6e31'],
    ['a name that is none is not answered', 0x01, 'n1..x', undefined],
    ['an empty name is not answered', 0x01, '', undefined],
  ])('%s', (_what, flags, name, reply) => {
    expect(hex(fqdnReply(fqdn(flags, text('x')), name))).toBe(reply);
  });

  it('a mangled option is not answered', () => {
    expect(fqdnReply(Uint8Array.of(1, 0), 'n1')).toBeUndefined();
  });
});

describe('domain search, option 119', () => {
  /** An independent reader: follows pointers, at most 100 steps a name. */
  function read(bytes: Uint8Array): string[] {
    const names: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      const labels: string[] = [];
      let from = at;
      let end: number | undefined;
      for (let steps = 0; steps < 100 && bytes[from] !== 0; steps++) {
        if (bytes[from]! >= 0xc0) {
          end ??= from + 2;
          from = ((bytes[from]! & 0x3f) << 8) | bytes[from + 1]!;
        } else {
          labels.push(Buffer.from(bytes.subarray(from + 1, from + 1 + bytes[from]!)).toString('latin1'));
          from += 1 + bytes[from]!;
        }
      }
      names.push(labels.join('.'));
      at = end ?? from + 1;
    }
    return names;
  }

  it('RFC 3397 section 2 has this example', () => {
    expect(hex(domains(['eng.apple.com', 'marketing.apple.com']))).toBe('03656e67056170706c6503636f6d00096d61726b6574696e67c004');
  });

  it.each<[string, string[]]>([
    ['one name', ['example.org']],
    ['a name twice', ['a.example', 'a.example']],
    ['a name that ends another', ['a.b.c.example', 'c.example', 'x.b.c.example', 'example']],
    ['names with nothing in common', ['a.b', 'c.d', 'b']],
    ['many, over more than one option', Array.from({ length: 60 }, (_, i) => `rack${i}.site.example`)],
  ])('%s', (_what, names) => {
    expect(read(domains(names))).toEqual(names);
  });

  it('the dot of the root and upper case say nothing', () => {
    expect(hex(domains(['A.Example.']))).toBe(hex(domains(['a.example'])));
  });

  it.each<[string, boolean]>([
    ['rack.example', true],
    ['rack.example.', true],
    ['_tcp.example', true],
    [`${'a'.repeat(63)}.example`, true],
    [`${'a'.repeat(64)}.example`, false],
    [Array(127).fill('a').join('.'), true],
    [Array(128).fill('a').join('.'), false],
    ['', false],
    ['.', false],
    ['a..b', false],
    ['-a.b', false],
    ['a b', false],
  ])('%j is a domain: %s', (name, yes) => {
    expect(isDomain(name)).toBe(yes);
  });
});

describe('classless routes, option 121', () => {
  // The destination descriptors are the table of RFC 3442, "Classless Route Option Format".
  it.each<[string, string, string]>([
    ['10.0.0.0/8', '10.77.0.254', '080a0a4d00fe'],
    ['10.0.0.0/24', '10.77.0.254', '180a00000a4d00fe'],
    ['10.17.0.0/16', '10.77.0.254', '100a110a4d00fe'],
    ['10.27.129.0/24', '10.77.0.254', '180a1b810a4d00fe'],
    ['10.229.0.128/25', '10.77.0.254', '190ae500800a4d00fe'],
    ['10.198.122.47/32', '10.77.0.254', '200ac67a2f0a4d00fe'],
    ['192.0.2.0/24', '0.0.0.0', '18c0000200000000'],
  ])('%s via %s', (to, router, bytes) => {
    expect(hex(classlessRoutes([{ subnet: parseSubnet(to)!, router }]))).toBe(bytes);
  });

  it('the default route is one byte and the router; routes follow one another', () => {
    expect(hex(classlessRoutes([{ subnet: { network: 0, prefix: 0 }, router: '10.77.0.1' }, { subnet: parseSubnet('10.0.0.0/8')!, router: '10.77.0.254' }]))).toBe('000a4d0001080a0a4d00fe');
  });
});

describe('what relays and clients ask for', () => {
  it.each<[string, Uint8Array, string | undefined]>([
    ['link selection among other sub-options', subOptions([[1, text('eth7')], [5, Uint8Array.of(10, 88, 0, 0)]]), '10.88.0.0'],
    ['without it', subOptions([[1, text('eth7')]]), undefined],
    ['too short', subOptions([[5, Uint8Array.of(10, 88)]]), undefined],
    ['too long', subOptions([[5, Uint8Array.of(10, 88, 0, 0, 1)]]), undefined],
    ['running over the edge', Uint8Array.of(5, 4, 10, 88), undefined],
    ['in an empty option', new Uint8Array(), undefined],
  ])('option 82 %s', (_what, value, link) => {
    expect(relayLinkOf(options([OPT.relayAgent, value]))).toBe(link);
  });

  it('no option 82, no link', () => {
    expect(relayLinkOf(options([OPT.messageType, uint8(1)]))).toBeUndefined();
  });

  it('a parameter list keeps its order and names nothing twice; one that was not sent is not an empty one', () => {
    expect(parameterListOf(options([55, Uint8Array.of(3, 1, 3, 6, 1)]))).toEqual([3, 1, 6]);
    expect(parameterListOf(options([55, new Uint8Array()]))).toEqual([]);
    expect(parameterListOf(options())).toBeUndefined();
  });
});
