// `loader: uki` against a whole daemon: what DHCP names, who may fetch it, that it fixes the boot set, and what is said when there is none.
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { bootFileOf, createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
let n1: Machine;
const NAME = '52-54-00-00-00-01/uki.efi';
const PATH = `/loaders/${NAME}`;

beforeAll(async () => {
  relay = await createRelay();
  world = await startWorld({ profiles: { 'k0s-single.yaml': `${PROFILE}loader: uki\n` } });
});
afterAll(async () => {
  await world?.stop();
  await relay?.close();
});
beforeEach(async () => {
  await world.endOpenBoot('n1');
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
});

const newest = async () => (await world.api<{ boots: { bootSet?: string; stages: { name: string }[] }[] }>('/api/boots?node=n1&limit=1')).boots[0]!;

it('DHCP names it by HTTP or TFTP, and the initrd stage gets the base URL', async () => {
  expect(bootFileOf(await n1.dora('uefi-http'))).toBe(`http://127.0.0.1:${world.httpPort}${PATH}`);
  await world.endOpenBoot('n1');
  expect(bootFileOf(await n1.dora('uefi'))).toBe(NAME);
  expect(bootFileOf(await n1.dora('initrd'))).toBe(`http://127.0.0.1:${world.httpPort}`);
});

it('HEAD tells size and type and fixes the boot set; the stage is the last byte of GET', async () => {
  await n1.dora('uefi-http');
  expect((await newest()).bootSet).toBeUndefined();
  const head = await n1.http('HEAD', PATH);
  expect([head.status, head.headers['content-type'], head.headers['content-length'], head.headers['accept-ranges']]).toEqual([200, 'application/efi', String(world.image.uki!.size), 'bytes']);
  const { bootSet, stages } = await newest();
  expect(bootSet).toMatch(/^sha256:/);
  expect(stages.map(({ name }) => name)).not.toContain('kernel');
  const got = await n1.http('GET', PATH);
  expect(got.text).toBe('UKI of the first build');
  await expect.poll(async () => (await newest()).stages.map(({ name }) => name)).toEqual(['discover', 'offer', 'lease', 'kernel']);
});

it('parts that make the whole are the stage, one alone is not', async () => {
  await n1.dora('uefi-http');
  const { size } = world.image.uki!;
  expect((await n1.http('GET', PATH, { headers: { range: 'bytes=5-' } })).status).toBe(206);
  expect((await newest()).stages.map(({ name }) => name)).not.toContain('kernel');
  expect((await n1.http('GET', PATH, { headers: { range: 'bytes=0-4' } })).headers['content-range']).toBe(`bytes 0-4/${size}`);
  await expect.poll(async () => (await newest()).stages.map(({ name }) => name)).toContain('kernel');
});

it('another machine does not get it under this MAC, by HTTP or TFTP', async () => {
  await n1.dora('uefi-http');
  const n2 = createMachine(relay, world.macs.n2, world.httpPort);
  await n2.dora('uefi-http');
  expect(await n2.http('GET', PATH)).toMatchObject({ status: 404, text: expect.stringContaining("is not the address of n1's boot") });
  await expect(n2.tftp(NAME)).rejects.toThrow('TFTP ERROR 2');
  expect((await newest()).bootSet).toBeUndefined();
  expect((await n2.http('GET', '/loaders/not-a-mac/uki.efi')).status).toBe(404);
});

it('without an open boot it says so, and when to ask again', async () => {
  n1.pretend(world.ips.n1);
  expect(await n1.http('GET', PATH)).toMatchObject({ status: 503, headers: { 'retry-after': '10' }, text: expect.stringContaining('no boot of this machine is open') });
});

it('by TFTP it is the same file and the same stage', async () => {
  await n1.dora('uefi');
  expect(Buffer.from(await n1.tftp(NAME)).toString()).toBe('UKI of the first build');
  await expect.poll(async () => (await newest()).stages.map(({ name }) => name)).toEqual(['discover', 'offer', 'lease', 'kernel']);
});

it('a BIOS machine gets a loader that shows the reason, and its script says it', async () => {
  expect(bootFileOf(await n1.dora('rom'))).toBe('undionly.kpxe');
  expect((await n1.http('GET', `/script/${n1.mac}`)).text).toContain('loader: uki needs UEFI, this machine boots by BIOS');
});
