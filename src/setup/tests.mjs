// `npm test`: type check, then the three vitest projects, each where it may touch what it touches; one closing line for all of them.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { unpackedFor } from './packages.mjs';
import { longStep, say } from './say.mjs';
import { fetchShim } from './suites.mjs';
import { unpackPeers } from './unpacked.mjs';

/** The order is cheap to dear, so that a broken rule is seen before a VM boots. */
export const PROJECTS = ['unit', 'integration', 'e2e'];
const REPORTER = fileURLToPath(new URL('report.mjs', import.meta.url));

/**
 * Splits what stands after `npm test --` into projects and words for vitest. `--project X` (also twice, also with `=`) narrows the projects.
 */
export function readTestArgs(args) {
  const projects = [];
  const rest = [];
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--project') projects.push(args[++i]);
    else if (args[i].startsWith('--project=')) projects.push(args[i].slice('--project='.length));
    else rest.push(args[i]);
  }
  return { projects: projects.length > 0 ? PROJECTS.filter((name) => projects.includes(name)) : PROJECTS, unknown: projects.filter((name) => !PROJECTS.includes(name)), rest };
}

/**
 * Counts of one vitest run, from what report.mjs wrote. A run that ended badly without a failed test (a crash, an unhandled
 * rejection) is one failure.
 */
export function countResults(report, exitCode) {
  if (!report) return { passed: 0, failed: 1, skipped: [] };
  const skipped = report.skipped.map(({ name, note }) => `${name}: ${note ?? 'no reason given'}`);
  return { passed: report.passed, failed: report.failed === 0 && exitCode !== 0 ? 1 : report.failed, skipped };
}

/** What is said at the end, for people and as the closing line, and the exit code: with `ci` a skip is a failure, and so is a run that was stopped. */
export function closing({ passed, failed, skips, ci, stopped }) {
  const all = failed + (ci ? skips.length : 0) + (stopped ? 1 : 0);
  return {
    notes: [...skips.map((skip) => `SKIPPED ${skip}`), ...(ci && skips.length > 0 ? [`rackseed: CI=true: a skip is a failure (${skips.length})`] : []), ...(stopped ? [`rackseed: stopped by ${stopped}: a failure`] : [])],
    line: `${passed} passed, ${all} failed`,
    exit: all === 0 ? 0 : 1,
  };
}

export function typeCheck(root, more = { exit: 1 }) {
  return longStep('type check', [process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.json'), '--noEmit'], { cwd: root, ...more });
}

/** Runs everything; the exit code is 0 only when nothing failed, and with CI=true nothing was skipped. */
export async function runTests(root, args) {
  const { projects, unknown, rest } = readTestArgs(args);
  if (unknown.length > 0) {
    say(`rackseed: no test project ${unknown.join(', ')}; there are: ${PROJECTS.join(' ')}`);
    return 64;
  }
  const ci = process.env.CI === 'true';
  const total = { passed: 0, failed: 0 };
  const skips = [];
  await typeCheck(root, { mayFail: true, onFailure: () => total.failed++ });
  if (projects.includes('integration')) {
    const { path, missing } = await unpackPeers(root, unpackedFor('test'));
    process.env.PATH = [...path, process.env.PATH].join(':');
    // The tests that need it skip, too, but only this one knows why it is not there.
    if (rest.length === 0) skips.push(...missing.map(({ name, why }) => `the peer ${name}: ${why}`));
  }
  if (projects.includes('e2e')) {
    // Its test fails without them; the reason is known here alone.
    await fetchShim(root).catch((error) => rest.length === 0 && skips.push(`the firmware secureboot: ${error.message}`));
  }
  // Killed by the terminal or by CI: the running vitest gets the same signal, and what it started dies with it.
  let running;
  let stopped;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => ((stopped ??= signal), running?.kill(signal)));
  for (const project of projects) {
    const reason = project === 'unit' ? undefined : whyNot(project);
    if (reason) {
      skips.push(`the whole project ${project}: ${reason}`);
      continue;
    }
    const dir = mkdtempSync(join(tmpdir(), 'rackseed-npm-test-'));
    try {
      const file = join(dir, 'report.json');
      const vitest = [process.execPath, join(root, 'node_modules/vitest/vitest.mjs'), 'run', '-c', join(root, 'test/vitest.config.ts'), '--project', project];
      // Words that select tests may select none in this project.
      const argv = [...(project === 'integration' ? ownNamespace() : []), ...vitest, '--reporter=default', `--reporter=${REPORTER}`, ...(rest.length > 0 ? ['--passWithNoTests'] : []), ...rest];
      say(`rackseed: tests: ${project}`);
      running = spawn(argv[0], argv.slice(1), { cwd: root, stdio: 'inherit', env: { ...process.env, RACKSEED_TEST_REPORT: file } });
      const code = await new Promise((resolve) => {
        running.once('error', () => resolve(127));
        running.once('exit', (exit) => resolve(exit ?? 1));
      });
      const { passed, failed, skipped } = countResults(readReport(file), code);
      total.passed += passed;
      total.failed += failed;
      // A test that words on the command line left out was not skipped for want of anything.
      if (rest.length === 0) skips.push(...skipped.map((name) => `${project}: ${name}`));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
    if (stopped) break;
  }
  const { notes, line, exit } = closing({ ...total, skips, ci, stopped });
  for (const note of notes) say(note);
  process.stdout.write(`${line}\n`);
  return exit;
}

function readReport(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** The integration tests bind ports 67, 69 and 80 and make links: in a network of their own, where only they live. */
function ownNamespace() {
  return ['unshare', ...(process.getuid() === 0 ? [] : ['--user', '--map-root-user']), '--net', '--', 'setpriv', '--pdeathsig', 'KILL', '--'];
}

/** Why this project cannot run here at all; undefined when it can. */
export function whyNot(project) {
  const [program, ...args] = [...ownNamespace(), 'true'];
  const tried = spawnSync(program, args, { encoding: 'utf8' });
  if (tried.status !== 0) return `no network namespace can be made: ${(tried.stderr || String(tried.error?.message ?? '')).trim()} (be root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1)`;
  if (project === 'e2e') {
    try {
      accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    } catch (error) {
      return `/dev/net/tun: ${error.code} (modprobe tun; chmod 666 /dev/net/tun)`;
    }
  }
  return undefined;
}
