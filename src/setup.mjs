// The bootstrap that every npm script runs first: Node's version, Debian packages, npm packages and the build; then the program itself.
// Plain JavaScript without dependencies, in a syntax that Debian 12's own Node 18 reads, so that it can refuse that one politely.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildBench, buildIfNeeded, installIfNeeded, nodeModulesMissing } from './setup/build.mjs';
import { fetchArm64, runFirmwareTests } from './setup/firmware.mjs';
import { ensurePackages, packagesFor, unpackedFor } from './setup/packages.mjs';
import { fetchShim } from './setup/suites.mjs';
import { runTests, typeCheck } from './setup/tests.mjs';
import { unpackPeers } from './setup/unpacked.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const EX_USAGE = 64;
const USAGE = `usage: node src/setup.mjs WORD [--yes]   (--yes: install missing Debian packages without asking)
  run serve|lab [options]   npm start, npm run lab
  test [vitest options]     npm test
  test:firmware             npm run test:firmware
  bench SUBJECT [options]   npm run bench
  build                     npm run build
  typecheck                 npm run typecheck`;
const EX_UNAVAILABLE = 69;

/** The one line that refuses an old Node; undefined when `version` ("v20.19.0") will do. */
export function nodeComplaint(version) {
  const [major = 0, minor = 0] = version.replace(/^v/, '').split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return undefined;
  return `rackseed: needs Node 20.19 or newer, this is ${version} (${process.execPath}); get one from https://nodejs.org/en/download or with nvm: nvm install 20`;
}

async function main(argv) {
  const complaint = nodeComplaint(process.version);
  if (complaint) return fail(complaint, EX_UNAVAILABLE);
  // An ordinary user's PATH on Debian leaves out where ip and dnsmasq are.
  process.env.PATH = `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin`;
  const yes = argv.includes('--yes');
  const [verb, ...rest] = argv.filter((word) => word !== '--yes');
  const command = verb === 'run' ? rest[0] : verb;
  if (command === undefined) return fail(`rackseed: ${USAGE}`, EX_USAGE);
  if (!['run', 'test', 'test:firmware', 'bench', 'build', 'typecheck'].includes(verb)) return fail(`rackseed: unknown word ${verb}: ${USAGE}`, EX_USAGE);
  // What only compiles or prints its help needs no VM, so it asks for no VM's packages.
  const wanted = ['build', 'typecheck'].includes(verb) || rest.includes('--help') || rest.includes('-h') ? 'serve' : command;
  await ensurePackages(packagesFor(wanted, nodeModulesMissing(ROOT), rest[0]), { yes, command: verb === 'run' ? wanted : verb });
  await installIfNeeded(ROOT);
  if (verb === 'typecheck') return typeCheck(ROOT).then(() => 0);
  await buildIfNeeded(ROOT, { always: verb === 'build' });
  if (wanted === 'lab' && /(^| )--firmware[= ]uefi-arm64( |$)/.test(rest.join(' '))) await fetchArm64(ROOT);
  if (wanted === 'lab' && /(^| )--firmware[= ]secureboot( |$)/.test(rest.join(' '))) await fetchShim(ROOT);
  if (verb === 'run') return runProgram('dist/cli.js', [command, ...rest.slice(1)], JSON.parse(readFileSync(join(ROOT, 'src/setup/node-start.json'), 'utf8')));
  if (verb === 'bench') {
    // A peer that cannot be had is one that the benchmark reports as not measured.
    const { path } = await unpackPeers(ROOT, unpackedFor(wanted));
    process.env.PATH = [...path, process.env.PATH].join(':');
    return runProgram(await buildBench(ROOT), rest, { cwd: ROOT });
  }
  if (verb === 'test:firmware') return runFirmwareTests(ROOT, rest);
  return verb === 'test' ? runTests(ROOT, rest) : 0;
}

/** Node cannot replace itself by another program, so this stays as the parent: signals go down, the exit code comes up. */
function runProgram(script, args, { cwd, flags = [], environment = {} } = {}) {
  const argv = [process.execPath, ...flags, join(ROOT, script), ...args];
  // Our own death by SIGKILL must not leave the daemon or a lab behind.
  if (existsSync('/usr/bin/setpriv')) argv.unshift('/usr/bin/setpriv', '--pdeathsig', 'TERM', '--');
  return new Promise((resolve) => {
    const child = spawn(argv[0], argv.slice(1), { stdio: 'inherit', cwd, env: { ...process.env, ...environment } });
    // Also those that the terminal sends to both of us: the second one changes nothing.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
    child.once('error', (error) => resolve(fail(`rackseed: ${error.message}`, 70)));
    child.once('exit', (code, signal) => resolve(code ?? 128 + (SIGNAL_NUMBERS[signal] ?? 0)));
  });
}

const SIGNAL_NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15, SIGABRT: 6, SIGSEGV: 11 };

function fail(line, exit) {
  process.stderr.write(`${line}\n`);
  return exit;
}

// Only when it is the program: tests import it.
if (process.argv[1] && fileURLToPath(import.meta.url) === process.argv[1]) {
  main(process.argv.slice(2)).then(
    (code) => (process.exitCode = code),
    (error) => (process.exitCode = fail(`rackseed: ${error.message}`, typeof error.exit === 'number' ? error.exit : 70)),
  );
}
