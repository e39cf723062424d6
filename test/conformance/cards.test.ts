// One lease a node, also when its cards ask in one batch: what the server saw in memory before it settles nothing, the store does.
import { afterEach, describe, expect, it } from 'vitest';
import { ips, message, messageOf, OPT } from '../../src/dhcp/options.ts';
import { encode, type Packet } from '../../src/dhcp/packet.ts';
import { nodeNamed } from '../unit/boot-world.ts';
import { startHarness, type Harness } from '../unit/dhcp-harness.ts';
import { packetWith, subnet } from '../unit/dhcp-world.ts';

const CARDS = [1, 2] as const;
let world: Harness | undefined;
afterEach(() => world?.close());

const from = (card: number, packet: Packet): Packet => ({ ...packet, xid: card, chaddr: Uint8Array.of(0x52, 0x54, 0, 0, 0, card, ...new Uint8Array(10)) });

describe('two cards of a running node that ask at once', () => {
  it('one gets the lease, the other a NAK, and what was acknowledged stays', async () => {
    const { ip: _ip, ...node } = nodeNamed('n1', { macs: CARDS.map((card) => `52:54:00:00:00:0${card}`) });
    world = await startHarness({ subnets: [subnet], nodes: [node] });
    const [offer] = await world.hear(from(1, packetWith([[OPT.messageType, message('discover')]])));
    const request = (card: number) => encode(from(card, packetWith([[OPT.messageType, message('request')], [OPT.requestedIp, ips(offer!.packet.yiaddr)], [OPT.serverId, ips(subnet.serverIp)]]))) as Uint8Array;
    // In one turn of the event loop, and so in one transaction; what the second one sent is all that was sent since.
    const both = await Promise.all(CARDS.map((card) => world!.hear(request(card))));
    const answers = both[1]!.map(({ packet }) => messageOf(packet.options));
    expect([...answers].sort()).toEqual(['ack', 'nak']);
    const [lease, ...more] = await world.leases.list();
    const acked = both[1]!.find(({ packet }) => messageOf(packet.options) === 'ack')!.packet;
    expect([lease!.mac, lease!.ip, more]).toEqual([`52:54:00:00:00:0${acked.xid}`, acked.yiaddr, []]);
  });
});
