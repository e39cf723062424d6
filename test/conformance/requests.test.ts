// REQUEST in each state of RFC 2131 table 4: SELECTING, INIT-REBOOT, RENEWING and REBINDING; what is acknowledged, refused, left to others.
import { describe, expect, it } from 'vitest';
import { ipOf, OPT, text, textOf, uint32Of } from '../../src/dhcp/options.ts';
import { BROADCAST, clientOf, far, gistOf, kindOf, lan, nodeOf, pool, RELAY, SERVER, server, wish, worldWith } from './clients.ts';

const HOUR = 3600_000;

describe('SELECTING', () => {
  it('RFC 2131 3.1 step 4: the offered address is acknowledged, with the same lease time and server', async () => {
    const client = clientOf(await worldWith(), 1);
    const offer = (await client.discover())!;
    const ack = (await client.select(offer.packet.yiaddr))!;
    expect(gistOf(ack)).toBe('ack 10.77.0.100');
    for (const tag of [OPT.leaseTime, OPT.serverId, OPT.subnetMask, OPT.router, OPT.dns]) expect(ack.packet.options.get(tag)).toEqual(offer.packet.options.get(tag));
  });

  it('RFC 2131 3.1 step 4: the binding is in storage when the ACK is out', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1, [[OPT.hostName, text('box')], [OPT.clientId, Uint8Array.of(1, 2, 3)]]);
    const ip = await client.lease();
    expect(await world.leases.at(ip)).toMatchObject({ ip, mac: client.mac, hostname: 'box', clientId: '010203', expiresAt: world.now() + HOUR });
  });

  it('RFC 2131 3.1 step 4: a REQUEST that names another server gets no answer', async () => {
    const client = clientOf(await worldWith(), 1);
    const offer = await client.discover();
    expect(gistOf(await client.select(offer!.packet.yiaddr, [server('10.77.0.2')]))).toBe('silence');
  });

  it('RFC 2131 4.2: any of our own server addresses names us', async () => {
    const client = clientOf(await worldWith({ subnets: [lan, { ...far, serverIp: '10.88.0.9' }] }), 1);
    const offer = await client.discover();
    expect(kindOf(await client.select(offer!.packet.yiaddr, [server('10.88.0.9')]))).toBe('ack');
  });

  it('RFC 2131 3.1 step 4: an address that another client got meanwhile: NAK', async () => {
    const world = await worldWith();
    const offer = await clientOf(world, 1).discover();
    world.pass(61_000);
    await clientOf(world, 2).discover([wish(offer!.packet.yiaddr)]);
    await clientOf(world, 2).select(offer!.packet.yiaddr);
    expect(kindOf(await clientOf(world, 1).select(offer!.packet.yiaddr))).toBe('nak');
  });

  it('RFC 2131 3.1 step 4: an address that is offered to another client: NAK', async () => {
    const world = await worldWith();
    const offer = await clientOf(world, 1).discover();
    expect(kindOf(await clientOf(world, 2).select(offer!.packet.yiaddr))).toBe('nak');
  });

  it('RFC 2131 3.1 step 4: two clients that ask for one address at the same moment: one ACK, one NAK', async () => {
    const world = await worldWith();
    const asks = [1, 2].map((n) => world.hear(clientOf(world, n).packet('request', [server(), wish('10.77.0.100')])));
    await Promise.all(asks);
    expect([world.counters.acks, world.counters.naks]).toEqual([1, 1]);
    expect((await world.leases.list()).length).toBe(1);
  });

  it('RFC 2131 3.1 step 4: an offer forgotten by a restart is acknowledged when its address is still free', async () => {
    expect(gistOf(await clientOf(await worldWith(), 1).select('10.77.0.102'))).toBe('ack 10.77.0.102');
  });

  it.each([
    ['in the subnet but in no pool', '10.77.0.50'],
    ['in another network', '192.168.1.7'],
    ['the server\'s own', '10.77.0.1'],
    ['the router\'s', '10.77.0.254'],
    ['the broadcast address', '10.77.0.255'],
  ])('RFC 2131 3.1 step 4: an address that we never offer, %s: NAK', async (_what, ip) => {
    expect(kindOf(await clientOf(await worldWith(), 1).select(ip))).toBe('nak');
  });

  it('RFC 2131 4.3.2: a retransmitted REQUEST is acknowledged again', async () => {
    const client = clientOf(await worldWith(), 1);
    const ip = await client.lease();
    expect(gistOf(await client.select(ip))).toBe(`ack ${ip}`);
  });

  it('RFC 2131 4.3.2: a client with a lease that selects an offer of another address keeps one lease only', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })] });
    const client = clientOf(world, 1);
    await world.leases.take({ ip: '10.77.0.101', mac: client.mac, subnet: '10.77.0.0/24', expiresAt: world.now() + HOUR }, world.now());
    await world.ledger.load();
    expect(await client.lease()).toBe('10.77.0.11');
    expect((await world.leases.list()).map(({ ip }) => ip)).toEqual(['10.77.0.11']);
  });

  it('RFC 2131 4.3.2: SELECTING with ciaddr instead of option 50, as some clients renew, counts as naming that address', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    const [ack] = await world.hear(client.packet('request', [server()], { ciaddr: ip }));
    expect(gistOf(ack)).toBe(`ack ${ip}`);
  });

  it('RFC 2131 4.3.2: a REQUEST without any address is no REQUEST', async () => {
    const world = await worldWith();
    expect(await world.hear(clientOf(world, 1).packet('request', [server()]))).toEqual([]);
    expect(await world.hear(clientOf(world, 1).packet('request'))).toEqual([]);
    expect(world.counters.ignored).toBe(2);
  });
});

describe('INIT-REBOOT', () => {
  it('RFC 2131 4.3.2: INIT-REBOOT with the client\'s own lease gets an ACK, and a full lease time', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(HOUR / 2);
    const ack = (await client.initReboot(ip))!;
    expect([gistOf(ack), uint32Of(ack.packet.options, OPT.leaseTime)]).toEqual([`ack ${ip}`, 3600]);
    expect((await world.leases.at(ip))!.expiresAt).toBe(world.now() + HOUR);
  });

  it('RFC 2131 3.2: INIT-REBOOT with its own expired lease that nobody else has gets an ACK', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(3 * HOUR);
    expect(gistOf(await client.initReboot(ip))).toBe(`ack ${ip}`);
  });

  it('RFC 2131 4.3.2: INIT-REBOOT for an address on the wrong network gets a NAK', async () => {
    expect(kindOf(await clientOf(await worldWith(), 1).initReboot('192.168.1.5'))).toBe('nak');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT through a relay for an address of another network than the relay\'s gets a NAK', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const client = clientOf(world, 1);
    const ip = await client.lease();
    expect(kindOf(await client.initReboot(ip, [], { giaddr: RELAY }))).toBe('nak');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT for another address than the server\'s notion of it gets a NAK', async () => {
    const client = clientOf(await worldWith(), 1);
    await client.lease();
    expect(kindOf(await client.initReboot('10.77.0.103'))).toBe('nak');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT for an address that another client has leased gets a NAK', async () => {
    const world = await worldWith();
    const ip = await clientOf(world, 2).lease();
    expect(kindOf(await clientOf(world, 1).initReboot(ip))).toBe('nak');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT for an address that is reserved for another node gets a NAK', async () => {
    const world = await worldWith({ nodes: [nodeOf(2, { ip: '10.77.0.102' })] });
    expect(kindOf(await clientOf(world, 1).initReboot('10.77.0.102'))).toBe('nak');
  });

  it.each([
    ['of our pool', '10.77.0.102'],
    ['of the subnet, maybe another server\'s', '10.77.0.50'],
  ])('RFC 2131 4.3.2: INIT-REBOOT of a client without a record, for a free address %s: the server MUST remain silent', async (_what, ip) => {
    expect(gistOf(await clientOf(await worldWith(), 1).initReboot(ip))).toBe('silence');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT of a node for its reservation is known without a record', async () => {
    const world = await worldWith({ nodes: [nodeOf(1, { ip: '10.77.0.11' })] });
    expect(gistOf(await clientOf(world, 1).initReboot('10.77.0.11'))).toBe('ack 10.77.0.11');
  });

  it('RFC 2131 4.3.2: INIT-REBOOT with ciaddr 0 and option 50 is answered by broadcast', async () => {
    const client = clientOf(await worldWith(), 1);
    const ack = await client.initReboot(await client.lease());
    expect(ack!.to).toEqual(BROADCAST);
    expect(ack!.packet.ciaddr).toBe('0.0.0.0');
  });
});

describe('RENEWING and REBINDING', () => {
  it('RFC 2131 4.3.2: a renewal extends the lease, yiaddr is the address and ciaddr the client\'s', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(HOUR / 2);
    const ack = (await client.renew(ip))!;
    expect([gistOf(ack), ack.packet.ciaddr]).toEqual([`ack ${ip}`, ip]);
    expect((await world.leases.at(ip))!.expiresAt).toBe(world.now() + HOUR);
  });

  it('RFC 2131 4.3.2: after a renewal the address is still the client\'s when its first lease would have ended', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(HOUR / 2);
    await client.renew(ip);
    world.pass(HOUR * 0.75);
    expect(kindOf(await clientOf(world, 2).select(ip))).toBe('nak');
  });

  it('RFC 2131 4.3.2: the shorter lease time that a renewal asks for is granted', async () => {
    const client = clientOf(await worldWith(), 1);
    const ack = await client.renew(await client.lease(), [[OPT.leaseTime, Uint8Array.of(0, 0, 2, 88)]]);
    expect(uint32Of(ack!.packet.options, OPT.leaseTime)).toBe(600);
  });

  it('RFC 2131 4.3.2: a renewal of its own expired lease that nobody else has is acknowledged', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(2 * HOUR);
    expect(gistOf(await client.renew(ip))).toBe(`ack ${ip}`);
  });

  it('RFC 2131 4.3.2: a renewal of an address that went to another client: NAK', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    const ip = await client.lease();
    world.pass(2 * HOUR);
    for (const n of [2, 3, 4, 5]) await clientOf(world, n).lease();
    expect(kindOf(await client.renew(ip))).toBe('nak');
  });

  it('RFC 2131 4.3.2: REBINDING on a network where the address is wrong: NAK', async () => {
    expect(kindOf(await clientOf(await worldWith(), 1).renew('192.168.1.5'))).toBe('nak');
  });

  it('RFC 2131 4.4.5: REBINDING of an address of the pool whose record is lost is acknowledged when nobody has it', async () => {
    expect(gistOf(await clientOf(await worldWith(), 1).renew('10.77.0.102'))).toBe('ack 10.77.0.102');
  });

  it('RFC 2131 4.3.2: REBINDING of an address that another server may have given is left to it', async () => {
    expect(gistOf(await clientOf(await worldWith(), 1).renew('10.77.0.50'))).toBe('silence');
  });

  it('RFC 2131 4.3.2: a renewal keeps a lease that lies outside of today\'s pools', async () => {
    const world = await worldWith();
    const client = clientOf(world, 1);
    await world.leases.take({ ip: '10.77.0.50', mac: client.mac, subnet: '10.77.0.0/24', expiresAt: world.now() + HOUR }, world.now());
    await world.ledger.load();
    expect(gistOf(await client.renew('10.77.0.50'))).toBe('ack 10.77.0.50');
  });

  it('RFC 2131 4.3.2: a relayed client renews past its relay: giaddr is 0, and ciaddr tells its subnet', async () => {
    const world = await worldWith({ subnets: [lan, far] });
    const client = clientOf(world, 1, [], {});
    await client.discover([], { giaddr: RELAY });
    await client.select('10.88.0.100', [], { giaddr: RELAY });
    const ack = (await client.renew('10.88.0.100'))!;
    expect([gistOf(ack), ack.to]).toEqual(['ack 10.88.0.100', { address: '10.88.0.100', port: 68 }]);
    expect(ipOf(ack.packet.options, OPT.router)).toBe('10.88.0.1');
  });
});

describe('the NAK', () => {
  const nakOf = async (more = {}, own: Parameters<typeof clientOf>[2] = []) => {
    const world = await worldWith({ subnets: [lan, far] });
    return (await clientOf(world, 1, own).initReboot('192.168.1.5', [], more))!;
  };

  it('RFC 2131 table 3: a NAK has no ciaddr, yiaddr, siaddr, sname and file', async () => {
    const world = await worldWith();
    const { packet } = (await clientOf(world, 1).renew('192.168.1.5'))!;
    expect(packet).toMatchObject({ op: 2, ciaddr: '0.0.0.0', yiaddr: '0.0.0.0', siaddr: '0.0.0.0', sname: '', file: '', xid: 1 });
  });

  it('RFC 2131 table 3: a NAK has message type, server identifier and message, and no other option', async () => {
    const { packet } = await nakOf();
    expect([...packet.options.keys()]).toEqual([OPT.messageType, OPT.serverId, OPT.message]);
    expect(ipOf(packet.options, OPT.serverId)).toBe(SERVER);
  });

  it('RFC 2132 9.9: its message says what is wrong', async () => {
    expect(textOf((await nakOf()).packet.options, OPT.message)).toBe('192.168.1.5 is not in 10.77.0.0/24');
  });

  it('RFC 6842 3: a NAK carries the client identifier too', async () => {
    const id = Uint8Array.of(255, 1, 2, 3);
    expect((await nakOf({}, [[OPT.clientId, id]])).packet.options.get(OPT.clientId)).toEqual(id);
  });

  it('RFC 2131 4.1: without a relay a NAK is broadcast, though the client has an address', async () => {
    const world = await worldWith();
    expect((await clientOf(world, 1).renew('192.168.1.5'))!.to).toEqual(BROADCAST);
  });

  it('RFC 2131 4.3.2: through a relay it goes to giaddr with the broadcast bit set, so that the relay broadcasts it', async () => {
    const nak = await nakOf({ giaddr: RELAY });
    expect([nak.to, nak.packet.flags]).toEqual([{ address: RELAY, port: 67 }, 0x8000]);
  });

  it('RFC 2131 3.2: no NAK to a machine that we do not serve: our word on it is not authoritative', async () => {
    const world = await worldWith({ subnets: [{ ...lan, serve: 'known' }] });
    expect(gistOf(await clientOf(world, 1).initReboot('192.168.1.5'))).toBe('silence');
    expect(gistOf(await clientOf(world, 1).renew('192.168.1.5'))).toBe('silence');
  });

  it('RFC 2131 3.2: no NAK in proxy mode: another server gives the addresses', async () => {
    const world = await worldWith({ subnets: [{ ...lan, mode: 'proxy', pools: [] }], nodes: [nodeOf(1)] });
    expect(gistOf(await clientOf(world, 1).initReboot('192.168.1.5'))).toBe('silence');
  });

  it('RFC 2131 3.1 step 4: a NAK leaves nothing in storage, and the next DISCOVER gets an address', async () => {
    const world = await worldWith({ subnets: [{ ...lan, pools: [pool('10.77.0.100-10.77.0.101')] }] });
    const client = clientOf(world, 1);
    await client.initReboot('192.168.1.5');
    expect(await world.leases.list()).toEqual([]);
    expect(await client.lease()).toBe('10.77.0.100');
  });
});
