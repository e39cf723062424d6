// Files of leases that other DHCP servers wrote, read and written; the files of test/golden/leases come from the real servers.
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatOf, LEASE_FORMATS, readLeases, writeLeases } from '../../src/dhcp/lease-formats/formats.ts';
import { FOREVER, type LeaseRow } from '../../src/dhcp/lease-formats/rows.ts';
import { formatFault } from '../../src/errors.ts';

const golden = (name: string): string => readFileSync(new URL(`../golden/leases/${name}`, import.meta.url), 'utf8');
const mac = (n: number): string => `52:54:00:00:00:0${n}`;
const utc = (text: string): number => Date.parse(`${text}Z`);
const KEA = 'address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context';

describe('files of the real servers', () => {
  it('ISC dhcpd 4.4.3: udhcpc with and without a name, dhclient with a client id full of marks, an address given up', () => {
    const { rows, ignored, faults } = readLeases(golden('isc-4.4.3.leases'), 'f', 'auto');
    expect([ignored, faults]).toEqual([0, []]);
    expect(rows).toEqual([
      { ip: '10.77.0.100', mac: mac(1), expiresAt: utc('2026-11-22T08:17:52'), hostname: 'web01', clientId: '01525400000001' },
      { ip: '10.77.0.101', mac: mac(2), expiresAt: utc('2026-11-22T08:17:53'), clientId: '0152540000000002' },
      { ip: '10.77.0.102', mac: mac(3), expiresAt: utc('2026-11-22T08:17:54'), clientId: '01525400000003' },
      { ip: '10.77.0.103', mac: mac(4), expiresAt: utc('2026-11-22T08:17:56'), clientId: '6e6f646522343b' },
      { ip: '10.77.0.104', mac: mac(5), expiresAt: utc('2026-11-22T08:18:12'), hostname: 'gone', clientId: '01525400000005' },
      { ip: '10.77.0.105', expiresAt: utc('2026-11-23T07:18:27') },
    ]);
  });

  it('ISC dhcpd with db-time-format local, and a lease without an end', () => {
    expect(readLeases(golden('isc-4.4.3-epoch-never.leases'), 'f', 'auto').rows).toEqual([{ ip: '10.77.0.100', mac: mac(1), expiresAt: FOREVER, hostname: 'web01', clientId: '01525400000001' }]);
  });

  it('dnsmasq 2.90: with and without a name, and a lease without an end', () => {
    expect(readLeases(golden('dnsmasq-2.90.leases'), 'f', 'auto')).toEqual({
      ignored: 0,
      faults: [],
      rows: [
        { ip: '10.77.0.113', mac: mac(5), expiresAt: 1795335540000, hostname: 'gone', clientId: '01525400000005' },
        { ip: '10.77.0.112', mac: mac(4), expiresAt: 1795335524000, clientId: '6e6f646522343b' },
        { ip: '10.77.0.111', mac: mac(3), expiresAt: FOREVER, clientId: '01525400000003' },
        { ip: '10.77.0.110', mac: mac(2), expiresAt: 1795335517000, clientId: '0152540000000002' },
        { ip: '10.77.0.109', mac: mac(1), expiresAt: 1795335521000, hostname: 'web01', clientId: '01525400000001' },
      ],
    });
  });

  it('Kea 2.2.0: the last line of an address counts, a declined one is out of use', () => {
    const { rows, ignored, faults } = readLeases(golden('kea-2.2.0.csv'), 'f', 'auto');
    expect([ignored, faults]).toEqual([0, []]);
    expect(rows).toEqual([
      { ip: '10.77.0.100', mac: mac(1), expiresAt: 1795335998000, hostname: 'web01', clientId: '01525400000001' },
      { ip: '10.77.0.101', mac: mac(2), expiresAt: 1795335997000, clientId: '0152540000000002' },
      { ip: '10.77.0.102', mac: mac(3), expiresAt: 1795335998000, clientId: '01525400000003' },
      { ip: '10.77.0.103', mac: mac(4), expiresAt: 1795335999000, hostname: 'dbone', clientId: '6e6f646522343b' },
      { ip: '10.77.0.104', mac: mac(5), expiresAt: 1795336014000, hostname: 'gone', clientId: '01525400000005' },
      { ip: '10.77.0.105', expiresAt: 1795418815000 },
    ]);
  });
});

const isc = (body: string): string => `lease 10.0.0.1 {\n${body}\n}\n`;
describe('ISC dhcpd', () => {
  const active = 'ends 4 2026/01/01 00:00:00;\nhardware ethernet 52:54:00:00:00:01;';
  it.each<[name: string, text: string, rows: readonly Partial<LeaseRow>[]]>([
    ['the last block of an address counts', isc(active) + isc(active.replace('2026', '2027')), [{ expiresAt: utc('2027-01-01T00:00:00') }]],
    ['a block that frees the address ends the one before', isc(active) + isc('binding state free;'), []],
    ['expired, released, reset and backup leases hold nothing', ['expired', 'released', 'reset', 'backup'].map((state) => isc(`binding state ${state};\n${active}`)).join(''), []],
    ['a file of a time before binding states', isc(`starts 4 2025/12/31 00:00:00;\n${active}`), [{ mac: mac(1) }]],
    ['an address given up without an end', isc('binding state abandoned;\nends never;'), [{ ip: '10.0.0.1', expiresAt: FOREVER }]],
    ['a uid in hex and braces inside of a string', isc(`binding state active;\nuid 1:52:54:0:0:0:1;\nset x = "}{;#";\n${active}`), [{ clientId: '01525400000001' }]],
    ['blocks inside of a lease', isc(`on expiry { if known { set a = "b"; } }\n${active}\nbinding state active;`), [{ mac: mac(1) }]],
    ['declarations that are no leases', `failover peer "a" state { my state normal at 4 2026/01/01 00:00:00; }\nhost x { hardware ethernet 52:54:00:00:00:09; }\nia-na "x" { iaaddr 2001:db8::1 { binding state active; } }\n${isc(active)}`, [{ mac: mac(1) }]],
    ['an octal uid, with its quote and backslash', isc(`${active}\nuid "\\000a\\"\\\\\\377";`), [{ clientId: '0061225cff' }]],
    ['a name is cut to its harmless first label, one of which nothing is left goes', `${isc(`${active}\nclient-hostname "Web_01.example.com";`)}${isc(`${active}\nclient-hostname "...";`).replace('0.0.1', '0.0.2')}`, [{ hostname: 'web01' }, { ip: '10.0.0.2' }]],
    ['a card that is no Ethernet', isc('ends never;\nhardware infiniband 00:11;'), []],
  ])('%s', (_name, text, rows) => {
    const read = readLeases(text, 'f', 'isc');
    expect(read.faults).toEqual([]);
    expect(read.rows).toHaveLength(rows.length);
    expect(read.rows).toMatchObject(rows);
  });
});

describe('what cannot be read is told with its place', () => {
  it.each<[format: 'isc' | 'kea' | 'dnsmasq' | 'json', text: string, fault: RegExp]>([
    ['isc', 'lease 10.0.0.256 {\n}\n', /^f:1:7: 10\.0\.0\.256 is no IPv4 address/],
    ['isc', 'lease {\n  interface "eth0";\n}\n', /^f:1:1: a lease without an address \(this looks like the file of a client/],
    ['isc', isc('  ends 4 yesterday;\n  hardware ethernet 52:54:00:00:00:01;'), /^f:2:8: 4 yesterday is no time/],
    ['isc', isc('ends 4 2026/13/01 00:00:00;'), /^f:2:6: 4 2026\/13\/01 00:00:00 is no time/],
    ['isc', isc('ends never;\n  hardware ethernet nonsense;'), /^f:3:12: nonsense is no MAC address/],
    ['isc', 'lease 10.0.0.1 {\n  ends never;\n', /^f:1:16: the file ends inside of this block \(was the file cut off/],
    ['isc', 'lease 10.0.0.1 {\n  uid "abc', /^f:2:7: a string that does not end/],
    ['isc', '}\n', /^f:1:1: a \} that closes nothing/],
    ['isc', 'server-duid "x"', /^f:1:1: the file ends in the middle of server-duid/],
    ['kea', 'address,duid,expire,state\n', /^f:1:1: no column hwaddr \(this is the file of DHCPv6 leases/],
    ['kea', 'hello\n', /^f:1:1: no column address, hwaddr, expire, state/],
    ['kea', `${KEA}\n10.0.0.1,52:54:00:00:00:01\n`, /^f:2:1: 2 columns where the header has 11/],
    ['kea', `${KEA}\n10.0.0.x,${mac(1)},,3600,1795335557,1,0,0,,0,\n`, /^f:2:1: 10\.0\.0\.x is no IPv4 address/],
    ['kea', `${KEA}\n10.0.0.1,${mac(1)},,3600,soon,1,0,0,,0,\n`, /^f:2:34: soon is no time/],
    ['dnsmasq', `1795335557 ${mac(1)} 10.0.0.1 * *\n\nsoon ${mac(1)} 10.0.0.2 * *\n`, /^f:3:1: soon is no time/],
    ['dnsmasq', `43200 ${mac(1)} 10.0.0.1 * *\n`, /^f:1:1: 43200 is a length, not a time/],
    ['dnsmasq', `1795335557 ${mac(1)} 10.0.0 * *\n`, /^f:1:30: 10\.0\.0 is no IPv4 address/],
    ['dnsmasq', '1795335557 nobody 10.0.0.1 * *\n', /^f:1:12: nobody is no MAC address/],
    ['json', '{ "leases": [\n  { "ip": "10.0.0.1", }\n] }', /^f:2:\d+: .*(JSON|property name)/],
    ['json', '{}', /^f:1:1: no list of leases/],
    ['json', `{ "leases": [\n  { "ip": "10.0.0.1", "mac": "${mac(1)}", "expiresAt": 1, "x": [{}] },\n  { "ip": "a}[", "mac": 1 }\n] }`, /^f:3:3: ip: "a\}\[" is no IPv4 address/],
    ['json', `[{ "ip": "10.0.0.1", "mac": "${mac(1)}", "expiresAt": "soon" }]`, /^f:1:2: expiresAt: not a time/],
    ['json', '[1]', /^f:1:2: a lease is an object/],
  ])('%s: %j', (format, text, fault) => {
    expect(readLeases(text, 'f', format).faults.map(formatFault)[0]).toMatch(fault);
  });

  it('a file that is none of them is told apart from a lease file at its first line', () => {
    expect(readLeases('Dear grandmother,\n', 'f', 'auto').faults.map(formatFault)).toEqual([expect.stringMatching(/^f:1:1: nobody can tell what format this is \(name it/)]);
    expect(readLeases('x\n'.repeat(10_000), 'f', 'dnsmasq').faults).toHaveLength(20);
  });

  it('no text makes a reader throw', () => {
    const bits = fc.constantFrom('lease ', '10.0.0.1', ' {', '}', ';', '"', '\\', '\n', 'ends never', 'hardware ethernet ', mac(1), ',', '0', '[', ':', 'uid ', KEA, '#', ' ', '{"leases":');
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.array(bits).map((parts) => parts.join(''))), fc.constantFrom('auto' as const, ...LEASE_FORMATS), (text, format) => {
        const { rows, faults } = readLeases(text, 'f', format);
        expect(faults.every((fault) => fault.line >= 1 && fault.column >= 1)).toBe(true);
        expect(rows.every((row) => Number.isSafeInteger(row.expiresAt))).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });
});

describe('dnsmasq and Kea', () => {
  it.each<[name: string, format: 'kea' | 'dnsmasq', text: string, rows: readonly Partial<LeaseRow>[], ignored: number]>([
    ['IPv6 leases of dnsmasq are passed over', 'dnsmasq', `0 ${mac(1)} 10.0.0.1 * *\nduid 00:01\n1795335557 1 2001:db8::1 * 00:01\n`, [{ ip: '10.0.0.1' }], 1],
    ['other hardware of dnsmasq is passed over', 'dnsmasq', '0 20-00:11:22:33 10.0.0.1 * *\n', [], 1],
    ['columns of Kea are found by their names', 'kea', `state,hwaddr,expire,address\n0,${mac(1)},1795335557,10.0.0.1\n`, [{ ip: '10.0.0.1', mac: mac(1), expiresAt: 1795335557000 }], 0],
    ['a lease of Kea without an end', 'kea', `${KEA}\n10.0.0.1,${mac(1)},,4294967295,4294967294,1,0,0,,0,\n`, [{ expiresAt: FOREVER }], 0],
    ['a lease that Kea deleted', 'kea', `${KEA}\n10.0.0.1,${mac(1)},,3600,1795335557,1,0,0,,0,\n10.0.0.1,${mac(1)},,0,1795335557,1,0,0,,0,\n`, [], 1],
    ['a lease of Kea that expired and was reclaimed', 'kea', `${KEA}\n10.0.0.1,${mac(1)},,3600,1795335557,1,0,0,,2,\n`, [], 1],
    ['what Kea escapes, and Windows line ends', 'kea', `${KEA}\r\n10.0.0.1,${mac(1)},,3600,1795335557,1,0,0,a&#x2cb.example,0,{ "a": 1 }\r\n`, [{ hostname: 'ab' }], 0],
  ])('%s', (_name, format, text, rows, ignored) => {
    const read = readLeases(text, 'f', format);
    expect([read.faults, read.ignored]).toEqual([[], ignored]);
    expect(read.rows).toHaveLength(rows.length);
    expect(read.rows).toMatchObject(rows);
  });
});

describe('writing', () => {
  const NOW = utc('2026-01-01T00:00:00');
  const rows: readonly LeaseRow[] = [
    { ip: '10.0.0.1', mac: mac(1), expiresAt: NOW + 3600_000, hostname: 'web01', clientId: '01525400000001' },
    { ip: '10.0.0.2', mac: mac(2), expiresAt: FOREVER, clientId: '0022275c0aff' },
    { ip: '10.0.0.3', mac: mac(3), expiresAt: NOW + 60_000 },
    { ip: '10.0.0.4', expiresAt: NOW + 60_000 },
  ];

  it.each(LEASE_FORMATS)('%s is found again by itself and says the same', (format) => {
    const text = writeLeases(format, rows, NOW);
    expect(formatOf(text)).toBe(format);
    expect(readLeases(text, 'f', 'auto')).toEqual({ rows: format === 'dnsmasq' ? rows.slice(0, 3) : rows, ignored: 0, faults: [] });
    expect(readLeases(writeLeases(format, [], NOW), 'f', format)).toEqual({ rows: [], ignored: 0, faults: [] });
  });

  it('Kea gets the number of each subnet, and the start where it is known', () => {
    const started = { ...rows[0]!, startedAt: NOW - 3600_000 };
    expect(writeLeases('kea', [started, rows[1]!], NOW, (row) => Number(row.ip.at(-1))).split('\n')[1]).toBe(`10.0.0.1,${mac(1)},01:52:54:00:00:00:01,7200,${(NOW + 3600_000) / 1000},1,0,0,web01,0,`);
  });
});
