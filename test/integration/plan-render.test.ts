// `rackseed plan` and `rackseed render` beside a running daemon: what they say is what then happens, and what render shows is what the servers send.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { planCommand } from '../../src/commands/plan.ts';
import { asksOf, type MachineKind, type RenderPart } from '../../src/commands/render-machines.ts';
import { MADE_UP_BOOT, renderCommand } from '../../src/commands/render.ts';
import { encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { AppError, FaultsError, formatFault } from '../../src/errors.ts';
import type { Plan } from '../../src/plan.ts';
import { createMachine, createRelay, SERVER_IP, type Kind, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

const CLI = new URL('../../dist/cli.js', import.meta.url).pathname;
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJq4Zh2V3Vt8cGe5UzY2Z2bqkXqv9l3uJpS0vW4m3dA me@here';
const SHIM = `image: debian-k0s
loader: shim
nodes:
  n2: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12 }
`;
const K0S = PROFILE.replace(/ {2}n2.*\n/, '').replace('nodes:', `postBoot: { repo: post-boot, ref: main, steps: k0s-single }\nssh: { keys: ["${KEY}"] }\nvars: { color: blue, api_token: abc }\nconfig: { etc/motd: "hello" }\nnodes:`);

let world: World;
let relay: Relay;
let set: string;
let n1: Machine;
let n2: Machine;
let config: string;

const put = (files: Readonly<Record<string, string>>, dir = world.profilesDir) => Object.entries(files).forEach(([name, text]) => writeFileSync(join(dir, name), text));
const plan = async (more: { profiles?: string } = {}): Promise<{ plan: Plan & { note?: string }; changes: boolean }> => {
  const { text, changes } = await planCommand({ config, output: 'json', ...more });
  return { plan: JSON.parse(text) as Plan, changes };
};
const generation = async () => (await world.api<{ id: string }>('/api/generation')).id;

beforeAll(async () => {
  set = mkdtempSync(join(tmpdir(), 'rackseed-plan-set-'));
  for (const name of ['undionly.kpxe', 'ipxe.efi']) symlinkSync(`/usr/lib/ipxe/${name}`, join(set, name));
  const program = Buffer.alloc(0x100);
  program.write('MZ');
  program.writeUInt32LE(0x80, 0x3c);
  program.write('PE\0\0', 0x80, 'latin1');
  program.writeUInt16LE(0x8664, 0x84);
  for (const name of ['shimx64.efi.signed', 'grubnetx64.efi.signed']) writeFileSync(join(set, name), program);
  world = await startWorld({ reload: 'manual', loadersDir: set, profiles: { 'k0s-single.yaml': K0S, 'shim.yaml': SHIM } });
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
  n2 = createMachine(relay, world.macs.n2, world.httpPort);
  config = join(world.dir, 'rackseed.yaml');
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
  rmSync(set, { recursive: true, force: true });
});

/** Boots it to its config; answers what it was sent, with the boot's id. */
async function booted(machine: Machine, kind: Kind, script: () => Promise<string>) {
  await machine.dora(kind);
  const text = await script();
  const boot = /rackseed\.boot=(\w+)/.exec(text)![1]!;
  // The script is a stage when its last byte is acknowledged, which the daemon may hear a moment after us.
  const token = await vi.waitFor(async () => {
    const enrolled = await machine.http('POST', '/enrol', { body: `boot ${boot}\nmac ${machine.mac}\n` });
    expect(enrolled.status).toBe(201);
    return /^token (\w+)$/m.exec(enrolled.text)![1]!;
  }, { timeout: 5_000, interval: 20 });
  const headers = { authorization: `Bearer ${token}` };
  const get = async (route: string) => (await machine.http('GET', `/boots/${boot}/${route}`, { headers })).text;
  const report = (stage: string) => machine.http('POST', `/boots/${boot}/report?stage=${stage}&state=ok`, { headers });
  return { boot, script: text, config: await get('config'), facts: await get('facts'), report };
}

describe('render', () => {
  const render = (name: string, as: MachineKind, only: RenderPart) => renderCommand(name, { config, as, only });
  const made = (text: string, boot: string) => text.replaceAll(boot, MADE_UP_BOOT);

  it('script, config and facts are what the daemon then serves, but for the boot and the host key', async () => {
    const [script, ofConfig, facts] = [await render('n1', 'ipxe', 'script'), await render('n1', 'ipxe', 'config'), await render('n1', 'ipxe', 'facts')];
    const sent = await booted(n1, 'ipxe', async () => (await n1.http('GET', `/script/${n1.mac}`)).text);
    expect(script).toBe(made(sent.script, sent.boot));
    expect(script).toContain('\nboot || goto retry\n');
    expect(sent.config).toMatch(/^ssh-host-key [A-Za-z0-9+/=]{100,}$/m);
    expect(ofConfig).toBe(made(sent.config, sent.boot).replace(/^ssh-host-key .*$/m, 'ssh-host-key masked'));
    expect(facts).toBe(made(sent.facts, sent.boot).replace('"api_token": "abc"', '"api_token": "masked"'));
    expect(facts).not.toContain('abc');
  });

  it.each(['uefi', 'uefi-http'] as const)("shim's machine as %s: grub.cfg is what the daemon serves by that way", async (as) => {
    const cfg = await render('n2', as, 'script');
    await world.endOpenBoot('n2');
    const sent = await booted(n2, as, async () => (as === 'uefi' ? (await n2.tftp(`/${n2.mac}/grub.cfg`)).toString() : (await n2.http('GET', `/${n2.mac}/grub.cfg`)).text));
    expect(cfg).toBe(made(sent.script, sent.boot));
    expect(cfg).toContain(as === 'uefi' ? "linux '/52-54-00-00-00-02/kernel'" : "linux '/blobs/sha256/");
  });

  it.each([
    ['n1', 'bios', 'undionly.kpxe'],
    ['n1', 'uefi', 'ipxe.efi'],
    ['n1', 'uefi-http', `http://${SERVER_IP}:8080/loaders/ipxe.efi`],
    ['n1', 'ipxe', `http://${SERVER_IP}:8080/script/52-54-00-00-00-01`],
    ['n1', 'ipxe-uefi', `http://${SERVER_IP}:8080/script/52-54-00-00-00-01`],
    ['n1', 'uefi-arm64', undefined],
    ['n2', 'uefi', 'shimx64.efi.signed'],
  ] as const)('the DHCP answer to %s as %s is the daemon\'s, byte for byte', async (name, as, file) => {
    const text = await render(name, as, 'dhcp');
    const mac = world.macs[name];
    const { rom, ipxe } = asksOf(as, mac, { ip: world.ips[name], server: SERVER_IP });
    await world.endOpenBoot(name);
    const reply = (await relay.exchange({ ...((rom ?? ipxe) as Packet) }))!;
    // Where its relay stands is the test's, not the machine's.
    const bytes = encode({ ...reply, giaddr: NO_IP });
    expect(/^ {2}hex ([0-9a-f]+)$/m.exec(text)![1]).toBe(Buffer.from(bytes as Uint8Array).toString('hex'));
    if (file === undefined) expect(text).not.toContain('boot-file');
    else expect(text).toMatch(new RegExp(`^ {2} 67 boot-file +"${file.replaceAll('.', '\\.')}"$`, 'm'));
  });

  it('as a whole it says what is made up and masked, and with --running where it is from', async () => {
    const whole = await renderCommand('52-54-00-00-00-01', { config, as: 'bios', running: true });
    expect(whole).toContain(`# n1 (52:54:00:00:00:01), profile k0s-single, as bios; from the running generation ${(await generation()).slice(0, 19)}\n`);
    expect(whole).toContain(`# made up here: the boot's id ${MADE_UP_BOOT}`);
    expect(whole.match(/^== .*$/gm)).toEqual(['== DHCP', '== iPXE script', '== config (GET /boots/ID/config, the ssh host key masked)', '== facts (GET /boots/ID/facts, variables that are called secret masked)']);
    await expect(renderCommand('n3', { config, as: 'bios' })).rejects.toMatchObject({ code: 'NODE_UNKNOWN', hint: 'did you mean n1?' } satisfies Partial<AppError>);
    await expect(renderCommand('n1', { config, as: 'toaster' })).rejects.toMatchObject({ code: 'USAGE' } satisfies Partial<AppError>);
  });
});

describe('plan', () => {
  beforeAll(async () => {
    // n1 runs what it was assigned, n2 nothing.
    for (const name of ['n1', 'n2']) await world.endOpenBoot(name);
    await (await booted(n1, 'ipxe', async () => (await n1.http('GET', `/script/${n1.mac}`)).text)).report('ready');
  });

  it('of files as they run is no change', async () => {
    expect(await plan()).toMatchObject({ changes: false, plan: { from: await generation(), nodes: [], updates: [] } });
    expect(await planCommand({ config, output: 'table' })).toEqual({ text: `nothing changes: generation ${(await generation()).slice(0, 19)}\n`, changes: false });
  });

  it('a tag that moved is an update, and reaches a running node by a reboot', async () => {
    const newer = await world.publish('debian-k0s', 'the second build');
    const { plan: found, changes } = await plan();
    expect(changes).toBe(true);
    expect(found.updates).toEqual(['k0s-single', 'shim'].map((profile) => ({ profile, what: 'image debian-k0s', from: world.image.digest, to: newer.digest, moved: true })));
    expect(found.nodes.map(({ name, effect, controller }) => [name, effect, controller])).toEqual([['n1', 'reboot', true], ['n2', 'next boot', undefined]]);
    expect(found.nodes[0]!.changes).toEqual([{ what: 'image', from: `debian-k0s@${world.image.digest}`, to: `debian-k0s@${newer.digest}`, needs: 'reboot' }]);
  });

  it('an edit is told node by node, and nothing of it is live before the reload', async () => {
    const before = await generation();
    put({ 'k0s-single.yaml': K0S.replace('nodes:', 'cmdline: [quiet]\nnodes:').replace('cmdline: [console=ttyS0]\n', '') });
    put({ 'shim.yaml': SHIM.replace('n2:', 'n3:').replace('00:02', '00:03') });
    const { plan: found } = await plan();
    expect(found.nodes.map(({ name, was, effect, changes }) => [name, was, effect, changes.map(({ what }) => what)])).toEqual([
      ['n1', 'changed', 'reboot', ['image', 'cmdline']],
      ['n2', 'removed', 'gone', []],
      ['n3', 'added', 'next boot', []],
    ]);
    const gate = await new Promise<{ code: number | null; out: string }>((resolve) => {
      const child = spawn(process.execPath, [CLI, 'plan'], { cwd: world.dir, stdio: ['ignore', 'pipe', 'inherit'] });
      let out = '';
      child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
      child.on('close', (code) => resolve({ code, out }));
    });
    expect(gate.code).toBe(2);
    expect(gate.out).toContain('nodes: 1 changed, 1 new, 1 removed, 1 to reboot, 1 of them controllers\n');
    expect(gate.out).toContain('\n  cmdline console=ttyS0 -> quiet\n');
    expect(await generation()).toBe(before);
    // What was planned is what comes.
    expect(await world.api('/api/reload', 'POST')).toEqual({ generation: found.to, changed: true, faults: [] });
    expect(await plan()).toMatchObject({ changes: false });
  });

  it('faults are told as check does, of the daemon\'s directory and of another one', async () => {
    const other = join(world.dir, 'other');
    mkdirSync(other);
    put({ 'k0s-single.yaml': K0S.replace('image: debian-k0s', 'image: debian-k0') }, other);
    const wrong = (await plan({ profiles: other }).catch((error: unknown) => error)) as FaultsError;
    expect(wrong).toBeInstanceOf(FaultsError);
    expect([wrong.code, wrong.faults.map(formatFault)]).toEqual(['PROFILES_INVALID', [expect.stringMatching(/other\/k0s-single\.yaml:1:8: unknown image debian-k0\n? *.*did you mean debian-k0s\?/)]]);
    put({ 'k0s-single.yaml': K0S }, other);
    expect((await plan({ profiles: other })).plan.nodes.map(({ name, was }) => [name, was])).toEqual([['n1', 'changed'], ['n3', 'removed']]);
    expect((await world.apiStatus('/api/plan', 'POST', { files: [{ file: '/etc/passwd', text: '' }] })).status).toBe(422);
  });

  it('without a daemon it is the generation in the state directory that is compared, and it says so', async () => {
    const id = await generation();
    await world.daemon.stop();
    put({ 'k0s-single.yaml': K0S });
    const { plan: found, changes } = await plan();
    expect(changes).toBe(true);
    expect(found.from).toBe(id);
    expect(found.note).toMatch(/^no daemon answers at .*\/state\/api\.sock: compared with the generation that .*\/state holds, of 20/);
    expect(found.nodes.map(({ name, effect }) => [name, effect])).toEqual([['n1', 'reboot']]);
    await expect(planCommand({ config, url: `unix:${world.dir}/state/api.sock`, output: 'table' })).rejects.toMatchObject({ code: 'DAEMON_UNREACHABLE' } satisfies Partial<AppError>);
  });
});
