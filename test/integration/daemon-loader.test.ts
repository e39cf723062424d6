// `loader:` of a profile in a running daemon: the file that firmware is given, the bytes behind its name, and the reason where it cannot run.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { textOf, OPT } from '../../src/dhcp/options.ts';
import { bootFileOf, createMachine, createRelay, SERVER_IP, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const PROFILE = `image: debian-k0s
loader: ipxe
nodes:
  own: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11 }
  auto: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12, loader: auto }
  wrong: { macs: ["52:54:00:00:00:03"], ip: 127.0.0.13, loader: undionly.kpxe }
`;
const onDisk = (name: string): Buffer => readFileSync(join('/usr/lib/ipxe', name));

let world: World;
let relay: Relay;
let own: Machine;
let auto: Machine;
let wrong: Machine;

beforeAll(async () => {
  world = await startWorld({ profiles: { 'rack.yaml': PROFILE } });
  relay = await createRelay();
  [own, auto, wrong] = ['01', '02', '03'].map((last) => createMachine(relay, `52:54:00:00:00:${last}`, world.httpPort)) as [Machine, Machine, Machine];
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

test("the profile's loader goes to its nodes by PXE, with the bytes of the set", async () => {
  const ack = await own.dora('uefi');
  expect([ack.file, textOf(ack.options, OPT.bootFile)]).toEqual(['ipxe.efi', 'ipxe.efi']);
  expect((await own.tftp(bootFileOf(ack))).equals(onDisk('ipxe.efi'))).toBe(true);
});

test('and by HTTP Boot, where it is a URL', async () => {
  const ack = await own.dora('uefi-http');
  expect(bootFileOf(ack)).toBe(`http://${SERVER_IP}:${world.httpPort}/loaders/ipxe.efi`);
  const file = await own.http('GET', bootFileOf(ack));
  expect([file.status, file.body.equals(onDisk('ipxe.efi'))]).toEqual([200, true]);
});

test('a BIOS gets that of its own table row', async () => {
  expect(bootFileOf(await own.dora('rom'))).toBe('ipxe.pxe');
});

test('a node with auto gets what its firmware gets', async () => {
  expect(bootFileOf(await auto.dora('uefi'))).toBe('snponly.efi');
});

test('firmware that cannot start it gets an address, no boot file and no other loader; the log has the reason', async () => {
  const ack = await wrong.dora('uefi');
  expect([ack.yiaddr, ack.file, ack.options.has(OPT.bootFile), ack.options.has(OPT.vendorClass)]).toEqual(['127.0.0.13', '', false, false]);
  expect(world.log()).toContain('loader: undionly.kpxe is for bios, this machine is amd64 uefi');
  // The same node on a machine that can.
  expect(bootFileOf(await wrong.dora('rom'))).toBe('undionly.kpxe');
});

test('a loader that the set does not have is a fault with its place, and changes nothing', async () => {
  writeFileSync(join(world.profilesDir, 'rack.yaml'), PROFILE.replace('loader: ipxe\n', 'loader: ipxe.ef.efi\n'));
  await world.daemon.reload('test').catch(() => undefined);
  expect(world.log()).toContain('the loader set has no ipxe.ef.efi');
  expect(bootFileOf(await own.dora('uefi'))).toBe('ipxe.efi');
});
