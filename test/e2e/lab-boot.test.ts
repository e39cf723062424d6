// `rackseed lab` as a user runs it: power-on to ready, the pasteable QEMU line, curl from the host, and nothing left behind.
import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { expectedStages } from '../../src/boot/timeline.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { ended } from '../../src/lab/child.ts';
import type { LabResult } from '../../src/commands/lab.ts';
import { STANDIN_VERSION } from '../../src/lab/site.ts';
import { asUser, CLI, isTrueRoot, leftovers, mounts, namespaceOf, openDir, processesIn, processesNaming, removeDir, start, TEST_STATE, until, USER_ID, USER_ROOT, type Started } from '../lab-process.ts';

/** The shipped steps; QEMU's ROM is an iPXE that needs no loader. */
const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();

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
  expect(stages.map(({ name }) => name)).toEqual(expectedStages('bios-ipxe', STEPS));
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
  const { qemu, api } = JSON.parse(first) as { qemu: { node: string; line: string }[]; api: string };
  expect(qemu.map(({ node }) => node)).toEqual(['n1']);
  expect(api).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect(JSON.parse(await curl(`${api}/readyz`))).toMatchObject({ ready: true });
  expect(JSON.parse(await curl(`${api}/api/nodes`))).toMatchObject({ nodes: [{ name: 'n1', profile: 'k0s-single' }] });
  const pasted = start(['sh', '-c', qemu[0]!.line]);
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

describe.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('%s in the middle of the boots of two nodes', (signal) => {
  test(`leaves no process and no namespace${signal === 'SIGKILL' ? '; files go with the next lab' : ', no file and no mount'}`, async () => {
    const dir = openDir();
    try {
      const before = mounts();
      running = start(lab('--nodes', '2'), { env: { TMPDIR: dir } });
      // Each by its own address: two machines with one would not both come this far.
      await until('the script of both', 60_000, () => ([/^n1 .* script$/m, /^n2 .* script$/m].every((line) => line.test(running!.stdout())) ? true : undefined), running);
      const machines = leftovers(TEST_STATE).filter((left) => left.includes('qemu-system'));
      expect(machines).toHaveLength(2);
      const namespace = namespaceOf(Number(machines[0]!.split(' ')[0]));
      expect(processesIn(namespace).length).toBeGreaterThanOrEqual(5);
      running.child.kill(signal);
      await running.ended;
      await until('all processes gone', 10_000, () => (processesIn(namespace).length === 0 ? true : undefined));
      expect(mounts()).toEqual(before);
      if (signal !== 'SIGKILL') expect([leftovers(TEST_STATE), readdirSync(dir)]).toEqual([[], []]);
    } finally {
      removeDir(dir);
    }
  });
});

test('SIGINT while the image is built leaves no process, no mount and no file of it', async () => {
  const dir = openDir();
  try {
    const [state, tmp] = [join(dir, 'state'), join(dir, 'tmp')];
    mkdirSync(tmp);
    const before = mounts();
    running = start([process.execPath, CLI, 'lab', '--state', state], { env: { TMPDIR: tmp } });
    // mmdebstrap is at work: a file of the root is there.
    const roots = () => (existsSync(join(state, 'tmp')) ? readdirSync(join(state, 'tmp')) : []).map((build) => join(state, 'tmp', build, 'root/etc'));
    await until('the beginnings of a root', 60_000, () => (roots().some((root) => existsSync(root)) ? true : undefined), running);
    expect(running.stdout()).toMatch(/^image debian-k0s: packages$/m);
    expect(processesNaming(`${state}/tmp/`)).not.toEqual([]);
    running.child.kill('SIGINT');
    expect(await running.ended).not.toBe(0);
    expect(running.stderr()).toMatch(/^rackseed: the build was interrupted$/m);
    await until('all processes gone', 10_000, () => (processesNaming(`${dir}/`).length === 0 ? true : undefined));
    expect([readdirSync(join(state, 'tmp')), readdirSync(tmp), leftovers(state), mounts()]).toEqual([[], [], [], before]);
  } finally {
    removeDir(dir);
  }
});

describe('an ordinary user', () => {
  let dir: string;
  beforeEach(() => (dir = openDir()));
  afterEach(() => removeDir(dir));

  test('gets the same lab without root: power-on to ready, how to go on, a console to join, and an end by Ctrl-C', async () => {
    const state = join(dir, 'state');
    // Their own copy of the image: that an ordinary user can build it is tested in image-build.test.ts.
    mkdirSync(state);
    for (const part of ['blobs', 'images']) cpSync(join(TEST_STATE, part), join(state, part), { recursive: true });
    if (isTrueRoot()) spawnSync('chown', ['-R', `${USER_ID}:${USER_ID}`, state]);
    chmodSync(state, 0o755);
    const command = [process.execPath, join(USER_ROOT, 'dist/cli.js'), 'lab', '--state', state];
    running = start(asUser([...command, '--json'], dir));
    await until('how to go on', 480_000, () => (/^stop: +Ctrl-C$/m.test(running!.stderr()) ? true : undefined), running);
    expectReady(lastJson<LabResult>(running.stdout()));
    expect(running.stderr()).toContain(`console:  npm run lab -- --console n1 --state ${state} `);
    expect(running.stderr()).toMatch(/^API: +http:\/\/127\.0\.0\.1:\d+\/api\/nodes /m);

    const console = start(asUser([...command, '--console', 'n1'], dir), { typed: true });
    try {
      await until('a prompt', 60_000, () => (console.stdout().includes('login:') ? true : undefined), console);
      console.child.stdin!.write('\u001d');
      expect(await console.ended, console.stderr()).toBe(0);
    } finally {
      console.child.kill('SIGKILL');
    }
    const stranger = start(asUser([...command, '--console', 'n2'], dir));
    expect([await stranger.ended, stranger.stderr()]).toEqual([66, expect.stringContaining('no running lab in')]);

    running.child.kill('SIGINT');
    expect(await running.ended, running.stderr()).toBe(0);
    expect(leftovers(state)).toEqual([]);
  });
});
