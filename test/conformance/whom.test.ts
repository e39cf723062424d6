// Whom we serve: identity of a client, known, discovered and any; pools by profile and label; proxy mode beside another server; how much one machine may ask.
import { describe, expect, it } from 'vitest';
import type { LinkWatch } from '../../src/dhcp/responder.ts';
import { parseRange } from '../../src/addr.ts';
import { createDhcpServer } from '../../src/dhcp/server.ts';
import { ips, OPT, text, uint16s } from '../../src/dhcp/options.ts';
import { encode } from '../../src/dhcp/packet.ts';
import type { Ingress } from '../../src/dhcp/transport.ts';
import { createLog } from '../../src/log.ts';
import { bios, clientOf, gistOf, kindOf, lan, macOf, nodeOf, pool, server, wish, worldWith, type Option } from './clients.ts';

describe('identity', () => {
  it('RFC 2131 4.2: the MAC is the identity, not the client identifier (our deviation): two machines with one identifier are two', async () => {
    const world = await worldWith();
    const id: Option = [OPT.clientId, Uint8Array.of(255, 1, 2, 3)];
    expect([await clientOf(world, 1, [id]).lease(), await clientOf(world, 2, [id]).lease()]).toEqual(['10.77.0.100', '10.77.0.101']);
  });

  it('RFC 4361 6.3: a machine whose loader, initrd and system send three identifiers keeps one address (our deviation)', async () => {
    const world = await worldWith();
    const given = [];
    for (const id of [[1, 0x52, 0x54, 0, 0, 0, 1], [0, 1, 2], [255, 9, 9, 9]]) given.push(await clientOf(world, 1, [[OPT.clientId, Uint8Array.from(id)]]).lease());
    expect(given).toEqual(['10.77.0.100', '10.77.0.100', '10.77.0.100']);
  });

  it('RFC 2131 4.1: xid is the client\'s business: the same one from two machines is no mix-up', async () => {
    const world = await worldWith();
    const offers = [await clientOf(world, 1, [], { xid: 7 }).discover(), await clientOf(world, 2, [], { xid: 7 }).discover()];
    expect(offers.map((sent) => sent!.packet.chaddr[5])).toEqual([1, 2]);
  });
});

describe('serve', () => {
  const worldThat = (serve: 'known' | 'discovered' | 'any') => worldWith({ subnets: [{ ...lan, serve }], nodes: [nodeOf(1)] });

  it.each<[string, 'known' | 'discovered' | 'any', number, readonly Option[], string]>([
    ['known: a node that boots', 'known', 1, bios, 'offer'],
    ['known: a node that runs', 'known', 1, [], 'offer'],
    ['known: a stranger that boots', 'known', 9, bios, 'silence'],
    ['known: a stranger that runs', 'known', 9, [], 'silence'],
    ['discovered: a stranger that boots', 'discovered', 9, bios, 'offer'],
    ['discovered: a stranger that runs', 'discovered', 9, [], 'silence'],
    ['any: a stranger that boots', 'any', 9, bios, 'offer'],
    ['any: a stranger that runs', 'any', 9, [], 'offer'],
  ])('RFC 2131 4.2: a server need not answer all: %s', async (_what, serve, n, own, kind) => {
    expect(kindOf(await clientOf(await worldThat(serve), n, own).discover())).toBe(kind);
  });

  it('TRAPS 2: a machine that boots and that no profile names is noted, with what it said, and gets no packet', async () => {
    const world = await worldThat('known');
    await clientOf(world, 9, bios).discover();
    await clientOf(world, 9, bios).discover();
    await clientOf(world, 8).discover();
    expect(world.discovered.list()).toMatchObject([{ mac: macOf(9), arch: 'amd64', firmware: 'bios', count: 2 }]);
    expect(await world.leases.list()).toEqual([]);
  });

  it('TRAPS 2: strangers that are not served write nothing to disk, whatever they send', async () => {
    const world = await worldThat('known');
    const stranger = clientOf(world, 9);
    await stranger.discover();
    await stranger.select('10.77.0.100');
    await stranger.initReboot('10.77.0.100');
    await stranger.renew('10.77.0.100');
    await stranger.release('10.77.0.100');
    await stranger.decline('10.77.0.100');
    await stranger.inform('10.77.0.100');
    expect([await world.leases.list(), world.counters.offers, world.counters.acks, world.counters.naks]).toEqual([[], 0, 0, 0]);
  });
});

describe('pools', () => {
  const pools = [pool('10.77.0.100-10.77.0.100', { profiles: ['disk'] }), pool('10.77.0.110-10.77.0.110', { labels: { rack: 'r1' } }), pool('10.77.0.120-10.77.0.121')];
  const world = (...nodes: ReturnType<typeof nodeOf>[]) => worldWith({ subnets: [{ ...lan, pools }], nodes });

  it.each([
    ['a node of the first pool\'s profile', nodeOf(1, { profile: 'disk' }), '10.77.0.100'],
    ['a node with the second pool\'s label', nodeOf(1, { labels: { rack: 'r1', row: '3' } }), '10.77.0.110'],
    ['a node with another value of it', nodeOf(1, { labels: { rack: 'r2' } }), '10.77.0.120'],
    ['a node without either', nodeOf(1), '10.77.0.120'],
    ['a stranger', nodeOf(7), '10.77.0.120'],
  ])('RFC 2131 4.3.1: by local policy %s gets an address of the pool that is for it', async (_what, node, ip) => {
    expect(gistOf(await clientOf(await world(node), 1).discover())).toBe(`offer ${ip}`);
  });

  it('RFC 2131 4.3.1: a wish for an address of a pool that is for others is not granted, and not acknowledged', async () => {
    const client = clientOf(await world(), 1);
    expect(gistOf(await client.discover([wish('10.77.0.100')]))).toBe('offer 10.77.0.120');
    expect(kindOf(await client.select('10.77.0.110'))).toBe('nak');
  });

  it('RFC 2131 4.3.1: when its own pool is used up a node goes on to the one for all', async () => {
    const here = await world(nodeOf(1, { profile: 'disk' }), nodeOf(2, { profile: 'disk' }));
    expect([await clientOf(here, 1).lease(), await clientOf(here, 2).lease()]).toEqual(['10.77.0.100', '10.77.0.120']);
  });

  it('RFC 2131 4.3.1: ranges with excluded addresses cut out are used as one, and what lies between is nobody\'s', async () => {
    const here = await worldWith({ subnets: [{ ...lan, pools: [{ ranges: [parseRange('10.77.0.100-10.77.0.100')!, parseRange('10.77.0.105-10.77.0.106')!] }] }] });
    expect([await clientOf(here, 1).lease(), await clientOf(here, 2).lease()]).toEqual(['10.77.0.100', '10.77.0.105']);
    expect([kindOf(await clientOf(here, 3).select('10.77.0.103')), gistOf(await clientOf(here, 3).discover([wish('10.77.0.103')]))]).toEqual(['nak', 'offer 10.77.0.106']);
  });

  it.each([
    ['no pool for this machine', { pools: [pool('10.77.0.100-10.77.0.100', { profiles: ['disk'] })] }, 'no pool of 10.77.0.0/24 is for this machine'],
    ['no pool at all', { pools: [] }, '10.77.0.0/24 has no pool'],
  ])('RFC 2131 4.3.1: %s: silence, and the log says so', async (_what, more, why) => {
    const here = await worldWith({ subnets: [{ ...lan, ...more }] });
    expect(gistOf(await clientOf(here, 1).discover())).toBe('silence');
    expect(here.log()).toContain(why);
  });
});

describe('beside another server', () => {
  const proxied = { ...lan, mode: 'proxy' as const, pools: [] };

  it('TRAPS 2: in proxy mode a client that does not boot never gets a packet', async () => {
    const world = await worldWith({ subnets: [proxied], nodes: [nodeOf(1)] });
    for (const n of [1, 9]) {
      const client = clientOf(world, n);
      const sent = [await client.discover(), await client.select('10.77.0.100'), await client.initReboot('10.77.0.100'), await client.renew('10.77.0.100'), await client.renew('192.168.1.1'), await client.release('10.77.0.100'), await client.decline('10.77.0.100'), await client.inform('10.77.0.100')];
      expect(sent.map(gistOf)).toEqual(Array.from({ length: 8 }, () => 'silence'));
    }
    expect(await world.leases.list()).toEqual([]);
  });

  it('PXE 2.1 2.2.3: an offer without an address, beside the other server\'s', async () => {
    const world = await worldWith({ subnets: [proxied], nodes: [nodeOf(1)] });
    const offer = (await clientOf(world, 1, bios).discover())!;
    expect([gistOf(offer), offer.to]).toEqual(['offer 0.0.0.0', { address: '255.255.255.255', port: 68 }]);
    expect([OPT.leaseTime, OPT.subnetMask, OPT.router, OPT.dns].filter((tag) => offer.packet.options.has(tag))).toEqual([]);
  });

  it('PXE 2.1 2.2.3: the REQUEST to the other server is not ours', async () => {
    const world = await worldWith({ subnets: [proxied], nodes: [nodeOf(1)] });
    await clientOf(world, 1, bios).discover();
    expect(gistOf(await clientOf(world, 1, bios).select('10.77.0.55', [server('10.77.0.2')]))).toBe('silence');
  });

  it('RFC 2131 3.1 step 4: the other server that a client chose is passed on to who watches the link; of a relayed client, to nobody', async () => {
    const heard: string[] = [];
    const watch: LinkWatch = { permits: () => ({ reservations: true, dynamic: true }), isOwn: () => false, overheard: (link, ip) => void heard.push(`${link} ${ip}`) };
    const world = await worldWith({ watch });
    await clientOf(world, 1).select('10.77.0.9', [server('10.77.0.2')]);
    await clientOf(world, 1).select('10.77.0.9', [server('10.77.0.3')], { giaddr: '10.77.0.4' });
    expect(heard).toEqual(['lan0 10.77.0.2']);
  });

  it('TRAPS 2: while a foreign server is looked for no new address is given; reservations, renewals and leases go on', async () => {
    let suspended = false;
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })], ledger: { noNew: () => (suspended ? 'a foreign server is looked for' : undefined) } });
    const ip = await clientOf(world, 2).lease();
    suspended = true;
    expect(gistOf(await clientOf(world, 3).discover())).toBe('silence');
    expect(await clientOf(world, 1).lease()).toBe('10.77.0.11');
    expect([gistOf(await clientOf(world, 2).renew(ip)), await clientOf(world, 2).lease()]).toEqual([`ack ${ip}`, ip]);
    expect(world.log()).toContain('a foreign server is looked for');
  });

  it('TRAPS 2: with a foreign server found, and nothing permitted, even a node gets silence', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })], watch: { permits: () => ({ reservations: false, dynamic: false }), isOwn: () => false, overheard: () => undefined } });
    expect(gistOf(await clientOf(world, 1).discover())).toBe('silence');
  });
});

describe('how much one machine may ask', () => {
  /** The server whole, but for its sockets: what comes in here goes through the inbox. */
  async function serving() {
    const world = await worldWith();
    let take: (bytes: Uint8Array, from: Ingress) => void = () => undefined;
    const dhcp = createDhcpServer({
      subnets: [lan], httpPort: 8080, booter: world.booter, ledger: world.ledger, nodeOf: () => undefined, log: createLog('silent'), now: world.now, steady: world.now,
      transport: { send: async () => true, hear: (taker) => void (take = taker), deafen: () => undefined, close: async () => undefined },
    });
    dhcp.start();
    const send = (n: number) => take(encode(clientOf(world, n).packet('discover')) as Uint8Array, { link: 'lan0', port: 67, from: '0.0.0.0', fromPort: 68 });
    return { world, dhcp, send };
  }

  it('RFC 2131 4.1: clients back off: of one that does not 10 packets are heard at once, then 5 a second', async () => {
    const { world, dhcp, send } = await serving();
    for (let i = 0; i < 30; i++) send(1);
    await expect.poll(() => dhcp.counters()).toMatchObject({ received: 10, offers: 10, limited: 20 });
    world.pass(1000);
    for (let i = 0; i < 30; i++) send(1);
    await dhcp.stop();
    expect(dhcp.counters()).toMatchObject({ received: 15, limited: 45 });
  });

  it('RFC 2131 4.1: one machine\'s flood does not cost another its answer', async () => {
    const { dhcp, send } = await serving();
    for (let i = 0; i < 30; i++) send(1);
    send(2);
    await dhcp.stop();
    expect(dhcp.counters()).toMatchObject({ received: 11, offers: 11 });
  });
});

describe('a client at a wrong time', () => {
  it('RFC 2131 4.3: every kind of message before any DISCOVER is survived', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1, [[OPT.maxSize, uint16s(1500)], [OPT.hostName, text('x')], [OPT.tftpServer, ips('1.2.3.4')]]);
    for (const type of ['decline', 'release', 'inform', 'request', 'discover'] as const) await world.hear(client.packet(type));
    expect(world.counters).toMatchObject({ received: 5, failed: 0, offers: 1 });
  });
});
