// The benchmark's TFTP client against a server that only blasts: a figure of it is worth what its checks are worth.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile, createSite, NET, type Site } from '../../bench/site.ts';
import { download, filesDir, withLoss, withoutOffload, type Downloaded } from '../../bench/tftp-load.ts';
import { dieWithUs, stop } from '../../src/lab/child.ts';

const SIZE = 2 ** 20 + 7;
let site: Site;

beforeAll(async () => {
  site = await createSite();
  for (const name of ['tftp-client', 'tftp-blaster']) compile(process.cwd(), name, site);
  mkdirSync(filesDir(site));
  const bytes = Buffer.from(Uint32Array.from({ length: SIZE }, (_, i) => Math.imul(i, 0x9e3779b1)).buffer).subarray(0, SIZE);
  const wrong = Buffer.from(bytes);
  wrong[1_000_000]! ^= 1;
  for (const [name, content] of [['undionly.kpxe', bytes], ['wrong', wrong], ['short', bytes.subarray(0, SIZE - 1)]] as const) writeFileSync(join(filesDir(site), name), content);
}, 60_000);

afterAll(() => site.close());

/** One download by each of `clients` of undionly.kpxe, from a server that hands out `served`. */
async function fetched(served: string, { clients = 1, blksize = 1428, windowsize = 1, timeout = 0.1 } = {}): Promise<Downloaded> {
  const child = site.servers.spawn(dieWithUs([join(site.dir, 'tftp-blaster'), NET.server, join(filesDir(site), served), String(blksize), String(windowsize)]), { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    return await download(site, { file: 'small', clients, blksize, windowsize, seconds: 30, timeout });
  } finally {
    await stop(child);
  }
}

describe('the TFTP client of the benchmark', () => {
  test.each([
    [1, 512, 1],
    [1, 1468, 16],
    [1, 1468, 64],
    [20, 1428, 16],
  ])('with %i of them at once the whole file arrives at blksize %i and windowsize %i', async (clients, blksize, windowsize) => {
    const result = await fetched('undionly.kpxe', { clients, blksize, windowsize });
    expect(result).toMatchObject({ clients, blksize, windowsize, finished: clients, failures: 0, unfinished: 0, bytes: clients * SIZE, error: '' });
    expect(result.p50Seconds).toBeGreaterThan(0);
  });

  test('a window is acknowledged once, at its end (RFC 7440)', async () => {
    const { acks, duplicates, gaps, resends } = await fetched('undionly.kpxe', { blksize: 1024, windowsize: 16, timeout: 2 });
    // The OACK, 64 whole windows, and the last block of 7 bytes; the request alone may have come before the server listened.
    expect({ acks, duplicates, gaps }).toEqual({ acks: 1 + 64 + 1, duplicates: 0, gaps: 0 });
    expect(resends).toBeLessThanOrEqual(1);
  });

  test('one wrong bit in the file is a failure, not a download', async () => {
    expect(await fetched('wrong', { windowsize: 4 })).toMatchObject({ finished: 0, failures: 1, p50Seconds: -1, error: expect.stringMatching(/^not the bytes of the file/) });
  });

  test('a file that ends too early is a failure', async () => {
    expect(await fetched('short')).toMatchObject({ finished: 0, failures: 1 });
  });

  test('packets that nft drops are gaps, which the client tells or asks for again, one by one and not a burst at a time', async () => {
    const result = await withLoss(site, 20, () => fetched('undionly.kpxe', { clients: 5, blksize: 512, windowsize: 32 }));
    expect(result).toMatchObject({ finished: 5, failures: 0, bytes: 5 * SIZE });
    expect(result.gaps).toBeGreaterThan(100);
  });

  test('without offload a burst reaches the cable packet by packet', async () => {
    const received = async () => Number(new RegExp(`${NET.theirCard}: *\\d+ +(\\d+)`).exec(await site.machines.must(['cat', '/proc/net/dev']))![1]);
    const packets = async (use: () => Promise<Downloaded>) => {
      const before = await received();
      await use();
      return (await received()) - before;
    };
    const blocks = Math.ceil(SIZE / 1024);
    const run = () => fetched('undionly.kpxe', { blksize: 1024, windowsize: 16 });
    expect(await packets(run)).toBeLessThan(blocks);
    expect(await packets(() => withoutOffload(site, run))).toBeGreaterThanOrEqual(blocks);
  });
});
