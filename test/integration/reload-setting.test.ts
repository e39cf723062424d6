// The setting `reload`: what a SIGHUP and an edit do in daemons of their own processes. `auto` is what reload-faults.test.ts sees.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { createClient } from '../../src/commands/client.ts';

const CLI = new URL('../../dist/cli.js', import.meta.url).pathname;

/** Without DHCP, TFTP and HTTP: it binds nothing but its socket, so both run at once. */
async function start(reload: string) {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-reload-'));
  const config = join(dir, 'rackseed.yaml');
  const put = (names: readonly string[]): void =>
    writeFileSync(join(dir, 'boot-profiles', 'disk.yaml'), `boot: local\nnodes: {${names.map((name, at) => ` ${name}: { macs: ["52:54:00:00:00:0${at}"] }`).join(',')} }\n`);
  mkdirSync(join(dir, 'boot-profiles'));
  put([]);
  writeFileSync(config, `stateDir: ./state\nprofiles: ./boot-profiles\nreload: ${reload}\napi: { port: 0 }\nuser: null\n`);
  const child: ChildProcess = spawn(process.execPath, [CLI, 'serve', '--config', config], { stdio: ['ignore', 'pipe', 'inherit'] });
  let logged = '';
  child.stdout!.on('data', (chunk: Buffer) => (logged += chunk.toString()));
  await vi.waitFor(() => expect(logged).toContain('rackseed is up'), { timeout: 20_000, interval: 20 });
  const client = createClient({ config });
  return {
    put,
    hup: () => child.kill('SIGHUP'),
    log: () => logged,
    reload: () => client.post('/api/reload'),
    nodes: async () => (await client.get<{ nodes: { name: string }[] }>('/api/nodes')).nodes.map(({ name }) => name),
    async stop() {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'close');
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

let onSignal: Awaited<ReturnType<typeof start>>;
let manual: Awaited<ReturnType<typeof start>>;

beforeAll(async () => {
  [onSignal, manual] = await Promise.all([start('on-signal'), start('manual')]);
  for (const daemon of [onSignal, manual]) daemon.put(['n1']);
  manual.hup();
  // Longer than an edit takes with `reload: auto`: 150 ms of quiet.
  await new Promise((resolve) => setTimeout(resolve, 600));
});
afterAll(() => Promise.all([onSignal?.stop(), manual?.stop()]));

it('on-signal: an edit waits for SIGHUP', async () => {
  expect(await onSignal.nodes()).toEqual([]);
  onSignal.hup();
  await vi.waitFor(async () => expect(await onSignal.nodes()).toEqual(['n1']), { timeout: 10_000, interval: 20 });
  expect(onSignal.log()).toContain('"who":"SIGHUP"');
});

it('manual: an edit waits for the API, and a SIGHUP is refused with what to do', async () => {
  expect(manual.log()).toMatch(/SIGHUP is not taken.*reload: manual; to read the profiles again: rackseed reload/);
  expect(await manual.nodes()).toEqual([]);
  expect(await manual.reload()).toMatchObject({ changed: true, faults: [] });
  expect(await manual.nodes()).toEqual(['n1']);
});
