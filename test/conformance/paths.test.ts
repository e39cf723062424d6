// Where answers go, relays and their links, several subnets; which packets are not for us at all.
import { describe, expect, it } from 'vitest';
import { parseSubnet } from '../../src/addr.ts';
import { ipOf, ips, message, OPT, subOptions, uint8 } from '../../src/dhcp/options.ts';
import { BROADCAST_FLAG, encode, type Packet } from '../../src/dhcp/packet.ts';
import { bios, BROADCAST, clientOf, far, gistOf, lan, nodeOf, pool, RELAY, without, worldWith, type Option } from './clients.ts';

/** A second subnet on the link of the first. */
const upstairs = { ...without(lan, 'router'), subnet: parseSubnet('10.78.0.0/24')!, serverIp: '10.78.0.1', pools: [pool('10.78.0.100-10.78.0.103')] };
const otherLink = { ...upstairs, link: 'lan1' };
const linkSelection = (ip: string): Option => [OPT.relayAgent, subOptions([[1, uint8(7)], [5, ips(ip)]])];

describe('where an answer goes', () => {
  it.each<[string, Partial<Packet>]>([
    ['without the broadcast bit: by broadcast too, where the RFC would have unicast to yiaddr (our deviation: a plain socket cannot)', { flags: 0 }],
    ['with the broadcast bit: by broadcast', { flags: BROADCAST_FLAG }],
    ['with bits that must be zero: by broadcast', { flags: 0x7fff }],
  ])('RFC 2131 4.1: to a client without an address, %s', async (_what, header) => {
    const client = clientOf(await worldWith(), 1, [], header);
    const answers = [await client.discover(), await client.select('10.77.0.100')];
    expect(answers.map((sent) => sent!.to)).toEqual([BROADCAST, BROADCAST]);
  });

  it('RFC 2131 4.1: an ACK to a client with an address goes there by unicast, whatever its broadcast bit', async () => {
    const client = clientOf(await worldWith(), 1);
    const ip = await client.lease();
    for (const flags of [0, BROADCAST_FLAG]) expect((await client.renew(ip, [], { flags }))!.to).toEqual({ address: ip, port: 68 });
  });

  it('RFC 2131 table 5: ciaddr of a DISCOVER is 0: when it is not, the OFFER goes nowhere but to all on the link', async () => {
    for (const ciaddr of ['192.0.2.9', '10.77.0.9']) expect((await clientOf(await worldWith(), 1, [], { ciaddr }).discover())!.to).toEqual(BROADCAST);
  });

  it('RFC 2131 table 5: nor does the ACK to a SELECTING client with a foreign ciaddr', async () => {
    const client = clientOf(await worldWith(), 1);
    await client.discover();
    expect((await client.select('10.77.0.100', [], { ciaddr: '192.0.2.9' }))!.to).toEqual(BROADCAST);
  });

  it('RFC 2131 4.1: a relayed one goes to the relay\'s server port', async () => {
    const client = clientOf(await worldWith({ subnets: [lan, far] }), 1, [], { giaddr: RELAY });
    expect([(await client.discover())!.to, (await client.select('10.88.0.100'))!.to]).toEqual([{ address: RELAY, port: 67 }, { address: RELAY, port: 67 }]);
  });

  it('RFC 1542 5.4: also when ciaddr is set: the relay comes first', async () => {
    const client = clientOf(await worldWith({ subnets: [lan, far] }), 1, [], { giaddr: RELAY });
    expect((await client.renew('10.88.0.100'))!.to).toEqual({ address: RELAY, port: 67 });
  });

  it('RFC 2131 4.1: to port 68, whatever port the client sent from', async () => {
    expect((await clientOf(await worldWith(), 1).discover([], {}, { fromPort: 40_000 }))!.to).toEqual(BROADCAST);
  });

  it('RFC 2131 4.1: by the card where the question came in', async () => {
    const world = await worldWith({ subnets: [lan, otherLink] });
    const [one, two] = [await clientOf(world, 1).discover(), await clientOf(world, 2).discover([], {}, { link: 'lan1' })];
    expect([one!.link, one!.port, two!.link, two!.port]).toEqual(['lan0', 67, 'lan1', 67]);
  });
});

describe('which subnet', () => {
  it('RFC 2131 4.3.1: without a relay, the subnet of the card where the message came in', async () => {
    const world = await worldWith({ subnets: [lan, otherLink] });
    const offers = [await clientOf(world, 1).discover(), await clientOf(world, 2).discover([], {}, { link: 'lan1' })];
    expect(offers.map(gistOf)).toEqual(['offer 10.77.0.100', 'offer 10.78.0.100']);
    expect(offers.map((sent) => ipOf(sent!.packet.options, OPT.serverId))).toEqual(['10.77.0.1', '10.78.0.1']);
  });

  it('RFC 2131 4.3.1: with one, the subnet of giaddr', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    expect(gistOf(await clientOf(world, 1).discover([], { giaddr: RELAY }))).toBe('offer 10.88.0.100');
  });

  it('RFC 2131 4.3.1: a wish for an address of another subnet than the relay\'s is not granted', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    expect(gistOf(await clientOf(world, 1).discover([[OPT.requestedIp, ips('10.77.0.101')]], { giaddr: RELAY }))).toBe('offer 10.88.0.100');
  });

  it('RFC 2131 4.3.1: of two subnets on one link: the first, for a machine that says nothing', async () => {
    expect(gistOf(await clientOf(await worldWith({ subnets: [lan, upstairs] }), 1).discover())).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 4.3.1: the one that holds its reservation', async () => {
    const world = await worldWith({ subnets: [lan, upstairs], nodes: [nodeOf(1, { ip: '10.78.0.11' })] });
    expect(gistOf(await clientOf(world, 1).discover())).toBe('offer 10.78.0.11');
  });

  it('RFC 2131 4.3.1: the one of the address that it asks for', async () => {
    const client = clientOf(await worldWith({ subnets: [lan, upstairs] }), 1);
    expect(gistOf(await client.discover([[OPT.requestedIp, ips('10.78.0.102')]]))).toBe('offer 10.78.0.102');
    expect(gistOf(await client.select('10.78.0.102', [[OPT.serverId, ips('10.78.0.1')]]))).toBe('ack 10.78.0.102');
  });

  it('RFC 2131 4.3.2: the one of the address that it renews', async () => {
    const client = clientOf(await worldWith({ subnets: [lan, upstairs] }), 1);
    expect(gistOf(await client.renew('10.78.0.101'))).toBe('ack 10.78.0.101');
  });

  it('RFC 2131 4.3.2: a machine that moved to another link and asks for its old address there gets a NAK', async () => {
    const world = await worldWith({ subnets: [lan, otherLink] });
    const client = clientOf(world, 1);
    const ip = await client.lease();
    const [nak] = await world.hear(client.packet('request', [[OPT.requestedIp, ips(ip)]]), { link: 'lan1' });
    expect(gistOf(nak)).toBe('nak 0.0.0.0');
  });

  it('RFC 2131 4.3.1: a machine on two links has a lease on each', async () => {
    const world = await worldWith({ subnets: [lan, otherLink] });
    const client = clientOf(world, 1);
    await client.lease();
    const [ack] = await world.hear(client.packet('request', [[OPT.serverId, ips('10.78.0.1')], [OPT.requestedIp, ips('10.78.0.100')]]), { link: 'lan1' });
    expect(gistOf(ack)).toBe('ack 10.78.0.100');
    expect((await world.leases.list()).map(({ ip }) => ip)).toEqual(['10.77.0.100', '10.78.0.100']);
  });

  it('RFC 2131 4.1: a link that we do not serve gets nothing', async () => {
    const world = await worldWith();
    expect(gistOf(await clientOf(world, 1).discover([], {}, { link: 'wlan0' }))).toBe('silence');
    expect(world.counters.foreign).toBe(1);
  });

  it('RFC 2131 4.3.1: a relay of a subnet that we do not serve gets nothing', async () => {
    const world = await worldWith();
    expect(gistOf(await clientOf(world, 1).discover([], { giaddr: '10.99.0.1' }))).toBe('silence');
    expect(world.counters.foreign).toBe(1);
  });
});

describe('RFC 3527 link selection', () => {
  const world = () => worldWith({ subnets: [lan, far] });

  it('RFC 3527 3: the sub-option\'s subnet is served, not giaddr\'s, and the answer goes to giaddr', async () => {
    const offer = (await clientOf(await world(), 1).discover([linkSelection('10.88.0.0')], { giaddr: '10.77.0.2' }))!;
    expect([gistOf(offer), offer.to]).toEqual(['offer 10.88.0.100', { address: '10.77.0.2', port: 67 }]);
  });

  it('RFC 3527 3: any address of the subnet names it', async () => {
    expect(gistOf(await clientOf(await world(), 1).discover([linkSelection('10.88.0.77')], { giaddr: '10.77.0.2' }))).toBe('offer 10.88.0.100');
  });

  it('RFC 3527 3: a subnet that we do not serve gets nothing, not giaddr\'s instead', async () => {
    expect(gistOf(await clientOf(await world(), 1).discover([linkSelection('10.99.0.0')], { giaddr: RELAY }))).toBe('silence');
  });

  it('RFC 3527 3: a relay that stands elsewhere is heard when it sends from giaddr itself', async () => {
    const offer = (await clientOf(await world(), 1).discover([linkSelection('10.88.0.0')], { giaddr: '172.16.0.1' }, { from: '172.16.0.1', fromPort: 67 }))!;
    expect([gistOf(offer), offer.to.address]).toEqual(['offer 10.88.0.100', '172.16.0.1']);
  });

  it('RFC 3527 5: a forged giaddr: nobody has us send packets to an address of his choice', async () => {
    const here = await world();
    expect(gistOf(await clientOf(here, 1).discover([linkSelection('10.88.0.0')], { giaddr: '172.16.0.1' }, { from: '10.77.0.66' }))).toBe('silence');
    expect(here.counters.foreign).toBe(1);
  });

  it('RFC 3527 3: without giaddr it means nothing', async () => {
    expect(gistOf(await clientOf(await world(), 1).discover([linkSelection('10.88.0.0')]))).toBe('offer 10.77.0.100');
  });

  it.each([['too short', [5, 2, 10, 88]], ['too long', [5, 5, 10, 88, 0, 0, 1]], ['running past the end', [5, 4, 10, 88]]])('RFC 3527 3: one that is %s counts as not sent', async (_what, value) => {
    expect(gistOf(await clientOf(await world(), 1).discover([[OPT.relayAgent, Uint8Array.from(value)]], { giaddr: RELAY }))).toBe('offer 10.88.0.100');
    expect(gistOf(await clientOf(await world(), 1).discover([[OPT.relayAgent, Uint8Array.from(value)]], { giaddr: '10.77.0.2' }))).toBe('offer 10.77.0.100');
  });

  it('RFC 3527 3: in the REQUEST it counts as in the DISCOVER', async () => {
    const client = clientOf(await world(), 1, [linkSelection('10.88.0.0')], { giaddr: '10.77.0.2' });
    await client.discover();
    expect(gistOf(await client.select('10.88.0.100'))).toBe('ack 10.88.0.100');
  });
});

describe('not for us', () => {
  it.each<[string, Partial<Packet>, (readonly Option[])?]>([
    ['RFC 951 3: a BOOTREPLY', { op: 2 }],
    ['RFC 2132 9.6: a message type that nobody knows', {}, [[OPT.messageType, uint8(99)]]],
    ['RFC 2132 9.6: message type 0', {}, [[OPT.messageType, uint8(0)]]],
    ['RFC 2131 4.3: an OFFER, which only servers send', {}, [[OPT.messageType, message('offer')]]],
    ['RFC 2131 4.3: an ACK, which only servers send', {}, [[OPT.messageType, message('ack')]]],
    ['RFC 2131 4.3: a NAK, which only servers send', {}, [[OPT.messageType, message('nak')]]],
    ['RFC 4388 6.2: a LEASEQUERY: it is not served', {}, [[OPT.messageType, uint8(10)]]],
    ['RFC 3203 4: a FORCERENEW', {}, [[OPT.messageType, uint8(9)]]],
    ['RFC 951 3: hardware that is not Ethernet (htype 6)', { htype: 6 }],
    ['RFC 4390 2.1: InfiniBand, htype 32 and hlen 0', { htype: 32, hlen: 0 }],
    ['RFC 951 3: Ethernet with 16 bytes of address', { hlen: 16 }],
    ['RFC 951 3: Ethernet without an address (hlen 0)', { hlen: 0 }],
    ['RFC 2131 table 1: Ethernet address 00:00:00:00:00:00', { chaddr: new Uint8Array(16) }],
  ])('%s gets no answer, and is counted', async (_what, header, options = []) => {
    const world = await worldWith();
    expect(await world.hear(clientOf(world, 1).packet('discover', options, header))).toEqual([]);
    expect(world.counters).toMatchObject({ received: 1, ignored: 1, failed: 0 });
  });

  it('RFC 1534 2: a BOOTP client, without a message type, gets no answer: BOOTP is not served', async () => {
    const world = await worldWith();
    const { options: _options, ...bare } = clientOf(world, 1).packet('discover');
    expect(await world.hear({ ...bare, options: new Map() })).toEqual([]);
    expect(world.counters.ignored).toBe(1);
  });

  it.each<[string, (bytes: Uint8Array) => Uint8Array]>([
    ['RFC 1497: no magic cookie', (bytes) => bytes.fill(0, 236, 240)],
    ['RFC 2131 2: fewer bytes than a header has', (bytes) => bytes.subarray(0, 239)],
    ['RFC 2131 2: nothing at all', () => new Uint8Array()],
    ['RFC 951 3: op 3', (bytes) => bytes.fill(3, 0, 1)],
    ['RFC 951 3: hlen 17', (bytes) => bytes.fill(17, 2, 3)],
  ])('%s: malformed, counted, no answer', async (_what, mangle) => {
    const world = await worldWith();
    expect(await world.hear(mangle((encode(clientOf(world, 1).packet('discover')) as Uint8Array).slice()))).toEqual([]);
    expect(world.counters).toMatchObject({ malformed: 1, failed: 0 });
  });

  it('RFC 2131 2: a packet without an end marker and padding, shorter than BOOTP\'s 300 bytes, is answered', async () => {
    const world = await worldWith();
    const bytes = (encode(clientOf(world, 1).packet('discover')) as Uint8Array).subarray(0, 243);
    expect(gistOf((await world.hear(bytes))[0])).toBe('offer 10.77.0.100');
  });

  it('RFC 1542 3.1.1: hops and secs of any value make no difference', async () => {
    expect(gistOf(await clientOf(await worldWith(), 1, [], { hops: 16, secs: 0xffff }).discover())).toBe('offer 10.77.0.100');
  });

  it('PXE 2.1 2.2.4: on port 4011 the subnet is that of the sender, also of a ROM that leaves ciaddr empty', async () => {
    const world = await worldWith({ subnets: [lan, upstairs], nodes: [nodeOf(1)] });
    const [ack] = await world.hear(clientOf(world, 1, bios).packet('request'), { port: 4011, from: '10.78.0.55' });
    expect([gistOf(ack), ack!.to.address, ack!.packet.siaddr]).toEqual(['ack 0.0.0.0', '10.78.0.55', '10.78.0.1']);
  });

  it('PXE 2.1 2.2.4: an answer of port 4011 goes to nobody outside of our subnets', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    expect(await world.hear(clientOf(world, 1, bios).packet('request'), { port: 4011, from: '172.16.0.9' })).toEqual([]);
    expect(world.counters.foreign).toBe(1);
  });

  it('RFC 2131 4.1: on port 4011 nothing but a machine that boots is answered, whatever it sends', async () => {
    const world = await worldWith({ nodes: [nodeOf(1)] });
    const at4011 = { port: 4011, from: '10.77.0.100' } as const;
    for (const type of ['discover', 'request', 'inform', 'release', 'decline'] as const) expect(await world.hear(clientOf(world, 1).packet(type), at4011)).toEqual([]);
    for (const type of ['discover', 'release', 'decline'] as const) expect(await world.hear(clientOf(world, 1, bios).packet(type), at4011)).toEqual([]);
  });
});
