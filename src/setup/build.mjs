// npm packages and the compiled program, each made only when what it comes from has changed.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { longStep } from './say.mjs';

export function nodeModulesMissing(root) {
  return !existsSync(join(root, 'node_modules/.package-lock.json'));
}

/**
 * `npm ci` when node_modules does not come from this package-lock.json, or was compiled for another Node. A node_modules that is
 * younger than our stamp and the lock (somebody ran npm by hand) is taken as it is.
 */
export async function installIfNeeded(root) {
  const stamp = join(root, 'node_modules/.rackseed-stamp');
  const wanted = `${sha256(readFileSync(join(root, 'package-lock.json')))} ${process.versions.modules}\n`;
  const has = existsSync(stamp) ? readFileSync(stamp, 'utf8') : undefined;
  if (has === wanted) return;
  const copy = join(root, 'node_modules/.package-lock.json');
  const made = (file) => (existsSync(file) ? statSync(file).mtimeMs : 0);
  const otherNode = has !== undefined && !has.endsWith(` ${process.versions.modules}\n`);
  const byHand = existsSync(copy) && !otherNode && made(copy) >= Math.max(made(stamp), made(join(root, 'package-lock.json')));
  if (!byHand) {
    await longStep('npm ci (compiles better-sqlite3 where no prebuilt one can be fetched: about a minute)', ['npm', 'ci', '--no-audit', '--no-fund', '--loglevel=warn'], { cwd: root, env: npmEnvironment(process.env, process.execPath) });
  }
  writeFileSync(stamp, wanted);
}

/** The environment of `npm ci`, from ours and from the Node that runs us (`execPath`, such as /usr/bin/node). */
export function npmEnvironment(ours, execPath) {
  // npm's own node, not whatever `npm` finds first: the binary module must fit the Node that runs us.
  const env = { ...ours, PATH: `${dirname(execPath)}:${ours.PATH ?? ''}`, npm_config_update_notifier: 'false' };
  // A script of npm's sets these for its children; npm ci would take them as its own options.
  for (const key of ['npm_config_json', 'npm_config_yes']) delete env[key];
  const prefix = dirname(dirname(execPath));
  // Without this node-gyp downloads Node's headers, which is forbidden or impossible on many machines (TRAPS 3).
  if (existsSync(join(prefix, 'include/node/node_version.h'))) env.npm_config_nodedir = prefix;
  return env;
}

/** Compiles src into dist when any source differs from the one that dist was made of, or `always`. */
export async function buildIfNeeded(root, { always = false } = {}) {
  const stamp = join(root, 'dist/.stamp');
  const wanted = sourcesDigest(root);
  if (!always && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  await longStep('build', [process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'src/tsconfig.json')], { cwd: root });
  dropOrphans(root);
  mkdirSync(join(root, 'dist'), { recursive: true });
  writeFileSync(stamp, wanted);
}

/** Compiles the benchmarks with what they import of src, always; the path of the program, relative to `root`. Not into dist, which is what is shipped. */
export async function buildBench(root) {
  await longStep('build of the benchmarks', [process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'bench/tsconfig.json')], { cwd: root });
  return 'node_modules/.cache/rackseed-bench/bench/run.js';
}

function sourcesDigest(root) {
  const hash = createHash('sha256');
  for (const file of ['tsconfig.json', ...sources(root)]) hash.update(`${file}\0`).update(readFileSync(join(root, file))).update('\0');
  return hash.digest('hex');
}

function sources(root) {
  return readdirSync(join(root, 'src'), { recursive: true })
    .map((name) => `src/${name}`)
    .filter((file) => /\.(ts|json)$/.test(file))
    .sort();
}

/** A compiled file whose source is gone would still be found by an import. */
function dropOrphans(root) {
  const made = new Set(sources(root).map((file) => file.replace(/^src\//, '').replace(/\.ts$/, '.js')));
  for (const name of readdirSync(join(root, 'dist'), { recursive: true })) {
    if (String(name).endsWith('.js') && !made.has(String(name))) rmSync(join(root, 'dist', String(name)));
  }
}

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}
