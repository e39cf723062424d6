// `loader: shim` against a whole daemon: what firmware, shim and GRUB ask for, by TFTP and HTTP, under the names that they were seen to use.
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { GRUB_ROOT_CFG } from '../../src/boot/grub.ts';
import { bootFileOf, createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
let n1: Machine;
let set: string;
const MAC = '52:54:00:00:00:01';
const CFG = `/${MAC}/grub.cfg`;

/** The least that counts as a program of UEFI x64. */
function program(words: string): Buffer {
  const bytes = Buffer.alloc(0x100);
  bytes.write('MZ');
  bytes.writeUInt32LE(0x80, 0x3c);
  bytes.write('PE\0\0', 0x80, 'latin1');
  bytes.writeUInt16LE(0x8664, 0x84);
  bytes.write(words, 0x90);
  return bytes;
}

beforeAll(async () => {
  set = mkdtempSync(join(tmpdir(), 'rackseed-shim-set-'));
  symlinkSync('/usr/lib/ipxe/undionly.kpxe', join(set, 'undionly.kpxe'));
  // Debian's names.
  for (const name of ['shimx64.efi.signed', 'grubnetx64.efi.signed']) writeFileSync(join(set, name), program(name));
  relay = await createRelay();
  world = await startWorld({ loadersDir: set, profiles: { 'k0s-single.yaml': `${PROFILE}loader: shim\n` } });
});
afterAll(async () => {
  await world?.stop();
  await relay?.close();
  rmSync(set, { recursive: true, force: true });
});
beforeEach(async () => {
  await world.endOpenBoot('n1');
  n1 = createMachine(relay, MAC, world.httpPort);
});

const newest = async () => (await world.api<{ boots: { bootSet?: string; stages: { name: string; detail: { message?: string } }[] }[] }>('/api/boots?node=n1&limit=1')).boots[0]!;
const stages = async () => (await newest()).stages.map(({ name }) => name);
const text = async (name: string): Promise<string> => Buffer.from(await n1.tftp(name)).toString();

it('by TFTP shim and its GRUB come under the names that are asked for, and both are the stage', async () => {
  const ack = await n1.dora('uefi');
  expect(bootFileOf(ack)).toBe('shimx64.efi.signed');
  expect(await n1.tftp('shimx64.efi.signed')).toEqual(program('shimx64.efi.signed'));
  // Shim 16.1: at the root, whatever its own directory.
  expect(await n1.tftp('/grubx64.efi')).toEqual(program('grubnetx64.efi.signed'));
  await expect.poll(async () => (await newest()).stages.find(({ name }) => name === 'loader')?.detail.message).toBe('grubnetx64.efi.signed');
  for (const name of ['/revocations_sku.efi', '/grub/x86_64-efi/command.lst']) await expect(n1.tftp(name)).rejects.toThrow('TFTP ERROR 1');
});

it('by HTTP too, where shim puts two slashes before it', async () => {
  expect(bootFileOf(await n1.dora('uefi-http'))).toBe(`http://127.0.0.1:${world.httpPort}/loaders/shimx64.efi.signed`);
  for (const path of ['/loaders//grubx64.efi', '/loaders/default//grubx64.efi', '/loaders/grubx64.efi']) {
    const { status, body, headers } = await n1.http('GET', path);
    expect([path, status, headers['content-type'], body.equals(program('grubnetx64.efi.signed'))]).toEqual([path, 200, 'application/efi', true]);
  }
  for (const path of ['/loaders/revocations_sku.efi', '/loaders//revocations_sku.efi', '/grub/x86_64-efi/command.lst']) expect((await n1.http('HEAD', path)).status).toBe(404);
});

it('the root configuration is the same by both, and no stage', async () => {
  await n1.dora('uefi');
  expect(await text('/grub/grub.cfg')).toBe(GRUB_ROOT_CFG);
  expect((await n1.http('GET', '/grub/grub.cfg')).text).toBe(GRUB_ROOT_CFG);
  expect((await n1.http('HEAD', '/grub/grub.cfg')).headers['content-length']).toBe(String(GRUB_ROOT_CFG.length));
  expect(await stages()).toEqual(['discover', 'offer', 'lease']);
});

it("the node's own fixes the boot set; HEAD is no stage, GET is one that names it", async () => {
  await n1.dora('uefi-http');
  const head = await n1.http('HEAD', CFG);
  expect([head.status, (await newest()).bootSet]).toEqual([200, expect.stringMatching(/^sha256:/)]);
  expect(await stages()).not.toContain('script');
  const got = await n1.http('GET', CFG);
  expect(got.headers['content-length']).toBe(head.headers['content-length']);
  expect(got.text).toContain(`'rackseed=http://127.0.0.1:${world.httpPort}'`);
  await expect.poll(async () => (await newest()).stages.at(-1)).toMatchObject({ name: 'script', detail: { message: 'grub.cfg' } });
});

it("another machine is not given it under this MAC, and does not move this node's boot", async () => {
  await n1.dora('uefi');
  const n2 = createMachine(relay, world.macs.n2, world.httpPort);
  await n2.dora('uefi');
  expect((await n2.http('GET', CFG)).text).toMatch(/^echo 'rackseed: RS-SILENT: .*is not the address of n1/);
  await expect(n2.tftp(CFG)).rejects.toThrow('TFTP ERROR 2');
  expect((await newest()).bootSet).toBeUndefined();
  expect((await n2.http('GET', '/not-a-mac/grub.cfg')).status).toBe(404);
});

it('without an open boot it waits and starts over, by both', async () => {
  n1.pretend(world.ips.n1);
  for (const cfg of [await text(CFG), (await n1.http('GET', CFG)).text]) expect(cfg).toMatch(/^echo 'rackseed: RS-HOLD: no boot of this machine is open.*\nsleep \d+\nreboot\n$/);
});

it('a node that shall go to its disk is told so by both, and GRUB is not left at a prompt', async () => {
  await n1.dora('uefi');
  await world.endOpenBoot('n1');
  await world.api('/api/nodes/n1/next', 'POST', { next: 'local' });
  try {
    for (const cfg of [await text(CFG), (await n1.http('GET', CFG)).text]) expect(cfg).toMatch(/^echo 'rackseed: RS-LOCAL: .*\nsleep 10\nreboot\n$/);
    await expect(n1.tftp('boot.ipxe')).rejects.toThrow('TFTP ERROR 1');
  } finally {
    await world.api('/api/nodes/n1/next', 'POST', { next: 'netboot' });
  }
});
