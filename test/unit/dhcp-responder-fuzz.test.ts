// Mutated packets through the whole responder, with its database: nothing escapes, nothing is sent astray, and a real client is served all the while.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { parseSubnet, subnetContains } from '../../src/addr.ts';
import { encode } from '../../src/dhcp/packet.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import type { Ingress } from '../../src/dhcp/transport.ts';
import { bios, BROADCAST, clientOf, far, lan, nodeOf, worldWith, type Client } from '../conformance/clients.ts';
import { dhcpSeeds } from '../corpus/packets.ts';
import { mutate, seededRandom } from '../mutate.ts';
import type { Harness, Sent } from './dhcp-harness.ts';

const FULL = process.env.RACKSEED_FULL === '1';
const PACKETS = FULL ? 1_000_000 : 20_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_122);
/** Packets under way at once: their leases share a commit. */
const TOGETHER = 50;
const MOST_GROWN_MIB = 20;

const proxied: ServedSubnet = { ...lan, subnet: parseSubnet('10.79.0.0/24')!, serverIp: '10.79.0.1', link: 'lan1', mode: 'proxy', serve: 'discovered', pools: [] };
const subnets = [lan, far, proxied];
const FROM: readonly Partial<Ingress>[] = [
  {}, {}, { link: 'lan1' }, { link: 'lan2' }, { from: '10.77.0.100' }, { from: '192.168.9.9' }, { from: '10.88.0.1', fromPort: 67 },
  { port: 4011, from: '10.77.0.100' }, { link: 'lan1', port: 4011, from: '10.79.0.55' }, { port: 4011, from: '192.168.9.9' },
];

/** What clients of this world send, beside what was captured elsewhere. */
function seedsOf(client: Client): Uint8Array[] {
  const packets = [
    client.packet('discover', bios), client.packet('request', bios, { ciaddr: '10.77.0.100' }), client.packet('request', bios),
    client.packet('release', [], { ciaddr: '10.77.0.100' }), client.packet('decline'), client.packet('inform', [], { ciaddr: '10.77.0.7' }),
    client.packet('discover', bios, { giaddr: '10.88.0.1' }), client.packet('request', [], { giaddr: '10.88.0.1', ciaddr: '10.88.0.100' }),
  ];
  return packets.map((packet) => encode(packet) as Uint8Array);
}

function isAstray({ to, packet }: Sent): boolean {
  if (packet.op !== 2) return true;
  return to.address !== BROADCAST.address && !subnets.some(({ subnet }) => subnetContains(subnet, to.address));
}

/** Resident memory in MiB once the garbage is gone. */
function resident(): number {
  setFlagsFromString('--expose_gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().rss / 2 ** 20;
}

async function send(world: Harness, random: () => number, seeds: readonly Uint8Array[], count: number): Promise<readonly Sent[]> {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const works = Array.from({ length: count }, () => world.hear(mutate(pick(seeds), random, { from: pick([0, 28, 240, 240]) }), pick(FROM)));
  // One list for all: what is sent late is in the last one.
  const sent = await Promise.all(works);
  return sent.at(-1) ?? [];
}

describe('fuzz of the responder', () => {
  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED): no escape, no answer astray, a live DORA after each 1,000`, { timeout: 3_600_000 }, async () => {
    const world = await worldWith({ subnets, nodes: [nodeOf(0xee, { ip: '10.77.0.11' }), nodeOf(1)], logLevel: 'error' });
    const live = clientOf(world, 0xee, bios);
    const seeds = [...dhcpSeeds().map(({ bytes }) => bytes), ...[1, 2, 3].flatMap((n) => seedsOf(clientOf(world, n)))];
    const random = seededRandom(SEED);
    let grownFrom = 0;
    let answered = 0;
    for (let done = 0; done < PACKETS; done += TOGETHER) {
      const sent = await send(world, random, seeds, TOGETHER);
      answered += sent.length;
      const astray = sent.find(isAstray);
      if (astray || world.counters.failed > 0) expect.unreachable(`within the packets ${done} to ${done + TOGETHER}: ${astray ? `sent to ${astray.to.address}` : world.log()}`);
      world.pass(20);
      if (done % 1000 === 0) expect(await live.lease()).toBe('10.77.0.11');
      // By then caches are as large as they get.
      if (done === 100_000) grownFrom = resident();
    }
    expect(await live.lease()).toBe('10.77.0.11');
    const { received, malformed, ignored, foreign, silent, failed, unsent } = world.counters;
    expect([failed, unsent]).toEqual([0, 0]);
    // Of each fate there must be some, or the packets were too dull to prove anything.
    for (const some of [malformed, ignored, foreign, silent, answered]) expect(some).toBeGreaterThan(received / 200);
    if (FULL) expect(resident() - grownFrom).toBeLessThan(MOST_GROWN_MIB);
  });
});
