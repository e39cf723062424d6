// `rackseed lab` as a user runs it: power-on to ready, the pasteable QEMU line, curl from the host, and nothing left behind.
import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ended } from '../../src/lab/child.ts';
import type { LabResult } from '../../src/commands/lab.ts';
import { STANDIN_VERSION } from '../../src/lab/site.ts';
import { asUser, CLI, isTrueRoot, leftovers, namespaceOf, openDir, processesIn, removeDir, start, TEST_STATE, until, USER_ID, USER_ROOT, type Started } from '../lab-process.ts';

/** Firmware, loader and daemon; the steps come between userspace and ready, by their own names. A ROM that is an iPXE needs no loader. */
const STAGES_OF_A_ROM_WITH_IPXE = ['discover', 'offer', 'lease', 'script', 'kernel', 'initrd', 'config', 'root', 'userspace'];

const lab = (...options: string[]) => [process.execPath, CLI, 'lab', '--state', TEST_STATE, ...options];

function curl(url: string): Promise<string> {
  return new Promise((resolve, reject) => execFile('curl', ['--fail', '--silent', '--show-error', '--max-time', '10', url], (error, stdout) => (error ? reject(error) : resolve(stdout))));
}

function lastJson<T>(stdout: string): T {
  return JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as T;
}

let running: Started | undefined;
afterEach(async () => {
  if (running?.child.exitCode === null) running.child.kill('SIGTERM');
  await running?.ended;
  running = undefined;
});

// The first lab builds the image, which takes minutes; it is there when the others come.
beforeAll(() => void mkdirSync(TEST_STATE, { recursive: true }));

function expectReady(result: LabResult): void {
  expect(result.nodes.map(({ name, state, why }) => ({ name, state, why }))).toEqual([{ name: 'n1', state: 'ready', why: undefined }]);
  const stages = result.nodes[0]!.stages;
  const names = stages.map(({ name }) => name);
  expect(names.slice(0, STAGES_OF_A_ROM_WITH_IPXE.length)).toEqual(STAGES_OF_A_ROM_WITH_IPXE);
  const steps = names.slice(STAGES_OF_A_ROM_WITH_IPXE.length, -1);
  expect(steps.length).toBeGreaterThan(0);
  for (const step of steps) expect(step).toMatch(/^step:\d\d-/);
  expect(steps).toEqual([...steps].sort());
  expect(names.at(-1)).toBe('ready');
  expect(stages.filter(({ state }) => state !== 'ok')).toEqual([]);
  for (const [index, stage] of stages.entries()) {
    expect(stage.count, stage.name).toBeGreaterThan(0);
    expect(stage.sinceStartMs, stage.name).toBeGreaterThanOrEqual(stages[index - 1]?.sinceStartMs ?? 0);
  }
}

test('lab --once --json prints every stage from discover to ready, and leaves nothing', async () => {
  running = start(lab('--once', '--json'));
  const code = await running.ended;
  expect(code, running.stderr()).toBe(0);
  // One value on one line: `npm run lab -- --once --json | tail -n 1` is JSON in spite of npm's own lines.
  expect(running.stdout().trimEnd().split('\n')).toHaveLength(1);
  const result = lastJson<LabResult>(running.stdout());
  expectReady(result);
  expect(result).toMatchObject({ standin: true, k0s: STANDIN_VERSION });
  for (const file of [result.image.kernel, result.image.initrd, result.image.squashfs]) expect(file.size).toBeGreaterThan(100_000);
  const said = running.stderr().trimEnd().split('\n');
  expect([said[0], said.at(-1)]).toEqual([expect.stringContaining('STAND-IN'), expect.stringContaining('STAND-IN')]);
  expect(leftovers(TEST_STATE)).toEqual([]);
});

test('lab --no-vm prints a QEMU line that boots to ready from another terminal; curl on the host reaches the API', async () => {
  running = start(lab('--no-vm', '--once', '--json'));
  const first = await until('the first line', 600_000, () => (running!.stdout().includes('\n') ? running!.stdout().split('\n')[0]! : undefined), running);
  const { qemu, api } = JSON.parse(first) as { qemu: string; api: string };
  expect(api).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect(JSON.parse(await curl(`${api}/readyz`))).toMatchObject({ ready: true });
  expect(JSON.parse(await curl(`${api}/api/nodes`))).toMatchObject({ nodes: [{ name: 'n1', profile: 'k0s-single' }] });
  const pasted = start(['sh', '-c', qemu]);
  const over = ended(pasted.child);
  const code = await running.ended;
  expect(code, running.stderr() + pasted.stdout().slice(-2000)).toBe(0);
  expectReady(lastJson<LabResult>(running.stdout()));
  // Its network is gone, and so is the machine.
  expect(await over).toMatch(/killed/i);
  expect(leftovers(TEST_STATE)).toEqual([]);
});

test('an unready node is LAB_FAILED with its name, the last stage and its console', async () => {
  running = start(lab('--once', '--timeout', '4'));
  expect(await running.ended).toBe(1);
  expect(running.stderr()).toMatch(/1 of 1 nodes did not get ready: n1: not ready after 4 s \(last stage: \w+\)/);
  expect(running.stderr()).toContain('[LAB_FAILED]');
  expect(running.stdout()).toContain("last lines of n1's console:");
  expect(leftovers(TEST_STATE)).toEqual([]);
});

describe.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('%s in the middle of a boot', (signal) => {
  test(`leaves no process and no namespace${signal === 'SIGKILL' ? '; files go with the next lab' : ' and no file'}`, async () => {
    running = start(lab());
    await until('an offer', 60_000, () => (running!.stdout().includes('offer') ? true : undefined), running);
    const [line] = leftovers(TEST_STATE).filter((left) => left.includes('qemu-system'));
    const namespace = namespaceOf(Number(line!.split(' ')[0]));
    expect(processesIn(namespace).length).toBeGreaterThanOrEqual(4);
    running.child.kill(signal);
    await running.ended;
    await until('all processes gone', 10_000, () => (processesIn(namespace).length === 0 ? true : undefined));
    if (signal !== 'SIGKILL') expect(leftovers(TEST_STATE)).toEqual([]);
  });
});

describe('an ordinary user', () => {
  let dir: string;
  beforeEach(() => (dir = openDir()));
  afterEach(() => removeDir(dir));

  test('gets the same lab, from power-on to ready, without root', async () => {
    const state = join(dir, 'state');
    // Their own copy of the image: building it as an ordinary user is the image builder's own test.
    mkdirSync(state);
    for (const part of ['blobs', 'images']) cpSync(join(TEST_STATE, part), join(state, part), { recursive: true });
    if (isTrueRoot()) spawnSync('chown', ['-R', `${USER_ID}:${USER_ID}`, state]);
    chmodSync(state, 0o755);
    const cli = join(USER_ROOT, 'dist/cli.js');
    running = start(asUser([process.execPath, cli, 'lab', '--state', state, '--once', '--json'], dir));
    const code = await running.ended;
    expect(code, running.stderr()).toBe(0);
    expectReady(lastJson<LabResult>(running.stdout()));
    expect(leftovers(state)).toEqual([]);
  });
});
