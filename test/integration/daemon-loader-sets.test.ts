// Loader sets in a running daemon: what machines are told of which set, the bytes behind it, what a reload changes, and what is left out.
import { appendFileSync, chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stageOf, type Boot } from '../../src/boot/timeline.ts';
import { loaderAdd, loaderList } from '../../src/commands/loader.ts';
import { nodeShow } from '../../src/commands/node.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { OPT } from '../../src/dhcp/options.ts';
import { blobFile } from '../../src/store/blobs.ts';
import { efiProgram } from '../efi-program.ts';
import { bootFileOf, createMachine, createRelay, SERVER_IP, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const PROFILE = `image: debian-k0s
loaders: added
nodes:
  n1: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11 }
  builtin: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12, loaders: default }
  other: { macs: ["52:54:00:00:00:03"], ip: 127.0.0.13, loaders: site, loader: own.efi }
`;
const PLAIN = `image: debian-k0s
nodes:
  unnamed: { macs: ["52:54:00:00:00:04"], ip: 127.0.0.14 }
`;
const FIRST = efiProgram('first');
const SECOND = efiProgram('second, and longer');
const OWN = efiProgram('own');

let world: World;
let relay: Relay;
let config: string;
const machines = {} as Record<'n1' | 'builtin' | 'other' | 'unnamed', Machine>;

beforeAll(async () => {
  world = await startWorld({
    profiles: { 'rack.yaml': PROFILE, 'plain.yaml': PLAIN },
    async before(stateDir) {
      const dir = dirname(stateDir);
      config = join(dir, 'rackseed.yaml');
      mkdirSync(join(dir, 'site'));
      writeFileSync(join(dir, 'site/own.efi'), OWN);
      writeFileSync(join(dir, 'site/uki.efi'), OWN);
      appendFileSync(config, 'loaders: { sets: { site: ./site }, default: site }\n');
      writeFileSync(join(dir, 'snponly.efi'), FIRST);
      await loaderAdd('added', [join(dir, 'snponly.efi')], { config, output: 'table' });
    },
  });
  relay = await createRelay();
  for (const [name, last] of [['n1', '01'], ['builtin', '02'], ['other', '03'], ['unnamed', '04']] as const) machines[name] = createMachine(relay, `52:54:00:00:00:${last}`, world.httpPort);
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

const newestBoot = async (node: string): Promise<Boot> => (await world.api<{ boots: Boot[] }>(`/api/boots?limit=1&node=${node}`)).boots[0]!;

async function list(): Promise<{ set: string; name: string; served: string }[]> {
  return (JSON.parse(await loaderList({ config, output: 'json' })) as { loaders: { set: string; name: string; served: string }[] }).loaders;
}

test('a node is told its file below the name of its set, by TFTP, and gets the bytes of that set; its boot says which', async () => {
  const { n1 } = machines;
  const ack = await n1.dora('uefi');
  expect(bootFileOf(ack)).toBe('added/snponly.efi');
  expect((await n1.tftp('added/snponly.efi')).equals(FIRST)).toBe(true);
  await expect.poll(async () => stageOf(await newestBoot('n1'), 'loader')?.detail).toMatchObject({ message: 'added/snponly.efi', bytes: FIRST.length, digest: digestOfBytes(FIRST), version: 'unknown' });
  expect(await world.api('/api/nodes/n1')).toMatchObject({ loader: 'auto', loaders: 'added', lastLoader: { file: 'added/snponly.efi', digest: digestOfBytes(FIRST), version: 'unknown' } });
  expect(await nodeShow('n1', { config, output: 'table' })).toMatch(new RegExp(`added +added/snponly\\.efi unknown ${digestOfBytes(FIRST).slice(0, 19)}`));
});

test('and by HTTP Boot, as a URL', async () => {
  const { n1 } = machines;
  const ack = await n1.dora('uefi-http');
  expect(bootFileOf(ack)).toBe(`http://${SERVER_IP}:${world.httpPort}/loaders/added/snponly.efi`);
  const [head, get] = [await n1.http('HEAD', bootFileOf(ack)), await n1.http('GET', bootFileOf(ack))];
  expect([head.status, head.headers['content-length'], get.status, get.body.equals(FIRST)]).toEqual([200, String(FIRST.length), 200, true]);
  await expect.poll(async () => stageOf(await newestBoot('n1'), 'loader')?.detail).toMatchObject({ message: 'added/snponly.efi', digest: digestOfBytes(FIRST), version: 'unknown' });
});

test('default is the built-in set, with plain names', async () => {
  const { builtin } = machines;
  expect(bootFileOf(await builtin.dora('uefi'))).toBe('snponly.efi');
  expect((await builtin.tftp('snponly.efi')).equals(readFileSync('/usr/lib/ipxe/snponly.efi'))).toBe(true);
});

test('a plain name is a file of the own set before it is one of the built-in set, as shim asks for its GRUB', async () => {
  const { n1 } = machines;
  expect((await n1.tftp('snponly.efi')).equals(FIRST)).toBe(true);
  expect((await n1.http('GET', '/loaders/snponly.efi')).body.equals(FIRST)).toBe(true);
  expect((await n1.tftp('undionly.kpxe')).equals(readFileSync('/usr/lib/ipxe/undionly.kpxe'))).toBe(true);
});

test('a directory of the settings is a set; loader: chooses within it', async () => {
  const { other } = machines;
  expect(bootFileOf(await other.dora('uefi'))).toBe('site/own.efi');
  expect((await other.tftp('/site/own.efi')).equals(OWN)).toBe(true);
});

test('loaders.default is for whom no set is named, and where it has nothing the reason is told', async () => {
  const ack = await machines.unnamed.dora('uefi');
  expect(ack.options.has(OPT.bootFile)).toBe(false);
  expect(world.log()).toContain('no loader for amd64 uefi: snponly.efi is not in the loader set');
});

test.each(['added/../site/own.efi', 'added//snponly.efi', 'added/snponly.efi/', '../added/snponly.efi', 'nobody/snponly.efi', 'site/uki.efi', 'added/undionly.kpxe'])('%s is no file', async (name) => {
  const { n1 } = machines;
  await expect(n1.tftp(name)).rejects.toThrow();
  // The client itself resolves the dots, and two slashes are how shim asks.
  if (!/\.\.|\/\//.test(name)) expect([400, 404]).toContain((await n1.http('GET', `/loaders/${name}`)).status);
});

test('what is replaced is handed out by a reload, everywhere, and loader list says so', async () => {
  const { n1 } = machines;
  const dir = dirname(config);
  expect((await list()).find(({ set }) => set === 'added')).toMatchObject({ name: 'snponly.efi', served: 'yes' });
  writeFileSync(join(dir, 'snponly.efi'), SECOND);
  await expect(loaderAdd('added', [join(dir, 'snponly.efi')], { config, output: 'table' })).rejects.toMatchObject({ code: 'LOADER_INVALID', message: 'there is a loader set added already' });
  await loaderAdd('added', [join(dir, 'snponly.efi')], { config, replace: true, output: 'table' });
  expect((await list()).filter(({ set }) => set === 'added').map(({ served }) => served).sort()).toEqual(['after reload', 'until reload']);
  expect(await loaderList({ config, output: 'table' })).toContain('the daemon does not have all of this yet: rackseed reload\n');
  expect((await n1.tftp('added/snponly.efi')).equals(FIRST)).toBe(true);
  await world.daemon.reload('test');
  expect((await n1.tftp('added/snponly.efi')).equals(SECOND)).toBe(true);
  await expect.poll(async () => (await n1.http('GET', '/loaders/added/snponly.efi')).body.equals(SECOND)).toBe(true);
  expect((await list()).find(({ set }) => set === 'added')).toMatchObject({ served: 'yes' });
});

test('a profile that names no set of ours is a fault with its place, and nothing is swapped', async () => {
  const dir = dirname(config);
  writeFileSync(join(dir, 'new.efi'), OWN);
  await loaderAdd('late', [join(dir, 'new.efi')], { config, output: 'table' });
  writeFileSync(join(world.profilesDir, 'rack.yaml'), PROFILE.replace('loaders: added', 'loaders: aded'));
  await expect.poll(() => world.log()).toContain('unknown loader set aded');
  expect(world.log()).toContain('did you mean added?');
  expect((await list()).find(({ set }) => set === 'late')).toMatchObject({ served: 'after reload' });
  writeFileSync(join(world.profilesDir, 'rack.yaml'), PROFILE);
  await expect.poll(async () => (await list()).find(({ set }) => set === 'late')).toMatchObject({ served: 'yes' });
});

test('a file that is not what was added is left out, with an event, and its machine is told why', async () => {
  const { n1 } = machines;
  const blob = blobFile(join(dirname(config), 'state'), digestOfBytes(SECOND));
  chmodSync(blob, 0o644);
  writeFileSync(blob, efiProgram('SECOND, and longer'));
  await world.daemon.reload('test');
  await expect(n1.tftp('added/snponly.efi')).rejects.toThrow();
  expect(bootFileOf(await n1.dora('uefi')).length).toBe(0);
  expect(world.log()).toContain('loader set added is not there, or has no file');
  expect(await world.events()).toContainEqual(expect.objectContaining({ kind: 'loader-left-out', detail: expect.objectContaining({ set: 'added', file: 'snponly.efi', why: expect.stringContaining('not those that were added') as string }) as unknown }));
  expect(await loaderList({ config, output: 'table' })).toMatch(/^LEFT OUT loader set added: snponly\.efi: /m);
  const ready = (await world.apiStatus('/readyz')).body as { ready: boolean; reasons: { what: string }[] };
  expect(ready.ready).toBe(true);
  expect(ready.reasons.map(({ what }) => what)).toContainEqual(expect.stringContaining('loader set added: snponly.efi: '));
  // The same bytes once more mend it.
  writeFileSync(join(dirname(config), 'snponly.efi'), SECOND);
  await loaderAdd('added', [join(dirname(config), 'snponly.efi')], { config, replace: true, output: 'table' });
  await world.daemon.reload('test');
  expect((await n1.tftp('added/snponly.efi')).equals(SECOND)).toBe(true);
});
