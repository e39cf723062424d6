// Rot in the running daemon: whoever finds it (the scrub, a download by HTTP or by TFTP), it is an event, a line of the log and a count in /metrics.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tftpPath } from '../../src/boot/urls.ts';
import { digestOfBytes, hexOf, type Digest } from '../../src/digest.ts';
import { blobFile } from '../../src/store/blobs.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const API_PORT = 8081;
const ROTTEN = 'rotten from now on';
const WHY = `its content has the digest ${digestOfBytes(ROTTEN)}`;

let world: World;
let relay: Relay;
let n1: Machine;

beforeAll(async () => {
  world = await startWorld({
    apiPort: API_PORT,
    before: (stateDir, { squashfs }) => {
      spoil(stateDir, squashfs.digest);
      // Read last in 1970, so it is due; the others were never read, and are in a week.
      writeFileSync(join(stateDir, 'blobs', 'scrubbed.json'), JSON.stringify({ [squashfs.digest]: 0 }));
    },
  });
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
  n1.pretend(world.ips.n1);
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

/** Written into the file that is there, as a disk rots: its name and place stay. */
function spoil(stateDir: string, digest: Digest): void {
  writeFileSync(blobFile(stateDir, digest), ROTTEN);
}

async function metric(name: string): Promise<number | undefined> {
  const text = await (await fetch(`http://127.0.0.1:${API_PORT}/metrics`)).text();
  const value = new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1];
  return value === undefined ? undefined : Number(value);
}

/** What is told of each rotten blob, newest first. */
const told = async () => (await world.events()).filter(({ kind }) => kind === 'blob-rotten').map(({ detail }) => detail as { digest: Digest; why: string; movedTo: string });
const logged = () => world.log().split('\n').filter((line) => line.includes('"a blob is rotten"')).map((line) => (JSON.parse(line) as { digest: Digest }).digest);

/** It was told once, as the `nth`, in all three places, and lies in quarantine. */
async function expectTold(digest: Digest, nth: number): Promise<void> {
  await expect.poll(() => metric('rackseed_blobs_rotten_total'), { timeout: 10_000 }).toBe(nth);
  await expect.poll(async () => (await told()).length).toBe(nth);
  const [newest] = await told();
  expect(newest).toMatchObject({ digest, why: WHY });
  expect(newest!.movedTo.startsWith(join(world.dir, 'state', 'blobs', 'quarantine', `${hexOf(digest)}.`))).toBe(true);
  expect([existsSync(newest!.movedTo), existsSync(blobFile(join(world.dir, 'state'), digest))]).toEqual([true, false]);
  expect(logged().filter((one) => one === digest)).toHaveLength(1);
}

describe('a blob with wrong content', () => {
  it('is found by the scrub, which counts what it reads', async () => {
    await expectTold(world.image.squashfs.digest, 1);
    expect(await metric('rackseed_blobs_scrubbed_bytes_total')).toBe(ROTTEN.length);
  });

  it('is found by the first download, in a thread of HTTP, and is answered as if it were not there, ever after too', async () => {
    const { digest } = world.image.kernel;
    spoil(join(world.dir, 'state'), digest);
    for (const _time of ['first', 'again']) {
      const { status, text } = await n1.http('GET', `/blobs/sha256/${hexOf(digest)}`);
      expect([status, text]).toEqual([404, 'BLOB_UNKNOWN: no such blob\n']);
    }
    await expectTold(digest, 2);
  });

  it('is found by TFTP, and no byte of it goes out', async () => {
    const { digest } = world.image.initrds[0]!;
    spoil(join(world.dir, 'state'), digest);
    await expect(n1.tftp(tftpPath(n1.mac, 'initrd'))).rejects.toThrow(/^TFTP ERROR \d: /);
    await expectTold(digest, 3);
  });
});
