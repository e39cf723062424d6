// DESIGN's rendering table as a test table: one decision, three protocols. And whatever name or URL a server hands out can be fetched.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FAILURES_BEFORE_HOLD } from '../../src/boot/hold.ts';
import { ipOf, OPT, subOptionsOf, textOf } from '../../src/dhcp/options.ts';
import { bootFileOf, createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
const machines = new Map<string, Machine>();

beforeAll(async () => {
  world = await startWorld({
    profiles: {
      'k0s-single.yaml': PROFILE.replace('n2:', 'held: { macs: ["52:54:00:00:00:03"], ip: 127.0.0.13 }\n  n2:'),
      'disk.yaml': 'boot: local\nnodes:\n  d1: { macs: ["52:54:00:00:00:04"], ip: 127.0.0.14, exit: sanboot }\n',
    },
  });
  relay = await createRelay();
  for (const [name, last, ip] of [['n1', '01', 11], ['n2', '02', 12], ['held', '03', 13], ['d1', '04', 14], ['stranger', '99', 99]] as const) {
    const machine = createMachine(relay, `52:54:00:00:00:${last}`, world.httpPort);
    machine.pretend(`127.0.0.${ip}`);
    machines.set(name, machine);
  }
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

const machine = (name: string): Machine => machines.get(name)!;

describe('silent', () => {
  it('DHCP: no packet', async () => {
    expect(await machine('stranger').discover('rom', 400)).toBeUndefined();
    expect(await machine('stranger').discover('os', 400)).toBeUndefined();
  });
  it('TFTP: ERROR 2', async () => {
    await expect(machine('stranger').tftp('undionly.kpxe')).rejects.toThrow(/^TFTP ERROR 2: no profile names this machine/);
  });
  it('HTTP: a script that says why, then exits; 404 on files', async () => {
    const script = await machine('stranger').http('GET', `/script/${machine('stranger').mac}`);
    expect(script.status).toBe(200);
    expect(script.text).toMatch(/^#!ipxe\necho rackseed: RS-SILENT: no profile names this machine.*\nsleep 10\nexit 1\n$/);
    const file = await machine('stranger').http('GET', `/blobs/sha256/${world.image.kernel.digest.slice(7)}`);
    expect(file.status).toBe(404);
    expect(file.text).toMatch(/^[A-Z_]+: .*\n$/);
    expect((await machine('stranger').http('GET', '/git/post-boot.git/info/refs?service=git-upload-pack')).status).toBe(404);
  });
});

describe('local', () => {
  it('DHCP: a lease, no boot fields', async () => {
    const ack = await machine('d1').dora('ipxe');
    expect(ack.yiaddr).toBe('127.0.0.14');
    expect([ack.file, textOf(ack.options, OPT.bootFile), textOf(ack.options, OPT.tftpServer)]).toEqual(['', undefined, undefined]);
  });
  it('TFTP: ERROR 1', async () => {
    await expect(machine('d1').tftp('undionly.kpxe')).rejects.toThrow(/^TFTP ERROR 1: profile disk boots from disk/);
  });
  it("HTTP: a script that leaves by the node's exit method", async () => {
    expect((await machine('d1').http('GET', `/script/${machine('d1').mac}`)).text).toContain('\nsanboot --no-describe --drive 0x80 || exit 0\n');
    // It boots nothing of ours, so it has no boots that could fail.
    expect(await world.api('/api/boots?node=d1')).toEqual({ boots: [] });
  });
});

describe('loader', () => {
  it('DHCP: siaddr, file, 66 and 67; TFTP: the bytes; and the file that is named can be fetched', async () => {
    const ack = await machine('n1').dora('rom');
    expect(ack.siaddr).toBe('127.0.0.1');
    expect(ack.file).toBe('undionly.kpxe');
    expect(textOf(ack.options, OPT.bootFile)).toBe('undionly.kpxe');
    expect(textOf(ack.options, OPT.tftpServer)).toBe('127.0.0.1');
    expect(textOf(ack.options, OPT.vendorClass)).toBe('PXEClient');
    expect((await machine('n1').tftp(bootFileOf(ack))).length).toBeGreaterThan(50_000);
  });
});

it('every column of the table that is not built yet is refused in one line: no loader travels by HTTP', async () => {
  const answer = await machine('n1').http('GET', '/undionly.kpxe');
  expect([answer.status, answer.text]).toEqual([404, 'NOT_FOUND: nothing is served at /undionly.kpxe\n']);
});

describe('boot', () => {
  it("DHCP: the script's URL and 175.176, and every URL on the way can be fetched", async () => {
    await world.endOpenBoot('n2');
    const ack = await machine('n2').dora('ipxe');
    expect(subOptionsOf(ack.options, OPT.ipxe).get(176)).toEqual(Uint8Array.of(1));
    const script = await machine('n2').http('GET', bootFileOf(ack));
    expect(script.status).toBe(200);
    const urls = [...script.text.matchAll(/http:\/\/\S+/g)].map(([url]) => url).filter((url) => url.includes('/blobs/') || url.includes('/script/'));
    expect(urls.length).toBe(3);
    for (const url of urls) {
      const got = await machine('n2').http('GET', url);
      expect([url, got.status]).toEqual([url, 200]);
      const head = await machine('n2').http('HEAD', url);
      expect([head.status, head.headers['content-length']]).toEqual([200, String(got.body.length)]);
    }
    const claim = await machine('n2').http('POST', '/enrol', { body: `mac ${machine('n2').mac}\n` });
    const [, boot] = /^boot (\w+)$/m.exec(claim.text)!;
    const [, token] = /^token (\w+)$/m.exec(claim.text)!;
    const config = await machine('n2').http('GET', `/boots/${boot}/config`, { headers: { authorization: `Bearer ${token}` } });
    const squashfs = /^squashfs-url (\S+)$/m.exec(config.text)![1]!;
    expect((await machine('n2').http('GET', squashfs)).text).toBe('squashfs of the first build');
  });
  it('DHCP for the initrd stage: the base URL, under which it enrols', async () => {
    const ack = await machine('n2').dora('initrd');
    expect(bootFileOf(ack)).toBe(`http://127.0.0.1:${world.httpPort}`);
    expect((await machine('n2').http('POST', `${bootFileOf(ack)}/enrol`)).status).toBe(409);
  });
  it('TFTP: the loader again, and the script under its own name', async () => {
    expect((await machine('n2').tftp('undionly.kpxe')).length).toBeGreaterThan(50_000);
    expect((await machine('n2').tftp('boot.ipxe')).toString()).toMatch(/^#!ipxe\n/);
    await expect(machine('n2').tftp('../../etc/passwd')).rejects.toThrow(/^TFTP ERROR 1/);
  });
  it('a running system gets its address and nothing to boot from', async () => {
    const ack = await machine('n2').dora('os');
    expect([ack.yiaddr, ack.file]).toEqual(['127.0.0.12', '']);
    expect(ipOf(ack.options, OPT.serverId)).toBe('127.0.0.1');
  });
});

describe('hold', () => {
  it('what DHCP said of a machine holds for its script: an iPXE that cannot fetch by HTTP is told so, by TFTP too', async () => {
    await world.endOpenBoot('n1');
    const n1 = machine('n1');
    expect((await n1.dora('ipxe-without-http')).file).toBe('undionly.kpxe');
    await n1.tftp('undionly.kpxe');
    await expect.poll(async () => JSON.stringify(await world.api('/api/boots?node=n1&limit=1'))).toContain('"loader"');
    const ack = await n1.dora('ipxe-without-http');
    expect(bootFileOf(ack)).toBe('boot.ipxe');
    const why = /RS-HOLD: this iPXE cannot fetch by HTTP or start a kernel \(it lists bzimage\)/;
    expect((await n1.tftp('boot.ipxe')).toString()).toMatch(why);
    expect((await n1.http('GET', `/script/${n1.mac}`)).text).toMatch(why);
    const { boots } = await world.api<{ boots: { bootSet?: string; stages: { name: string }[] }[] }>('/api/boots?node=n1&limit=1');
    expect([boots[0]!.bootSet, boots[0]!.stages.map((stage) => stage.name)]).toEqual([undefined, ['discover', 'offer', 'lease', 'loader']]);
  });

  it('HTTP: a script that says why, sleeps, and asks again; TFTP: the loader; DHCP: as boot', async () => {
    const seen = async () => (await world.api<{ boots: { stages: { name: string }[] }[] }>('/api/boots?node=held&limit=1')).boots[0]!.stages.map(({ name }) => name);
    for (let i = 0; i < FAILURES_BEFORE_HOLD; i++) {
      await machine('held').dora('ipxe');
      const { text } = await machine('held').http('GET', `/script/${machine('held').mac}`);
      await machine('held').http('GET', /^kernel \S+ \S+ (\S+)/m.exec(text)![1]!);
      await expect.poll(seen).toContain('kernel');
    }
    await machine('held').dora('ipxe');
    const script = await machine('held').http('GET', `/script/${machine('held').mac}`);
    expect(script.text).toMatch(/^#!ipxe\n:again\necho rackseed: RS-HOLD: 5 boots failed in a row, the last at kernel: the machine started over: boot \w+; asking again in 60 s\necho rackseed: mend it, then: rackseed node release held\nsleep 60\nchain --replace http/);
    expect((await machine('held').tftp('undionly.kpxe')).length).toBeGreaterThan(50_000);
    expect(bootFileOf(await machine('held').dora('ipxe'))).toMatch(/^http:.*\/script\//);
  });
});
