// Mutated TFTP packets through all that reads them, in process: nothing but TftpDecodeError escapes, and no name brings a byte that is not served.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeTftp, encodeTftp, TftpDecodeError, type TftpPacket } from '../../src/tftp/packet.ts';
import { mutate, seededRandom } from '../mutate.ts';
import { tftpSeeds } from '../tftp-corpus.ts';
import { MACS, startTftpWorld, type TftpWorld } from '../tftp-world.ts';

const PACKETS = process.env.RACKSEED_FULL === '1' ? 200_000 : 20_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_124);

let world: TftpWorld;
beforeAll(async () => {
  world = await startTftpWorld();
  await world.boot('n1');
});
afterAll(() => world?.close());

/** The packet, or undefined when it is none; any other error goes on. */
function read(bytes: Uint8Array): TftpPacket | undefined {
  try {
    return decodeTftp(bytes);
  } catch (error) {
    if (error instanceof TftpDecodeError) return undefined;
    throw error;
  }
}

/** What is wrong with the answer to this datagram. */
async function complaint(bytes: Uint8Array, from: string): Promise<{ readonly wrong?: string; readonly was?: 'file' | 'refused' }> {
  const packet = read(bytes);
  // An OACK of nothing is two bytes, which no packet has; none is ever sent.
  if (!packet || (packet.kind === 'oack' && packet.options.size === 0)) return {};
  const written = encodeTftp(packet);
  if (Buffer.compare(encodeTftp(decodeTftp(written)), written) !== 0) return { wrong: 'not written back as it was read' };
  if (packet.kind !== 'rrq') return {};
  const opened = await world.open(packet.file, from, 'any');
  if ('refusal' in opened) {
    const { code, message } = opened.refusal;
    return /^[ -~]{1,200}$/.test(message) && [0, 1, 2].includes(code) ? { was: 'refused' } : { wrong: `ERROR ${code}: ${message}` };
  }
  const sent = Buffer.from(opened.file.bytes);
  const served = [world.content.kernel, world.content.initrd, ...world.loaders.names.map((name) => world.loaders.get(name)!)];
  return sent.toString('latin1').startsWith('#!ipxe\n') || served.some((one) => sent.equals(one)) ? { was: 'file' } : { wrong: `${sent.length} bytes of nothing that is served` };
}

describe('fuzz', () => {
  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED)`, { timeout: 1_200_000 }, async () => {
    const random = seededRandom(SEED);
    const seeds = tftpSeeds(MACS.n1);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
    const was = { file: 0, refused: 0 };
    for (let n = 0; n < PACKETS; n++) {
      const seed = pick(seeds);
      // Three of four keep the opcode, or most would be refused at once.
      const bytes = mutate(seed, random, { from: n % 4 === 0 ? 0 : 2, most: 1_500 });
      const answer = await complaint(bytes, pick([world.ips.n1, world.ips.n2, world.ips.stranger, 'fd00:77::11'])).catch((error: unknown) => ({ wrong: String((error as Error).stack), was: undefined }));
      if (answer.wrong) throw new Error(`packet ${n} of seed ${SEED}: ${answer.wrong}\n${Buffer.from(bytes).toString('hex')}`);
      if (answer.was) was[answer.was]++;
    }
    console.log(`fuzz of TFTP: ${PACKETS} packets, ${was.file} files, ${was.refused} refused`);
    // Else nothing was tried but the codec.
    expect(Math.min(was.file, was.refused)).toBeGreaterThan(PACKETS / 50);
  });
});
