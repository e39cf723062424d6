// Mutated packets through all that reads and writes them, in process: nothing but DhcpDecodeError escapes, and what was read is written back as it was.
import { describe, expect, it } from 'vitest';
import { identify } from '../../src/dhcp/client.ts';
import { fqdnOf, fqdnReply, hostNameOf } from '../../src/dhcp/names.ts';
import { ipsOf, messageOf, OPT, parameterListOf, relayLinkOf, subOptionsOf, textOf, uint32Of, type Options } from '../../src/dhcp/options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, MIN_BYTES, peekMac, type Packet } from '../../src/dhcp/packet.ts';
import { dhcpSeeds } from '../corpus/packets.ts';
import { mutate, seededRandom } from '../mutate.ts';

const FULL = process.env.RACKSEED_FULL === '1';
const PACKETS = FULL ? 1_000_000 : 50_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_122);
const HOST_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const OPTIONAL = new Set([OPT.hostName, OPT.parameterList, OPT.userClass, OPT.vendorClass]);

/** The packet, or undefined when it is none; any other error goes on. */
function read(bytes: Uint8Array): Packet | undefined {
  try {
    return decode(bytes);
  } catch (error) {
    if (error instanceof DhcpDecodeError) return undefined;
    throw error;
  }
}

function sameOptions(a: Options, b: Options): boolean {
  return a.size === b.size && [...a].every(([tag, value]) => b.has(tag) && Buffer.compare(value, b.get(tag)!) === 0);
}

/** What is wrong with what the codec makes of this datagram. */
function complaint(bytes: Uint8Array): string | undefined {
  const packet = read(bytes);
  if (!packet) return undefined;
  const { options } = packet;
  const request = identify(packet);
  if (request.vendorClass !== undefined && !/^[ -~]{1,255}$/.test(request.vendorClass)) return 'a vendor class that is not printable';
  if (packet.op === 1 && peekMac(bytes) !== macOf(packet)) return 'two MACs';
  const name = hostNameOf(options);
  if (name !== undefined && !HOST_NAME.test(name)) return `the host name ${name}`;
  fqdnOf(options);
  const fqdn = options.get(OPT.fqdn);
  const answer = fqdn && fqdnReply(fqdn, 'n1.rack.example');
  if (answer && answer.length !== 3 + ((answer[0]! & 4) !== 0 ? 17 : 15)) return 'a reply to option 81 of the wrong length';
  for (const tag of [OPT.ipxe, OPT.vendorSpecific, OPT.relayAgent]) subOptionsOf(options, tag);
  for (const tag of options.keys()) void [textOf(options, tag), uint32Of(options, tag), ipsOf(options, tag)];
  void [messageOf(options), relayLinkOf(options), parameterListOf(options)];

  const again = encode(packet);
  if (!(again instanceof Uint8Array)) return again.why;
  const back = decode(again);
  if (!sameOptions(options, back.options) || back.file !== packet.file || back.sname !== packet.sname) return 'not written back as it was read';

  const most = maxBytesFor(packet);
  const small = encode(packet, most, { optional: OPTIONAL });
  if (!(small instanceof Uint8Array)) return undefined;
  if (small.length > most) return `${small.length} bytes, more than ${most}`;
  const kept = decode(small).options;
  const lost = [...options.keys()].filter((tag) => !kept.has(tag) && !OPTIONAL.has(tag as never));
  return lost.length > 0 || [...kept].some(([tag, value]) => Buffer.compare(value, options.get(tag)!) !== 0) ? `options lost or changed when short of room: ${lost}` : undefined;
}

const seeds = dhcpSeeds();

describe('fuzz', () => {
  it.each(seeds.map(({ name, bytes }) => [name, bytes] as const))('the seed %s is read and written without complaint', (_name, bytes) => {
    expect(complaint(bytes)).toBeUndefined();
  });

  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED)`, { timeout: 1_200_000 }, () => {
    const random = seededRandom(SEED);
    let readable = 0;
    for (let n = 0; n < PACKETS; n++) {
      const seed = seeds[Math.floor(random() * seeds.length)]!.bytes;
      // Three of four keep the header and the cookie, or most would be refused at once.
      const bytes = mutate(seed, random, { from: n % 4 === 0 ? 0 : MIN_BYTES });
      let wrong: string | undefined;
      try {
        wrong = complaint(bytes);
      } catch (error) {
        wrong = String((error as Error).stack);
      }
      if (wrong !== undefined) expect.fail(`packet ${n}: ${wrong}\n${Buffer.from(bytes).toString('hex')}`);
      if (read(bytes)) readable++;
    }
    // Else the mutations would only test the header's checks.
    expect(readable).toBeGreaterThan(PACKETS / 2);
  });
});
