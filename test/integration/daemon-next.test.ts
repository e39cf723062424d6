// What a node does when it starts next, against the running daemon: boot-once, a node that fails again and again, and nodes with several cards.
import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bootFileOf, createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;
const machines = new Map<string, Machine>();
const machine = (name: string): Machine => machines.get(name)!;

beforeAll(async () => {
  world = await startWorld({
    profiles: {
      'k0s-single.yaml': `image: debian-k0s
cmdline: ["bond=bond0:eth0,eth1:mode=802.3ad", "vlan=bond0.42:bond0"]
nodes:
  once: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11 }
  yaml: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12, next: boot-once, exit: EFI/debian/shimx64.efi }
  loops: { macs: ["52:54:00:00:00:03"], ip: 127.0.0.13 }
  signed: { macs: ["52:54:00:00:00:05"], ip: 127.0.0.15, loader: uki }
  cards: { macs: ["52:54:00:00:00:04", "52:54:00:00:01:04"], ip: 127.0.0.14 }
`,
    },
  });
  relay = await createRelay();
  for (const [name, mac] of [['once', '00:01'], ['yaml', '00:02'], ['loops', '00:03'], ['signed', '00:05'], ['cards', '00:04'], ['cards-second', '01:04']] as const) machines.set(name, createMachine(relay, `52:54:00:00:${mac}`, world.httpPort));
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

interface Shown {
  readonly next: string;
  readonly held: boolean;
  readonly heldAt?: number;
  readonly failedInRow: number;
  readonly lastFailure?: { readonly stage?: string; readonly why?: string };
}
const node = (name: string) => world.api<Shown>(`/api/nodes/${name}`);
const say = (name: string, next: string) => world.api<Shown>(`/api/nodes/${name}/next`, 'POST', { next });
const script = async (one: Machine): Promise<string> => (await one.http('GET', `/script/${one.mac}`)).text;
const kinds = async (name: string): Promise<string[]> => (await world.events()).filter((event) => event.node === name).map(({ kind }) => kind).reverse();
const cli = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)(process.execPath, [join(import.meta.dirname, '../../dist/cli.js'), '--url', `unix:${join(world.dir, 'state/api.sock')}`, ...args])).stdout;

/** As far as its session. */
async function boot(one: Machine): Promise<{ report(stage: string, state?: string, token?: string): Promise<number> }> {
  await one.dora('ipxe');
  const id = /rackseed\.boot=(\w+)/.exec(await script(one))![1]!;
  const { text } = await one.http('POST', '/enrol', { body: `boot ${id}\nmac ${one.mac}\n` });
  const token = /^token (\w+)$/m.exec(text)![1]!;
  return { report: async (stage, state = 'ok', as = token) => (await one.http('POST', `/boots/${id}/report?stage=${stage}&state=${state}&message=no+disk`, { headers: { authorization: `Bearer ${as}` } })).status };
}

describe('boot-once', () => {
  it('is used up by the authenticated ready, and by nothing before it', async () => {
    const one = machine('once');
    expect((await node('once')).next).toBe('netboot');
    expect((await say('once', 'boot-once')).next).toBe('boot-once');
    // Retries, scripts and power cycles use nothing up.
    await one.dora('rom');
    await one.dora('ipxe');
    expect([await script(one), await script(one)].every((text) => text.includes('\nkernel '))).toBe(true);
    const { report } = await boot(one);
    expect(await report('ready', 'ok', '0'.repeat(64))).toBe(401);
    expect(await report('userspace')).toBe(204);
    expect((await node('once')).next).toBe('boot-once');
    expect(await report('ready')).toBe(204);
    expect((await node('once')).next).toBe('local');
    expect(await kinds('once')).toEqual(['node-next', 'boot-once-used']);
    const ack = await one.dora('rom');
    expect([ack.yiaddr, ack.file, bootFileOf(ack)]).toEqual(['127.0.0.11', '', '']);
    expect(await script(one)).toMatch(/RS-LOCAL: once boots from its disk: next is local\niseq \$\{platform\} efi \|\| exit 0\nexit 1\n$/);
  });

  it('stays with a node whose boot failed, and with one that was told so after its script', async () => {
    const one = machine('once');
    await say('once', 'netboot');
    const late = await boot(one);
    await say('once', 'boot-once');
    expect(await late.report('ready')).toBe(204);
    expect((await node('once')).next).toBe('boot-once');
    expect(await (await boot(one)).report('root', 'failed')).toBe(204);
    expect((await node('once')).next).toBe('boot-once');
    expect(await (await boot(one)).report('ready')).toBe(204);
    expect((await node('once')).next).toBe('local');
  });

  it('in the YAML means the same, once, and the node leaves by its own exit', async () => {
    expect((await node('yaml')).next).toBe('boot-once');
    await (await boot(machine('yaml'))).report('ready');
    expect((await node('yaml')).next).toBe('local');
    await world.api('/api/reload', 'POST');
    await machine('yaml').dora('ipxe');
    expect(await script(machine('yaml'))).toContain('\nsanboot --no-describe --drive 0 --filename \\EFI\\debian\\shimx64.efi || exit 1\n');
    expect(await cli('node', 'next', 'yaml', 'boot-once')).toMatch(/ boot-once /);
    expect((await boot(machine('yaml'))).report).toBeDefined();
  });

  it('and a machine that is sent to its disk in the middle of a boot goes there: that boot is over, and no failure', async () => {
    const one = machine('once');
    await say('once', 'netboot');
    await boot(one);
    await say('once', 'local');
    const ack = await one.dora('rom');
    expect([ack.yiaddr, ack.file, bootFileOf(ack)]).toEqual(['127.0.0.11', '', '']);
    expect(await script(one)).toContain('RS-LOCAL: once boots from its disk');
    const { boots } = await world.api<{ boots: { state: string; why?: string }[] }>('/api/boots?node=once&limit=1');
    expect(boots[0]).toMatchObject({ state: 'unfinished', why: 'the machine started over, to boot from its own disk' });
  });

  it('is refused when it is no such word, by API and command line', async () => {
    expect(await world.apiStatus('/api/nodes/once/next', 'POST', { next: 'twice' })).toMatchObject({ status: 422, body: { code: 'REQUEST_INVALID', message: 'next: must be one of netboot, boot-once, local' } });
    for (const words of [['twice'], [], ['local', '--clear']]) await expect(cli('node', 'next', 'once', ...words)).rejects.toMatchObject({ code: 64 });
  });

  it('can be taken back: what the YAML says counts again, also what was used up', async () => {
    await say('yaml', 'local');
    expect(await cli('node', 'next', 'yaml', '--clear')).toMatch(/^yaml .* boot-once /m);
    expect((await world.events()).find((event) => event.node === 'yaml' && event.kind === 'node-next')).toMatchObject({ detail: { next: 'as its YAML says' } });
    await (await boot(machine('yaml'))).report('ready');
    expect((await node('yaml')).next).toBe('local');
    expect((await world.api<Shown>('/api/nodes/yaml/next', 'DELETE')).next).toBe('boot-once');
    expect(await world.apiStatus('/api/nodes/nobody/next', 'DELETE')).toMatchObject({ status: 404 });
  });
});

describe('a node that fails five times in a row', () => {
  it('is held until it is released, however often it asks or starts anew; the event is one', async () => {
    const one = machine('loops');
    for (let i = 0; i < 5; i++) await (await boot(one)).report('step:30-k0s', 'failed');
    expect(await node('loops')).toMatchObject({ held: true, failedInRow: 5, lastFailure: { stage: 'step:30-k0s', why: 'step 30-k0s: no disk' } });
    for (let i = 0; i < 3; i++) {
      expect((await one.dora('rom')).file).toBe('undionly.kpxe');
      await one.dora('ipxe');
      for (let asked = 0; asked < 2; asked++) expect(await script(one)).toMatch(/RS-HOLD: 5 boots failed in a row, the last at step 30-k0s: no disk; asking again in 60 s\necho rackseed: mend it, then: rackseed node release loops\nsleep 60\nchain/);
    }
    expect((await node('loops')).failedInRow).toBe(5);
    expect(await kinds('loops')).toEqual(['node-held']);
    expect(await cli('node', 'list')).toMatch(/^loops .* held +5 boots failed in a row, the last at step 30-k0s: no disk/m);
    expect(await metric()).toBe('rackseed_nodes_held 1');

    // Another boot set lets it go; the one that failed, when it comes back before anything was booted, holds it as before.
    const since = (await node('loops')).heldAt;
    expect(since).toBeGreaterThan(0);
    const file = join(world.profilesDir, 'k0s-single.yaml');
    const text = readFileSync(file, 'utf8');
    for (const [cmdline, shown] of [['quiet, ', { held: false }], ['', { held: true, heldAt: since }]] as const) {
      writeFileSync(file, text.replace('cmdline: [', `cmdline: [${cmdline}`));
      await world.api('/api/reload', 'POST');
      const { held, heldAt } = await node('loops');
      expect({ held, heldAt }).toEqual({ heldAt: undefined, ...shown });
    }
    expect(await kinds('loops')).toEqual(['node-held']);

    // The script that asks again gets its boot, in the same boot.
    expect(await cli('node', 'release', '52:54:00:00:00:03')).not.toContain('held');
    expect(await script(one)).toContain('\nkernel ');
    expect(await metric()).toBe('rackseed_nodes_held 0');
    expect(await kinds('loops')).toEqual(['node-held', 'node-released']);
    await expect(cli('node', 'release', 'loops')).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('loops is not held') as string });
    expect(await world.apiStatus('/api/nodes/loops/release', 'POST', {})).toMatchObject({ status: 409, body: { code: 'NODE_NOT_HELD' } });
    expect(await kinds('loops')).toEqual(['node-held', 'node-released']);
  });

  it('is held, and an event, also when its firmware refuses the loader that would say so', async () => {
    const one = machine('signed');
    for (let i = 0; i < 5; i++) {
      const ack = await one.dora('uefi-http');
      const { text } = await one.http('GET', bootFileOf(ack)).then(() => one.http('POST', '/enrol', { body: `mac ${one.mac}\n` }));
      const [token, id] = [/^token (\w+)$/m.exec(text)![1]!, /^boot (\w+)$/m.exec(text)![1]!];
      expect((await one.http('POST', `/boots/${id}/report?stage=root&state=failed&message=no+disk`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(204);
    }
    expect(await kinds('signed')).toEqual([]);
    expect((await one.dora('uefi-http')).file).toMatch(/snponly\.efi$/);
    expect((await one.dora('uefi-http')).file).toMatch(/snponly\.efi$/);
    expect(await kinds('signed')).toEqual(['node-held']);
  });

  async function metric(): Promise<string | undefined> {
    const { stdout } = await promisify(execFile)('curl', ['-sS', '--unix-socket', join(world.dir, 'state/api.sock'), 'http://rackseed/metrics']);
    return /^rackseed_nodes_held .*$/m.exec(stdout)?.[0];
  }
});

describe('a node with two cards', () => {
  it('has its address on the card that boots, and on no other while it runs', async () => {
    const [first, second] = [machine('cards'), machine('cards-second')];
    const { report } = await boot(second);
    expect(await report('ready')).toBe(204);
    // It runs: its first card asks as a running system's would, and the address is not given a second time.
    expect((await first.discover('os', 400))?.yiaddr).not.toBe('127.0.0.14');
    // It starts over, by the other card: that one has the address then.
    expect((await first.dora('ipxe')).yiaddr).toBe('127.0.0.14');
    const text = await script(first);
    expect(text).toContain('BOOTIF=01-${netX/mac:hexhyp} bond=bond0:eth0,eth1:mode=802.3ad vlan=bond0.42:bond0');
    expect(text).not.toContain('net0');
    const { boots } = await world.api<{ boots: { mac: string; ip: string }[] }>('/api/boots?node=cards&limit=2');
    expect(boots.map(({ mac, ip }) => [mac, ip])).toEqual([[first.mac, '127.0.0.14'], [second.mac, '127.0.0.14']]);
  });

  it('may enrol by another card than it booted from', async () => {
    const [first, second] = [machine('cards'), machine('cards-second')];
    await first.dora('ipxe');
    const id = /rackseed\.boot=(\w+)/.exec(await script(first))![1]!;
    await second.dora('initrd');
    expect((await second.http('POST', '/enrol', { body: `boot ${id}\nmac ${second.mac}\n` })).status).toBe(201);
    expect((await world.api<{ boots: { id: string; mac: string }[] }>('/api/boots?node=cards&limit=1')).boots[0]).toMatchObject({ id, mac: second.mac });
  });
});
