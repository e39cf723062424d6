// The real node agent against a real HTTP server and a real Git repository: what each behaviour of a step becomes as a report.
import { execFile, execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

const AGENT = new URL('../../images/common/root/usr/lib/rackseed/agent', import.meta.url).pathname;
const TOKEN = 'ab'.repeat(32);
const BOOT = '01JTESTBOOT0000000000000000';

interface Report {
  readonly stage: string;
  readonly state: string;
  readonly message?: string;
  readonly result?: string;
  readonly exit?: string;
  readonly ms?: string;
  readonly tail: Buffer;
}

let server: Server;
let base: string;
let dir: string;
let reports: Report[];
let facts: Record<string, string>;
/** Answers the next requests with these statuses instead; 0 breaks the connection. */
let troubles: number[];

const quoted = (value: string) => `'${value.replaceAll("'", "'\\''")}'`;
const git = (...args: string[]) =>
  execFileSync('git', ['-C', join(dir, 'upstream'), '-c', 'user.name=t', '-c', 'user.email=t@example.invalid', ...args], { encoding: 'utf8' }).trim();

beforeAll(async () => {
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const url = new URL(request.url!, base);
      const trouble = troubles.shift();
      if (trouble === 0) return void request.socket.destroy();
      if (trouble !== undefined) return void response.writeHead(trouble).end('SOME_CODE: the daemon is in trouble\n');
      if (request.headers.authorization !== `Bearer ${TOKEN}`) return void response.writeHead(401).end('TOKEN_WRONG: not the token of this boot\n');
      switch (url.pathname) {
        case `/boots/${BOOT}/facts`:
          return void response.end(JSON.stringify(facts));
        case `/boots/${BOOT}/facts.env`:
          return void response.end(Object.entries(facts).map(([name, value]) => `${name}=${quoted(value)}\n`).join(''));
        case `/boots/${BOOT}/report`:
          reports.push({ ...(Object.fromEntries(url.searchParams) as unknown as Omit<Report, 'tail'>), tail: Buffer.concat(chunks) });
          return void response.writeHead(204).end();
        default:
          return void response.writeHead(404).end('NOT_FOUND: nothing here\n');
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-agent-'));
  reports = [];
  troubles = [];
  facts = { RACKSEED_CONTRACT: '1', RACKSEED_NODE: 'n1', RACKSEED_URL: base };
  mkdirSync(join(dir, 'run'));
  for (const [name, value] of Object.entries({ url: base, boot: BOOT, token: TOKEN, node: 'n1', mac: '52:54:00:12:34:56' })) writeFileSync(join(dir, 'run', name), `${value}\n`);
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Makes the post-boot repository with these files (executable unless named in `plain`) and names it in the facts; answers the commit. */
function postBoot(files: Record<string, string>, plain: readonly string[] = []): string {
  mkdirSync(join(dir, 'upstream'), { recursive: true });
  git('init', '--quiet', '--initial-branch=main');
  for (const [path, content] of Object.entries(files)) {
    const file = join(dir, 'upstream', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    if (!plain.includes(path)) chmodSync(file, 0o755);
  }
  git('add', '.');
  git('commit', '--quiet', '-m', 'steps');
  const commit = git('rev-parse', 'HEAD');
  git('branch', `pin/${commit}`);
  facts = { ...facts, RACKSEED_POSTBOOT_URL: `file://${dir}/upstream`, RACKSEED_POSTBOOT_COMMIT: commit, RACKSEED_POSTBOOT_STEPS: 'steps' };
  return commit;
}

interface Ran {
  readonly code: number;
  readonly stdout: string;
}

function runAgent(env: Record<string, string> = {}): Promise<Ran> {
  const options = {
    env: { PATH: process.env['PATH'] ?? '', AGENT_RUN: join(dir, 'run'), AGENT_BACKOFF: '0', AGENT_STEP_TRIES: '2', AGENT_LATER_TRIES: '3', ...env },
    maxBuffer: 1 << 26,
  };
  return new Promise((resolve) => execFile('sh', [AGENT], options, (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? 255) : 0, stdout: stdout + stderr })));
}

const told = () => reports.map(({ stage, state, result, exit, message }) => [`${stage} ${state}`, result, exit && `exit ${exit}`, message].filter(Boolean).join(' | '));

const shell = (...lines: string[]) => ['#!/bin/sh', ...lines, ''].join('\n');
const CHANGED = 'echo changed >"$RACKSEED_RESULT"';
const UNCHANGED = 'echo unchanged >"$RACKSEED_RESULT"';

const BEHAVIOURS: readonly { readonly name: string; readonly step: string; readonly plain?: true; readonly env?: Record<string, string>; readonly told: readonly string[] }[] = [
  { name: 'a step that changed something is ok', step: shell('echo hello', CHANGED), told: ['step:10-a running', 'step:10-a ok | changed | exit 0', 'ready ok'] },
  { name: 'a step that found everything in place is ok', step: shell(UNCHANGED), told: ['step:10-a running', 'step:10-a ok | unchanged | exit 0', 'ready ok'] },
  {
    name: 'a step that exits 0 without a result fails',
    step: shell('echo all fine'),
    told: ['step:10-a running', 'step:10-a running | exit 0 | try 1 of 2: step wrote no result', 'step:10-a running', 'step:10-a failed | exit 0 | step wrote no result'],
  },
  {
    name: 'a result that is neither changed nor unchanged fails',
    step: shell('echo maybe >"$RACKSEED_RESULT"'),
    env: { AGENT_STEP_TRIES: '1' },
    told: ['step:10-a running', "step:10-a failed | exit 0 | step wrote 'maybe' as result, which is neither changed nor unchanged"],
  },
  {
    name: 'a failing step is tried again, then fails the boot with its last line',
    step: shell('echo first; echo "disk is full" >&2; echo; exit 1'),
    told: ['step:10-a running', 'step:10-a running | exit 1 | try 1 of 2: disk is full', 'step:10-a running', 'step:10-a failed | exit 1 | disk is full'],
  },
  {
    name: 'a step that fails once and then works is ok',
    step: shell('[ -e ../mark ] || { : >../mark; echo not yet; exit 3; }', CHANGED),
    told: ['step:10-a running', 'step:10-a running | exit 3 | try 1 of 2: not yet', 'step:10-a running', 'step:10-a ok | changed | exit 0', 'ready ok'],
  },
  {
    name: 'exit 75 is waited for and does not count as a failure',
    step: shell('echo x >>../count; [ "$(wc -l <../count)" -ge 3 ] || { echo waiting for etcd; exit 75; }', UNCHANGED),
    env: { AGENT_STEP_TRIES: '1' },
    told: [
      'step:10-a running', 'step:10-a running | exit 75 | try 1 of 3: waiting for etcd',
      'step:10-a running', 'step:10-a running | exit 75 | try 2 of 3: waiting for etcd',
      'step:10-a running', 'step:10-a ok | unchanged | exit 0', 'ready ok',
    ],
  },
  {
    name: 'exit 75 for ever ends as failed',
    step: shell('echo waiting for etcd; exit 75'),
    env: { AGENT_LATER_TRIES: '1' },
    told: ['step:10-a running', 'step:10-a failed | exit 75 | not ready after 1 tries: waiting for etcd'],
  },
  {
    name: 'a step over its time limit is ended and says so',
    step: shell('echo downloading; sleep 60'),
    env: { AGENT_STEP_TRIES: '1', AGENT_STEP_TIMEOUT: '1' },
    told: ['step:10-a running', 'step:10-a failed | exit 124 | timed out after 1 s: downloading'],
  },
  {
    name: 'a step that exits 124 by itself has not timed out',
    step: shell('echo odd; exit 124'),
    env: { AGENT_STEP_TRIES: '1' },
    told: ['step:10-a running', 'step:10-a failed | exit 124 | odd'],
  },
  {
    name: 'a silent failure is named by its exit code',
    step: shell('exit 9'),
    env: { AGENT_STEP_TRIES: '1' },
    told: ['step:10-a running', 'step:10-a failed | exit 9 | exit 9 without any output'],
  },
  {
    name: 'an interpreter that is missing fails the step',
    step: '#!/no/such/python\n',
    env: { AGENT_STEP_TRIES: '1' },
    told: ['step:10-a running', expect.stringMatching(/^step:10-a failed \| exit 12[67] \| .*No such file/) as unknown as string],
  },
  {
    name: 'a step that is not executable fails the boot instead of being passed over',
    step: shell(CHANGED),
    plain: true,
    told: ['step:10-a failed | it is not an executable file (git update-index --chmod=+x)'],
  },
];

describe('what a step does and what is reported', () => {
  it.each(BEHAVIOURS)('$name', async ({ step, plain, env, told: expected }) => {
    postBoot({ 'steps/10-a': step }, plain ? ['steps/10-a'] : []);
    const ran = await runAgent(env);
    expect(told()).toEqual(['userspace ok', ...expected]);
    expect(ran.code).toBe(expected.at(-1) === 'ready ok' ? 0 : 1);
  });
});

describe('a run of steps', () => {
  it('goes in C order through NN- files only, in the repository, with facts in the environment', async () => {
    facts['RACKSEED_LABEL_RACK'] = "o'brien $(touch pwned) `id` \"x\"";
    const say = shell('echo "${0##*/} $(pwd) $RACKSEED_LABEL_RACK" >>"$RACKSEED_FACTS.seen"', UNCHANGED);
    postBoot({ 'steps/20-b': say, 'steps/10-B': say, 'steps/10-a': say, 'steps/README.md': 'text', 'steps/lib.sh': say, 'steps/5-x': say }, ['steps/README.md']);
    await runAgent();
    const place = join(dir, 'run', 'post-boot');
    const rest = `${place} o'brien $(touch pwned) \`id\` "x"`;
    expect(readFileSync(join(dir, 'run', 'facts.json.seen'), 'utf8').split('\n')).toEqual([`10-B ${rest}`, `10-a ${rest}`, `20-b ${rest}`, '']);
    expect(JSON.parse(readFileSync(join(dir, 'run', 'facts.json'), 'utf8'))).toEqual(facts);
    expect(told().at(-1)).toBe('ready ok');
  });

  it('stops at the step that failed', async () => {
    postBoot({ 'steps/10-a': shell(CHANGED), 'steps/20-b': shell('echo no; exit 1'), 'steps/30-c': shell('touch "$RACKSEED_FACTS.c"', CHANGED) });
    await runAgent({ AGENT_STEP_TRIES: '1' });
    expect(told().at(-1)).toBe('step:20-b failed | exit 1 | no');
    expect(existsSync(join(dir, 'run', 'facts.json.c'))).toBe(false);
  });

  it('pauses before each new try of a step, longer each time', async () => {
    // The kernel's own clock, which nobody sets, in hundredths of a second.
    postBoot({ 'steps/10-a': shell('read -r up _ </proc/uptime; echo "$up" >>"$RACKSEED_FACTS.starts"', '[ "$(wc -l <"$RACKSEED_FACTS.starts")" -ge 3 ] || exit 1', CHANGED) });
    expect((await runAgent({ AGENT_BACKOFF: '1', AGENT_STEP_TRIES: '3' })).code).toBe(0);
    const [first, second, third] = readFileSync(join(dir, 'run', 'facts.json.starts'), 'utf8').trim().split('\n').map(Number);
    expect(second! - first!).toBeGreaterThanOrEqual(0.99);
    expect(third! - second!).toBeGreaterThanOrEqual(1.99);
  });

  it('reports the last 64 KiB of a long output, byte for byte, and shows all of it', async () => {
    postBoot({ 'steps/10-a': shell('i=0; while [ $i -lt 3000 ]; do echo "line $i of a long output, with some text to fill it"; i=$((i + 1)); done', 'printf "end\\377"', CHANGED) });
    const ran = await runAgent();
    const ok = reports.find((report) => report.stage === 'step:10-a' && report.state === 'ok')!;
    expect(ok.tail.length).toBe(65536);
    expect(ok.tail.subarray(-4)).toEqual(Buffer.from([0x65, 0x6e, 0x64, 0xff]));
    expect(ran.stdout).toContain('line 0 of a long output');
  });

  it('is not held up by a process that a step leaves behind with its output open', async () => {
    postBoot({ 'steps/10-a': shell('setsid sleep 30 & echo $! >"$RACKSEED_FACTS.pid"; echo started', CHANGED) });
    try {
      await runAgent();
      expect(told().slice(1)).toEqual(['step:10-a running', 'step:10-a ok | changed | exit 0', 'ready ok']);
      expect(reports.find(({ state, stage }) => stage === 'step:10-a' && state === 'ok')!.tail.toString()).toBe('started\n');
    } finally {
      process.kill(Number(readFileSync(join(dir, 'run', 'facts.json.pid'), 'utf8')));
    }
  });

  it('with no steps in the named directory fails: a typo is not a ready node', async () => {
    const commit = postBoot({ 'steps/10-a': shell(CHANGED) });
    facts['RACKSEED_POSTBOOT_STEPS'] = 'stepz';
    await runAgent();
    expect(told().at(-1)).toBe(`userspace failed | post-boot has no steps in directory 'stepz' at ${commit}`);
  });

  it('done a second time keeps the checkout and reports to the same boot', async () => {
    postBoot({ 'steps/10-a': shell(`if [ -e "$RACKSEED_FACTS.done" ]; then ${UNCHANGED}; else touch "$RACKSEED_FACTS.done"; ${CHANGED}; fi`) });
    await runAgent();
    const before = statSync(join(dir, 'run', 'post-boot')).ino;
    reports = [];
    expect((await runAgent()).code).toBe(0);
    expect(told()).toEqual(['userspace ok', 'step:10-a running', 'step:10-a ok | unchanged | exit 0', 'ready ok']);
    expect(statSync(join(dir, 'run', 'post-boot')).ino).toBe(before);
  });

  it('clones anew when somebody changed the checkout', async () => {
    postBoot({ 'steps/10-a': shell(CHANGED) });
    await runAgent();
    writeFileSync(join(dir, 'run', 'post-boot', 'steps', '10-a'), shell('exit 1'));
    reports = [];
    await runAgent();
    expect(told().at(-1)).toBe('ready ok');
  });
});

describe('before the steps', () => {
  it('a boot without post-boot is ready at once', async () => {
    expect((await runAgent()).code).toBe(0);
    expect(told()).toEqual(['userspace ok', 'ready ok']);
  });

  it('a system that rackseed did not boot says so and is no failure', async () => {
    rmSync(join(dir, 'run', 'token'));
    const ran = await runAgent();
    expect(ran).toEqual({ code: 0, stdout: expect.stringMatching(/^rackseed: no .*token: this system was not booted by rackseed, nothing to do\n$/) });
    expect(reports).toEqual([]);
  });

  it('an old token is refused, and that is said without trying again', async () => {
    writeFileSync(join(dir, 'run', 'token'), `${'00'.repeat(32)}\n`);
    const ran = await runAgent();
    expect(ran.code).toBe(1);
    expect(ran.stdout).toBe('rackseed: the daemon did not take facts: 401 TOKEN_WRONG: not the token of this boot\n');
  });

  it('a daemon that restarts in the middle loses no final report', async () => {
    postBoot({ 'steps/10-a': shell(CHANGED) });
    troubles = [503, 0, 503];
    expect((await runAgent()).code).toBe(0);
    expect(told()).toEqual(['userspace ok', 'step:10-a running', 'step:10-a ok | changed | exit 0', 'ready ok']);
  });

  it('a pin that has moved to another commit is refused', async () => {
    const commit = postBoot({ 'steps/10-a': shell(CHANGED) });
    git('commit', '--quiet', '--allow-empty', '-m', 'other');
    git('branch', '--force', `pin/${commit}`);
    await runAgent();
    expect(told()).toEqual(['userspace ok', expect.stringContaining(`pin/${commit} is at ${git('rev-parse', 'HEAD')}, not at the commit of its name`)]);
  });

  it('a repository that is not there fails the boot with what git said', async () => {
    postBoot({ 'steps/10-a': shell(CHANGED) });
    facts['RACKSEED_POSTBOOT_URL'] = `file://${dir}/nowhere`;
    await runAgent();
    expect(told().at(-1)).toMatch(/^userspace failed \| post-boot could not be cloned from file:.*nowhere: fatal: /);
  });

  it.each([
    ['another contract', { RACKSEED_CONTRACT: '2' }, "the daemon speaks contract '2', this image speaks 1"],
    ['a fact whose name is no RACKSEED_ name', { 'PATH': '/evil' }, "facts.env has a line that is not RACKSEED_NAME='value'"],
    ['a fact with a line break', { RACKSEED_NODE: 'a\nb' }, "facts.env has a line that is not RACKSEED_NAME='value'"],
  ])('%s fails the boot', async (_name, extra, message) => {
    facts = { ...facts, ...extra };
    await runAgent();
    expect(told()).toEqual([`userspace failed | ${message}`]);
  });

  it('the token is in no process list, no fact and no environment of a step', async () => {
    postBoot({ 'steps/10-a': shell('env; tr "\\0" " " </proc/$PPID/cmdline; cat "$RACKSEED_FACTS"', CHANGED), 'steps/20-b': shell(CHANGED) }, []);
    const ran = await runAgent();
    expect(ran.stdout).toContain('RACKSEED_NODE=n1');
    expect(ran.stdout).not.toContain(TOKEN);
    expect(statSync(join(dir, 'run', 'agent')).mode & 0o777).toBe(0o700);
  });
});

describe('the last known good', () => {
  const kept = (...path: string[]) => join(dir, 'kept', ...path);
  const withDisk = (env: Record<string, string> = {}) => runAgent({ AGENT_KEPT: kept(), ...env });
  beforeEach(() => {
    mkdirSync(kept());
    writeFileSync(kept('candidate'), 'node n1\n');
  });

  it('is the boot that got ready, with its facts and steps', async () => {
    const commit = postBoot({ 'steps/10-a': shell(CHANGED) });
    const ran = await withDisk();
    expect(ran.stdout).toContain('rackseed: kept as the last known good\n');
    expect([readFileSync(kept('last-good'), 'utf8'), existsSync(kept('candidate'))]).toEqual(['node n1\n', false]);
    expect(readFileSync(kept('good', 'facts.env'), 'utf8')).toContain(`RACKSEED_POSTBOOT_COMMIT='${commit}'`);
    expect(statSync(kept('good')).mode & 0o777).toBe(0o700);
    expect(readFileSync(kept('good', 'facts.env'), 'utf8') + readFileSync(kept('last-good'), 'utf8')).not.toContain(TOKEN);
  });

  it('is not a boot that failed', async () => {
    postBoot({ 'steps/10-a': shell('exit 1') });
    writeFileSync(kept('last-good'), 'the one before\n');
    await withDisk();
    expect([readFileSync(kept('last-good'), 'utf8'), existsSync(kept('good'))]).toEqual(['the one before\n', false]);
  });

  it('is nothing on a node that keeps no images', async () => {
    rmSync(kept('candidate'));
    await withDisk();
    expect(existsSync(kept('good'))).toBe(false);
  });

  it('runs its steps again when no daemon answered at boot, and reports to nobody', async () => {
    postBoot({ 'steps/10-a': shell('echo "step of $RACKSEED_NODE"', UNCHANGED) });
    await withDisk();
    reports = [];
    rmSync(join(dir, 'run'), { recursive: true });
    rmSync(join(dir, 'upstream'), { recursive: true });
    mkdirSync(join(dir, 'run'));
    writeFileSync(join(dir, 'run', 'away'), 'the daemon does not answer\n');
    troubles = Array.from({ length: 50 }, () => 0);
    const ran = await withDisk();
    expect(ran.code, ran.stdout).toBe(0);
    expect(ran.stdout).toContain('rackseed: no daemon answered at boot (the daemon does not answer): this is the last known good, with the facts and steps of then\n');
    expect(ran.stdout).toContain('step of n1');
    expect([reports, troubles.length]).toEqual([[], 50]);
    expect(readFileSync(kept('last-good'), 'utf8')).toBe('node n1\n');
  });

  it('without facts on the disk is a system without steps, and that is said', async () => {
    writeFileSync(join(dir, 'run', 'away'), 'no answer\n');
    const ran = await withDisk();
    expect([ran.code, ran.stdout]).toEqual([0, expect.stringContaining('rackseed: they are not on the state disk: nothing to do\n')]);
  });
});

describe("the check of the image's blocks that the initrd stage left behind", () => {
  const say = (verdict: string) => writeFileSync(join(dir, 'run', 'image-check'), `${verdict}\n`);

  it('is waited for before the node is ready', async () => {
    say(`running ${process.pid}`);
    const ran = runAgent();
    await vi.waitFor(() => expect(told()).toEqual(['userspace ok']), 5000);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(told()).toEqual(['userspace ok']);
    say('ok');
    expect((await ran).code).toBe(0);
    expect(told()).toEqual(['userspace ok', 'ready ok']);
  });

  it.each([
    ['that found a wrong block ends the boot', 'failed squashfs: block 17 does not verify', 'root failed | squashfs: block 17 does not verify'],
    // No process has this id.
    ['that was killed ends the boot too', 'running 99999999', 'root failed | the check of the image ended without a verdict'],
  ])('%s', async (_name, verdict, last) => {
    say(verdict);
    expect((await runAgent()).code).toBe(1);
    expect(told()).toEqual(['userspace ok', last]);
  });
});
