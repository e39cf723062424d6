// A boot reads one boot set: the generation is swapped before, between and after the stages of a boot, and what the machine read is of one piece.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drift } from '../../src/boot-drift.ts';
import type { BootSet } from '../../src/boot/profile.ts';
import { digestOfValue } from '../../src/digest.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
let n1: Machine;
let edition = 0;

beforeAll(async () => {
  world = await startWorld();
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

/** Another image under the same name, another command line, another variable: nothing of the old boot set stays. */
async function swap(): Promise<void> {
  edition++;
  await world.publish('debian-k0s', `edition ${edition}`);
  writeFileSync(join(world.profilesDir, 'k0s-single.yaml'), `${PROFILE.replace('console=ttyS0', `edition=${edition}`)}vars: { edition: "${edition}" }\n`);
  const outcome = await world.api<{ faults: unknown[]; changed: boolean }>('/api/reload', 'POST');
  expect(outcome.faults).toEqual([]);
}

const POINTS = ['before the DISCOVER', 'after the offer', 'after the lease', 'after the loader', 'after the script', 'after the kernel', 'after the initrd', 'after enrolment', 'after the config', 'after root', 'after userspace', 'after a step', 'nowhere'] as const;
/** Before these the script is not rendered yet: the boot reads what is newest then. */
const EARLY: readonly string[] = POINTS.slice(0, 4);

async function boot(swapAt: (typeof POINTS)[number]) {
  const at = async (point: (typeof POINTS)[number]): Promise<void> => (point === swapAt ? swap() : undefined);
  await world.endOpenBoot('n1');
  await at('before the DISCOVER');
  const offer = await n1.discover('rom');
  await at('after the offer');
  await n1.request('rom', offer!);
  await at('after the lease');
  await n1.tftp('undionly.kpxe');
  await expect.poll(async () => (await world.api<{ boots: { stages: { name: string }[] }[] }>('/api/boots?node=n1&limit=1')).boots[0]!.stages.at(-1)?.name).toBe('loader');
  await at('after the loader');
  await n1.dora('ipxe');
  const script = (await n1.http('GET', `/script/${n1.mac}`)).text;
  await at('after the script');
  // A second request of the same boot is answered from the same boot set.
  expect((await n1.http('GET', `/script/${n1.mac}`)).text).toBe(script);
  const [kernelUrl, initrdUrl] = [...script.matchAll(/http:\/\/\S+\/blobs\/\S+/g)].map(([url]) => url);
  const kernel = (await n1.http('GET', kernelUrl!)).text;
  await at('after the kernel');
  const initrd = (await n1.http('GET', initrdUrl!)).text;
  await at('after the initrd');
  const claim = (await n1.http('POST', '/enrol', { body: `mac ${n1.mac}\n` })).text;
  const [, id] = /^boot (\w+)$/m.exec(claim)!;
  const headers = { authorization: `Bearer ${/^token (\w+)$/m.exec(claim)![1]}` };
  await at('after enrolment');
  const config = (await n1.http('GET', `/boots/${id}/config`, { headers })).text;
  await at('after the config');
  const squashfs = (await n1.http('GET', /^squashfs-url (\S+)$/m.exec(config)![1]!)).text;
  await n1.http('POST', `/boots/${id}/report?stage=root&state=ok`, { headers });
  await at('after root');
  await n1.http('POST', `/boots/${id}/report?stage=userspace&state=ok`, { headers });
  await at('after userspace');
  await n1.http('POST', `/boots/${id}/report?stage=step:10-storage&state=ok&result=changed`, { headers });
  await at('after a step');
  const facts = JSON.parse((await n1.http('GET', `/boots/${id}/facts`, { headers })).text) as { image: { digest: string }; vars: Record<string, string> };
  await n1.http('POST', `/boots/${id}/report?stage=ready&state=ok`, { headers });
  const shown = await world.api<{ state: string; bootSet: string; bootSetContent: BootSet }>(`/api/boots/${id}`);
  return { script, kernel, initrd, config, squashfs, facts, shown };
}

describe('a generation that is swapped', () => {
  it.each(POINTS)('%s: the boot ends with one consistent boot set', async (point) => {
    const before = edition;
    const { script, kernel, initrd, config, squashfs, facts, shown } = await boot(point);
    const read = EARLY.includes(point) ? edition : before;
    const name = read === 0 ? 'the first build' : `edition ${read}`;
    expect([kernel, initrd, squashfs]).toEqual([`kernel of ${name}`, `initrd of ${name}`, `squashfs of ${name}`]);
    expect(script).toContain(read === 0 ? 'console=ttyS0' : `edition=${read}`);
    expect(shown.state).toBe('ready');
    expect(digestOfValue(shown.bootSetContent)).toBe(shown.bootSet);
    expect(config).toContain(shown.bootSetContent.image.squashfs.digest);
    expect(facts.image.digest).toBe(shown.bootSetContent.image.digest);
    expect(facts.vars['edition']).toBe(read === 0 ? undefined : String(read));
    const node = await world.api<{ running: string; lastGood: string; assigned: string }>('/api/nodes/n1');
    expect([node.running, node.lastGood]).toEqual([shown.bootSet, shown.bootSet]);
    expect(node.assigned === shown.bootSet).toBe(read === edition);
    // Image, command line and variables are others: both are pending, until the next boot.
    const { drift } = await world.api<{ drift: Drift }>('/api/nodes/n1');
    expect([drift.state, drift.rebootPending, drift.stepsPending]).toEqual(read === edition ? ['none', false, false] : ['drift', true, true]);
    expect(drift.changes.map(({ what, needs }) => `${what} ${needs}`)).toEqual(read === edition ? [] : ['image reboot', 'cmdline reboot', 'vars.edition steps']);
  });

  it('the newest one is what the next boot reads', async () => {
    const { kernel } = await boot('nowhere');
    expect(kernel).toBe(`kernel of edition ${edition}`);
  });

  it('a tag that moves, or an artifact that is added, changes nothing before the next reload', async () => {
    const before = await world.api<{ id: string }>('/api/generation');
    await world.publish('debian-k0s', 'a build that nobody assigned');
    const { kernel } = await boot('nowhere');
    expect(kernel).toBe(`kernel of edition ${edition}`);
    expect(await world.api('/api/generation')).toEqual(before);
  });

  it('moving a node to another profile is written down: who, when, which generation', async () => {
    writeFileSync(join(world.profilesDir, 'plain.yaml'), 'image: debian-k0s\nnodes:\n  n1: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11 }\n');
    writeFileSync(join(world.profilesDir, 'k0s-single.yaml'), PROFILE.replace(/ {2}n1:.*\n/, ''));
    // No reload: the daemon sees the edit by itself.
    await expect.poll(async () => (await world.api<{ profile: string }>('/api/nodes/n1')).profile, { timeout: 10_000 }).toBe('plain');
    const { history } = await world.api<{ history: { profile: string; who: string; mac: string; generation: string }[] }>('/api/nodes/n1');
    expect(history[0]).toMatchObject({ profile: 'plain', mac: n1.mac, who: 'edit' });
    expect(history[0]!.generation).toBe((await world.api<{ id: string }>('/api/generation')).id);
    expect(history[1]).toMatchObject({ profile: 'k0s-single' });
  });

  it('a node that leaves the YAML while it boots ends its boot; then it is unknown', async () => {
    await world.endOpenBoot('n1');
    await n1.dora('ipxe');
    const script = (await n1.http('GET', `/script/${n1.mac}`)).text;
    writeFileSync(join(world.profilesDir, 'plain.yaml'), 'image: debian-k0s\n');
    expect(await world.api('/api/reload', 'POST')).toMatchObject({ changed: true });
    // Its files, its session and what it asks for by its address alone: all of it as before.
    for (const [url] of script.matchAll(/http:\/\/\S+\/blobs\/\S+/g)) expect((await n1.http('GET', url)).status).toBe(200);
    const claim = (await n1.http('POST', '/enrol', { body: `mac ${n1.mac}\n` })).text;
    const [, id] = /^boot (\w+)$/m.exec(claim)!;
    const headers = { authorization: `Bearer ${/^token (\w+)$/m.exec(claim)![1]}` };
    expect((await n1.http('GET', `/boots/${id}/config`, { headers })).text).toMatch(/^node n1$/m);
    expect((await n1.http('GET', '/git/post-boot.git/info/refs?service=git-upload-pack')).status).toBe(200);
    expect((await n1.http('POST', `/boots/${id}/report?stage=ready&state=ok`, { headers })).status).toBe(204);
    expect((await world.api<{ state: string }>(`/api/boots/${id}`)).state).toBe('ready');
    expect((await n1.http('GET', '/git/post-boot.git/info/refs?service=git-upload-pack')).status).toBe(404);
    expect(await n1.discover('ipxe', 400)).toBeUndefined();
  });

  it("a node's profile cannot be set through the API while it stands in YAML", async () => {
    const refused = await world.apiStatus('/api/nodes/n2/profile', 'PUT');
    expect(refused.status).toBe(409);
    expect(refused.body).toMatchObject({ code: 'NODE_IN_YAML', hint: expect.stringContaining('boot-profiles') });
  });
});
