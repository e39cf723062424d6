// What the options of an answer are: asked for, always sent, echoed; how long a packet may be; names; long options.
import { describe, expect, it } from 'vitest';
import { domains } from '../../src/dhcp/names.ts';
import type { ExtraOptions } from '../../src/dhcp/option-values.ts';
import { ipOf, ips, ipsOf, message, OPT, subOptions, text, textOf, uint16Of, uint16s, uint8, userClasses } from '../../src/dhcp/options.ts';
import { decode, encode } from '../../src/dhcp/packet.ts';
import { asking, bios, clientOf, kindOf, lan, maxSize, nodeOf, RELAY, far, worldWith, type Option } from './clients.ts';

const extra = (entries: readonly (readonly [number, Uint8Array, boolean?])[]): ExtraOptions =>
  Object.fromEntries(entries.map(([tag, value, always]) => [tag, { hex: Buffer.from(value).toString('hex'), ...(always ? { always } : {}) }]));
const optionsOf = async (subnet = lan, own: readonly Option[] = [], asked: readonly Option[] = []) => (await clientOf(await worldWith({ subnets: [subnet] }), 1, own).discover(asked))!.packet.options;

describe('what is asked for', () => {
  it('RFC 2132 9.8: of what may be left out only that is sent which the parameter list names', async () => {
    const options = await optionsOf({ ...lan, options: extra([[OPT.ntp, ips('10.77.0.9')], [OPT.interfaceMtu, uint16s(1400)]]) }, [], [asking(OPT.dns, OPT.ntp)]);
    expect([OPT.dns, OPT.ntp, OPT.domain, OPT.broadcast, OPT.interfaceMtu].map((tag) => options.has(tag))).toEqual([true, true, false, false, false]);
  });

  it('RFC 2131 4.3.1: a client that sends no parameter list gets all that is configured', async () => {
    const options = await optionsOf({ ...lan, options: extra([[OPT.ntp, ips('10.77.0.9')]]) });
    expect([OPT.subnetMask, OPT.router, OPT.dns, OPT.domain, OPT.broadcast, OPT.ntp].filter((tag) => !options.has(tag))).toEqual([]);
  });

  it('RFC 2131 4.3.1: what is asked for and not configured is omitted', async () => {
    const { domain: _domain, router: _router, ...bare } = lan;
    const options = await optionsOf({ ...bare, dns: [] }, [], [asking(1, 2, 3, 6, 15, 42, 44, 119, 121, 150, 252)]);
    expect([...options.keys()].toSorted((a, b) => a - b)).toEqual([OPT.subnetMask, OPT.leaseTime, OPT.messageType, OPT.serverId, OPT.renewalTime, OPT.rebindingTime]);
  });

  it('RFC 2132 9.8: an empty or repeated list, or one with pads, is read for what it says', async () => {
    expect((await optionsOf(lan, [], [asking(0, 6, 6, 0, 6, 255)])).has(OPT.dns)).toBe(true);
    expect((await optionsOf(lan, [], [asking()])).has(OPT.dns)).toBe(false);
  });

  it('RFC 2132 3.3: the subnet mask comes before the router', async () => {
    const tags = [...(await optionsOf(lan, [], [asking(3, 1)])).keys()];
    expect(tags.indexOf(OPT.subnetMask)).toBeLessThan(tags.indexOf(OPT.router));
  });

  it('RFC 2131 4.3.1: an option that the operator marked `always` goes to who did not ask for it', async () => {
    expect((await optionsOf({ ...lan, options: extra([[OPT.interfaceMtu, uint16s(1400), true]]) }, [], [asking(1, 3)])).get(OPT.interfaceMtu)).toEqual(uint16s(1400));
  });

  it('RFC 2131 4.3.1: what is set for a node beats what is set for its subnet', async () => {
    const options = extra([[OPT.ntp, ips('10.77.0.9')], [OPT.interfaceMtu, uint16s(1400)]]);
    const world = await worldWith({ subnets: [{ ...lan, options }], nodes: [nodeOf(1, { dhcpOptions: extra([[OPT.ntp, ips('10.77.0.8')], [OPT.dns, ips('10.77.0.7')]]) })] });
    const told = (await clientOf(world, 1).discover())!.packet.options;
    expect([ipsOf(told, OPT.ntp), ipsOf(told, OPT.dns), uint16Of(told, OPT.interfaceMtu)]).toEqual([['10.77.0.8'], ['10.77.0.7'], 1400]);
  });

  it('RFC 2132 5.1: the MTU (26) as configured', async () => {
    expect(uint16Of(await optionsOf({ ...lan, options: extra([[OPT.interfaceMtu, uint16s(9000)]]) }, [], [asking(26)]), OPT.interfaceMtu)).toBe(9000);
  });

  it('RFC 3397 2: the domain search list (119) as configured, when asked for', async () => {
    const value = domains(['rack.test', 'example.test']);
    const options = extra([[OPT.domainSearch, value]]);
    expect((await optionsOf({ ...lan, options }, [], [asking(119)])).get(OPT.domainSearch)).toEqual(value);
    expect((await optionsOf({ ...lan, options }, [], [asking(15)])).has(OPT.domainSearch)).toBe(false);
  });

  it('RFC 3442: classless routes (121) go out beside the router, for clients that know only the one or the other', async () => {
    const value = Uint8Array.of(0, 10, 77, 0, 254, 16, 10, 99, 10, 77, 0, 253);
    const options = await optionsOf({ ...lan, options: extra([[OPT.classlessRoutes, value]]) }, [], [asking(121, 3)]);
    expect(options.get(OPT.classlessRoutes)).toEqual(value);
    expect(ipOf(options, OPT.router)).toBe('10.77.0.254');
  });

  it('RFC 5859 3: TFTP server addresses (150) for a machine that boots and asks for them', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    expect(ipsOf((await clientOf(world, 1, bios).discover([asking(150)]))!.packet.options, OPT.tftpAddresses)).toEqual(['10.77.0.1']);
    expect((await clientOf(world, 1, bios).discover([asking(66)]))!.packet.options.has(OPT.tftpAddresses)).toBe(false);
  });

  it('RFC 2131 4.3.1: OFFER and ACK tell the same', async () => {
    const client = clientOf(await worldWith({ subnets: [{ ...lan, options: extra([[OPT.ntp, ips('10.77.0.9')]]) }] }), 1, [asking(1, 3, 6, 15, 42)]);
    const offer = (await client.discover())!.packet;
    const ack = (await client.select(offer.yiaddr))!.packet;
    const told = ({ options }: typeof offer) => [...options].filter(([tag]) => tag !== OPT.messageType);
    expect(told(ack)).toEqual(told(offer));
  });
});

describe('what comes back as it was sent', () => {
  it.each<[string, number, Uint8Array]>([
    ['RFC 6842 3: the client identifier, Ethernet\'s', OPT.clientId, Uint8Array.of(1, 0x52, 0x54, 0, 0, 0, 1)],
    ['RFC 4361 6.1: a node-specific client identifier (255, IAID, DUID)', OPT.clientId, Uint8Array.of(255, 0, 0, 0, 1, 0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4, 5, 6, 7, 8)],
    ['RFC 6842 3: a client identifier with a single byte, though RFC 2132 9.14 wants two', OPT.clientId, Uint8Array.of(7)],
    ['RFC 4578 2.3: the machine\'s UUID (97)', OPT.clientUuid, Uint8Array.from({ length: 17 }, (_, i) => i)],
  ])('%s', async (_what, tag, value) => {
    const client = clientOf(await worldWith(), 1, [[tag, value]]);
    const offer = (await client.discover())!;
    const ack = (await client.select(offer.packet.yiaddr))!;
    expect([offer.packet.options.get(tag), ack.packet.options.get(tag)]).toEqual([value, value]);
  });

  it('RFC 6842 3: without a client identifier none comes back', async () => {
    expect((await optionsOf()).has(OPT.clientId)).toBe(false);
  });

  it('RFC 3004 4: user classes are not sent back', async () => {
    expect((await optionsOf(lan, [], [[OPT.userClass, userClasses('one', 'two')]])).has(OPT.userClass)).toBe(false);
  });

  it('RFC 3004 4: an iPXE that lists its class among others, in the RFC\'s form, is an iPXE', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    const offer = await clientOf(world, 1, [[OPT.userClass, userClasses('lab', 'iPXE')], [OPT.ipxe, subOptions([[19, uint8(1)], [24, uint8(1)]])]]).discover();
    expect(offer!.packet.file).toBe('http://10.77.0.1:8080/script/52-54-00-00-00-01');
  });

  it('RFC 3011 2: the subnet selection option (118) is not supported: not sent back, by which the client knows', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const offer = (await clientOf(world, 1).discover([[OPT.subnetSelection, ips('10.88.0.0')]]))!;
    expect([offer.packet.options.has(OPT.subnetSelection), offer.packet.yiaddr]).toEqual([false, '10.77.0.100']);
  });
});

describe('names', () => {
  const fqdn = (flags: number, name: readonly number[] | string) => [OPT.fqdn, Uint8Array.of(flags, 0, 0, ...(typeof name === 'string' ? text(name) : name))] as const;
  const box = [3, ...text('box')];

  it('RFC 2132 3.14: a node is told its name', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    expect(textOf((await clientOf(world, 1).discover([[OPT.hostName, text('other')]]))!.packet.options, OPT.hostName)).toBe('n1');
  });

  it.each([
    ['as it is', 'box', 'box'],
    ['without its domain', 'Box.Example.ORG', 'box'],
    ['without what no host name has (RFC 1035 2.3.1)', 'b$o_x;`', 'box'],
    ['without dashes at its ends (RFC 952)', '--box--', 'box'],
    ['at most 63 characters of it (RFC 1035 2.3.4)', 'b'.repeat(80), 'b'.repeat(63)],
    ['nothing, when nothing is left', '...$$$', undefined],
    ['nothing of an empty one', '', undefined],
  ])('RFC 2132 3.14: a stranger\'s name comes back %s', async (_what, said, told) => {
    const options = await optionsOf(lan, [[OPT.hostName, text(said)]]);
    expect(textOf(options, OPT.hostName)).toBe(told);
  });

  it('RFC 4702 4: a client that sends no FQDN option gets none', async () => {
    expect((await optionsOf(lan, [[OPT.hostName, text('box')]], [asking(12, 15, OPT.fqdn)])).has(OPT.fqdn)).toBe(false);
  });

  it.each<[string, number, number]>([
    ['S = 0: N = 1, for we update nothing', 0b0000, 0b1000],
    ['S = 1: S = 0, N = 1 and O = 1, for its wish was overridden', 0b0001, 0b1010],
    ['N = 1: N = 1', 0b1000, 0b1000],
    ['reserved bits: sent as 0', 0b1111_0000, 0b1000],
  ])('RFC 4702 4: flags for %s', async (_what, asked, told) => {
    expect((await optionsOf(lan, [fqdn(asked, 'box')])).get(OPT.fqdn)![0]).toBe(told);
  });

  it('RFC 4702 4: the E bit is copied, and the name is encoded so; both RCODEs are 255', async () => {
    const wire = (await optionsOf(lan, [fqdn(0b0100, [...box, 0])])).get(OPT.fqdn)!;
    expect([...wire]).toEqual([0b1100, 255, 255, ...box, 4, ...text('rack'), 4, ...text('test'), 0]);
    const ascii = (await optionsOf(lan, [fqdn(0, 'box')])).get(OPT.fqdn)!;
    expect(Buffer.from(ascii.subarray(3)).toString()).toBe('box.rack.test');
  });

  it('RFC 4702 4: the Host Name option of a client that sends both is ignored', async () => {
    const options = await optionsOf(lan, [[OPT.hostName, text('left')], fqdn(0, 'right')]);
    expect(textOf(options, OPT.hostName)).toBe('right');
  });

  it('RFC 4702 2.3: a node is told its own name, whatever it calls itself', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    const value = (await clientOf(world, 1, [fqdn(0, 'other.example')]).discover())!.packet.options.get(OPT.fqdn)!;
    expect(Buffer.from(value.subarray(3)).toString()).toBe('n1.rack.test');
  });
});

describe('how long a packet is', () => {
  const long = (tag: number, length: number): readonly [number, Uint8Array] => [tag, new Uint8Array(length).fill(tag)];
  const heavy = { ...lan, options: extra([long(224, 100), long(225, 100), long(226, 100), long(227, 100)]) };
  /** The answer as it goes over the wire, with this much room. */
  const answer = async (subnet: typeof lan, size: number | undefined, asked: readonly number[]) => {
    const world = await worldWith({ subnets: [subnet], nodes: [nodeOf(1)] });
    return (await clientOf(world, 1, bios).discover([asking(...asked), ...(size === undefined ? [] : [maxSize(size)])]))!;
  };

  it('RFC 1542 2.1: an answer has at least 300 bytes', async () => {
    expect(encode((await clientOf(await worldWith(), 1).discover([asking()]))!.packet)).toHaveLength(300);
  });

  it.each([
    ['says nothing', undefined, 548],
    ['says 576, the least', 576, 548],
    ['says less than it may (RFC 2132 9.10)', 300, 548],
    ['says 700', 700, 672],
    ['says 1500', 1500, 1472],
    ['says more than Ethernet carries', 65_535, 1472],
  ])('RFC 2131 2: the answer to a client that %s fits into %o', async (_what, size, most) => {
    const { length } = await answer({ ...lan, options: extra(Array.from({ length: 12 }, (_, i) => long(224 + i, 110))) }, size, Array.from({ length: 12 }, (_, i) => 224 + i));
    expect(length).toBeLessThanOrEqual(most);
    expect(length).toBeGreaterThan(most - 130);
  });

  it('RFC 2132 9.3: what does not fit moves into the unused ones of sname and file', async () => {
    const world = await worldWith({ subnets: [{ ...lan, options: extra([long(224, 120), long(225, 60), long(226, 200)]) }] });
    const offer = (await clientOf(world, 1).discover([asking(1, 3, 224, 225, 226)]))!;
    expect([224, 225, 226].map((tag) => offer.packet.options.get(tag)?.length)).toEqual([120, 60, 200]);
    expect(offer.length).toBeLessThanOrEqual(548);
  });

  it('RFC 2132 9.8: what finds no room at all is what stands last in the client\'s list', async () => {
    const kept = async (...asked: number[]) => [...(await answer(heavy, 576, asked)).packet.options.keys()].filter((tag) => tag >= 224).toSorted();
    const forwards = await kept(224, 225, 226, 227);
    const backwards = await kept(227, 226, 225, 224);
    expect(forwards.length).toBeLessThan(4);
    expect(forwards).toEqual([224, 225, 226, 227].slice(0, forwards.length));
    expect(backwards).toEqual([224, 225, 226, 227].slice(-backwards.length));
  });

  it('RFC 2131 4.1: boot file, address, mask and router are never what is left out', async () => {
    const offer = await answer({ ...lan, options: extra(Array.from({ length: 12 }, (_, i) => long(224 + i, 110))) }, 576, Array.from({ length: 12 }, (_, i) => 224 + i));
    expect(offer.packet.file).toBe('undionly.kpxe');
    expect([OPT.messageType, OPT.leaseTime, OPT.serverId, OPT.subnetMask, OPT.router, OPT.vendorClass, OPT.bootFile].filter((tag) => !offer.packet.options.has(tag))).toEqual([]);
  });

  it('RFC 3396 5: a parameter list in two parts is one list', async () => {
    const world = await worldWith();
    const bytes = encode(clientOf(world, 1).packet('discover')) as Uint8Array;
    const parts = [53, 1, 1, 55, 2, 1, 3, 55, 1, 15, 255];
    const [offer] = await world.hear(Uint8Array.from([...bytes.subarray(0, 240), ...parts]));
    expect([OPT.subnetMask, OPT.router, OPT.domain, OPT.dns].map((tag) => offer!.packet.options.has(tag))).toEqual([true, true, true, false]);
  });

  it('RFC 3396 4: an option over 255 bytes goes out in parts, which are one again where they are read', async () => {
    const value = Uint8Array.from({ length: 300 }, (_, i) => i);
    const world = await worldWith({ subnets: [{ ...lan, options: extra([[224, value]]) }] });
    const [offer] = await world.hear(clientOf(world, 1).packet('discover', [asking(224), maxSize(1500)]));
    expect(offer!.packet.options.get(224)).toEqual(value);
  });

  it('RFC 2132 9.3: a client that overloads file and sname is read as if it had not', async () => {
    const world = await worldWith();
    const bytes = Uint8Array.from(encode(clientOf(world, 1).packet('discover')) as Uint8Array);
    bytes.set([52, 1, 3, 53, 1, 1, 255], 240);
    bytes.set([55, 1, 15, 255], 108);
    bytes.set([50, 4, 10, 77, 0, 102, 255], 44);
    const [offer] = await world.hear(bytes);
    expect([offer!.packet.yiaddr, offer!.packet.options.has(OPT.domain), offer!.packet.options.has(OPT.dns)]).toEqual(['10.77.0.102', true, false]);
  });

  it('RFC 2131 table 3: an answer without a boot file has an empty one, whatever the client wrote there', async () => {
    const { packet } = (await clientOf(await worldWith(), 1).discover([], { file: 'generic', sname: 'anyone' }))!;
    expect([packet.file, packet.sname]).toEqual(['', '']);
  });
});

describe('relayed answers', () => {
  const circuit = Uint8Array.of(1, 4, 0, 0, 0, 7, 2, 2, 9, 9);

  it('RFC 3046 2.2: the relay\'s information comes back unchanged, in OFFER, ACK and NAK', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const client = clientOf(world, 1, [[OPT.relayAgent, circuit]], { giaddr: RELAY });
    const answers = [await client.discover(), await client.select('10.88.0.100'), await client.initReboot('192.168.1.1')];
    expect(answers.map(kindOf)).toEqual(['offer', 'ack', 'nak']);
    for (const answer of answers) expect(answer!.packet.options.get(OPT.relayAgent)).toEqual(circuit);
  });

  it('RFC 3046 2.1: it is the last option', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const offer = await clientOf(world, 1, [[OPT.relayAgent, circuit], [OPT.clientId, Uint8Array.of(1, 2)]], { giaddr: RELAY }).discover();
    expect([...decode(encode(offer!.packet) as Uint8Array).options.keys()].at(-1)).toBe(OPT.relayAgent);
  });

  it('RFC 3046 2.2: who sent none gets none', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    expect((await clientOf(world, 1, [], { giaddr: RELAY }).discover())!.packet.options.has(OPT.relayAgent)).toBe(false);
  });

  it('RFC 3046 2.2: one that is longer than a packet has room for is no reason to fail', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const [offer] = await world.hear(clientOf(world, 1).packet('discover', [[OPT.relayAgent, new Uint8Array(1200).fill(1)], [OPT.messageType, message('discover')]], { giaddr: RELAY }));
    expect(offer).toBeUndefined();
    expect([world.counters.refused, world.counters.failed]).toEqual([1, 0]);
  });
});
