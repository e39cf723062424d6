// TFTP over real sockets against names, peers and packets that mean no good: no byte from outside, silence outside of the served subnets, IPv6, and a fuzz.
import { execFile } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { symlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseSubnet, subnet6Of } from '../../src/addr.ts';
import { createLog } from '../../src/log.ts';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createTftpServer, LIMITS, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';
import { GIVE_UP_BEFORE_FIRST_ACK_MS, RESENDS_BEFORE_FIRST_ACK } from '../../src/tftp/transfer.ts';
import { HOSTILE_NAMES, NUL_NAMES, SYMLINKS } from '../hostile-names.ts';
import { mutate, seededRandom } from '../mutate.ts';
import { tftpSeeds } from '../tftp-corpus.ts';
import { MACS, SECRET, startTftpWorld, type TftpWorld } from '../tftp-world.ts';

const PACKETS = process.env.RACKSEED_FULL === '1' ? 200_000 : 5_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_125);
const SERVER = '127.66.0.1';
/** Over a limit of its own: what it may send to an address that acknowledges nothing. */
const SPARING = '127.66.0.2';
const SERVER6 = 'fd00:66::1';
const run = promisify(execFile);

let world: TftpWorld;
let server: TftpServer;
let sparing: TftpServer;
let logged = '';

beforeAll(async () => {
  await run('ip', ['link', 'set', 'lo', 'up']);
  for (const last of [1, 11, 12]) await run('ip', ['-6', 'address', 'add', `fd00:66::${last}/128`, 'dev', 'lo', 'nodad']);
  await run('ip', ['-6', 'address', 'add', 'fd00:67::9/128', 'dev', 'lo', 'nodad']);
  // Links to what is outside, beside the loaders and in the store.
  world = await startTftpWorld({ net: '127.66.0', prepareLoaders: (dir) => SYMLINKS.forEach(({ name, to }) => symlinkSync(to, join(dir, name))) });
  for (const { name, to } of SYMLINKS) symlinkSync(to, join(world.stateDir, 'blobs', 'sha256', name));
  const served = [
    { subnet: parseSubnet('127.66.0.0/24')!, serve: 'discovered', blockSize: 1_000 },
    { subnet: parseSubnet('127.66.1.0/24')!, serve: 'discovered', blockSize: 1_000 },
    { subnet: subnet6Of(SERVER6, 64), serve: 'known', blockSize: 1_448 },
  ] as const;
  const { files, booter } = world;
  const log = createLog('warn', { write: (line: string) => void (logged += line) });
  // Hundreds of names in a row from one address want hundreds of ERRORs.
  server = createTftpServer({ sockets: await bindTftp({ listen: [SERVER, SERVER6], served }), files, booter, log, limits: { unanswered: 10_000 } });
  sparing = createTftpServer({ sockets: await bindTftp({ listen: [SPARING], served }), files, booter, log });
  server.start();
  sparing.start();
  await world.boot('n1');
});

afterAll(async () => {
  await server?.stop();
  await sparing?.stop();
  await world?.close();
  for (const address of ['fd00:66::1', 'fd00:66::11', 'fd00:66::12', 'fd00:67::9']) await run('ip', ['-6', 'address', 'del', `${address}/128`, 'dev', 'lo']);
});

interface Heard {
  readonly bytes: Buffer;
  readonly port: number;
}

/** A client that says exactly what the test wants; `heard` keeps what nobody has taken yet. */
async function talkerAt(address: string, server = SERVER) {
  const isIp6 = address.includes(':');
  const socket: Socket = createSocket(isIp6 ? 'udp6' : 'udp4');
  const heard: Heard[] = [];
  let last = 0;
  socket.on('message', (bytes, { port }) => void heard.push({ bytes, port }));
  socket.bind(0, address);
  await once(socket, 'listening');
  return {
    heard,
    send: (bytes: Uint8Array, port = 69) => new Promise<void>((resolve) => socket.send(bytes, port, isIp6 ? SERVER6 : server, () => resolve())),
    async next(): Promise<TftpPacket> {
      if (heard.length === 0) await once(socket, 'message', { signal: AbortSignal.timeout(10_000) });
      const { bytes, port } = heard.shift()!;
      last = port;
      return decodeTftp(bytes);
    },
    /** The port that what next() gave came from. */
    last: () => last,
    close: () => new Promise<void>((resolve) => socket.close(() => resolve())),
  };
}

const ask = (file: string, options: Record<string, string> = {}, kind: 'rrq' | 'wrq' = 'rrq') => encodeTftp({ kind, file, mode: 'octet', options: new Map(Object.entries(options)) });

/** Fetches with curl, from this address; undefined with the words of curl when it got nothing. */
async function curl(name: string, from: string, options: readonly string[] = [], server = SERVER): Promise<Buffer | string> {
  const host = from.includes(':') ? `[${SERVER6}]` : server;
  const out = join(world.dir, 'out');
  try {
    await run('curl', ['--silent', '--show-error', '--globoff', '--path-as-is', '--max-time', '20', '--interface', from, '--output', out, ...options, `tftp://${host}/${name}`]);
    return await readFile(out);
  } catch (error) {
    return String((error as { stderr?: string }).stderr);
  }
}

describe('hostile names over UDP', () => {
  it.each([
    ['a node', () => world.ips.n1],
    ['a stranger that is let in', () => world.ips.stranger],
    ['an IPv6 peer', () => 'fd00:66::11'],
  ])('%s gets ERROR 1 or 2 for each, to read and to write, and no byte', async (_who, addressOf) => {
    const client = await talkerAt(addressOf());
    const wrong: unknown[] = [];
    for (const name of [...HOSTILE_NAMES, ...SYMLINKS.map((link) => link.name)]) {
      for (const kind of ['rrq', 'wrq'] as const) {
        await client.send(ask(name, {}, kind));
        const answer = await client.next();
        if (answer.kind !== 'error' || (answer.code !== 1 && answer.code !== 2) || !/^[ -~]{1,200}$/.test(answer.message)) wrong.push([kind, name, answer]);
      }
    }
    expect(wrong).toEqual([]);
    expect(client.heard).toEqual([]);
    await client.close();
  });

  it('names with a NUL in them bring an ERROR or nothing', async () => {
    const client = await talkerAt(world.ips.n1);
    for (const name of NUL_NAMES) await client.send(ask(name));
    await client.send(ask('last', {}, 'wrq'));
    const answers: TftpPacket[] = [];
    do answers.push(await client.next());
    while (!answers.some((one) => one.kind === 'error' && one.message === 'this server takes no files'));
    expect(answers.filter(({ kind }) => kind !== 'error')).toEqual([]);
    await client.close();
  });

  it.each(['../secret', '..%2fsecret', '%2e%2e/secret', '/etc/passwd', '//etc/passwd', 'link.efi', 'secret.kpxe', `${MACS.n1.replaceAll(':', '-')}/../secret`])('curl gets nothing for %s', async (name) => {
    expect(await curl(name, world.ips.n1)).toMatch(/^curl: \((68|69)\)/);
  });
});

describe('a node fetches by its path', () => {
  it.each([
    ['kernel', 'kernel'],
    ['initrd', 'initrd'],
    ['undionly.kpxe', 'loader'],
  ] as const)('%s, and its end is the stage', async (name, stage) => {
    const id = await world.boot('n2');
    const got = await curl(`${MACS.n2.replaceAll(':', '-')}/${name}`, world.ips.n2, ['--tftp-blksize', '1428']);
    expect(Buffer.isBuffer(got) && got.equals(world.content[stage])).toBe(true);
    await expect.poll(async () => (await world.boots.get(id))!.stages.map((one) => one.name)).toContain(stage);
  });

  it('in blocks that its subnet carries', async () => {
    const client = await talkerAt(world.ips.n1);
    await client.send(ask('undionly.kpxe', { blksize: '1468' }));
    expect(await client.next()).toEqual({ kind: 'oack', options: new Map([['blksize', '1000']]) });
    await client.close();
  });

  it('by IPv6 too, and no stage is seen by its word alone', async () => {
    const id = await world.boot('n2');
    const stages = async () => (await world.boots.get(id))!.stages.map(({ name, count }) => `${name} ${count}`);
    const before = await stages();
    for (const [name, content] of [['kernel', 'kernel'], ['initrd', 'initrd'], ['undionly.kpxe', 'loader']] as const) {
      const got = await curl(`${MACS.n2.replaceAll(':', '-')}/${name}`, 'fd00:66::12', ['--tftp-blksize', '1428']);
      expect([name, Buffer.isBuffer(got) && got.equals(world.content[content])]).toEqual([name, true]);
    }
    expect(await stages()).toEqual(before);
    expect(await curl('undionly.kpxe', 'fd00:66::12')).toMatch(/^curl: \((68|69)\)/);
  });
});

describe('outside of the served subnets', () => {
  it.each([
    ['IPv4', '127.67.0.9'],
    ['IPv6', 'fd00:67::9'],
  ])('an %s peer gets no packet, whatever it sends', async (_family, from) => {
    const client = await talkerAt(from);
    const before = server.counters();
    const packets = [ask('undionly.kpxe'), ask(`${MACS.n1}/kernel`), ask('../../etc/passwd'), ask('x', {}, 'wrq'), Uint8Array.of(0, 4, 0, 1), new Uint8Array()];
    for (const bytes of packets) await client.send(bytes);
    await expect.poll(() => server.counters().outside).toBe(before.outside + packets.length);
    // One that is answered comes after them in the same queue.
    const inside = await talkerAt(from.includes(':') ? 'fd00:66::11' : world.ips.n1);
    await inside.send(ask('x', {}, 'wrq'));
    expect(await inside.next()).toMatchObject({ kind: 'error', code: 2 });
    expect(client.heard).toEqual([]);
    expect(server.counters().requests).toBe(before.requests + 1);
    await Promise.all([client.close(), inside.close()]);
  });
});

describe('an address that acknowledges nothing', () => {
  /** So many requests are answered within so many milliseconds, and so many refused in words. */
  const most = (ms: number) => Math.ceil(LIMITS.unanswered * (1 + ms / GIVE_UP_BEFORE_FIRST_ACK_MS));
  const packetsOf = (answered: number) => answered * (1 + RESENDS_BEFORE_FIRST_ACK);
  /** The last of three resends has left: after 100, 200 and 400 ms, and an eighth more. */
  const resent = () => sleep(900);

  it('and alternates two names on one port is sent as few packets as if each had a port of its own', async () => {
    const client = await talkerAt('127.66.1.200', SPARING);
    const before = sparing.counters();
    const begin = performance.now();
    for (let n = 0; n < 1_500; n++) await client.send(n % 2 ? ask('undionly.kpxe') : ask('boot.ipxe', { blksize: '1000' }));
    await resent();
    const requests = sparing.counters().requests - before.requests;
    expect(requests).toBeGreaterThan(1_000);
    expect(client.heard.length).toBeLessThanOrEqual(packetsOf(most(performance.now() - begin)));
    // It is served what it may have, and no more than that.
    expect(client.heard.length).toBeGreaterThanOrEqual(LIMITS.unanswered);
    expect(sparing.counters().busy - before.busy).toBeGreaterThan(900);
    await client.close();
  });

  it('and a neighbour of it is served meanwhile', async () => {
    const [forger, client] = await Promise.all([talkerAt('127.66.1.201', SPARING), talkerAt('127.66.1.202', SPARING)]);
    for (let n = 0; n < 200; n++) await forger.send(ask(n % 2 ? 'snponly.efi' : 'undionly.kpxe'));
    await client.send(ask('snponly.efi'));
    expect(await client.next()).toMatchObject({ kind: 'data', block: 1 });
    await Promise.all([forger.close(), client.close()]);
  });

  it('and a ROM that asks for sizes and hangs up, again and again, gets its file: who hangs up has heard us', async () => {
    const client = await talkerAt('127.66.1.203', SPARING);
    const before = sparing.counters().aborted;
    for (let n = 0; n < 2 * LIMITS.unanswered; n++) {
      await client.send(ask('undionly.kpxe', { tsize: '0' }));
      expect(await client.next()).toMatchObject({ kind: 'oack' });
      await client.send(encodeTftp({ kind: 'error', code: 8, message: '' }), client.last());
      await expect.poll(() => sparing.counters().aborted, { interval: 2 }).toBe(before + n + 1);
    }
    await client.close();
    expect(await curl('undionly.kpxe', '127.66.1.203', ['--tftp-blksize', '1000'], SPARING)).toEqual(world.content.loader);
  });

  it('is sent a bounded number of packets, whatever it asks for on however many ports', { timeout: 120_000 }, async () => {
    const name = fc.constantFrom('undionly.kpxe', 'snponly.efi', '/undionly.kpxe', './snponly.efi', 'boot.ipxe', 'autoexec.ipxe', 'nothing', '../x');
    const options = fc.dictionary(fc.constantFrom('blksize', 'tsize', 'timeout', 'windowsize'), fc.constantFrom('0', '1', '8', '512', '65464', 'x'), { maxKeys: 4 });
    const request = fc.record({ name, options, kind: fc.constantFrom('rrq', 'rrq', 'rrq', 'rrq', 'rrq', 'wrq'), port: fc.nat(11) } as const);
    let address = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 4, maxLength: 12 }), fc.integer({ min: 1, max: 12 }), async (requests, ports) => {
        const from = `127.66.1.${++address}`;
        const clients = await Promise.all(Array.from({ length: ports }, () => talkerAt(from, SPARING)));
        const begin = performance.now();
        for (let n = 0; n < 2_500; n++) {
          const { name: file, options: asked, kind, port } = requests[n % requests.length]!;
          // Never the same twice: that would be a request that is repeated.
          await clients[port % ports]!.send(ask(file, { ...asked, number: String(n) }, kind));
        }
        await resent();
        const heard = clients.flatMap((client) => client.heard.map(({ bytes }) => decodeTftp(bytes).kind));
        const told = heard.filter((what) => what === 'error').length;
        const limit = most(performance.now() - begin);
        expect(told).toBeLessThanOrEqual(limit);
        expect(heard.length - told).toBeLessThanOrEqual(packetsOf(limit));
        expect(heard.length).toBeGreaterThanOrEqual(LIMITS.unanswered);
        await Promise.all(clients.map((client) => client.close()));
      }),
      { seed: SEED, numRuns: process.env.RACKSEED_FULL === '1' ? 100 : 6, endOnFailure: true },
    );
  });
});

describe('fuzz of the sockets', () => {
  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED): a node gets its kernel after each thousand`, { timeout: 1_800_000 }, async () => {
    const random = seededRandom(SEED);
    const seeds = tftpSeeds(MACS.n2);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
    const clients = await Promise.all([...Array.from({ length: 12 }, (_, n) => `127.66.0.${100 + n}`), world.ips.n2, 'fd00:66::11', 'fd00:66::12', '127.67.0.9'].map((address) => talkerAt(address)));
    await world.boot('n2');
    let answers = 0;
    let live = 0;
    for (let n = 0; n < PACKETS; n++) {
      const client = pick(clients);
      for (const { bytes, port } of client.heard.splice(0)) {
        answers++;
        if (bytes.includes(SECRET) || bytes.includes('root:x:')) throw new Error(`packet ${n} of seed ${SEED} brought bytes from outside`);
        // A transfer's own port gets its share of what is spoilt.
        if (port === 69) continue;
        live++;
        await client.send(mutate(pick(seeds), random, { from: 2, most: 1_500 }), port);
      }
      await client.send(mutate(pick(seeds), random, { from: n % 4 === 0 ? 0 : 2, most: 1_500 }));
      if (n % 1_000 !== 999) continue;
      const got = await curl(`${MACS.n1}/kernel`, world.ips.n1, ['--tftp-blksize', '1000']);
      expect(Buffer.isBuffer(got) && got.equals(world.content.kernel), `after packet ${n} of seed ${SEED}: ${Buffer.isBuffer(got) ? `${got.length} bytes` : got}`).toBe(true);
    }
    await Promise.all(clients.map((client) => client.close()));
    const counters = server.counters();
    console.log(`fuzz of TFTP's sockets: ${PACKETS} packets, ${answers} answers, ${live} to live transfers; ${JSON.stringify(counters)}`);
    expect(counters.faults, logged).toBe(0);
    // Else it was only refused at the door.
    expect(Math.min(answers, counters.malformed, counters.refused)).toBeGreaterThan(PACKETS / 50);
    expect(live).toBeGreaterThan(PACKETS / 500);
  });
});
