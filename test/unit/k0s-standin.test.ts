// The stand-in keeps every row of the k0s contract; what that says of real k0s stands in each row's source.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { CONTRACT, NOT_CHECKED, READ_IN, type ContractRow } from './k0s-contract.ts';
import { writeSystemctl } from './k0s-systemctl.ts';

const STANDIN = new URL('../../src/lab/k0s-standin', import.meta.url).pathname;
const base = mkdtempSync(join(tmpdir(), 'rackseed-k0s-'));
writeSystemctl(join(base, 'bin'));

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function environment(root: string): NodeJS.ProcessEnv {
  return { PATH: `${join(base, 'bin')}:${process.env['PATH']}`, K0S_STANDIN_ROOT: root, LC_ALL: 'C' };
}

function k0s(root: string, ...args: string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(STANDIN, args, { env: environment(root), timeout: 15_000 }, (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? 255) : 0, stdout, stderr }));
  });
}

async function must(root: string, ...args: string[]): Promise<void> {
  const ran = await k0s(root, ...args);
  if (ran.code !== 0) throw new Error(`${args.join(' ')}: ${ran.stderr}`);
}

/** Asks until the answer is ok; the test's own time limit ends it. */
async function untilReady(root: string): Promise<void> {
  while ((await k0s(root, 'kubectl', 'get', '--raw=/readyz')).stdout !== 'ok') await new Promise((resolve) => setTimeout(resolve, 100));
}

const prepared = new Map<string, Promise<string>>();
let roots = 0;

async function makeState(given: ContractRow['given']): Promise<string> {
  const root = join(base, `r${++roots}`);
  if (given === 'fresh') return root;
  await must(root, 'install', 'controller', ...(given === 'joinable' ? ['--enable-worker', '--no-taints'] : ['--single']));
  if (given === 'installed') return root;
  await must(root, 'start');
  await untilReady(root);
  if (given === 'stopped') await must(root, 'stop');
  return root;
}

function stateFor(row: ContractRow): Promise<string> {
  if (row.alone) return makeState(row.given);
  if (!prepared.has(row.given)) prepared.set(row.given, makeState(row.given));
  return prepared.get(row.given)!;
}

afterAll(() => {
  for (const root of readdirSync(base)) {
    for (const unit of ['k0scontroller', 'k0sworker']) spawnSync('systemctl', ['stop', unit], { env: environment(join(base, root)) });
  }
  rmSync(base, { recursive: true, force: true });
  const checked = CONTRACT.filter((row) => row.source !== NOT_CHECKED).length;
  console.log(`k0s contract: ${CONTRACT.length} rows kept by the stand-in; ${checked} were read in k0s' source (${READ_IN}), ${CONTRACT.length - checked} were not checked; none was checked by running a real k0s`);
});

describe('the stand-in keeps the contract', () => {
  test.concurrent.each(CONTRACT.map((row) => [row.claim, row] as const))('%s', async (_claim, row) => {
    const root = await stateFor(row);
    const ran = await k0s(root, ...row.command);
    expect(ran.code, ran.stderr).toBe(row.exit);
    if (row.stdout) expect(ran.stdout).toMatch(row.stdout);
    if (row.stderr) expect(ran.stderr).toMatch(row.stderr);
    if (row.jsonKeys) expect(Object.keys(JSON.parse(ran.stdout) as object)).toEqual(expect.arrayContaining([...row.jsonKeys]));
    if (row.unit) {
      const role = row.command[1] as string;
      expect(readFileSync(join(root, `etc/systemd/system/k0s${role}.service`), 'utf8')).toMatch(row.unit);
    }
  });
});

describe('the stand-in never passes for k0s', () => {
  test('its version, help, sysinfo, status, unit and kubeconfig say what it is', async () => {
    const root = await stateFor({ claim: '', given: 'single', command: [], exit: 0, source: '' });
    expect((await k0s(root, 'version')).stdout).toBe('v0.0.0-standin+k0s.0\n');
    for (const args of [['--help'], ['sysinfo'], ['status', '-o', 'json'], ['status'], ['kubeconfig', 'admin'], ['version', '--all']]) {
      expect((await k0s(root, ...args)).stdout, args.join(' ')).toMatch(/stand-?in/i);
    }
    expect(readFileSync(join(root, 'etc/systemd/system/k0scontroller.service'), 'utf8')).toMatch(/^Description=rackseed stand-in for k0s, not k0s/m);
  });

  test('it is not ready at once, and keeps its certificate authority over a restart', async () => {
    const root = await makeState('installed');
    await must(root, 'start');
    while (!existsSync(join(root, 'run/k0s/status.sock'))) await new Promise((resolve) => setTimeout(resolve, 20));
    const early = await k0s(root, 'kubectl', 'get', '--raw=/readyz');
    expect([early.code, early.stdout]).toEqual([1, '']);
    await untilReady(root);
    const authority = readFileSync(join(root, 'var/lib/k0s/pki/ca.crt'), 'utf8');
    await must(root, 'stop');
    await must(root, 'start');
    await untilReady(root);
    expect(readFileSync(join(root, 'var/lib/k0s/pki/ca.crt'), 'utf8')).toBe(authority);
  });

  test('its join token is a kubeconfig with a bootstrap token, and invalidate takes it back', async () => {
    const root = await stateFor({ claim: '', given: 'joinable', command: [], exit: 0, source: '' });
    const token = gunzipSync(Buffer.from((await k0s(root, 'token', 'create', '--expiry', '1h')).stdout, 'base64')).toString();
    const id = /token: ([a-z0-9]{6})\.[a-z0-9]{16}/.exec(token)![1]!;
    expect((await k0s(root, 'token', 'list')).stdout).toContain(id);
    await must(root, 'token', 'invalidate', id);
    expect((await k0s(root, 'token', 'list')).stdout).not.toContain(id);
  });

  test('it uses only modules of perl-base', () => {
    const used = [...readFileSync(STANDIN, 'utf8').matchAll(/^use ([A-Z][A-Za-z:]+)/gm)].map((match) => match[1]);
    expect(used).toEqual(['Fcntl', 'File::Basename', 'File::Path', 'IO::Socket::UNIX', 'POSIX']);
  });
});
