// The shapes of known DHCP server bugs, through the whole responder: none fails, none leaks, and a real client is served afterwards.
import { describe, expect, it } from 'vitest';
import { message, OPT, text, textOf } from '../../src/dhcp/options.ts';
import { encode } from '../../src/dhcp/packet.ts';
import type { Harness } from '../unit/dhcp-harness.ts';
import { asking, bios, clientOf, far, gistOf, kindOf, lan, maxSize, nodeOf, RELAY, server, worldWith, type Option } from './clients.ts';

/** A datagram of machine 1 whose options field is exactly this. */
function raw(world: Harness, options: readonly number[], more: Parameters<ReturnType<typeof clientOf>['packet']>[2] = {}): Uint8Array {
  return Uint8Array.from([...(encode(clientOf(world, 1).packet('discover', [], more)) as Uint8Array).subarray(0, 240), ...options]);
}

async function expectAlive(world: Harness): Promise<void> {
  expect(world.counters.failed).toBe(0);
  expect(await clientOf(world, 0x77).lease()).toMatch(/^10\.77\.0\.10[0-3]$/);
}

describe('Kea CVE-2025-11232: a host name of which sanitising leaves nothing', () => {
  const fqdn = (flags: number, ...name: number[]): Option => [OPT.fqdn, Uint8Array.of(flags, 0, 0, ...name)];
  it.each<[string, readonly Option[]]>([
    ['option 12 of bad characters', [[OPT.hostName, text('$%&')]]],
    ['option 12 of dots', [[OPT.hostName, text('...')]]],
    ['option 12 of dashes', [[OPT.hostName, text('---')]]],
    ['option 12 that is empty', [[OPT.hostName, new Uint8Array()]]],
    ['option 12 of NULs', [[OPT.hostName, new Uint8Array(10)]]],
    ['option 12 of bytes above ASCII', [[OPT.hostName, new Uint8Array(64).fill(0xff)]]],
    ['option 81 of bad characters', [fqdn(0, ...text('$%&'))]],
    ['option 81 without a name', [fqdn(0)]],
    ['option 81 with the root alone', [fqdn(4, 0)]],
    ['both', [[OPT.hostName, text('$')], fqdn(4, 1, 36, 0)]],
  ])('%s: a lease without a name', async (_what, said) => {
    const world = await worldWith();
    const client = clientOf(world, 1, [...said, asking(1, 3, 6, 12, 15, 81)]);
    const offer = (await client.discover())!;
    const ack = (await client.select(offer.packet.yiaddr))!;
    expect([offer, ack].map(({ packet }) => [packet.options.has(OPT.hostName), packet.options.has(OPT.fqdn)])).toEqual([[false, false], [false, false]]);
    expect(await world.leases.at(offer.packet.yiaddr)).not.toHaveProperty('hostname');
    await expectAlive(world);
  });
});

describe('Kea CVE-2025-40779: a unicast request for which there is no subnet', () => {
  it.each(['discover', 'request', 'inform', 'release', 'decline'] as const)('%s: counted as foreign, no answer', async (type) => {
    const world = await worldWith({ subnets: [far] });
    const sent = await world.hear(clientOf(world, 1, bios).packet(type, [server()], { ciaddr: '172.16.0.9' }), { from: '172.16.0.9' });
    expect([sent, world.counters.foreign, world.counters.failed]).toEqual([[], 1, 0]);
    expect(kindOf(await clientOf(world, 2, [], { giaddr: RELAY }).discover())).toBe('offer');
  });

  it('on a link that we do serve: a NAK that cannot leave the link, and no lease', async () => {
    const world = await worldWith();
    const nak = await clientOf(world, 1).renew('172.16.0.9');
    expect([gistOf(nak), nak!.to.address, (await world.leases.list()).length]).toEqual(['nak 0.0.0.0', '255.255.255.255', 0]);
    await expectAlive(world);
  });

  it('on port 4011', async () => {
    const world = await worldWith({ subnets: [far], nodes: [nodeOf(1)] });
    expect(await world.hear(clientOf(world, 1, bios).packet('request', [], { ciaddr: '172.16.0.9' }), { port: 4011, from: '172.16.0.9' })).toEqual([]);
    expect([world.counters.foreign, world.counters.failed]).toEqual([1, 0]);
  });
});

describe('over-long client identifiers', () => {
  it('255 bytes, the most that one option has: a lease, and all of them come back', async () => {
    const world = await worldWith();
    const id = Uint8Array.from({ length: 255 }, (_, i) => i);
    const ip = await clientOf(world, 1, [[OPT.clientId, id]]).lease();
    expect((await world.leases.at(ip))!.clientId).toBe(Buffer.from(id).toString('hex'));
    expect((await clientOf(world, 1, [[OPT.clientId, id]]).discover())!.packet.options.get(OPT.clientId)).toEqual(id);
    await expectAlive(world);
  });

  it('1,200 bytes in parts: what cannot be sent back whole is not answered', async () => {
    const world = await worldWith();
    expect(gistOf(await clientOf(world, 1, [[OPT.clientId, new Uint8Array(1200).fill(7)]]).discover())).toBe('silence');
    expect(world.counters.refused).toBe(1);
    await expectAlive(world);
  });

  it('none, of an option with length 0', async () => {
    const world = await worldWith();
    expect(kindOf(await clientOf(world, 1, [[OPT.clientId, new Uint8Array()]]).discover())).toBe('offer');
    await expectAlive(world);
  });
});

describe('games with the labels of option 81', () => {
  const label = (length: number, name: string) => [length, ...text(name)];
  it.each<[string, readonly number[]]>([
    ['a pointer to itself', [4, 0, 0, 0xc0, 3]],
    ['a pointer behind the end', [4, 0, 0, 0xc0, 0xff]],
    ['half a pointer', [4, 0, 0, 0xc0]],
    ['a label of 64 bytes', [4, 0, 0, ...label(64, 'a'.repeat(64)), 0]],
    ['a label of the reserved kind 0x80', [4, 0, 0, ...label(0x80, 'a')]],
    ['a label that runs past the end', [4, 0, 0, ...label(20, 'box')]],
    ['a name of more than 255 bytes', [4, 0, 0, ...Array.from({ length: 5 }, () => label(50, 'a'.repeat(50))).flat()]],
    ['a label of dots', [4, 0, 0, ...label(5, '.....'), 0]],
    ['a label with a NUL', [4, 0, 0, ...label(3, 'a\0b'), 0]],
    ['two bytes', [4, 0]],
    ['nothing', []],
  ])('%s: an OFFER, and of option 81 nothing or a whole name', async (_what, value) => {
    const world = await worldWith();
    const offer = (await clientOf(world, 1, [[OPT.fqdn, Uint8Array.from(value)]]).discover())!;
    expect(kindOf(offer)).toBe('offer');
    const told = offer.packet.options.get(OPT.fqdn);
    if (told) expect(Buffer.from(told.subarray(3)).toString('latin1')).toMatch(/^([\x01-\x3f][a-z0-9-]+)+\0$/);
    expect(textOf(offer.packet.options, OPT.hostName) ?? 'ab').toMatch(/^[a-z0-9-]+$/);
    await expectAlive(world);
  });
});

describe('dnsmasq CVE-2017-14493: over-long values from a relay', () => {
  it.each<[string, Uint8Array]>([
    ['255 bytes', new Uint8Array(255).fill(1)],
    ['254 bytes of one sub-option', Uint8Array.of(1, 252, ...new Uint8Array(252))],
    ['127 empty sub-options', Uint8Array.from({ length: 254 }, (_, i) => (i % 2 ? 0 : 1))],
  ])('option 82 of %s comes back unchanged', async (_what, value) => {
    const world = await worldWith({ subnets: [lan, far] });
    const offer = await clientOf(world, 1, [[OPT.relayAgent, value]], { giaddr: RELAY }).discover();
    expect(offer!.packet.options.get(OPT.relayAgent)).toEqual(value);
    await expectAlive(world);
  });

  it('a hardware address that is longer than its field', async () => {
    const world = await worldWith();
    for (const hlen of [7, 16, 17, 128, 255]) expect(await world.hear(raw(world, [53, 1, 1, 255]).fill(hlen, 2, 3))).toEqual([]);
    await expectAlive(world);
  });
});

describe('dnsmasq CVE-2017-14494: lengths that run past the end', () => {
  it.each([['the client identifier', OPT.clientId], ['the UUID', OPT.clientUuid], ['the relay\'s information', OPT.relayAgent]])('%s claims 255 bytes and has 4: nothing of it comes back, nor of what lay behind it', async (_what, tag) => {
    const world = await worldWith({ subnets: [lan, far] });
    const whole = raw(world, [53, 1, 1, tag, 255, 1, 2, 3, 4], { giaddr: RELAY });
    // As in a socket's buffer, where the last datagram's bytes still lie behind.
    const buffer = new Uint8Array(2000).fill(0xaa);
    buffer.set(whole);
    const [offer] = await world.hear(buffer.subarray(0, whole.length));
    expect([kindOf(offer), offer!.packet.options.has(tag)]).toEqual(['offer', false]);
    expect(Buffer.from(encode(offer!.packet) as Uint8Array).includes(Buffer.from('aaaaaaaa', 'hex'))).toBe(false);
    await expectAlive(world);
  });
});

describe('dnsmasq CVE-2017-14496: lengths that go below zero', () => {
  const READ = [12, 43, 50, 51, 52, 54, 55, 57, 60, 61, 66, 67, 77, 81, 82, 93, 94, 97, 118, 175];
  it.each([0, 1, 2, 3])('every option that we read with a value of %i bytes', async (length) => {
    const world = await worldWith({ subnets: [lan, far] });
    for (const tag of READ) {
      const value = [tag, length, ...new Uint8Array(length).fill(tag)];
      for (const type of [1, 3, 4, 7, 8]) {
        await world.hear(raw(world, [53, 1, type, ...value, 255]));
        await world.hear(raw(world, [53, 1, type, ...value], { giaddr: RELAY, ciaddr: '10.88.0.100' }), { from: RELAY, fromPort: 67 });
        await world.hear(raw(world, [53, 1, type, ...value, 60, 9, ...text('PXEClient')]), { port: 4011, from: '10.77.0.55' });
      }
    }
    world.pass(7200_000);
    await expectAlive(world);
  });

  it('a tag without a length as the last byte', async () => {
    const world = await worldWith();
    for (const tag of READ) await world.hear(raw(world, [53, 1, 1, tag]));
    await expectAlive(world);
  });

  it('a maximum size of 0, and of 1', async () => {
    const world = await worldWith();
    for (const size of [0, 1, 27, 28]) expect((await clientOf(world, 1, [maxSize(size)]).discover())!.length).toBeLessThanOrEqual(548);
    await expectAlive(world);
  });
});

describe('dnsmasq CVE-2017-14495 and CVE-2017-14491: much out of little, and names that grow', () => {
  it('60,000 bytes of one-byte parts of one option', async () => {
    const world = await worldWith();
    const parts = Array.from({ length: 20_000 }, () => [OPT.clientId, 1, 7]).flat();
    expect(await world.hear(raw(world, [53, 1, 1, ...parts, 255]))).toEqual([]);
    await expectAlive(world);
  });

  it('every option at once, each empty', async () => {
    const world = await worldWith();
    const all = Array.from({ length: 254 }, (_, i) => i + 1).filter((tag) => tag !== 53).flatMap((tag) => [tag, 0]);
    expect(kindOf((await world.hear(raw(world, [53, 1, 1, ...all, 255])))[0])).toBe('offer');
    await expectAlive(world);
  });

  it('a name that is as long as a datagram: one label of it', async () => {
    const world = await worldWith();
    const offer = await clientOf(world, 1, [[OPT.hostName, text('a'.repeat(3000))], [OPT.messageType, message('discover')]]).discover();
    expect(textOf(offer!.packet.options, OPT.hostName)).toHaveLength(63);
    await expectAlive(world);
  });
});
