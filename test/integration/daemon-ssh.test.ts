// ssh keys, host keys and /config in the whole daemon: what a booting node is told, and what its operator is told of it.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { nodeKnownHosts, nodeShow } from '../../src/commands/node.ts';
import { KEY, OTHER_KEY } from '../unit/broken-profiles.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const profile = (more: string, ...nodes: string[]): string => `image: debian-k0s\n${more}nodes:\n${nodes.map((node) => `  ${node}\n`).join('')}`;
let world: World;
let relay: Relay;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-daemon-ssh-'));
  world = await startWorld({
    http: 'fallbacks: ["http://images.example:8090/x/"]',
    profiles: {
      'keys.yaml': profile(`ssh: { keys: [${KEY}] }\nconfig: { etc/motd: "of the profile", etc/both: profile }\nroot: { state: LABEL=s, cache: disk }\nshell: true\n`, `n1: { macs: ["52:54:00:00:00:01"], ip: 127.0.0.11, ssh: { keys: [${OTHER_KEY}] }, config: { etc/both: node } }`),
      'none.yaml': profile('', 'n2: { macs: ["52:54:00:00:00:02"], ip: 127.0.0.12 }'),
    },
  });
  relay = await createRelay();
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
  rmSync(dir, { recursive: true, force: true });
});

/** The config of the node's next boot, and the script that led to it. */
async function boots(name: 'n1' | 'n2'): Promise<{ readonly script: string; readonly config: string }> {
  const machine: Machine = createMachine(relay, world.macs[name], world.httpPort);
  await world.endOpenBoot(name);
  await machine.dora('ipxe');
  const script = await machine.http('GET', `/script/${machine.mac}`);
  const boot = /rackseed\.boot=(\w+)/.exec(script.text)![1]!;
  const { text } = await machine.http('POST', '/enrol', { body: `boot ${boot}\nmac ${machine.mac}\n` });
  const token = /^token ([0-9a-f]{64})$/m.exec(text)![1]!;
  return { script: script.text, config: (await machine.http('GET', `/boots/${boot}/config`, { headers: { authorization: `Bearer ${token}` } })).text };
}

const valuesOf = (config: string, key: string): string[] => config.split('\n').flatMap((line) => (line.startsWith(`${key} `) ? [line.slice(key.length + 1)] : []));
const api = () => ({ url: `unix:${join(world.dir, 'state/api.sock')}` });
const SECRET = () => join(world.dir, 'state/ssh-host-keys.secret');

it('a node that nobody may log in to gets no host key, and the daemon makes no secret for it', async () => {
  const { config, script } = await boots('n2');
  expect(config).not.toMatch(/ssh|file|shell|cache/);
  expect(script).not.toMatch(/rackseed\.(state|shell)/);
  expect(existsSync(SECRET())).toBe(false);
  await expect(nodeKnownHosts('n2', api())).rejects.toMatchObject({ code: 'USAGE' });
});

it("a node's keys, files and host key are in its config, the same at its next boot, and its operator is told the same host key", async () => {
  const { config, script } = await boots('n1');
  expect(script).toContain(' rackseed.state=LABEL=s rackseed.shell=1 ');
  expect(valuesOf(config, 'ssh-key')).toEqual([KEY, OTHER_KEY]);
  expect(valuesOf(config, 'files')).toEqual(['2']);
  expect(valuesOf(config, 'file').sort()).toEqual([`0644 etc/both ${btoa('node')}`, `0644 etc/motd ${btoa('of the profile')}`]);
  expect(valuesOf(config, 'squashfs-fallback')).toEqual([expect.stringMatching(/^http:\/\/images\.example:8090\/x\/blobs\/sha256\/[0-9a-f]{64}$/)]);
  const [hostKey] = valuesOf(config, 'ssh-host-key');
  const file = join(dir, 'key');
  writeFileSync(file, Buffer.from(hostKey!, 'base64'), { mode: 0o600 });
  const publicKey = execFileSync('ssh-keygen', ['-y', '-P', '', '-f', file], { encoding: 'utf8' }).split(' ').slice(0, 2).join(' ');

  expect(await nodeKnownHosts(undefined, api())).toBe(`n1,127.0.0.11 ${publicKey}\n`);
  expect(await nodeKnownHosts(world.macs.n1, api())).toBe(`n1,127.0.0.11 ${publicKey}\n`);
  const fingerprint = execFileSync('ssh-keygen', ['-l', '-f', file], { encoding: 'utf8' }).split(' ')[1]!;
  expect(await nodeShow('n1', { ...api(), output: 'table' })).toContain(`ssh: 2 keys may log in as root; its host key is ${fingerprint} (ED25519)\nknown_hosts: n1,127.0.0.11 ${publicKey}\n`);

  expect(valuesOf((await boots('n1')).config, 'ssh-host-key')).toEqual([hostKey]);
  // Neither in what people read of the node and its boots, nor in the log.
  const shown = JSON.stringify([await world.api('/api/nodes/n1'), await world.api('/api/boots'), await world.api('/api/generation')]) + world.log();
  for (const secret of [hostKey!, hostKey!.slice(60, 120), 'PRIVATE KEY']) expect(shown).not.toContain(secret);
});
