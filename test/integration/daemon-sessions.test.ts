// Sessions of boots against the running daemon: what a guest of the boot LAN forges changes nothing.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
let n1: Machine;
let n2: Machine;
let guest: Machine;

beforeAll(async () => {
  world = await startWorld({ profiles: { 'k0s-single.yaml': PROFILE.replace('["52:54:00:00:00:02"]', '["52:54:00:00:00:02", "52:54:00:00:01:02"]') } });
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
  n2 = createMachine(relay, world.macs.n2, world.httpPort);
  guest = createMachine(relay, '52:54:00:66:66:66', world.httpPort);
  guest.pretend('127.0.0.66');
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

async function enrolled(machine: Machine): Promise<{ boot: string; token: string }> {
  // Otherwise the node is held after five that start over, as it should be.
  await world.endOpenBoot(machine === n1 ? 'n1' : 'n2');
  await machine.dora('ipxe');
  const script = await machine.http('GET', `/script/${machine.mac}`);
  const boot = /rackseed\.boot=(\w+)/.exec(script.text)![1]!;
  const answer = await machine.http('POST', '/enrol', { body: `boot ${boot}\nmac ${machine.mac}\n` });
  expect(answer.status).toBe(201);
  const token = /^token ([0-9a-f]{64})$/m.exec(answer.text)![1]!;
  return { boot, token };
}

const bearer = (token: string): { headers: Record<string, string> } => ({ headers: { authorization: `Bearer ${token}` } });

describe('a session', () => {
  it('opens once, reads config and facts, and takes reports up to ready', async () => {
    const { boot, token } = await enrolled(n1);
    const config = await n1.http('GET', `/boots/${boot}/config`, bearer(token));
    expect(config.text).toMatch(/^node n1$/m);
    const facts = JSON.parse((await n1.http('GET', `/boots/${boot}/facts`, bearer(token))).text) as { node: string; artifacts: { k0s: { url: string } } };
    expect(facts.node).toBe('n1');
    expect((await n1.http('GET', facts.artifacts.k0s.url)).text).toBe('the k0s binary');
    for (const stage of ['root', 'userspace', 'step:10-storage']) {
      expect((await n1.http('POST', `/boots/${boot}/report?stage=${stage}&state=ok`, bearer(token))).status).toBe(204);
    }
    expect((await n1.http('POST', `/boots/${boot}/report?stage=ready&state=ok`, bearer(token))).status).toBe(204);
    const shown = await world.api<{ state: string; stages: { name: string }[] }>(`/api/boots/${boot}`);
    expect(shown.state).toBe('ready');
    expect(shown.stages.map((stage) => stage.name)).toEqual(['discover', 'offer', 'lease', 'script', 'config', 'root', 'userspace', 'step:10-storage', 'ready']);
    expect(JSON.stringify(shown)).not.toContain('tokenHash');
  });

  it('a replayed enrolment is 409, an event, and opens nothing', async () => {
    const { boot, token } = await enrolled(n1);
    const before = await world.api(`/api/boots/${boot}`);
    const again = await n1.http('POST', '/enrol', { body: `boot ${boot}\nmac ${n1.mac}\n` });
    expect(await world.api(`/api/boots/${boot}`)).toEqual(before);
    expect(again.status).toBe(409);
    expect(again.text).toMatch(/^ENROLLED_ALREADY: boot \w+ has its session already\n$/);
    expect((await n1.http('GET', `/boots/${boot}/config`, bearer(token))).status).toBe(200);
    expect((await world.events()).map((event) => event.kind)).toContain('enrolment-replayed');
  });

  it.each([
    ['without a token', (boot: string) => n1.http('POST', `/boots/${boot}/report?stage=ready&state=ok`)],
    ['with a made-up token', (boot: string) => n1.http('POST', `/boots/${boot}/report?stage=ready&state=ok`, bearer('0'.repeat(64)))],
    ['from a guest without a token', (boot: string) => guest.http('POST', `/boots/${boot}/report?stage=ready&state=ok`)],
  ])('a forged ready %s is 401 and writes nothing', async (_how, forge) => {
    const { boot } = await enrolled(n1);
    const before = await world.api(`/api/boots/${boot}`);
    expect((await forge(boot)).status).toBe(401);
    expect(await world.api(`/api/boots/${boot}`)).toEqual(before);
  });

  it("a token reports to its own boot only, and an older boot's token not to the newer one", async () => {
    const first = await enrolled(n1);
    const other = await enrolled(n2);
    const before = await world.api(`/api/boots/${other.boot}`);
    expect((await n1.http('POST', `/boots/${other.boot}/report?stage=ready&state=ok`, bearer(first.token))).status).toBe(401);
    expect(await world.api(`/api/boots/${other.boot}`)).toEqual(before);
    const second = await enrolled(n1);
    expect(second.boot).not.toBe(first.boot);
    expect((await n1.http('POST', `/boots/${second.boot}/report?stage=ready&state=ok`, bearer(first.token))).status).toBe(401);
    // The machine has started over since: what its first boot was told is nobody's to use any more.
    const ended = await world.api(`/api/boots/${first.boot}`);
    expect((await n1.http('POST', `/boots/${first.boot}/report?stage=ready&state=ok`, bearer(first.token))).status).toBe(401);
    expect((await n1.http('GET', `/boots/${first.boot}/facts`, bearer(first.token))).status).toBe(401);
    expect(await world.api(`/api/boots/${first.boot}`)).toEqual(ended);
  });

  it('a guest may neither enrol for a node, nor read its script, nor mark its stages', async () => {
    await n2.dora('ipxe');
    const script = await guest.http('GET', `/script/${n2.mac}`);
    expect(script.text).toMatch(/^#!ipxe\necho rackseed: RS-SILENT/);
    expect(script.text).not.toMatch(/rackseed\.boot=/);
    const boot = /rackseed\.boot=(\w+)/.exec((await n2.http('GET', `/script/${n2.mac}`)).text)![1]!;
    const claim = await guest.http('POST', '/enrol', { body: `boot ${boot}\nmac ${n2.mac}\n` });
    expect(claim.status).toBe(403);
    expect(claim.text).toMatch(/^ENROL_REFUSED: /);
    const kernel = await guest.http('GET', `/blobs/sha256/${world.image.kernel.digest.slice(7)}?boot=${boot}`);
    expect(kernel.status).toBe(404);
    const shown = await world.api<{ stages: { name: string }[] }>(`/api/boots/${boot}`);
    expect(shown.stages.map((stage) => stage.name)).not.toContain('kernel');
  });

  it('before the ACK nobody may have the script: it would fix the boot set', async () => {
    await world.endOpenBoot('n2');
    await n2.discover('ipxe');
    const script = await guest.http('GET', `/script/${n2.mac}`);
    expect(script.text).toMatch(/^#!ipxe\necho rackseed: RS-SILENT/);
    const { boots } = await world.api<{ boots: { bootSet?: string; stages: { name: string }[] }[] }>('/api/boots?node=n2&limit=1');
    expect([boots[0]!.bootSet, boots[0]!.stages.map((stage) => stage.name)]).toEqual([undefined, ['discover', 'offer']]);
  });

  it('a machine may go on with another of its cards', async () => {
    await world.endOpenBoot('n2');
    await n2.dora('ipxe');
    await n2.http('GET', `/script/${n2.mac}`);
    expect((await n2.http('POST', '/enrol', { body: 'mac 52:54:00:00:01:02\n' })).status).toBe(201);
  });

  it('stages without end are refused, tails are read by people only', async () => {
    const { boot, token } = await enrolled(n1);
    const answers = new Set<number>();
    for (let i = 0; i < 230; i++) answers.add((await n1.http('POST', `/boots/${boot}/report?stage=step:${i}-x&state=ok`, { ...bearer(token), body: 'x'.repeat(1000) })).status);
    expect([...answers]).toEqual([204, 400]);
    const shown = await world.api<{ stages: { detail: { tail?: string } }[] }>(`/api/boots/${boot}`);
    expect(shown.stages).toHaveLength(200);
    expect(shown.stages.at(-1)!.detail.tail).toHaveLength(1000);
    const listed = await world.api<{ boots: { stages: { detail: object }[] }[] }>('/api/boots?node=n1&limit=1');
    expect(JSON.stringify(listed)).not.toContain('xxxx');
  });

  it.each(['stage=discover&state=ok', 'stage=kernel&state=ok', 'stage=step:../etc&state=ok', 'stage=ready&state=perhaps', 'state=ok'])('a report of %s is refused in one line', async (query) => {
    const { boot, token } = await enrolled(n1);
    const answer = await n1.http('POST', `/boots/${boot}/report?${query}`, bearer(token));
    expect(answer.status).toBe(400);
    expect(answer.text).toMatch(/^REPORT_INVALID: .*\n$/);
  });

  it("a failed step ends the boot with the step's last line, and its tail is kept", async () => {
    const { boot, token } = await enrolled(n1);
    const tail = `${'x'.repeat(70_000)}\nno space left`;
    expect((await n1.http('POST', `/boots/${boot}/report?stage=step:30-k0s&state=failed&exit=1&message=no%20space%20left`, { ...bearer(token), body: tail.slice(-65_536) })).status).toBe(204);
    const shown = await world.api<{ state: string; why: string; stages: { name: string; detail: { tail?: string; exitCode?: number } }[] }>(`/api/boots/${boot}`);
    expect(shown).toMatchObject({ state: 'failed', why: 'step 30-k0s: no space left' });
    expect(shown.stages.find((stage) => stage.name === 'step:30-k0s')?.detail).toMatchObject({ exitCode: 1 });
    expect(shown.stages.find((stage) => stage.name === 'step:30-k0s')?.detail.tail).toHaveLength(65_536);
  });

  it('a body larger than a tail is refused without a stack', async () => {
    const { boot, token } = await enrolled(n1);
    const answer = await n1.http('POST', `/boots/${boot}/report?stage=step:1-a&state=ok`, { ...bearer(token), body: 'x'.repeat(200_000) });
    expect(answer.status).toBe(413);
    expect(answer.text.split('\n')).toHaveLength(2);
  });
});
