// RELEASE, DECLINE and INFORM; expiry, quarantine, and in which order addresses come back.
import { describe, expect, it } from 'vitest';
import { ipOf, OPT, textOf } from '../../src/dhcp/options.ts';
import { bios, chaddrOf, clientOf, far, gistOf, kindOf, lan, macOf, nodeOf, pool, RELAY, server, wish, worldWith } from './clients.ts';

const HOUR = 3600_000;
const one = { ...lan, pools: [pool('10.77.0.100-10.77.0.100')] };

describe('RELEASE', () => {
  it('RFC 2131 4.3.4: a released address is free for others at once, and a RELEASE gets no answer', async () => {
    const world = await worldWith({ subnets: [one] });
    const client = clientOf(world, 1);
    const ip = await client.lease();
    expect(gistOf(await client.release(ip))).toBe('silence');
    expect(await clientOf(world, 2).lease()).toBe(ip);
  });

  it('RFC 2131 4.3.4: the record of the client stays, for the next time', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    await client.release(ip);
    expect(await world.leases.at(ip)).toMatchObject({ mac: client.mac, expiresAt: 0 });
  });

  it('RFC 2131 4.4.6: only the client that has the address can release it', async () => {
    const world = await worldWith();
    const ip = await clientOf(world, 1).lease();
    await clientOf(world, 2).release(ip);
    expect([world.counters.releases, world.counters.ignored, (await world.leases.at(ip))!.expiresAt]).toEqual([0, 1, world.now() + HOUR]);
  });

  it('RFC 2131 4.4.6: a RELEASE to another server is not ours', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    await client.release(ip, [server('10.77.0.2')]);
    expect((await world.leases.at(ip))!.expiresAt).toBe(world.now() + HOUR);
  });

  it.each([
    ['of an address that is not leased', '10.77.0.103'],
    ['of an address outside of our subnets', '192.168.1.1'],
    ['of no address', '0.0.0.0'],
  ])('RFC 2131 4.3.4: a RELEASE %s changes nothing', async (_what, ip) => {
    const world = await worldWith();
    expect(gistOf(await clientOf(world, 1).release(ip))).toBe('silence');
    expect([world.counters.ignored + world.counters.foreign, (await world.leases.list()).length]).toEqual([1, 0]);
  });

  it('RFC 2131 4.4.6: a relayed client releases by unicast, past its relay', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const client = clientOf(world, 1);
    await client.discover([], { giaddr: RELAY });
    await client.select('10.88.0.100', [], { giaddr: RELAY });
    await client.release('10.88.0.100');
    expect([world.counters.releases, (await world.leases.at('10.88.0.100'))!.expiresAt]).toEqual([1, 0]);
  });
});

describe('DECLINE', () => {
  it('RFC 2131 4.3.3: a declined address is marked as not available, for the operator to see', async () => {
    const world = await worldWith({ subnets: [one] });
    const client = clientOf(world, 1);
    const ip = await client.lease();
    expect(gistOf(await client.decline(ip))).toBe('silence');
    expect([gistOf(await client.discover()), gistOf(await clientOf(world, 2).discover())]).toEqual(['silence', 'silence']);
    expect(world.log()).toContain('declined');
  });

  it('RFC 2131 4.3.3: the client that declined is offered another address', async () => {
    const client = clientOf(await worldWith(), 1);
    await client.decline(await client.lease());
    expect(gistOf(await client.discover([wish('10.77.0.100')]))).toBe('offer 10.77.0.101');
  });

  it('RFC 2131 4.3.3: after 24 hours the address is tried again', async () => {
    const world = await worldWith({ subnets: [one] });
    const client = clientOf(world, 1);
    await client.decline(await client.lease());
    world.pass(24 * HOUR - 1000);
    expect(gistOf(await client.discover())).toBe('silence');
    world.pass(2000);
    expect(gistOf(await client.discover())).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 4.3.3: a quarantine outlives a restart', async () => {
    const world = await worldWith({ subnets: [one] });
    const client = clientOf(world, 1);
    await client.decline(await client.lease());
    await world.ledger.load();
    expect(gistOf(await clientOf(world, 2).discover())).toBe('silence');
  });

  it('RFC 2131 4.3.3: a declined reservation sends its node to the pool', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })] });
    const client = clientOf(world, 1);
    await client.decline(await client.lease());
    expect(await client.lease()).toBe('10.77.0.100');
  });

  it('RFC 2131 4.4.4: only the client that was given the address can decline it: no pool is emptied from outside', async () => {
    const world = await worldWith();
    const ip = await clientOf(world, 1).lease();
    for (const wanted of [ip, '10.77.0.102', '10.77.0.254']) await clientOf(world, 2).decline(wanted);
    expect([world.counters.declines, world.counters.ignored]).toEqual([0, 3]);
    expect(gistOf(await clientOf(world, 1).renew(ip))).toBe(`ack ${ip}`);
  });

  it('RFC 2131 4.3.3: a DECLINE of another server\'s address is not ours', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    await client.decline(await client.lease(), [server('10.77.0.2')]);
    expect(world.counters.declines).toBe(0);
  });

  it('RFC 2131 table 5: a DECLINE without a requested address says nothing', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    await world.hear(client.packet('decline', [server()], { ciaddr: ip }));
    expect(world.counters.declines).toBe(0);
  });
});

describe('INFORM', () => {
  it('RFC 2131 4.3.5: an ACK with the network\'s options, no yiaddr, no lease time, no T1 and T2', async () => {
    const { packet } = (await clientOf(await worldWith(), 1).inform('10.77.0.7'))!;
    expect(packet).toMatchObject({ yiaddr: '0.0.0.0', ciaddr: '10.77.0.7' });
    expect([ipOf(packet.options, OPT.router), textOf(packet.options, OPT.domain)]).toEqual(['10.77.0.254', 'rack.test']);
    expect([OPT.leaseTime, OPT.renewalTime, OPT.rebindingTime].filter((tag) => packet.options.has(tag))).toEqual([]);
  });

  it('RFC 2131 4.3.5: unicast to ciaddr', async () => {
    expect((await clientOf(await worldWith(), 1).inform('10.77.0.7', [], { flags: 0x8000 }))!.to).toEqual({ address: '10.77.0.7', port: 68 });
  });

  it('RFC 2131 4.3.5: directly to ciaddr also through a relay', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    expect((await clientOf(world, 1).inform('10.88.0.7', [], { giaddr: RELAY }))!.to).toEqual({ address: '10.88.0.7', port: 68 });
  });

  it('RFC 2131 3.4: no lease is looked for, and none is made', async () => {
    const world = await worldWith();
    const ip = await clientOf(world, 2).lease();
    expect(kindOf(await clientOf(world, 1).inform(ip))).toBe('ack');
    expect((await world.leases.list()).map(({ mac }) => mac)).toEqual([macOf(2)]);
  });

  it('RFC 2131 4.3.5: only the options that were asked for', async () => {
    const { options } = (await clientOf(await worldWith(), 1).inform('10.77.0.7', [[OPT.parameterList, Uint8Array.of(OPT.domain)]]))!.packet;
    expect([options.has(OPT.domain), options.has(OPT.dns)]).toEqual([true, false]);
  });

  it.each([
    ['without an address', '0.0.0.0'],
    ['from a foreign network', '192.168.1.7'],
  ])('RFC 2131 3.4: an INFORM %s is inconsistent, and gets no packet anywhere', async (_what, ip) => {
    expect(gistOf(await clientOf(await worldWith(), 1).inform(ip))).toBe('silence');
  });

  it('RFC 2131 3.4: an INFORM of a machine that we do not serve is left to others', async () => {
    const world = await worldWith({ subnets: [{ ...lan, serve: 'known' }] });
    expect(gistOf(await clientOf(world, 1).inform('10.77.0.7'))).toBe('silence');
  });
});

describe('expiry', () => {
  it('RFC 2131 3.3: until the lease is over its address is nobody else\'s', async () => {
    const world = await worldWith({ subnets: [one] });
    await clientOf(world, 1).lease();
    world.pass(HOUR - 1);
    expect(gistOf(await clientOf(world, 2).discover())).toBe('silence');
    world.pass(2);
    expect(gistOf(await clientOf(world, 2).discover())).toBe('offer 10.77.0.100');
  });

  it('RFC 2131 4.3.1: never used first, then released, then the lease that ended longest ago', async () => {
    const world = await worldWith();
    const [first, second, third] = [1, 2, 3].map((n) => clientOf(world, n));
    for (const client of [first!, second!, third!]) await client.lease();
    world.pass(HOUR / 2);
    await first!.renew('10.77.0.100');
    await third!.release('10.77.0.102');
    world.pass(2 * HOUR);
    const given = [];
    for (const n of [11, 12, 13, 14]) given.push(await clientOf(world, n).lease());
    expect(given).toEqual(['10.77.0.103', '10.77.0.102', '10.77.0.101', '10.77.0.100']);
  });

  it('RFC 2131 2.2: leases, offers apart, are the same after a restart', async () => {
    const world = await worldWith();
    const ip = await clientOf(world, 1).lease();
    await clientOf(world, 2).lease();
    await world.ledger.load();
    expect(gistOf(await clientOf(world, 1).discover())).toBe(`offer ${ip}`);
    expect(kindOf(await clientOf(world, 3).select(ip))).toBe('nak');
    expect(gistOf(await clientOf(world, 3).discover())).toBe('offer 10.77.0.102');
  });

  it('RFC 2131 2.2: an address is given to another client only when its first holder cannot use it any more', async () => {
    const world = await worldWith({ subnets: [one] });
    const first = clientOf(world, 1);
    await first.lease([[OPT.leaseTime, Uint8Array.of(0, 0, 0, 60)]]);
    world.pass(60_001);
    const second = clientOf(world, 2);
    await second.lease();
    expect([kindOf(await first.renew('10.77.0.100')), gistOf(await second.renew('10.77.0.100'))]).toEqual(['nak', 'ack 10.77.0.100']);
  });
});

describe('several cards of one node', () => {
  const node = nodeOf(1, { macs: [macOf(1), macOf(2)] });

  it('RFC 2131 4.2: the second card of a node that boots takes over the lease of its first', async () => {
    const world = await worldWith({ nodes: [node] });
    expect([await clientOf(world, 1, bios).lease(), await clientOf(world, 2, bios).lease()]).toEqual(['10.77.0.100', '10.77.0.100']);
    expect((await world.leases.list()).map(({ mac }) => mac)).toEqual([macOf(2)]);
  });

  it('RFC 2131 4.2: the second card of a running node gets no second lease', async () => {
    const world = await worldWith({ nodes: [node] });
    await clientOf(world, 1).lease();
    expect(gistOf(await clientOf(world, 2).discover())).toBe('silence');
    expect(world.log()).toContain('n1 has 10.77.0.100 on its card 52:54:00:00:00:01');
  });

  it('RFC 2131 4.2: nor does it by asking for an address, and the first card keeps its lease', async () => {
    const world = await worldWith({ nodes: [node] });
    const first = clientOf(world, 1);
    const second = clientOf(world, 2);
    const ip = await first.lease();
    expect([kindOf(await second.select('10.77.0.102')), kindOf(await second.renew('10.77.0.102')), kindOf(await second.initReboot(ip))]).toEqual(['nak', 'nak', 'nak']);
    expect(await world.leases.list()).toMatchObject([{ ip, mac: macOf(1) }]);
  });

  it('RFC 2131 4.2: the same holds for the node\'s reservation', async () => {
    const world = await worldWith({ nodes: [{ ...node, ip: '10.77.0.11' }] });
    await clientOf(world, 1).lease();
    expect(gistOf(await clientOf(world, 2).discover())).toBe('silence');
    expect(kindOf(await clientOf(world, 2).select('10.77.0.11'))).toBe('nak');
  });

  it('RFC 2131 4.2: once the first card\'s lease is over, the second one gets the node\'s address', async () => {
    const world = await worldWith({ nodes: [node] });
    await clientOf(world, 1).lease();
    world.pass(2 * HOUR);
    expect(await clientOf(world, 2).lease()).toBe('10.77.0.100');
  });

  it('RFC 2131 4.4.6: a card releases its own lease only, not that of the node\'s other card', async () => {
    const world = await worldWith({ nodes: [node] });
    const ip = await clientOf(world, 1).lease();
    await world.hear(clientOf(world, 2).packet('release', [server()], { ciaddr: ip, chaddr: chaddrOf(2) }));
    expect((await world.leases.at(ip))!.mac).toBe(macOf(1));
    expect((await world.leases.at(ip))!.expiresAt).toBeGreaterThan(world.now());
  });
});
