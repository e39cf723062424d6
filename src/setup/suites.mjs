// Debian packages of another suite than the machine's, unpacked into node_modules as files: nothing is installed, and the system's apt stays as it is.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { notInstalled } from './packages.mjs';
import { longStep, SetupError } from './say.mjs';

const EX_UNAVAILABLE = 69;
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** Signatures are checked all the same. A network that swallows all packets is given up after seconds. */
const APT = { 'APT::Sandbox::User': 'root', 'Acquire::Retries': 1, 'Acquire::http::Timeout': 15, 'Acquire::https::Timeout': 15, 'Acquire::Languages': 'none', 'APT::Update::Error-Mode': 'any' };

/** iPXE 2.0, which only sid has. It moves: what is unpacked once is kept. */
export const IPXE_2 = { suite: 'sid', name: 'ipxe' };

/** The directory of iPXE 2.0's programs (snponly.efi, ipxe-arm64.efi, undionly.kpxe), if it was fetched. */
export function ipxe2Dir(root) {
  const there = unpackedOf(root, IPXE_2);
  return there && join(there, 'usr/lib/ipxe');
}

/** The same, fetched now where it is not there yet; a SetupError with apt's words where it cannot be had. */
export async function fetchIpxe2(root) {
  const [dir] = await fetchFromSuite(root, [IPXE_2]);
  return join(dir, 'usr/lib/ipxe');
}

/** Debian 12's, whose GRUB is enough for PXE. Unpacked: installed, they would bring GRUB and a debconf question to this machine. */
const SHIM = [{ suite: 'bookworm', name: 'shim-signed' }, { suite: 'bookworm', name: 'grub-efi-amd64-signed' }];

/** What `lab --firmware secureboot` needs that is not installed, unpacked: 2 MB. */
export async function fetchShim(root) {
  await fetchFromSuite(root, notInstalled(SHIM.map(({ name }) => name)).map((name) => SHIM.find((one) => one.name === name)));
}

/** Where `{ suite, name, arch? }` was unpacked; undefined where it was not. */
export function unpackedOf(root, wanted) {
  const dir = join(cacheOf(root), directoryOf(wanted));
  return existsSync(dir) ? dir : undefined;
}

/**
 * The root directory of each of `packages` ({ suite, name, arch? } of Debian), unpacked, in their order. What is there is not asked for again; the rest is
 * downloaded with package lists of its own, one suite after the other. A SetupError at the end when one cannot be had: the others are there all the same.
 */
export async function fetchFromSuite(root, packages) {
  const missing = packages.filter((wanted) => unpackedOf(root, wanted) === undefined);
  const errors = [];
  for (const suite of new Set(missing.map((wanted) => wanted.suite))) {
    const failed = await fetchOf(root, suite, missing.filter((wanted) => wanted.suite === suite)).catch((error) => [error]);
    errors.push(...failed);
  }
  if (errors.length > 0) throw new SetupError(errors.map(({ message }) => message).join('; '), EX_UNAVAILABLE);
  return packages.map((wanted) => join(cacheOf(root), directoryOf(wanted)));
}

/** Answers the errors of those packages that cannot be had; rejects where none can. */
async function fetchOf(root, suite, packages) {
  const errors = [];
  mkdirSync(cacheOf(root), { recursive: true });
  const own = mkdtempSync(join(tmpdir(), 'rackseed-suite-'));
  try {
    for (const dir of ['lists/partial', 'cache/archives/partial', 'sources', 'debs']) mkdirSync(join(own, dir), { recursive: true });
    writeFileSync(join(own, 'status'), '');
    const arches = [...new Set(packages.map(({ arch }) => arch ?? native()))];
    writeFileSync(join(own, 'sources/suite.sources'), `Types: deb\nURIs: ${mirror()}\nSuites: ${suite}\nComponents: main\nArchitectures: ${arches.join(' ')}\nSigned-By: ${KEYRING}\n`);
    const dirs = { 'Dir::State::lists': `${own}/lists`, 'Dir::State::status': `${own}/status`, 'Dir::Cache': `${own}/cache`, 'Dir::Etc::sourcelist': '/dev/null', 'Dir::Etc::sourceparts': `${own}/sources`, 'Dir::Etc::preferencesparts': '/dev/null' };
    const options = [...Object.entries({ ...APT, ...dirs }).map(([name, value]) => `${name}=${value}`), ...arches.map((arch) => `APT::Architectures::=${arch}`)].flatMap((option) => ['-o', option]);
    await longStep(`package lists of Debian ${suite}`, ['apt-get', '-qq', ...options, 'update'], { exit: EX_UNAVAILABLE });
    // Each by itself: of several names in one call apt gets none where one is unknown.
    for (const wanted of packages) {
      const name = `${wanted.name}${wanted.arch === undefined || wanted.arch === native() ? '' : `:${wanted.arch}`}`;
      const temp = mkdtempSync(join(cacheOf(root), 'new-'));
      try {
        await longStep(`apt-get download ${name} of ${suite}`, ['apt-get', '-qq', ...options, 'download', name], { cwd: join(own, 'debs'), exit: EX_UNAVAILABLE });
        const deb = readdirSync(join(own, 'debs')).find((file) => file.startsWith(`${wanted.name}_`));
        output('dpkg-deb', ['-x', join(own, 'debs', deb), temp]);
        rmSync(join(own, 'debs', deb));
        chmodSync(temp, 0o755);
        if (unpackedOf(root, wanted) === undefined) renameSync(temp, join(cacheOf(root), directoryOf(wanted)));
      } catch (error) {
        // Another run was quicker.
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') errors.push(error);
      } finally {
        rmSync(temp, { recursive: true, force: true });
      }
    }
    return errors;
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

function cacheOf(root) {
  return join(root, 'node_modules/.cache/rackseed-suites');
}

function directoryOf({ suite, name, arch }) {
  return `${suite}_${name}_${arch ?? native()}`;
}

let known;
function native() {
  return (known ??= output('dpkg', ['--print-architecture']).trim());
}

/** The machine's own, of which only the suite is another. */
function mirror() {
  const { stdout } = spawnSync('apt-get', ['indextargets', '--format', '$(ORIGIN) $(REPO_URI)', 'Created-By: Packages'], { encoding: 'utf8' });
  return mirrorFrom(stdout ?? '') ?? 'http://deb.debian.org/debian';
}

/** The first repository of Debian's own in lines of origin and URI: a third party's may end in `/debian` as well, and has nothing signed by Debian. */
export function mirrorFrom(lines) {
  return /^Debian (https?:\S*\/debian\/?)$/m.exec(lines)?.[1];
}

function output(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (error || status !== 0) throw new SetupError(`${program} ${args[0]}: ${error?.message ?? (stderr.trim().split('\n').at(-1) || `exit ${status}`)}`, EX_UNAVAILABLE);
  return stdout;
}
