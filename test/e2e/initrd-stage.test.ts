// The initrd stage in a machine, where the world is bad to it: its link goes away for half a minute, its clock says 1999, nothing fits; and who then gets a shell.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { parseDocument } from 'yaml';
import type { Boot } from '../../src/boot/timeline.ts';
import { buildLabImage } from '../../src/lab/image.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { TEST_STATE, until } from '../lab-process.ts';

const BUILD_LIMIT_MS = 15 * 60_000;
const LIMIT_MS = 6 * 60_000;

let lab: Lab | undefined;
let vm: Vm;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildLabImage('bios', TEST_STATE, { onProgress: () => undefined });
}, BUILD_LIMIT_MS);
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});

/** Switches n1 on with more of QEMU's arguments, its profile changed before. */
async function powerOn(change: (profile: ReturnType<typeof parseDocument>) => void, more: readonly string[] = []): Promise<void> {
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  const file = join(lab.site.profilesDir, `${LAB_PROFILE}.yaml`);
  const generation = async () => (await lab!.daemon.get<{ id: string }>('/api/generation')).body.id;
  const before = await generation();
  const document = parseDocument(readFileSync(file, 'utf8'));
  change(document);
  writeFileSync(`${file}.new`, document.toString({ lineWidth: 0 }));
  renameSync(`${file}.new`, file);
  await until('the profile with it', 30_000, async () => (await generation()) !== before || undefined);
  const [n1] = lab.nodes;
  vm = lab.powerOn({ ...n1!, vm: { ...n1!.vm, more } });
}

const log = () => readFileSync(vm.console.log, 'utf8');

function seen(text: string | RegExp, limitMs = LIMIT_MS): Promise<string> {
  return until(`the console with ${text}`, limitMs, () => (typeof text === 'string' ? log().includes(text) : text.test(log())) ? log() : undefined).catch((error: Error) => {
    throw new Error(`${error.message}\n${log().slice(-4000)}`);
  });
}

/** At QEMU's monitor, or at the machine's console. */
async function typed(socket: string, ...lines: string[]): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const line = connect(socket, () => line.end(lines.map((text) => `${text}\n`).join('')));
    line.once('error', reject).once('close', () => resolve()).resume();
  });
}

async function ended(): Promise<Boot> {
  return until('the end of the boot', LIMIT_MS, async () => {
    const boot = await lab!.newestBoot('n1');
    return boot && boot.state !== 'open' ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${log().slice(-4000)}`);
  });
}

test('a machine whose clock says 1999, and whose link is away for half a minute, gets ready', { timeout: BUILD_LIMIT_MS }, async () => {
  const monitor = join(TEST_STATE, 'monitor.sock');
  await powerOn((profile) => void profile.addIn(['cmdline'], 'rackseed.tries=1'), ['-rtc', 'base=1999-01-01T00:00:00', '-monitor', `unix:${monitor},server=on,wait=off`]);
  await seen('Linux version');
  await typed(monitor, 'set_link n0 off');
  await seen('rackseed: waiting for a link on eth0, 30 s');
  await typed(monitor, 'set_link n0 on');
  const boot = await ended();
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(log()).toMatch(/rackseed: waiting for a link on eth0, 10 s[^]*waiting for a link on eth0, 20 s[^]*waiting for a link on eth0, 30 s[^]*link on eth0 after 3\d s/);
  expect(log()).toMatch(new RegExp(`rackseed: the clock said 1999-01-01 00:0\\d:\\d\\d UTC, set to ${new Date().toISOString().slice(0, 10)} \\d\\d:\\d\\d:\\d\\d UTC by the daemon's`));
});

test('with `shell: true` a failure opens a shell on the console, and its end reboots', { timeout: BUILD_LIMIT_MS }, async () => {
  await powerOn((profile) => {
    profile.set('shell', true);
    profile.addIn(['cmdline'], 'rackseed.margin=999999');
    profile.addIn(['cmdline'], 'rackseed.wait=1');
  });
  await seen(/rackseed: failed: not enough memory/);
  await seen('rackseed: a shell on this console (ttyS0), because the profile allows it');
  // The answer is not in what is typed, so an echo is no answer.
  await typed(vm.console.socket, 'echo "alive $((6 * 7)) as $(id -u), boot $(cat /run/rackseed/boot)"');
  const boot = (await lab!.newestBoot('n1'))!;
  await seen(`alive 42 as 0, boot ${boot.id}`, 30_000);
  expect([boot.state, boot.why]).toEqual(['failed', expect.stringContaining('not enough memory')]);
  expect(log()).not.toContain('rebooting in');
  await typed(vm.console.socket, 'exit');
  await seen(/rackseed: the shell has ended[^]*rackseed: rebooting in 1 s/, 30_000);
  await until('the next boot', 120_000, async () => ((await lab!.newestBoot('n1'))!.id !== boot.id ? true : undefined));
});

test('without it there is none, whatever is typed', { timeout: BUILD_LIMIT_MS }, async () => {
  await powerOn((profile) => {
    profile.addIn(['cmdline'], 'rackseed.margin=999999');
    profile.addIn(['cmdline'], 'rackseed.wait=10');
  });
  await seen('rackseed: initrd stage on kernel');
  const keys = setInterval(() => void typed(vm.console.socket, '', '\x03', 'echo "alive $((6 * 7))"').catch(() => undefined), 500);
  try {
    await seen('rackseed: rebooting in 10 s');
    await seen(/rackseed: rebooting in 10 s[^]*SeaBIOS/);
  } finally {
    clearInterval(keys);
  }
  expect(log()).not.toContain('alive 42');
  expect(log()).not.toContain('a shell on this console');
});
