// One machine's life in the lab: ready, a second run of its agent, reassigned by an edit, and two failures with their names.
import { copyFileSync, cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import { startLab, type Lab, type LabNode } from '../../src/lab/lab.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { openDir, removeDir, TEST_STATE, until } from '../lab-process.ts';
import { openShell, SHELL_CMDLINE, shellArgs } from './shell.ts';

const dir = openDir();
const state = join(dir, 'state');
let lab: Lab;
let node: LabNode;
let vm: Vm | undefined;
let squashfs = '';

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  const { manifest } = await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
  squashfs = manifest.squashfs.digest;
  // Blobs are damaged below: these are copies.
  mkdirSync(state);
  for (const part of ['blobs', 'images']) cpSync(join(TEST_STATE, part), join(state, part), { recursive: true });
  lab = await startLab({ state, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  const [n1] = lab.nodes;
  node = { ...n1!, vm: { ...n1!.vm, more: shellArgs(join(dir, 'shell.sock')) } };
  edit('k0s-single.yaml', (text) => text.replace('console=ttyS0', ['console=ttyS0', ...SHELL_CMDLINE].join(', ')));
});
afterAll(async () => {
  await lab?.close();
  removeDir(dir);
});

function edit(profile: string, change: (text: string) => string): void {
  const file = join(lab.site.profilesDir, profile);
  const before = readFileSync(file, 'utf8');
  const after = change(before);
  expect(after, `the edit of ${profile} changes something`).not.toBe(before);
  // As editors save: a new file takes the old one's name.
  writeFileSync(`${file}.new`, after);
  renameSync(`${file}.new`, file);
}

async function generation(): Promise<string> {
  return (await lab.daemon.get<{ id: string }>('/api/generation')).body.id;
}

async function editAndWait(change: () => void): Promise<void> {
  const before = await generation();
  change();
  await until('the daemon to take the edit', 20_000, async () => ((await generation()) !== before ? true : undefined));
}

/** Pulls the plug and pushes the button; answers the boot when it has ended. */
async function bootAgain(): Promise<Boot> {
  await vm?.kill();
  vm = lab.powerOn(node);
  const since = vm.startedAt;
  return until('the boot to end', 480_000, async () => {
    const boot = await lab.newestBoot('n1', since);
    return boot && boot.state !== 'open' ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm!.console.log, 'utf8').slice(-3000)}`);
  });
}

const names = (boot: Boot): string[] => boot.stages.map(({ name }) => name);
/** Every file that a step may write, with its hash, and when the service was started. */
const SNAPSHOT = "find /etc /usr/local /var/lib/k0s /run/rackseed -xdev -type f ! -path '/run/rackseed/agent/*' -exec sha256sum {} + | sort -k2; systemctl show -p ActiveEnterTimestampMonotonic,InvocationID k0scontroller";

test('boots to ready; a second run of the agent changes no file and restarts nothing', async () => {
  const boot = await bootAgain();
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(boot.profile).toBe('k0s-single');
  const shell = await openShell(join(dir, 'shell.sock'));
  try {
    const before = await shell.run(SNAPSHOT);
    expect(before).toContain('/usr/local/bin/k0s');
    expect(before).toMatch(/ActiveEnterTimestampMonotonic=[1-9]/);
    await shell.run('systemctl restart rackseed-agent.service', 240_000);
    expect(await shell.run(SNAPSHOT)).toBe(before);
    expect(await shell.run('findmnt -no FSTYPE /')).toContain('overlay');
    expect(await shell.run('stat -c %a:%U /run/rackseed/token')).toContain('600:root');
    // Whoever listens on the boot LAN or reads the command line learns nothing that opens the session.
    expect(await shell.run('cat /proc/cmdline')).not.toMatch(/[0-9a-f]{64}/);
  } finally {
    shell.close();
  }
  const again = (await lab.newestBoot('n1'))!;
  expect([again.id, again.state]).toEqual([boot.id, 'ready']);
  const steps = again.stages.filter(({ name }) => name.startsWith('step:'));
  expect(steps.length).toBeGreaterThanOrEqual(4);
  for (const step of steps) expect([step.name, step.state, step.detail.result], step.detail.tail).toEqual([step.name, 'ok', 'unchanged']);
});

test('moving its line to another profile reassigns it at its next boot, without a restart; the initrd stage finds its daemon by DHCP alone', async () => {
  const line = /^ +n1: .*$/m.exec(readFileSync(join(lab.site.profilesDir, 'k0s-single.yaml'), 'utf8'))![0];
  await editAndWait(() => {
    edit('plain.yaml', (text) => `${text.replace('console=ttyS0', 'console=ttyS0, rackseed.net=dhcp')}\nnodes:\n${line}\n`);
    edit('k0s-single.yaml', (text) => text.replace(`${line}\n`, '').replace(/^nodes:\s*$/m, ''));
  });
  // Until then it runs what it ran.
  expect((await lab.daemon.get<{ profile: string; updatePending: boolean }>('/api/nodes/n1')).body).toMatchObject({ profile: 'plain', updatePending: true });
  const boot = await bootAgain();
  expect([boot.state, boot.why, boot.profile]).toEqual(['ready', undefined, 'plain']);
  expect(names(boot)).toEqual(['discover', 'offer', 'lease', 'script', 'kernel', 'initrd', 'config', 'root', 'userspace', 'ready']);
  // One DISCOVER of the ROM and one of the initrd stage: the second one is not a boot of its own, and is seen.
  expect(boot.stages.find(({ name }) => name === 'discover')!.count).toBeGreaterThanOrEqual(2);
});

test('a squashfs with another sha256 ends as failed with that name, before it is mounted', async () => {
  const path = createBlobStore(state).path(squashfs);
  copyFileSync(path, join(dir, 'squashfs'));
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(path, bytes);
  try {
    const boot = await bootAgain();
    expect(boot.state).toBe('failed');
    expect(boot.why).toMatch(new RegExp(`squashfs has sha256 [0-9a-f]{64}, expected ${squashfs.slice(7)}`));
    expect(names(boot)).not.toContain('userspace');
    expect(readFileSync(vm!.console.log, 'utf8')).toMatch(/rackseed: failed: squashfs has sha256/);
    expect(readFileSync(vm!.console.log, 'utf8')).not.toMatch(/rackseed: squashfs mounted/);
  } finally {
    copyFileSync(join(dir, 'squashfs'), path);
  }
});

test('a missing artifact ends as failed with the step and the cause', async () => {
  const line = /^ +n1: .*$/m.exec(readFileSync(join(lab.site.profilesDir, 'plain.yaml'), 'utf8'))![0];
  await editAndWait(() => {
    edit('plain.yaml', (text) => text.replace(`\nnodes:\n${line}\n`, ''));
    edit('k0s-single.yaml', (text) => `${text}\nnodes:\n${line}\n`);
  });
  const { body } = await lab.daemon.get<{ artifacts: { digest: string }[] }>('/api/artifacts');
  rmSync(createBlobStore(state).path(body.artifacts[0]!.digest));
  const boot = await bootAgain();
  expect(boot.state).toBe('failed');
  expect(boot.why).toMatch(/^step 30-k0s: the daemon has nothing at .*\/blobs\/sha256\/[0-9a-f]{64}$/);
  expect(boot.stages.find(({ name }) => name === 'step:20-kernel')?.state).toBe('ok');
});
