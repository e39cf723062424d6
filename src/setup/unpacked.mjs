// Peers that are unpacked into node_modules instead of installed: Debian's programs, without the services that Debian would start.
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { notInstalled } from './packages.mjs';
import { longStep, say, SetupError } from './say.mjs';

const EX_UNAVAILABLE = 69;

/**
 * Downloads and unpacks those `peers` ({ name, program in usr/sbin }) that are neither installed nor unpacked already; needs no root and changes
 * nothing outside `root`. `path` are directories that go to the head of PATH, `missing` the peers that cannot be had, each with its reason.
 * At the head: whoever has installed atftpd has an in.tftpd that is atftpd.
 */
export async function unpackPeers(root, peers) {
  const path = [];
  const missing = [];
  const names = notInstalled(peers.map(({ name }) => name));
  if (names.length === 0) return { path, missing };
  const cache = join(root, 'node_modules/.cache/rackseed-peers');
  mkdirSync(cache, { recursive: true });
  const candidates = candidatesFrom(output('apt-cache', ['policy', ...names]));
  const apt = openApt();
  try {
    for (const peer of peers.filter(({ name }) => names.includes(name))) {
      const there = unpackedIn(cache, peer);
      try {
        path.push(join(there.find((one) => atLeast(one.version, candidates.get(peer.name)))?.dir ?? (await unpack(cache, peer, apt)), 'bin'));
      } catch (error) {
        const why = error.said ?? error.message;
        // A failed update of it is no reason to do without.
        if (there.length > 0) path.push(join(there[0].dir, 'bin'));
        else missing.push({ name: peer.name, why });
        say(`rackseed: ${peer.name}: ${why}; ${there.length > 0 ? `version ${there[0].version} is taken, unpacked earlier` : 'what needs it is left out'}`);
      }
    }
  } finally {
    apt.close();
  }
  return { path, missing };
}

/** The version of each package that apt would take, from what `apt-cache policy` says; those that it does not know are not in it. */
export function candidatesFrom(policy) {
  return new Map([...policy.matchAll(/^(\S+):\n {2}Installed: .*\n {2}Candidate: (?!\(none\))(\S+)$/gm)].map(([, name, version]) => [name, version]));
}

/** The libraries in a package's Depends field, of alternatives the first. What else it depends on is for running it as a service. */
export function librariesOf(depends) {
  return depends.split(',').flatMap((entry) => /^\s*(lib[a-z0-9.+-]+)/.exec(entry)?.[1] ?? []);
}

/** Those of earlier runs that run here, the newest first: { dir, version }. Another Debian may have made them, in a node_modules that was carried along. */
function unpackedIn(cache, { name, program }) {
  return readdirSync(cache)
    .filter((entry) => entry.startsWith(`${name}_`))
    .map((entry) => ({ dir: join(cache, entry), version: entry.slice(name.length + 1).replaceAll('%3a', ':') }))
    .filter(({ dir }) => complaint(dir, program) === undefined)
    .sort((a, b) => (atLeast(a.version, b.version) ? -1 : 1));
}

function atLeast(version, candidate) {
  return candidate === undefined || spawnSync('dpkg', ['--compare-versions', version, 'ge', candidate]).status === 0;
}

/** Its directory, named after its version: bin/ with one wrapper, files/ with what the package and its missing libraries hold. It is there whole or not at all. */
async function unpack(cache, { name, program }, apt) {
  const temp = mkdtempSync(join(cache, 'new-'));
  try {
    for (const part of ['bin', 'debs', 'files']) mkdirSync(join(temp, part));
    const wanted = [name];
    let version;
    // It grows while we go along: a library has libraries of its own.
    for (const one of wanted) {
      await apt.download(one, join(temp, 'debs'));
      const deb = join(temp, 'debs', readdirSync(join(temp, 'debs')).find((file) => file.startsWith(`${one}_`)));
      output('dpkg-deb', ['-x', deb, join(temp, 'files')]);
      version ??= output('dpkg-deb', ['-f', deb, 'Version']).trim();
      wanted.push(...notInstalled(librariesOf(output('dpkg-deb', ['-f', deb, 'Depends']))).filter((library) => !wanted.includes(library)));
    }
    rmSync(join(temp, 'debs'), { recursive: true });
    writeFileSync(join(temp, 'bin', program), wrapper(libraryDirs(temp), program), { mode: 0o755 });
    // mkdtemp's own mode shuts out a server that gives up root.
    chmodSync(temp, 0o755);
    const wrong = complaint(temp, program);
    if (wrong) throw new SetupError(`it is unpacked, but does not run here: ${wrong}`, EX_UNAVAILABLE);
    // A PATH is split at colons, which an epoch has: apt's own way to write it into a file's name.
    return moveInto(join(cache, `${name}_${version.replaceAll(':', '%3a')}`), temp, program);
  } finally {
    rmSync(temp, { recursive: true, force: true });
  }
}

function moveInto(dir, temp, program) {
  try {
    renameSync(temp, dir);
  } catch (error) {
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    // Another run was quicker, or what is there no longer runs.
    if (complaint(dir, program) === undefined) return dir;
    rmSync(dir, { recursive: true });
    renameSync(temp, dir);
  }
  return dir;
}

/** By exec, so that who started it has the server's own pid; only this one program sees the libraries. */
function wrapper(libraries, program) {
  const own = libraries.map((dir) => `$here/${dir}`).join(':');
  const line = own && `export LD_LIBRARY_PATH="${own}\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n`;
  return `#!/bin/sh\nhere=\${0%/*}/..\n${line}exec "$here/files/usr/sbin/${program}" "$@"\n`;
}

/** The directories of shared libraries below files/, relative to `dir`: usr/lib/<multiarch>, and lib/<multiarch> for what was not moved to usr yet. */
function libraryDirs(dir) {
  return ['files/usr/lib', 'files/lib'].flatMap((lib) => entries(join(dir, lib)).map((name) => `${lib}/${name}`)).filter((one) => entries(join(dir, one)).some((name) => /\.so(\.|$)/.test(name)));
}

function entries(dir) {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

/** Why the unpacked program cannot run here, in the words of the dynamic linker; undefined when it can. */
function complaint(dir, program) {
  const { status, stdout, stderr, error } = spawnSync('ldd', [join(dir, 'files/usr/sbin', program)], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C', LD_LIBRARY_PATH: libraryDirs(dir).map((one) => join(dir, one)).join(':') },
  });
  if (error) return `ldd: ${error.message}`;
  return `${stdout}${stderr}`.split('\n').find((line) => / not found/.test(line))?.trim() ?? (status === 0 ? undefined : (stderr || stdout).trim());
}

/** Root's downloads are by apt's own user, who may not enter our directories; signatures are checked all the same. A network that swallows all packets is given up after seconds. */
const APT = { 'APT::Sandbox::User': 'root', 'Acquire::Retries': 1, 'Acquire::http::Timeout': 15, 'Acquire::https::Timeout': 15 };

const options = (...sets) => sets.flatMap((set) => Object.entries(set).flatMap(([name, value]) => ['-o', `${name}=${value}`]));

/**
 * Downloads with the machine's package lists and, when these know no such package or an address of it that is gone, once with fresh ones in a
 * directory of our own.
 */
function openApt() {
  let own;
  const apt = (what, words, more) =>
    longStep(what, ['apt-get', '-qq', ...options(APT, own ? { 'Dir::State::lists': `${own}/lists`, 'Dir::Cache': `${own}/cache` } : {}), ...words], { exit: EX_UNAVAILABLE, ...more });
  const download = (name, into) => apt(`apt-get download ${name}`, ['download', name], { cwd: into });
  return {
    async download(name, into) {
      if (own) return download(name, into);
      try {
        await download(name, into);
      } catch (first) {
        own = mkdtempSync(join(tmpdir(), 'rackseed-apt-'));
        for (const dir of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(own, dir), { recursive: true });
        // apt-get calls it a success when it reached no server at all. One of somebody else's sources that is gone does not keep us from Debian's.
        await apt('apt-get update into a directory of its own', [...options({ 'APT::Update::Error-Mode': 'any' }), 'update'], { mayFail: true });
        await download(name, into).catch((error) => {
          error.said = [...new Set([first.said, error.said])].join('; then ');
          throw error;
        });
      }
    },
    close: () => own && rmSync(own, { recursive: true, force: true }),
  };
}

function output(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (error || status !== 0) throw new SetupError(`${program} ${args[0]}: ${error?.message ?? (stderr.trim().split('\n').at(-1) || `exit ${status}`)}`, EX_UNAVAILABLE);
  return stdout;
}
