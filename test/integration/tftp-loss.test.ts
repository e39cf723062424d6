// Files by TFTP over links that lose and links that are long: how many timers and round trips a download waits for, with real clients.
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Answer, Booter } from '../../src/booter.ts';
import { dieWithUs, stop } from '../../src/lab/child.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { createTftpServer, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';
import type { Downloaded } from '../../bench/tftp-load.ts';

const FULL = process.env.RACKSEED_FULL === '1';
const RUNS = FULL ? 10 : 3;
/** Without loss there is nothing to wait for but the machine: the more runs, the less another program's turn is in the median. */
const RUNS_WITHOUT_LOSS = FULL ? 10 : 5;
const LINK = 'tfl0';
const SERVER = '10.96.0.1';
const NODE = '10.96.0.11';
/** Where the relay listens, and the addresses of our own client, which asks from one for each run. */
const RELAY = '10.96.0.12';
const CLIENTS = '10.96.1';
/** What curl is told to ask for; Debian's iPXE asks for 1432. */
const BLOCK = 1428;
const MIB = 2 ** 20;
/** One way, in milliseconds. */
const LATENCY = 25;
/** What lock-step takes is a round trip for each block: half a minute for the whole MiB. */
const FAR_FILE = FULL ? MIB : MIB / 8;

/** Percent lost each way, and the seconds in which 1 MiB must be there in the median (issue 4): what the protocol waits, not what this machine can do. */
const ALL_BOUNDS = [[0, 0.2], [1, 1], [5, 3], [10, 8], [20, 25]] as const;
const BOUNDS = FULL ? ALL_BOUNDS : ALL_BOUNDS.slice(0, 3);

const run = promisify(execFile);
const content = (size: number): Buffer => Buffer.from(Uint32Array.from({ length: size / 4 }, (_, i) => Math.imul(i, 0x9e3779b1)).buffer);
const files = new Map([MIB, FAR_FILE].map((size) => [String(size), content(size)]));

let peer: Namespace;
let dir: string;
let server: TftpServer;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-tftp-loss-'));
  for (const [name, bytes] of files) writeFileSync(join(dir, name), bytes);
  for (const name of ['tftp-client', 'udp-delay']) execFileSync('cc', ['-O2', '-o', join(dir, name), join(process.cwd(), 'bench', `${name}.c`)]);
  await run('ip', ['link', 'set', 'lo', 'up']);
  peer = await createNamespace();
  await run('ip', ['link', 'add', LINK, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid)]);
  // nft sees a burst that one send handed over (UDP GSO) as one packet, and would lose it whole: so the kernel cuts it before the cable.
  await run('ip', ['link', 'set', 'dev', LINK, 'gso_max_segs', '1']);
  await run('ip', ['address', 'add', `${SERVER}/16`, 'dev', LINK]);
  await run('ip', ['link', 'set', LINK, 'up']);
  for (const address of [NODE, RELAY]) await peer.must(['ip', 'address', 'add', `${address}/16`, 'dev', 'eth0']);
  await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
  await peer.must(['ip', 'route', 'add', 'local', `${CLIENTS}.0/24`, 'dev', 'lo']);
});

afterAll(async () => {
  await run('ip', ['link', 'del', LINK]);
  await peer.close();
  rmSync(dir, { recursive: true });
});

beforeEach(async () => void (await startServer()));

afterEach(() => server.stop());

async function startServer(): Promise<void> {
  const answer: Answer = { decision: { kind: 'silent', why: 'not asked' } };
  server = createTftpServer({
    sockets: await bindTftp({ listen: [SERVER] }),
    files: { open: async (name) => ({ file: { bytes: files.get(name)! }, answer }) },
    booter: {} as Booter,
    log: createLog('error', { write: (line: string) => void process.stderr.write(line) }),
  });
  server.start();
}

interface Arrivals {
  /** Datagrams that came to this end of the cable, and how many of them were then lost. */
  readonly came: number;
  readonly lost: number;
}

interface Lossy {
  readonly toClient: Arrivals;
  readonly toServer: Arrivals;
}

/**
 * While `use` runs, so many percent of the datagrams are lost at each receiving end, at random. Requests are spared: until one is answered there
 * is no transfer, and how soon another one comes is up to the client.
 */
async function withLoss(percent: number, use: () => Promise<void>): Promise<Lossy> {
  const ours = async (argv: readonly string[]) => (await run(argv[0]!, argv.slice(1))).stdout;
  const ends = [{ must: peer.must, card: 'eth0' }, { must: ours, card: LINK }];
  const arrivals = async ({ must }: (typeof ends)[number]): Promise<Arrivals> => {
    const { nftables } = JSON.parse(await must(['nft', '-j', 'list', 'counters', 'table', 'ip', 'tftploss'])) as { nftables: { counter?: { name: string; packets: number } }[] };
    const packets = (name: string) => nftables.find(({ counter }) => counter?.name === name)!.counter!.packets;
    return { came: packets('came'), lost: packets('lost') };
  };
  for (const { must, card } of ends) {
    await must(['nft', `table ip tftploss {
      counter came { }
      counter lost { }
      chain input {
        type filter hook input priority 0;
        iifname != "${card}" accept
        meta l4proto != udp accept
        udp dport 69 accept
        counter name came
        ${percent > 0 ? `numgen random mod 100 < ${percent} counter name lost drop` : ''}
      }
    }`]);
  }
  try {
    await use();
    return { toClient: await arrivals(ends[0]!), toServer: await arrivals(ends[1]!) };
  } finally {
    for (const { must } of ends) await must(['nft', 'delete', 'table', 'ip', 'tftploss']);
  }
}

/**
 * From this loss on a download may be given up, and the median decides, as the issue has it: before the first ACK the server repeats its answer three
 * times and no more. On a link that loses 20 % each way (1 - 0.8 x 0.8) ** 4 of the clients, 1 in 60, were not heard then; most say it again in time, 1 in 300 does not.
 */
const MAY_BE_GIVEN_UP = 20;
/** Of ten. */
const MOST_GIVEN_UP = 1;
/** curl: its time is over; the server knows no such transfer any more. */
const CURL_GAVE_UP = [28, 72];
/** What the client says of a server that gave it up, and of the end of its time; never of a wrong byte. */
const GIVEN_UP = /^$|^the server has closed its port|giving up/;

/** The seconds of one download by curl, which knows no windows; Infinity: it was given up. */
async function curl(number: number, percent: number): Promise<number> {
  const out = join(dir, `out${number}`);
  const { code, stdout, stderr } = await peer.run(['curl', '--silent', '--show-error', '--max-time', '120', '--interface', NODE, '--tftp-blksize', String(BLOCK), '--write-out', '%{time_total}', '--output', out, `tftp://${SERVER}/${MIB}`], { timeoutMs: 130_000 });
  if (percent >= MAY_BE_GIVEN_UP && CURL_GAVE_UP.includes(code ?? -1)) return Infinity;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect((await readFile(out)).equals(files.get(String(MIB))!)).toBe(true);
  return Number(stdout);
}

/** As curl(), by a client of ours, which checks every byte. `number` makes its address. */
async function download(number: number, { windowsize, size = MIB, from = SERVER, percent = 0 }: { readonly windowsize: number; readonly size?: number; readonly from?: string; readonly percent?: number }): Promise<number> {
  const words = { server: from, local: `${CLIENTS}.${number + 1}`, file: size, expect: join(dir, String(size)), blksize: BLOCK, windowsize, seconds: 120 };
  const argv = [join(dir, 'tftp-client'), ...Object.entries(words).flatMap(([word, value]) => [`--${word}`, String(value)])];
  const ran = await peer.run(dieWithUs(argv), { timeoutMs: 130_000 });
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  const result = JSON.parse(ran.stdout) as Downloaded;
  if (percent >= MAY_BE_GIVEN_UP && result.finished === 0 && GIVEN_UP.test(result.error)) return Infinity;
  expect(result).toMatchObject({ windowsize, blksize: BLOCK, bytes: size, finished: 1, failures: 0, unfinished: 0, error: '' });
  return result.maxSeconds;
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** `runs` downloads on such a link: what the median took, within what it must, and that the link was such a one. */
async function expectWithin(what: string, percent: number, within: number, runs: number, use: () => Promise<readonly number[]>): Promise<void> {
  let seconds: readonly number[] = [];
  const { toClient, toServer } = await withLoss(percent, async () => void (seconds = await use()));
  const blocks = runs * Math.ceil(MIB / BLOCK);
  const finished = seconds.filter(Number.isFinite);
  console.log(`tftp, ${percent} % lost each way, ${what}: 1 MiB in ${median(seconds).toFixed(3)} s (median of ${runs}, bound ${within} s), at most ${Math.max(...finished).toFixed(3)} s, ${runs - finished.length} given up; ${(toClient.came / blocks).toFixed(2)} datagrams a block, ${toClient.lost} of ${toClient.came} lost, and ${toServer.lost} of ${toServer.came} ACKs`);
  expect(seconds).toHaveLength(runs);
  expect(runs - finished.length).toBeLessThanOrEqual((MOST_GIVEN_UP * runs) / 10);
  // Each datagram had its own luck: a burst that is lost whole would be a link that loses little.
  expect(toClient.came).toBeGreaterThanOrEqual(blocks);
  for (const { came, lost } of [toClient, toServer]) {
    const mean = (came * percent) / 100;
    // Six standard deviations of a Poisson distribution, and a handful where the mean itself is small.
    expect(Math.abs(lost - mean)).toBeLessThanOrEqual(percent === 0 ? 0 : 6 * Math.sqrt(mean) + 5);
  }
  expect(median(seconds)).toBeLessThanOrEqual(within);
}

describe.each(BOUNDS)('a link that loses %i percent each way', (percent, within) => {
  const runs = percent === 0 ? RUNS_WITHOUT_LOSS : RUNS;
  /** Downloads that wait for timers may all wait at once; those that hardly wait would wait for each other. */
  const all = async <T>(one: (i: number) => Promise<T>): Promise<T[]> => {
    if (percent > 1) return Promise.all(Array.from({ length: runs }, (_, i) => one(i)));
    const results: T[] = [];
    for (let i = 0; i < runs; i++) results.push(await one(i));
    return results;
  };

  test(`curl has 1 MiB, block by block, within ${within} s`, { timeout: 300_000 }, async () => {
    await expectWithin('curl', percent, within, runs, () => all((i) => curl(i, percent)));
  });

  // Our own client: curl knows no windows. The issue has no bounds for windows; none may make it worse than lock-step's.
  test.each([4, 16])(`with a window of %i it is there within ${within} s`, { timeout: 300_000 }, async (windowsize) => {
    await expectWithin(`window ${windowsize}`, percent, within, runs, () => all((i) => download(i, { windowsize, percent })));
  });
});

test("on Node's sockets, where a window is as many sends, a link that loses 5 percent each way is no worse", { timeout: 120_000 }, async () => {
  await server.stop();
  process.env.RACKSEED_SOCKETS = 'plain';
  try {
    await startServer();
    await expectWithin('window 16, plain sockets', 5, 3, RUNS, () => Promise.all(Array.from({ length: RUNS }, (_, i) => download(i, { windowsize: 16 }))));
  } finally {
    delete process.env.RACKSEED_SOCKETS;
  }
});

test('over 50 ms there and back a window of 16 is done at least 8 times sooner than lock-step', { timeout: 120_000 }, async () => {
  const relay = peer.spawn(dieWithUs([join(dir, 'udp-delay'), RELAY, SERVER, '69', String(LATENCY)]), { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    // A request that comes before it listens is asked again five seconds later.
    await expect.poll(() => peer.must(['cat', '/proc/net/udp']), { timeout: 10_000 }).toMatch(/:0045 /);
    const took = (windowsize: number) => download(0, { windowsize, size: FAR_FILE, from: RELAY });
    const [one, sixteen] = [await took(1), await took(16)];
    console.log(`tftp, 50 ms there and back: ${FAR_FILE / 1024} KiB in ${one.toFixed(3)} s block by block, in ${sixteen.toFixed(3)} s with a window of 16: ${(one / sixteen).toFixed(1)} times sooner`);
    // A round trip for each block, or the relay was not in between.
    expect(one).toBeGreaterThan((Math.ceil(FAR_FILE / BLOCK) * 2 * LATENCY) / 1000);
    expect(one / sixteen).toBeGreaterThanOrEqual(8);
    await expect.poll(() => server.counters(), { timeout: 10_000 }).toMatchObject({ active: 0, complete: 2 });
  } finally {
    await stop(relay);
  }
});
