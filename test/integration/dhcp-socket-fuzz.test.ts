// Mutated packets at the daemon's own sockets: after each thousand a node still gets its address, and nothing of ours failed.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { messageOf, OPT, text, uint16s } from '../../src/dhcp/options.ts';
import { MIN_BYTES } from '../../src/dhcp/packet.ts';
import { dhcpSeeds } from '../corpus/packets.ts';
import { mutate, seededRandom } from '../mutate.ts';
import { eventually, openLink, startLan, type Lan, type Link } from './lan.ts';
import { machineOn, openSegment, type Option, type Segment, type Way } from './segment.ts';

const PACKETS = process.env.RACKSEED_FULL === '1' ? 50_000 : 5_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_123);
const PXE: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]];

let link: Link;
let segment: Segment;
let lan: Lan;

beforeAll(async () => {
  link = await openLink('lan0', '10.77.0.1/24');
  segment = await openSegment(link.ns, 'eth0');
  lan = await startLan({
    level: 'info',
    nodes: { n1: { macs: ['52:54:00:77:00:01'], ip: '10.77.0.11' }, n2: { macs: ['52:54:00:77:00:02'] } },
    // Every client is served, so that mutated packets get as far as they can.
    dhcp: { serve: 'any', onConflict: 'ignore', subnets: [{ subnet: '10.77.0.0/24', mode: 'full', router: '10.77.0.254', pool: '10.77.0.100-10.77.0.199', conflictCheck: 'off', leaseTime: '1m', options: { 'ntp-servers': ['10.77.0.1'] } }] },
  });
});

afterAll(async () => {
  await lan?.stop();
  await segment?.close();
  await link?.close();
});

/** The made-up machine's MAC stands in the packet too, so that the limit of packets a machine does not hide most of them. */
function spread(bytes: Uint8Array, random: () => number): string {
  const mac = Uint8Array.from([2, 0, 0, 0, 0, 0].map((byte, i) => (i === 0 ? byte : Math.floor(random() * 256))));
  if (bytes.length >= 34 && random() < 0.9) bytes.set(mac, 28);
  return Buffer.from(mac).toString('hex').match(/../g)!.join(':');
}

describe('fuzz of the socket', () => {
  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED): a node gets its address after each thousand`, { timeout: 1_800_000 }, async () => {
    const random = seededRandom(SEED);
    const seeds = dhcpSeeds();
    // Only what a kernel lets in: it drops what comes from its own address, from nowhere or out of the wrong card by itself.
    const ways: readonly Way[] = [{}, { from: '10.77.0.77', to: '10.77.0.1' }, { from: '10.77.0.78', to: '10.77.0.255' }, { from: '10.77.0.79' }];
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
    let answers = 0;
    segment.onDatagram(({ fromPort }) => void (fromPort === 67 || fromPort === 4011 ? answers++ : 0));
    let sent = 0;
    const node = machineOn(segment, '52:54:00:77:00:01', PXE);
    for (let n = 0; n < PACKETS; n++) {
      const bytes = mutate(pick(seeds).bytes, random, { from: n % 4 === 0 ? 0 : MIN_BYTES, most: 1_400 });
      const mac = spread(bytes, random);
      segment.send(mac, bytes, { ...pick(ways), fromPort: random() < 0.9 ? 68 : Math.floor(random() * 65_536), toPort: random() < 0.8 ? 67 : 4011 });
      sent++;
      if (n % 100 === 99) await eventually(() => lan.heard()).toBe(sent);
      if (n % 1_000 !== 999) continue;
      const { ack, sent: asked } = await node.dora(10, 10_000);
      sent += asked;
      expect([messageOf(ack.options), ack.yiaddr], `after packet ${n}`).toEqual(['ack', '10.77.0.11']);
    }
    console.log(`fuzz of the socket: ${PACKETS} packets, ${answers} answers; ${JSON.stringify(await lan.counters())}`);
    // Else it was only refused at the door.
    expect(answers).toBeGreaterThan(PACKETS / 50);
    expect([(await lan.counters())['failed'], lan.logged('dhcp: datagram not answered')]).toEqual([0, []]);
  });
});
