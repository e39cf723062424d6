// Options that operators add in YAML: names, numbers and types to bytes; what is refused, and why.
import { createRequire } from 'node:module';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { KNOWN_OPTIONS, OWN_OPTIONS } from '../../src/dhcp/option-table.ts';
import { OPTION_NAMES, OPTION_TYPES, optionBytes, parseExtraOption, type OptionFault } from '../../src/dhcp/option-values.ts';
import { encode } from '../../src/dhcp/packet.ts';
import { packetWith } from './dhcp-world.ts';

const parsed = (key: string, value: unknown) => {
  const found = parseExtraOption(key, value);
  if ('fault' in found) throw new Error(`${found.fault} (${found.hint})`);
  return found;
};
const bytes = (key: string, value: unknown) => parsed(key, value).option.hex;
const fault = (key: string, value: unknown) => parseExtraOption(key, value) as OptionFault;

describe('a value by its name', () => {
  it.each<[string, unknown, number, string]>([
    ['ntp-servers', ['10.0.0.1', '10.0.0.2'], 42, '0a0000010a000002'],
    ['ntp-servers', '10.0.0.1', 42, '0a000001'],
    ['swap-server', '10.0.0.1', 16, '0a000001'],
    ['router-solicitation-address', ['10.0.0.1'], 32, 'must be an IPv4 address, such as 10.77.0.1, not a list'],
    ['interface-mtu', 1400, 26, '0578'],
    ['interface-mtu', '1400', 26, '0578'],
    ['interface-mtu', '0x578', 26, '0578'],
    ['interface-mtu', 67, 26, 'must be a whole number from 68 to 65535, not 67'],
    ['interface-mtu', 65536, 26, 'must be a whole number from 68 to 65535, not 65536'],
    ['interface-mtu', 'big', 26, 'must be a whole number from 68 to 65535, not "big"'],
    ['interface-mtu', 1400.5, 26, 'must be a whole number from 68 to 65535, not 1400.5'],
    ['interface-mtu', true, 26, 'must be a whole number from 68 to 65535, not true'],
    ['default-ip-ttl', 255, 23, 'ff'],
    ['default-ip-ttl', 256, 23, 'must be a whole number from 1 to 255, not 256'],
    ['arp-cache-timeout', 4294967295, 35, 'ffffffff'],
    ['arp-cache-timeout', 4294967296, 35, 'must be a whole number from 0 to 4294967295, not 4294967296'],
    ['time-offset', -3600, 2, 'fffff1f0'],
    ['time-offset', '-3600', 2, 'fffff1f0'],
    ['time-offset', 2147483648, 2, 'must be a whole number from -2147483648 to 2147483647, not 2147483648'],
    ['ip-forwarding', true, 19, '01'],
    ['ip-forwarding', 'false', 19, '00'],
    ['ip-forwarding', 'on', 19, '01'],
    ['ip-forwarding', 1, 19, 'must be true or false, not 1'],
    ['root-path', '/srv/nfs', 17, '2f7372762f6e6673'],
    ['pcode', 5, 100, '35'],
    ['pcode', 'caf\u00e9', 100, '636166e9'],
    ['pcode', 'a\nb', 100, 'must be text without control characters, of characters up to U+00FF (numbers with a fraction in quotes), not "a\\nb"'],
    ['pcode', 'x'.repeat(256), 100, 'its value has 256 bytes, at most 255 can be sent'],
    ['tcode', 1.5, 101, 'must be text without control characters, of characters up to U+00FF (numbers with a fraction in quotes), not 1.5'],
    ['domain-search', 'rack.example', 119, '047261636b076578616d706c6500'],
    ['domain-search', ['rack.example', 'example'], 119, '047261636b076578616d706c6500c005'],
    ['domain-search', ['rack..example'], 119, 'must be domain names, such as [rack.example, example.org], not "rack..example"'],
    ['domain-search', '10.0.0.1', 119, 'must be domain names, such as [rack.example, example.org], not "10.0.0.1"'],
    ['domain-search', [], 119, 'has no value'],
    ['classless-static-route', [{ to: '10.0.0.0/8', via: '10.77.0.254' }, 'default via 10.77.0.1'], 121, '080a0a4d00fe000a4d0001'],
    ['classless-static-route', { to: '0.0.0.0/0', via: '10.77.0.1' }, 121, '000a4d0001'],
    ['classless-static-route', '10.0.0.0/8 via 10.77.0.254', 121, '080a0a4d00fe'],
    ['classless-static-route', '10.0.0.1/8 via 10.77.0.254', 121, 'must be routes, such as [{ to: 10.0.0.0/8, via: 10.77.0.254 }] or "default via 10.77.0.1", not "10.0.0.1/8 via 10.77.0.254"'],
    ['classless-static-route', [{ to: '10.0.0.0/8', via: '10.77.0.254', metric: 1 }], 121, 'must be routes, such as [{ to: 10.0.0.0/8, via: 10.77.0.254 }] or "default via 10.77.0.1", not a map'],
    ['static-routes', ['10.9.0.1', '10.77.0.254'], 33, '0a0900010a4d00fe'],
    ['static-routes', ['10.9.0.1'], 33, 'its addresses come in pairs, and one is left over'],
    ['capwap-ac-v4', '10.0.0.9', 138, '0a000009'],
    ['tftp-server-address', ['10.0.0.9'], 150, '0a000009'],
    ['ntp-servers', [10], 42, 'must be IPv4 addresses, such as [10.77.0.1, 10.77.0.2], not 10'],
    ['ntp-servers', '010.0.0.1', 42, 'must be IPv4 addresses, such as [10.77.0.1, 10.77.0.2], not "010.0.0.1"'],
    ['ntp-servers', Array.from({ length: 64 }, (_, i) => `10.0.0.${i}`), 42, 'its value has 256 bytes, at most 255 can be sent'],
    ['ntp-servers', null, 42, 'has no value'],
    ['ntp-servers', '', 42, 'has no value'],
  ])('%s: %j', (key, value, code, result) => {
    const found = parseExtraOption(key, value);
    expect('fault' in found ? found.fault : [found.code, found.option.hex]).toEqual(/^([0-9a-f]{2})+$/.test(result) ? [code, result] : result);
  });
});

describe('the long form', () => {
  it.each<[string, unknown, string]>([
    ['150', { type: 'ips', value: ['10.0.0.1'] }, '0a000001'],
    ['224', { type: 'text', value: 'yes' }, '796573'],
    ['224', { type: 'uint8', value: '7' }, '07'],
    ['224', { type: 'uint16', value: 7 }, '0007'],
    ['224', { type: 'int32', value: -1 }, 'ffffffff'],
    ['224', { type: 'bool', value: 'off' }, '00'],
    ['224', { type: 'hex', value: '01:0a:FF' }, '010aff'],
    ['224', { type: 'hex', value: '0x010a' }, '010a'],
    ['224', { type: 'hex', value: '01 0a' }, '010a'],
    ['249', { type: 'routes', value: 'default via 10.77.0.1' }, '000a4d0001'],
    ['ntp-servers', { value: '10.0.0.1' }, '0a000001'],
    ['ntp-servers', { type: 'hex', value: 'ff' }, 'ff'],
    ['42', '10.0.0.1', '0a000001'],
  ])('%s: %j', (key, value, hex) => {
    expect(bytes(key, value)).toBe(hex);
  });

  it('always is kept when it is true, typed or as text, and absent else', () => {
    expect(parsed('26', { value: 1400, always: true }).option).toEqual({ hex: '0578', always: true });
    expect(parsed('26', { value: '1400', always: 'true' }).option).toEqual({ hex: '0578', always: true });
    expect(parsed('26', { value: 1400, always: false }).option).toStrictEqual({ hex: '0578' });
    expect(parsed('26', 1400).option).toStrictEqual({ hex: '0578' });
  });

  it.each<[string, unknown, RegExp]>([
    ['224', 'yes', /has no name here, so it needs a type/],
    ['224', { value: 'yes' }, /has no name here, so it needs a type/],
    ['224', { type: 'string', value: 'yes' }, /"string" is no type/],
    ['224', { type: 'text' }, /has no value/],
    ['224', { type: 'text', value: 'a', allways: true }, /unknown key allways/],
    ['224', { type: 'text', value: 'a', always: 'maybe' }, /always must be true or false, not "maybe"/],
    ['224', { type: 'hex', value: 'a:b:c:d' }, /must be bytes in hex/],
    ['224', { type: 'hex', value: 16 }, /must be bytes in hex/],
    ['224', { type: 'hex', value: '0' }, /must be bytes in hex/],
    ['224', { type: 'text', value: ['a'] }, /must be text .*, not a list/],
    ['224', { type: 'text', value: { a: 1 } }, /must be text .*, not a map/],
    ['ntp-servers', {}, /has no value/],
  ])('%s: %j is a fault', (key, value, why) => {
    expect(fault(key, value).fault).toMatch(why);
  });
});

describe('the key', () => {
  it.each(Object.entries(OWN_OPTIONS))('%s is refused by number and by name', (number, { name, hint }) => {
    for (const key of [number, name]) expect(parseExtraOption(key, { type: 'hex', value: '01' })).toEqual({ fault: `option ${number} (${name}) is not set here`, hint });
  });

  it.each<[string, RegExp]>([
    ['routers', /key `router` of the subnet/],
    ['6', /key `dns` of the subnet/],
    ['domain-name', /key `domain` of the subnet/],
    ['51', /key `leaseTime` of the subnet/],
    ['host-name', /name of the node/],
    ['67', /for booting/],
    ['175', /for booting/],
    ['82', /only clients and relays/],
    ['53', /protocol itself/],
  ])('%s: the hint says where it belongs', (key, hint) => {
    expect(fault(key, 'x').hint).toMatch(hint);
  });

  it.each(['256', '1000', '00', '042', '-1'])('%s is no option number', (key) => {
    expect(parseExtraOption(key, { type: 'text', value: 'x' })).toHaveProperty('fault');
  });

  it.each(['ntp-server', 'vendor-x', 'toString', '__proto__', '', '-1'])('%j is unknown, so that the caller can look for the nearest name', (key) => {
    expect(parseExtraOption(key, 'x')).toMatchObject({ unknown: true });
  });

  it('every known option has a code and a name of its own, and none is refused', () => {
    const codes = Object.values(KNOWN_OPTIONS).map(({ code }) => code);
    expect(new Set(codes).size).toBe(codes.length);
    expect(codes.filter((code) => code in OWN_OPTIONS || code < 1 || code > 254)).toEqual([]);
    expect(OPTION_NAMES.filter((name) => /^\d+$/.test(name))).toEqual([]);
    expect(OPTION_NAMES.length).toBeGreaterThanOrEqual(60);
  });

  it.each(OPTION_TYPES)('the type %s can be used with a number', (type) => {
    const value = { ip: '10.0.0.1', ips: '10.0.0.1', uint8: 1, uint16: 1, uint32: 1, int32: 1, bool: true, text: 'x', hex: '01', domains: 'x.example', routes: 'default via 10.0.0.1' }[type];
    expect(bytes('224', { type, value })).toMatch(/^([0-9a-f]{2})+$/);
  });
});

describe('the bytes', () => {
  it('come back as they went into hex', () => {
    expect(optionBytes({ hex: '00ff10' })).toStrictEqual(Uint8Array.of(0, 255, 16));
    expect(optionBytes({ hex: '00ff10' })).not.toBeInstanceOf(Buffer);
  });

  // The dhcp package as an independent reader of what we write.
  const theirs = createRequire(import.meta.url)('dhcp/lib/protocol.js') as { parse(bytes: Buffer): { readonly options: Readonly<Record<number, unknown>> } };
  beforeAll(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined));
  afterAll(() => void vi.restoreAllMocks());

  it.each<[string, unknown, unknown]>([
    ['time-servers', ['10.0.0.1', '10.0.0.2'], ['10.0.0.1', '10.0.0.2']],
    ['log-servers', '10.0.0.1', ['10.0.0.1']],
    ['boot-size', 513, 513],
    ['swap-server', '10.0.0.1', '10.0.0.1'],
    ['root-path', '/srv/nfs', '/srv/nfs'],
    ['ip-forwarding', true, 1],
    ['max-dgram-reassembly', 600, 600],
    ['default-ip-ttl', 64, 64],
    ['path-mtu-aging-timeout', 90000, 90000],
    ['interface-mtu', 1400, 1400],
    ['static-routes', ['10.9.0.1', '10.77.0.254'], ['10.9.0.1', '10.77.0.254']],
    ['arp-cache-timeout', 60, 60],
    ['nis-domain', 'rack', 'rack'],
    ['ntp-servers', ['10.0.0.1', '10.0.0.2'], ['10.0.0.1', '10.0.0.2']],
    ['netbios-node-type', 8, 8],
    ['smtp-server', '10.0.0.1', ['10.0.0.1']],
  ])('of %s are read by the dhcp package as %j', (key, value, reads) => {
    const { code, option } = parsed(key, value);
    expect(theirs.parse(Buffer.from(encode(packetWith([[code, optionBytes(option)]])) as Uint8Array)).options[code]).toEqual(reads);
  });
});
