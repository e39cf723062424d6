// One machine's life in the lab: ready, a second run of its agent, reassigned by an edit, failures with their names, and what it does after them. Only with RACKSEED_FULL=1.
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { expectedStages, type Boot } from '../../src/boot/timeline.ts';
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
  return theBoot('that ended', (boot) => boot.startedAt >= since && boot.state !== 'open');
}

/** n1's newest boot as soon as it is as wanted. */
function theBoot(what: string, isIt: (boot: Boot) => boolean): Promise<Boot> {
  return until(`a boot ${what}`, 480_000, async () => {
    const boot = await lab.newestBoot('n1');
    return boot && isIt(boot) ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${consoleText().slice(-3000)}`);
  });
}

/** What the machine printed since its power-on, over all its reboots. */
function consoleText(): string {
  return readFileSync(vm!.console.log, 'utf8');
}

/** Who was given a lease since that boot began, as the daemon's log has it. */
function ackedSince(boot: Boot): string[] {
  const lines = readFileSync(lab.daemon.log, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { time: string; msg: string; asker?: string });
  return lines.filter(({ time, msg }) => msg === 'dhcp: ack' && Date.parse(time) >= boot.startedAt).map(({ asker }) => String(asker));
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
    const cmdline = await shell.run('cat /proc/cmdline');
    expect(cmdline).not.toMatch(/[0-9a-f]{64}/);
    // The one way into the network: by the kernel command line, without another lease for the initrd stage.
    expect(cmdline).toMatch(new RegExp(` ip=${node.ip!.replaceAll('.', '\\.')}:`));
    expect(ackedSince(boot)).toContain('ipxe');
    expect(ackedSince(boot)).not.toContain('initrd');
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
  expect(names(boot)).toEqual(expectedStages('bios-ipxe', []));
  // The other way: the initrd stage asked for itself. Its DISCOVER is not a boot of its own, and is seen.
  expect(ackedSince(boot)).toContain('initrd');
  expect(boot.stages.find(({ name }) => name === 'discover')!.count).toBeGreaterThanOrEqual(2);
});

test('a squashfs that rotted on the server is not sent: the boot ends as failed with that, the machine reboots, tries twice what may pass, and gets ready', async () => {
  await editAndWait(() => edit('plain.yaml', (text) => text.replace('rackseed.net=dhcp', 'rackseed.net=dhcp, rackseed.wait=1, rackseed.tries=2')));
  const path = createBlobStore(state).path(squashfs);
  const aside = join(dir, 'squashfs');
  copyFileSync(path, aside);
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(path, bytes);
  try {
    const failed = await bootAgain();
    expect([failed.state, failed.why]).toEqual(['failed', expect.stringMatching(/^root: the squashfs could not be fetched, 0 of \d+ bytes came: .*404/)]);
    expect(names(failed)).not.toContain('userspace');
    expect(consoleText()).not.toMatch(/rackseed: squashfs mounted/);
    // It is out of the way, and whoever operates this is told.
    expect(readdirSync(join(state, 'blobs/quarantine'))).toEqual([expect.stringContaining(squashfs.slice(7))]);
    expect(readFileSync(lab.daemon.log, 'utf8')).toMatch(/"msg":"a blob is rotten"/);

    const next = await theBoot('after the failed one, at its second attempt', ({ id, stages }) => id !== failed.id && stages.some(({ name, state }) => name === 'root' && state === 'running'));
    expect(consoleText()).toMatch(/rackseed: rebooting in 1 s/);
    expect(next.startedAt).toBeGreaterThan(failed.endedAt!);
    expect(next.stages.find(({ name }) => name === 'root')!.detail.message).toMatch(/^attempt 1 of 2: the squashfs could not be fetched, 0 of \d+ bytes came: .*404/);
    copyFileSync(aside, path);
    const ready = await theBoot('that ended', ({ id, state }) => id !== failed.id && state !== 'open');
    expect([ready.id, ready.state, ready.why]).toEqual([next.id, 'ready', undefined]);
  } finally {
    copyFileSync(aside, path);
  }
});

test('too little memory ends as failed with the figures, before a byte of the squashfs is fetched', async () => {
  await editAndWait(() => edit('plain.yaml', (text) => text.replace('rackseed.tries=2', 'rackseed.margin=999999')));
  const path = createBlobStore(state).path(squashfs);
  renameSync(path, join(dir, 'squashfs'));
  try {
    const boot = await bootAgain();
    // With no squashfs to be had, whoever fetches first fails by that.
    expect([boot.state, boot.why]).toEqual(['failed', expect.stringMatching(/not enough memory: \d{4} MiB are available, the squashfs takes \d+ MiB and 999999 MiB must stay free$/)]);
    expect(consoleText()).toMatch(/rackseed: failed: not enough memory/);
    expect(consoleText()).not.toMatch(/could not be fetched|download broke|here and verified/);
  } finally {
    renameSync(join(dir, 'squashfs'), path);
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
