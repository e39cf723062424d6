// `npm run test:firmware`: every firmware of the lab to ready, and the record of it that `npm test` holds against what was changed since.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { notInstalled } from './packages.mjs';
import { say } from './say.mjs';
import { fetchFromSuite, fetchShim, IPXE_2 } from './suites.mjs';
import { whyNot } from './tests.mjs';

/** What machines talk to on their way to the root: whoever changes it boots every firmware again. */
export const BOOT_DIRS = ['src/boot', 'src/dhcp', 'src/tftp', 'src/http', 'images/common'];
/** In those places, and nothing that a machine talks to: the operators' own API. */
const ASIDE = ['src/http/api.ts'];
const PATHS = [...BOOT_DIRS, ...ASIDE.map((path) => `:(exclude)${path}`)];
export const RESULTS = 'test/firmware-results.json';
const OS_RELEASE = '/etc/os-release';

/**
 * What `lab --firmware uefi-arm64` needs that is not installed, unpacked: 77 MB on Debian 12. QEMU needs its libraries of qemu-system-x86 there; another Debian
 * installs its own.
 */
export async function fetchArm64(root) {
  const bookworm = notInstalled(arm64Packages(existsSync(OS_RELEASE) ? readFileSync(OS_RELEASE, 'utf8') : '')).map((name) => ({ suite: 'bookworm', name }));
  await fetchFromSuite(root, [IPXE_2, ...bookworm]);
}

/** Packages of Debian 12 that run where `release` (os-release(5)) is: firmware and what is static do anywhere. */
export function arm64Packages(release) {
  return [...(/^VERSION_CODENAME="?bookworm"?$/m.test(release) ? ['qemu-system-arm'] : []), 'qemu-efi-aarch64', 'qemu-user-static'];
}

/** Runs all rows, says what came of them and writes the record (`record`); the exit code is vitest's. */
export async function runFirmwareTests(root, args) {
  const reason = whyNot('e2e');
  if (reason) {
    say(`rackseed: no lab can run here: ${reason}`);
    return 69;
  }
  // What cannot be had is a row that is recorded as not run.
  await fetchArm64(root).catch((error) => say(`rackseed: uefi-arm64 will not be run: ${error.message}`));
  await fetchShim(root).catch((error) => say(`rackseed: secureboot will not be run: ${error.message}`));
  const before = whatStands(root);
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-firmware-'));
  try {
    const file = join(dir, 'rows.json');
    const code = await vitest(root, ['test/e2e/firmware.test.ts', ...args], { RACKSEED_FIRMWARE_RESULTS: file });
    const rows = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : [];
    for (const { firmware, outcome, why, seconds } of rows) say(`${firmware.padEnd(14)} ${outcome}${seconds ? `: kernel ${seconds.kernel} s, ready ${seconds.ready} s` : ''}${why ? `: ${why}` : ''}`);
    // Words on the command line may have left rows out.
    const unfit = args.length > 0 ? 'not all rows were asked for' : record(root, before, rows);
    say(unfit === undefined ? `rackseed: recorded in ${RESULTS} for ${before.commit}` : `rackseed: not recorded in ${RESULTS}: ${unfit}`);
    return code;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The commit that is checked out, and what differs from it on machines' way. */
export function whatStands(root) {
  return { commit: git(root, ['rev-parse', '--verify', '--quiet', 'HEAD']).stdout, uncommitted: git(root, ['status', '--porcelain', '--', ...PATHS]).stdout };
}

/** Writes the rows of a run that began at `before`; answers why not where they are not those of one commit. */
export function record(root, before, rows) {
  const after = whatStands(root);
  if (before.commit === '') return 'git names no commit here';
  const uncommitted = before.uncommitted || after.uncommitted;
  if (uncommitted !== '') return `no commit has these changes:\n${uncommitted}`;
  if (after.commit !== before.commit) return `another commit was checked out meanwhile: ${after.commit}`;
  writeFileSync(join(root, RESULTS), `${JSON.stringify({ commit: before.commit, content: contentOf(root), when: new Date().toISOString(), rows }, null, 1)}\n`);
  return undefined;
}

/**
 * What stands against the record in `root`, one line each. It is held against what the files hold, not against the history, which a shallow clone or an export of the
 * tree has not; git only names the commits that came since, where it can.
 */
export function staleness(root) {
  let record;
  try {
    record = JSON.parse(readFileSync(join(root, RESULTS), 'utf8'));
  } catch {
    return [`${RESULTS} is not there or cannot be read: npm run test:firmware`];
  }
  const faults = record.rows.filter(({ outcome }) => outcome === 'failed').map(({ firmware, why }) => `${firmware} failed: ${why}`);
  if (record.content === contentOf(root)) return faults;
  const since = git(root, ['log', '--format=%h %s', `${record.commit}..HEAD`, '--', ...PATHS]).stdout;
  return [...faults, `${BOOT_DIRS.join(', ')} are not what they were at ${RESULTS}: npm run test:firmware${since && `; since then:\n${since}`}`];
}

/** A digest of all files of BOOT_DIRS but those ASIDE, their names and what they hold. */
export function contentOf(root) {
  const hash = createHash('sha256');
  for (const dir of BOOT_DIRS) {
    const files = existsSync(join(root, dir)) ? readdirSync(join(root, dir), { recursive: true, withFileTypes: true }) : [];
    const names = files.filter((file) => file.isFile()).map((file) => join(file.parentPath ?? file.path, file.name));
    for (const name of names.filter((name) => !ASIDE.includes(relative(root, name))).sort()) hash.update(`${relative(root, name)}\0${createHash('sha256').update(readFileSync(name)).digest('hex')}\n`);
  }
  return `sha256:${hash.digest('hex')}`;
}

/** CI often has the checkout of another user, of which git reads nothing by default. */
function git(root, args) {
  const ran = spawnSync('git', ['-c', 'safe.directory=*', '-C', root, ...args], { encoding: 'utf8' });
  return { code: ran.status ?? 1, stdout: (ran.stdout ?? '').trim(), stderr: (ran.stderr ?? String(ran.error?.message)).trim() };
}

function vitest(root, words, environment) {
  const child = spawn(process.execPath, [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '-c', join(root, 'test/vitest.config.ts'), '--project', 'e2e', ...words], { cwd: root, stdio: 'inherit', env: { ...process.env, ...environment } });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  return new Promise((resolve) => {
    child.once('error', () => resolve(127));
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
