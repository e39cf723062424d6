// TFTP over real sockets against names, peers and packets that mean no good: no byte from outside, silence outside of the served subnets, IPv6, and a fuzz.
import { execFile } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { symlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseSubnet, subnet6Of } from '../../src/addr.ts';
import { createLog } from '../../src/log.ts';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createTftpServer, type TftpServer } from '../../src/tftp/server.ts';
import { bindTftp } from '../../src/tftp/sockets.ts';
import { HOSTILE_NAMES, NUL_NAMES, SYMLINKS } from '../hostile-names.ts';
import { mutate, seededRandom } from '../mutate.ts';
import { tftpSeeds } from '../tftp-corpus.ts';
import { MACS, SECRET, startTftpWorld, type TftpWorld } from '../tftp-world.ts';

const PACKETS = process.env.RACKSEED_FULL === '1' ? 200_000 : 5_000;
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_125);
const SERVER = '127.66.0.1';
const SERVER6 = 'fd00:66::1';
const run = promisify(execFile);

let world: TftpWorld;
let server: TftpServer;
let logged = '';

beforeAll(async () => {
  await run('ip', ['link', 'set', 'lo', 'up']);
  for (const last of [1, 11, 12]) await run('ip', ['-6', 'address', 'add', `fd00:66::${last}/128`, 'dev', 'lo', 'nodad']);
  await run('ip', ['-6', 'address', 'add', 'fd00:67::9/128', 'dev', 'lo', 'nodad']);
  // Links to what is outside, beside the loaders and in the store.
  world = await startTftpWorld({ net: '127.66.0', prepareLoaders: (dir) => SYMLINKS.forEach(({ name, to }) => symlinkSync(to, join(dir, name))) });
  for (const { name, to } of SYMLINKS) symlinkSync(to, join(world.stateDir, 'blobs', 'sha256', name));
  server = createTftpServer({
    sockets: await bindTftp({
      listen: [SERVER, SERVER6],
      served: [
        { subnet: parseSubnet('127.66.0.0/24')!, serve: 'discovered', blockSize: 1_000 },
        { subnet: subnet6Of(SERVER6, 64), serve: 'known', blockSize: 1_448 },
      ],
    }),
    files: world.files,
    booter: world.booter,
    log: createLog('warn', { write: (line: string) => void (logged += line) }),
  });
  server.start();
  await world.boot('n1');
});

afterAll(async () => {
  await server?.stop();
  await world?.close();
  for (const address of ['fd00:66::1', 'fd00:66::11', 'fd00:66::12', 'fd00:67::9']) await run('ip', ['-6', 'address', 'del', `${address}/128`, 'dev', 'lo']);
});

interface Heard {
  readonly bytes: Buffer;
  readonly port: number;
}

/** A client that says exactly what the test wants; `heard` keeps what nobody has taken yet. */
async function talkerAt(address: string) {
  const isIp6 = address.includes(':');
  const socket: Socket = createSocket(isIp6 ? 'udp6' : 'udp4');
  const heard: Heard[] = [];
  socket.on('message', (bytes, { port }) => void heard.push({ bytes, port }));
  socket.bind(0, address);
  await once(socket, 'listening');
  return {
    heard,
    send: (bytes: Uint8Array, port = 69) => new Promise<void>((resolve) => socket.send(bytes, port, isIp6 ? SERVER6 : SERVER, () => resolve())),
    async next(): Promise<TftpPacket> {
      if (heard.length === 0) await once(socket, 'message', { signal: AbortSignal.timeout(10_000) });
      return decodeTftp(heard.shift()!.bytes);
    },
    close: () => new Promise<void>((resolve) => socket.close(() => resolve())),
  };
}

const ask = (file: string, options: Record<string, string> = {}, kind: 'rrq' | 'wrq' = 'rrq') => encodeTftp({ kind, file, mode: 'octet', options: new Map(Object.entries(options)) });

/** Fetches with curl, from this address; undefined with the words of curl when it got nothing. */
async function curl(name: string, from: string, ...options: string[]): Promise<Buffer | string> {
  const host = from.includes(':') ? `[${SERVER6}]` : SERVER;
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
    const got = await curl(`${MACS.n2.replaceAll(':', '-')}/${name}`, world.ips.n2, '--tftp-blksize', '1428');
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
      const got = await curl(`${MACS.n2.replaceAll(':', '-')}/${name}`, 'fd00:66::12', '--tftp-blksize', '1428');
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

describe('fuzz of the sockets', () => {
  it(`${PACKETS} mutated packets, from seed ${SEED} (FUZZ_SEED): a node gets its kernel after each thousand`, { timeout: 1_800_000 }, async () => {
    const random = seededRandom(SEED);
    const seeds = tftpSeeds(MACS.n2);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
    const clients = await Promise.all([...Array.from({ length: 12 }, (_, n) => `127.66.0.${100 + n}`), world.ips.n2, 'fd00:66::11', 'fd00:66::12', '127.67.0.9'].map(talkerAt));
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
      const got = await curl(`${MACS.n1}/kernel`, world.ips.n1, '--tftp-blksize', '1000');
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
