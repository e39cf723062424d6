// DISCOVER and OFFER: which address a client is offered, and what the offer looks like.
import { describe, expect, it } from 'vitest';
import { parseSubnet } from '../../src/addr.ts';
import { ipOf, messageOf, OPT, uint32Of } from '../../src/dhcp/options.ts';
import { BROADCAST_FLAG } from '../../src/dhcp/packet.ts';
import { bios, clientOf, far, gistOf, kindOf, lan, macOf, nodeOf, pool, RELAY, SERVER, server, wish, without, worldWith } from './clients.ts';

describe('the OFFER', () => {
  it('RFC 2131 3.1 step 2: a DISCOVER is answered by one OFFER with an address in yiaddr and the server identifier', async () => {
    const offer = await clientOf(await worldWith(), 1).discover();
    expect([messageOf(offer!.packet.options), offer!.packet.yiaddr, ipOf(offer!.packet.options, OPT.serverId)]).toEqual(['offer', '10.77.0.100', SERVER]);
  });

  it('RFC 2131 table 3: op, htype, hlen, xid, flags, giaddr and chaddr are the client\'s; hops, secs and ciaddr are 0', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const header = { xid: 0xfedcba98, flags: BROADCAST_FLAG, secs: 77, hops: 3, giaddr: RELAY };
    const client = clientOf(world, 1, [], header);
    const { packet } = (await client.discover())!;
    expect(packet).toMatchObject({ op: 2, htype: 1, hlen: 6, hops: 0, xid: 0xfedcba98, secs: 0, flags: BROADCAST_FLAG, ciaddr: '0.0.0.0', giaddr: RELAY, chaddr: client.packet('discover').chaddr });
  });

  it('RFC 2131 table 3: all 16 bytes of chaddr come back, those behind hlen too', async () => {
    const chaddr = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const offer = await clientOf(await worldWith(), 1, [], { chaddr }).discover();
    expect(offer!.packet.chaddr).toEqual(chaddr);
  });

  it('RFC 2131 table 3: lease time and server identifier are in it; requested address, parameter list and maximum size never are', async () => {
    const options = (await clientOf(await worldWith(), 1).discover([wish('10.77.0.102'), [OPT.parameterList, Uint8Array.of(1, 3, 6, 50, 55, 57)], [OPT.maxSize, Uint8Array.of(5, 220)]]))!.packet.options;
    expect([OPT.leaseTime, OPT.serverId].filter((tag) => !options.has(tag))).toEqual([]);
    expect([OPT.requestedIp, OPT.parameterList, OPT.maxSize].filter((tag) => options.has(tag))).toEqual([]);
  });

  it('RFC 2131 3.1 step 2: an OFFER commits nothing to storage', async () => {
    const world = await worldWith();
    await clientOf(world, 1).discover();
    expect(await world.leases.list()).toEqual([]);
  });
});

describe('which address', () => {
  it('RFC 2131 4.3.1: the client\'s current binding', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    await clientOf(world, 2).lease();
    const ip = await client.lease();
    expect(gistOf(await client.discover())).toBe(`offer ${ip}`);
  });

  it('RFC 2131 4.3.1: else its previous, now expired binding', async () => {
    const world = await worldWith();
    await clientOf(world, 2).lease();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(2 * 3600_000);
    expect(gistOf(await client.discover())).toBe(`offer ${ip}`);
  });

  it('RFC 2131 4.3.1: else its previous, released binding', async () => {
    const world = await worldWith();
    await clientOf(world, 2).lease();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    await client.release(ip);
    expect(gistOf(await client.discover())).toBe(`offer ${ip}`);
  });

  it('RFC 2131 4.3.1: the binding comes before a requested address', async () => {
    const client = clientOf(await worldWith(), 1);
    const ip = await client.lease();
    expect(gistOf(await client.discover([wish('10.77.0.103')]))).toBe(`offer ${ip}`);
  });

  it('RFC 2131 4.3.1: else the requested address, when it is valid and not allocated', async () => {
    expect(gistOf(await clientOf(await worldWith(), 1).discover([wish('10.77.0.102')]))).toBe('offer 10.77.0.102');
  });

  it.each([
    ['leased to another', '10.77.0.100'],
    ['in the subnet but in no pool', '10.77.0.50'],
    ['in another network', '192.168.1.7'],
    ['the server\'s', '10.77.0.1'],
    ['the router\'s', '10.77.0.254'],
    ['the network\'s', '10.77.0.0'],
    ['the broadcast address', '10.77.0.255'],
    ['no address at all', '0.0.0.0'],
    ['everybody\'s', '255.255.255.255'],
    ['a group\'s', '224.0.0.1'],
    ['the loopback\'s', '127.0.0.1'],
  ])('RFC 2131 4.3.1: else one of the pool, not a requested address that is %s', async (_what, ip) => {
    const world = await worldWith();
    await clientOf(world, 2).lease();
    expect(gistOf(await clientOf(world, 1).discover([wish(ip)]))).toBe('offer 10.77.0.101');
  });

  it('RFC 2131 4.3.1: a requested address that another node has reserved is not given', async () => {
    const world = await worldWith({ nodes: [nodeOf(9, { ip: '10.77.0.102' })] });
    expect(gistOf(await clientOf(world, 1).discover([wish('10.77.0.102')]))).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 3.1: what is offered to one client is offered to no other', async () => {
    const world = await worldWith();
    const offers = [];
    for (const n of [1, 2, 3, 4]) offers.push((await clientOf(world, n).discover())!.packet.yiaddr);
    expect(new Set(offers).size).toBe(4);
  });

  it('RFC 2131 3.1: clients that ask at the same moment are offered different addresses', async () => {
    const world = await worldWith();
    await Promise.all([1, 2, 3, 4].map((n) => world.hear(clientOf(world, n).packet('discover'))));
    const held = [100, 101, 102, 103].map((n) => world.ledger.addressesOf(lan).book.holdAt(`10.77.0.${n}`)?.mac);
    expect(held.toSorted()).toEqual([1, 2, 3, 4].map(macOf));
  });

  it('RFC 2131 4.4.1: a DISCOVER sent again, because the OFFER was lost, is offered the same address', async () => {
    const client = clientOf(await worldWith(), 1);
    const first = await client.discover();
    expect(gistOf(await client.discover([], { xid: 99 }))).toBe(gistOf(first));
  });

  it('RFC 2131 4.4.1: a DISCOVER sent again is offered the last free address of the pool again', async () => {
    const world = await worldWith();
    for (const n of [2, 3, 4]) await clientOf(world, n).lease();
    const client = clientOf(world, 1);
    expect([gistOf(await client.discover()), gistOf(await client.discover())]).toEqual(['offer 10.77.0.103', 'offer 10.77.0.103']);
  });

  it('RFC 2131 3.1 step 4: an offer that nobody asks for is another\'s after a while', async () => {
    const world = await worldWith({ subnets: [{ ...lan, pools: [pool('10.77.0.100-10.77.0.100')] }] });
    await clientOf(world, 1).discover();
    expect(gistOf(await clientOf(world, 2).discover())).toBe('silence');
    world.pass(61_000);
    expect(gistOf(await clientOf(world, 2).discover())).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 3.1 step 4: a REQUEST that names another server frees the offer at once', async () => {
    const world = await worldWith({ subnets: [{ ...lan, pools: [pool('10.77.0.100-10.77.0.100')] }] });
    const client = clientOf(world, 1);
    await client.discover();
    expect(gistOf(await client.select('10.77.0.9', [server('10.77.0.2')]))).toBe('silence');
    expect(gistOf(await clientOf(world, 2).discover())).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 4.3.1: an address that no machine ever had comes before one whose lease expired', async () => {
    const world = await worldWith();
    await clientOf(world, 1).lease();
    world.pass(2 * 3600_000);
    expect(gistOf(await clientOf(world, 2).discover())).toBe('offer 10.77.0.101');
  });

  it('RFC 2131 4.3.1: a machine that is offered nothing hears nothing, and the log says why', async () => {
    const world = await worldWith();
    for (const n of [1, 2, 3, 4]) await clientOf(world, n).lease();
    expect(gistOf(await clientOf(world, 5).discover())).toBe('silence');
    expect(world.counters.refused).toBe(1);
    expect(world.log()).toMatch(/"mac":"52:54:00:00:00:05".*the pool of 10\.77\.0\.0\/24 is exhausted/);
  });

  it('RFC 2131 4.3.1: the network and broadcast address of a subnet are nobody\'s, though a pool covers them', async () => {
    const world = await worldWith({ subnets: [{ ...without(lan, 'router'), subnet: parseSubnet('10.77.0.0/30')!, pools: [pool('10.77.0.0-10.77.0.3')] }] });
    expect([gistOf(await clientOf(world, 1).discover()), gistOf(await clientOf(world, 2).discover())]).toEqual(['offer 10.77.0.2', 'silence']);
  });

  it('RFC 3021 2.1: both addresses of a /31 are usable', async () => {
    const world = await worldWith({ subnets: [{ ...without(lan, 'router'), subnet: parseSubnet('10.77.0.0/31')!, serverIp: '10.77.0.1', pools: [pool('10.77.0.0-10.77.0.1')] }] });
    expect([gistOf(await clientOf(world, 1).discover()), gistOf(await clientOf(world, 2).discover())]).toEqual(['offer 10.77.0.0', 'silence']);
  });
});

describe('lease time', () => {
  it.each([
    ['no wish: the subnet\'s', undefined, 3600],
    ['a shorter one: as asked', 600, 600],
    ['a longer one: the subnet\'s', 86_400, 3600],
    ['for ever (RFC 2131 3.3): the subnet\'s', 0xffffffff, 3600],
    ['so short that it would renew all the time: a minute', 5, 60],
    ['none: a minute', 0, 60],
  ])('RFC 2132 9.2: %s', async (_what, asked, expected) => {
    const client = clientOf(await worldWith(), 1, asked === undefined ? [] : [[OPT.leaseTime, Uint8Array.of(asked >>> 24, asked >>> 16, asked >>> 8, asked)]]);
    const offer = (await client.discover())!;
    const ack = (await client.select(offer.packet.yiaddr))!;
    expect([offer, ack].map(({ packet }) => uint32Of(packet.options, OPT.leaseTime))).toEqual([expected, expected]);
  });

  it('RFC 2132 9.2: a lease time of the wrong length counts as not asked for', async () => {
    const offer = await clientOf(await worldWith(), 1).discover([[OPT.leaseTime, Uint8Array.of(0, 60)]]);
    expect(uint32Of(offer!.packet.options, OPT.leaseTime)).toBe(3600);
  });

  it('RFC 2131 4.4.5: T1 is half of the lease, T2 seven eighths', async () => {
    const { options } = (await clientOf(await worldWith(), 1).discover())!.packet;
    expect([OPT.renewalTime, OPT.rebindingTime].map((tag) => uint32Of(options, tag))).toEqual([1800, 3150]);
  });
});

describe('RFC 4039', () => {
  it('RFC 4039 3.1: a client that would take a rapid ACK gets an OFFER: rapid commit is not served', async () => {
    const offer = await clientOf(await worldWith(), 1).discover([[OPT.rapidCommit, new Uint8Array()]]);
    expect([kindOf(offer), offer!.packet.options.has(OPT.rapidCommit)]).toEqual(['offer', false]);
  });
});

describe('nodes', () => {
  it('RFC 2131 1: manual allocation: a node\'s reserved address, inside or outside the pools', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' }), nodeOf(2, { ip: '10.77.0.102' })] });
    expect([gistOf(await clientOf(world, 1).discover()), gistOf(await clientOf(world, 2).discover())]).toEqual(['offer 10.77.0.11', 'offer 10.77.0.102']);
  });

  it('RFC 2131 1: a reservation comes before any wish of the client', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })] });
    expect(gistOf(await clientOf(world, 1).discover([wish('10.77.0.103')]))).toBe('offer 10.77.0.11');
  });

  it('RFC 2131 4.3.1: a reservation that lies in another subnet falls back to the pool', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.99.0.11' })] });
    expect(gistOf(await clientOf(world, 1).discover(bios))).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 2.2: a reservation that another still uses falls back to the pool: one address, one client', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.100' })] });
    await world.leases.take({ ip: '10.77.0.100', mac: macOf(9), subnet: '10.77.0.0/24', expiresAt: world.now() + 1000 }, world.now());
    await world.ledger.load();
    expect(gistOf(await clientOf(world, 1).discover())).toBe('offer 10.77.0.101');
    world.pass(2000);
    expect(gistOf(await clientOf(world, 1).discover(bios))).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 4.3.1: an offer to a stranger gives way when it is the last address and a node asks', async () => {
    const world = await worldWith({ subnets: [{ ...lan, pools: [pool('10.77.0.100-10.77.0.100')] }], nodes: [nodeOf(1)] });
    await clientOf(world, 9).discover();
    expect(gistOf(await clientOf(world, 1).discover())).toBe('offer 10.77.0.100');
    expect(kindOf(await clientOf(world, 9).select('10.77.0.100'))).toBe('nak');
  });
});
