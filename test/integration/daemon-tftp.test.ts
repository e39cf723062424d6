// The whole daemon's TFTP: a boot by TFTP alone, IPv6, silence outside of what is served, and a site whose DHCP is somebody else's.
import { execFile } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeAll, afterAll, describe, expect, it } from 'vitest';
import { decodeTftp, encodeTftp, type TftpPacket } from '../../src/tftp/packet.ts';
import { createMachine, createRelay, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

const run = promisify(execFile);
const SERVER6 = 'fd00:68::1';
const NODE6 = 'fd00:68::11';

let world: World | undefined;

beforeAll(async () => {
  await run('ip', ['link', 'set', 'lo', 'up']);
  for (const address of [SERVER6, NODE6]) await run('ip', ['-6', 'address', 'add', `${address}/128`, 'dev', 'lo', 'nodad']);
});
afterAll(async () => {
  for (const address of [SERVER6, NODE6]) await run('ip', ['-6', 'address', 'del', `${address}/128`, 'dev', 'lo']);
});
afterEach(async () => {
  await world?.stop();
  world = undefined;
});

/** The first answer to one request; undefined when none comes. */
async function firstAnswer(from: string, to: string, file: string, options: Record<string, string> = {}): Promise<TftpPacket | undefined> {
  const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4');
  socket.bind(0, from);
  await once(socket, 'listening');
  socket.send(encodeTftp({ kind: 'rrq', file, mode: 'octet', options: new Map(Object.entries(options)) }), 69, to);
  const [bytes] = (await once(socket, 'message', { signal: AbortSignal.timeout(1_000) }).catch(() => [])) as [Buffer?];
  socket.close();
  return bytes && decodeTftp(bytes);
}

describe('the daemon', () => {
  it('boots a node by TFTP alone: loader, kernel and initrd, each a stage, and the node may enrol', async () => {
    world = await startWorld();
    const relay: Relay = await createRelay();
    try {
      const n1 = createMachine(relay, world.macs.n1, world.httpPort);
      await n1.dora('rom');
      const path = world.macs.n1.replaceAll(':', '-');
      expect((await n1.tftp(`${path}/undionly.kpxe`)).length).toBeGreaterThan(50_000);
      expect((await n1.tftp(`${path}/kernel`)).toString()).toBe('kernel of the first build');
      expect((await n1.tftp(`01-${path}/initrd`)).toString()).toBe('initrd of the first build');
      const stages = async () => (await world!.api<{ boots: { stages: { name: string }[] }[] }>('/api/boots?node=n1&limit=1')).boots[0]!.stages.map(({ name }) => name);
      await expect.poll(stages).toEqual(['discover', 'offer', 'lease', 'loader', 'kernel', 'initrd']);
      // The kernel fixed the boot set, as a script would have.
      expect((await n1.http('POST', '/enrol', { body: `mac ${world.macs.n1}\n` })).status).toBe(201);
      await expect(n1.tftp(`${world.macs.n2}/kernel`)).rejects.toThrow(/^TFTP ERROR 2: this path is not for the machine/);
    } finally {
      await relay.close();
    }
  });

  it('answers by IPv6 in the prefix of its address, and clamps blocks to what is set, there 20 bytes less', async () => {
    world = await startWorld({ tftp: `{ listen: [127.0.0.1, "${SERVER6}/64"], blockSize: 1200 }` });
    const out = join(world.dir, 'kernel');
    await run('curl', ['--silent', '--globoff', '--max-time', '20', '--interface', NODE6, '--output', out, `tftp://[${SERVER6}]/${world.macs.n1}/kernel`]);
    expect(await readFile(out, 'utf8')).toBe('kernel of the first build');
    expect(await firstAnswer(NODE6, SERVER6, `${world.macs.n1}/undionly.kpxe`, { blksize: '1468' })).toEqual({ kind: 'oack', options: new Map([['blksize', '1180']]) });
    expect(await firstAnswer(world.ips.n1, '127.0.0.1', 'undionly.kpxe', { blksize: '1468' })).toEqual({ kind: 'oack', options: new Map([['blksize', '1200']]) });
    expect(await firstAnswer(NODE6, SERVER6, 'undionly.kpxe')).toMatchObject({ kind: 'error', code: 2 });
  });

  it('sends a node no larger blocks than the MTU carries that it is told as a node or by its profile', async () => {
    const profile = PROFILE.replace('127.0.0.11 }', '127.0.0.11, dhcpOptions: { interface-mtu: 1400 } }');
    world = await startWorld({ tftp: `{ listen: [127.0.0.1, "${SERVER6}/64"] }`, profiles: { 'k0s-single.yaml': `${profile}\ndhcpOptions: { interface-mtu: 1300 }\n` } });
    const granted = async (from: string, to: string, file: string) => ((await firstAnswer(from, to, file, { blksize: '1468' })) as { options: ReadonlyMap<string, string> }).options.get('blksize');
    expect(await granted(world.ips.n1, '127.0.0.1', 'undionly.kpxe')).toBe('1368');
    expect(await granted(world.ips.n1, '127.0.0.1', `${world.macs.n1}/kernel`)).toBe('1368');
    expect(await granted(world.ips.n2, '127.0.0.1', 'undionly.kpxe')).toBe('1268');
    // By IPv6 the name alone says which node it is.
    expect(await granted(NODE6, SERVER6, `${world.macs.n1}/undionly.kpxe`)).toBe('1348');
  });

  it('is silent to peers outside of the subnets that it serves', async () => {
    world = await startWorld({
      dhcp: '{ mode: full, onConflict: ignore, interfaces: [{ name: lo, mode: off }], subnets: [{ subnet: 127.9.0.0/24, relayed: true, serverIp: 127.0.0.1 }] }',
      profiles: { 'k0s-single.yaml': PROFILE.replaceAll('127.0.0.', '127.9.0.') },
    });
    expect(await firstAnswer('127.8.0.11', '127.0.0.1', 'undionly.kpxe')).toBeUndefined();
    expect(await firstAnswer('127.8.0.11', '127.0.0.1', '../x')).toBeUndefined();
    expect(await firstAnswer('127.9.0.99', '127.0.0.1', 'undionly.kpxe')).toEqual({ kind: 'error', code: 2, message: 'no profile names this machine' });
    expect(await firstAnswer('127.9.0.11', '127.0.0.1', 'undionly.kpxe')).toMatchObject({ kind: 'data', block: 1 });
  });

  it('serves nodes by their addresses where DHCP is not ours at all', async () => {
    world = await startWorld({ dhcp: '{ mode: off }', tftp: '{ listen: [127.0.0.1/24] }' });
    expect(await firstAnswer(world.ips.n1, '127.0.0.1', 'undionly.kpxe')).toMatchObject({ kind: 'data', block: 1 });
    expect(await firstAnswer(world.ips.n1, '127.0.0.1', `${world.macs.n1}/kernel`)).toEqual({ kind: 'data', block: 1, data: Buffer.from('kernel of the first build') });
    expect(await firstAnswer('127.0.0.99', '127.0.0.1', 'undionly.kpxe')).toMatchObject({ kind: 'error', code: 2 });
    expect(await firstAnswer('127.0.1.99', '127.0.0.1', 'undionly.kpxe')).toBeUndefined();
  });
});
