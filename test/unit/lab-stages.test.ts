// What the lab shows of a boot: golden text for people, values for programs.
import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import type { Boot, Stage, StageDetail, StageName } from '../../src/boot/timeline.ts';
import { terminal } from '../../src/commands/lab.ts';
import { progressBar } from '../../src/commands/progress.ts';
import { nodeReport, stageLines } from '../../src/lab/stages.ts';
import { readableLines } from '../../src/lab/console.ts';

const POWER_ON = 1_800_000_000_000;

function stage(name: StageName, at: number, more: Partial<Stage> & { detail?: StageDetail } = {}): Stage {
  return { name, state: 'ok', firstAt: POWER_ON + at, lastAt: POWER_ON + at, count: 1, detail: {}, ...more };
}

function boot(stages: Stage[], more: Partial<Boot> = {}): Boot {
  return { id: '01K', node: 'n1', mac: '52:54:00:4c:42:01', state: 'open', startedAt: POWER_ON + 2810, profile: 'k0s-single', generation: 'sha256:0', stages, ...more };
}

const MIDWAY = boot([
  stage('discover', 2810, { count: 2 }),
  stage('offer', 2811),
  stage('kernel', 6520, { detail: { bytes: 9 * 1024 * 1024 } }),
  stage('step:10-storage', 21_000, { state: 'running' }),
]);
const DONE = boot(
  [
    ...MIDWAY.stages.slice(0, 3),
    stage('step:10-storage', 21_000, { lastAt: POWER_ON + 22_500, detail: { result: 'changed', message: 'tmpfs, 2 GiB' } }),
    stage('ready', 24_000),
  ],
  { state: 'ready' },
);

describe('stageLines', () => {
  test('prints each stage with its time since power-on and since the stage before', () => {
    expect(`\n${stageLines('n1', POWER_ON, undefined, MIDWAY, false).join('\n')}\n`).toBe(`
n1      2.81 s    +2.81  discover
n1      2.81 s    +0.00  offer
n1      6.52 s    +3.71  kernel            9.0 MiB
n1     21.00 s   +14.48  step:10-storage   running
`);
  });

  test('prints only what is new; a step that ended shows how long it took', () => {
    expect(`\n${stageLines('n1', POWER_ON, MIDWAY, DONE, false).join('\n')}\n`).toBe(`
n1     22.50 s    +1.50  step:10-storage   changed, tmpfs, 2 GiB
n1     24.00 s    +3.00  ready
`);
  });

  test('prints nothing when a stage was only seen again', () => {
    const again = boot(MIDWAY.stages.map((one) => ({ ...one, count: one.count + 1, lastAt: one.lastAt + 500 })));
    expect(stageLines('n1', POWER_ON, MIDWAY, again, false)).toEqual([]);
  });

  test('says so when the node boots again, and starts over', () => {
    const second = boot([stage('discover', 30_000)], { id: '01L' });
    expect(stageLines('n1', POWER_ON, { ...MIDWAY, state: 'failed', why: 'boot 01L began' }, second, false)).toEqual(['n1   boots again: boot 01L began', 'n1     30.00 s   +30.00  discover']);
  });

  test('names the reason of a boot that failed without a stage that says so, once', () => {
    const failed = boot([...MIDWAY.stages], { state: 'failed', why: 'lost' });
    expect(stageLines('n1', POWER_ON, MIDWAY, failed, false)).toEqual(['n1   failed: lost']);
    expect(stageLines('n1', POWER_ON, failed, failed, false)).toEqual([]);
  });

  test('colors ready green and failures red, on a terminal only', () => {
    expect(stageLines('n1', POWER_ON, MIDWAY, DONE, true).at(-1)).toContain('\u001b[32mready\u001b[0m');
    const failed = boot([stage('failed', 9000, { detail: { message: 'step 30-k0s: no space' } })], { state: 'failed' });
    expect(stageLines('n1', POWER_ON, undefined, failed, true)).toEqual(['n1      9.00 s    +9.00  \u001b[31mfailed            step 30-k0s: no space\u001b[0m']);
    expect(stageLines('n1', POWER_ON, undefined, failed, false).join('')).not.toContain('\u001b');
  });

  test('a machine cannot move the cursor with its message', () => {
    const evil = boot([stage('config', 1, { detail: { message: 'a\u001b[2Jb\r\nc' } })]);
    expect(stageLines('n1', POWER_ON, undefined, evil, false)[0]).toContain('a?[2Jb??c');
  });
});

describe('nodeReport', () => {
  test('has each stage with absolute and relative times', () => {
    expect(nodeReport('n1', POWER_ON, DONE)).toMatchObject({ name: 'n1', boot: '01K', state: 'ready' });
    expect(nodeReport('n1', POWER_ON, DONE).stages.slice(0, 3)).toEqual([
      { name: 'discover', state: 'ok', atMs: POWER_ON + 2810, sinceStartMs: 2810, deltaMs: 2810, count: 2 },
      { name: 'offer', state: 'ok', atMs: POWER_ON + 2811, sinceStartMs: 2811, deltaMs: 1, count: 1 },
      { name: 'kernel', state: 'ok', atMs: POWER_ON + 6520, sinceStartMs: 6520, deltaMs: 3709, count: 1 },
    ]);
  });

  test('a node that never asked is absent, not failed', () => {
    expect(nodeReport('n2', POWER_ON, undefined)).toEqual({ name: 'n2', state: 'absent', stages: [] });
  });
});

test('readableLines drops escape sequences and empty lines of a serial console', () => {
  expect(readableLines('\u001bc\u001b[?7l\u001b[2J\u001b[0mSeaBIOS (version 1.16)\r\n\r\n\u001b[1miPXE\u001b[0m ok\rnext')).toEqual(['SeaBIOS (version 1.16)', 'iPXE ok', 'next']);
});

/** A stream that keeps what was written, as a terminal of 80 columns or not. */
function stream(isTTY: boolean): { stream: NodeJS.WriteStream; text: () => string } {
  const through = Object.assign(new PassThrough(), { isTTY, columns: 80 });
  let text = '';
  through.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return { stream: through as unknown as NodeJS.WriteStream, text: () => text };
}

describe('terminal', () => {
  test.each([
    ['a terminal', true, {}, true],
    ['a terminal with NO_COLOR=1', true, { NO_COLOR: '1' }, false],
    ['a terminal with an empty NO_COLOR, which counts as none', true, { NO_COLOR: '' }, true],
    ['a pipe', false, {}, false],
  ])('%s', (_what, isTTY, env, color) => {
    expect(terminal(false, { stdout: stream(isTTY).stream as typeof process.stdout, stderr: stream(true).stream as typeof process.stderr, env }).color).toBe(color);
  });

  test('with --json words go to stderr and only values to stdout', () => {
    const [stdout, stderr] = [stream(true), stream(false)];
    const io = terminal(true, { stdout: stdout.stream as typeof process.stdout, stderr: stderr.stream as typeof process.stderr, env: {} });
    io.say('a line');
    io.waiting('not shown where nobody watches');
    io.print('{}\n');
    expect([stdout.text(), stderr.text(), io.color]).toEqual(['{}\n', 'a line\n', false]);
  });

  test('a waiting line is gone before the next line comes', () => {
    const stdout = stream(true);
    const io = terminal(false, { stdout: stdout.stream as typeof process.stdout, stderr: stream(true).stream as typeof process.stderr, env: {} });
    io.waiting('waiting');
    io.say('came');
    expect(stdout.text()).toBe('waiting\r\u001b[Kcame\n');
  });
});

test('a download has a bar with its total on a terminal, and says nothing in a log', () => {
  for (const isTTY of [true, false]) {
    const to = stream(isTTY);
    const bar = progressBar('k0s v1', 'MiB', to.stream);
    bar.onProgress(64 * 1024 * 1024, 256 * 1024 * 1024);
    bar.stop();
    if (isTTY) expect(to.text()).toMatch(/k0s v1 \[#+-+\] 25% 64\/256 MiB/);
    else expect(to.text()).toBe('');
  }
});
