// Post-boot repositories: bare mirrors of upstreams, the shipped one, and pins that outlive whatever upstream does.
import { setMaxListeners } from 'node:events';
import { mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve as absolute } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import { AppError } from '../errors.ts';
import { git, gitComplaint, gitEnvironment, gitFailed, isCommitId, isRefName, redact, urlFault, writeGitHome, type GitOptions } from './git.ts';
import { commitDirectory } from './shipped.ts';

/** The repository that comes with rackseed. */
export const SHIPPED_REPO = 'post-boot';

export interface RepoStatus {
  readonly name: string;
  /** Without credentials; absent for the shipped repository. */
  readonly url?: string;
  /** The last fetch failed or none was made yet: what is served is the last good state, or nothing. */
  readonly stale: boolean;
  /** Milliseconds since 1970 of the last successful fetch, also across restarts. */
  readonly lastGoodAt?: number;
  readonly error?: string;
}

export interface Repos {
  /** Mirrors exist, the shipped directory is committed, one fetch of each upstream was tried. An upstream that is down is stale, not an error. */
  start(): Promise<void>;
  /** One fetch; a fetch that is under way already is shared. GIT_FAILED when it fails; the last good state stays. Changes nothing that boots. */
  refresh(name: string): Promise<void>;
  /** A branch, a tag, `refs/...` or a full commit id; undefined when the repository has no such thing. Only a generation's compiler asks this. */
  resolve(repo: string, ref: string): Promise<{ readonly commit: string } | undefined>;
  /** Whether the directory holds at least one executable `NN-name` in that commit. */
  hasSteps(repo: string, commit: string, directory: string): Promise<boolean>;
  /** Every directory for which hasSteps is true, for "did you mean". */
  list(repo: string, commit: string): Promise<string[]>;
  /** Gives the commit a branch of its own, `pin/<id>`: neither a force-push upstream nor garbage collection here can take it away. */
  pin(repo: string, commit: string): Promise<void>;
  unpinExcept(repo: string, commits: ReadonlySet<string>): Promise<void>;
  status(): readonly RepoStatus[];
  /** The bare repository's directory, absolute. */
  dir(name: string): string | undefined;
  /** For those who run Git on `dir` themselves. */
  environment(): NodeJS.ProcessEnv;
  /** Ends what is under way. */
  stop(): Promise<void>;
}

export interface ReposOptions {
  readonly stateDir: string;
  /** The installation's post-boot/ directory. */
  readonly shippedDir: string;
  readonly repos: Readonly<Record<string, { readonly url: string; readonly refreshSeconds: number }>>;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

interface Mirror {
  readonly name: string;
  readonly directory: string;
  readonly url?: string;
  readonly refreshSeconds: number;
  fetching?: Promise<void>;
  lastGoodAt?: number;
  error?: string;
}

const LAST_GOOD = 'rackseed-last-good';
/** A lock this old is a leftover of a power cut: no Git process of ours lives so long without a word. */
const DEAD_LOCK_MS = 10 * 60_000;
const REFSPECS = ['+refs/heads/*:refs/upstream/heads/*', '+refs/tags/*:refs/upstream/tags/*'] as const;

/** CONFIG_INVALID when a name or URL is not one that Git may be given. */
export function createRepos(options: ReposOptions): Repos {
  const { log, now } = options;
  const root = absolute(options.stateDir, 'repos');
  const env = gitEnvironment(join(root, '.home'));
  const aborter = new AbortController();
  setMaxListeners(0, aborter.signal);
  const timers: NodeJS.Timeout[] = [];
  const running = new Set<Promise<void>>();
  const mirrors = new Map<string, Mirror>();
  mirrors.set(SHIPPED_REPO, { name: SHIPPED_REPO, directory: join(root, `${SHIPPED_REPO}.git`), refreshSeconds: 0 });
  for (const [name, { url, refreshSeconds }] of Object.entries(options.repos)) {
    if (name === SHIPPED_REPO) throw new AppError('CONFIG_INVALID', `repos.${name}: this is the name of the shipped repository`, 'choose another name and use it in the profiles');
    if (!/^[a-z0-9][a-z0-9._-]*$/.test(name) || name.endsWith('.git')) throw new AppError('CONFIG_INVALID', `repos: ${JSON.stringify(name)} is not a repository name`, 'lower-case letters, digits, dots, dashes; no .git at the end');
    const fault = urlFault(url);
    if (fault) throw new AppError('CONFIG_INVALID', `repos.${name}.url: ${fault}`, 'for example https://git.example.org/post-boot.git, git@git.example.org:post-boot.git or /srv/git/post-boot.git');
    mirrors.set(name, { name, url, directory: join(root, `${name}.git`), refreshSeconds });
  }

  const run = (mirror: Mirror, args: readonly string[], more: Partial<GitOptions> = {}) => git(mirror.directory, args, { env, signal: aborter.signal, ...more });

  function known(name: string): Mirror {
    const mirror = mirrors.get(name);
    if (!mirror) throw new AppError('GIT_FAILED', `no repository is called ${JSON.stringify(name)}`, `known: ${[...mirrors.keys()].join(', ')}; more go under \`repos\` in rackseed.yaml`);
    return mirror;
  }

  async function prepare(mirror: Mirror): Promise<void> {
    try {
      await mkdir(mirror.directory, { recursive: true });
      await run(mirror, ['init', '--quiet', '--bare', '--object-format=sha1']);
      if (mirror.url === undefined) await commitDirectory(mirror.directory, absolute(options.shippedDir), env);
      const text = await readFile(join(mirror.directory, LAST_GOOD), 'utf8').catch(() => '');
      if (/^\d+$/.test(text)) mirror.lastGoodAt = Number(text);
    } catch (error) {
      throw gitFailed(`${mirror.directory} could not be prepared`, error, 'is the state directory writable, and is git installed?');
    }
  }

  async function fetchOnce(mirror: Mirror, url: string): Promise<void> {
    try {
      await removeDeadLocks(mirror.directory, Date.now());
      // --progress, because git is ended when it is silent for too long, and a first mirror may take minutes.
      await run(mirror, ['fetch', '--progress', '--prune', '--no-tags', '--no-recurse-submodules', '--no-write-fetch-head', '--', url, ...REFSPECS]);
      mirror.lastGoodAt = now();
      if (mirror.error !== undefined) log.info({ repo: mirror.name }, 'repository is fresh again');
      delete mirror.error;
      await writeFile(join(mirror.directory, LAST_GOOD), String(mirror.lastGoodAt));
    } catch (error) {
      mirror.error = gitComplaint(error);
      if (!aborter.signal.aborted) log.warn({ repo: mirror.name, url: redact(url), why: mirror.error }, 'repository could not be fetched; its last good state is served');
      throw gitFailed(`repository ${mirror.name} could not be fetched from ${redact(url)}`, error, 'nodes still get the commits that were mirrored; is the upstream reachable from here, and may we read it?');
    }
  }

  const repos: Repos = {
    async start() {
      const local = [...mirrors.values()].flatMap((mirror) => localPaths(mirror.url));
      await writeGitHome(env['HOME']!, [...[...mirrors.values()].map((mirror) => mirror.directory), ...local]);
      await Promise.all([...mirrors.values()].map(prepare));
      // Machines wait for us: only a mirror that has nothing yet is waited for, and the others are served as they were.
      const first = [...mirrors.values()].map((mirror) => ({ mirror, fetched: repos.refresh(mirror.name).catch(() => undefined) }));
      await Promise.all(first.filter(({ mirror }) => mirror.lastGoodAt === undefined).map(({ fetched }) => fetched));
      for (const mirror of mirrors.values()) {
        if (mirror.url === undefined) continue;
        timers.push(setInterval(() => void repos.refresh(mirror.name).catch(() => undefined), mirror.refreshSeconds * 1000).unref());
      }
    },
    async refresh(name) {
      const mirror = known(name);
      if (mirror.url === undefined || aborter.signal.aborted) return;
      if (!mirror.fetching) {
        const fetching = fetchOnce(mirror, mirror.url).finally(() => {
          delete mirror.fetching;
          running.delete(fetching);
        });
        mirror.fetching = fetching;
        running.add(fetching);
      }
      return mirror.fetching;
    },
    async resolve(repo, ref) {
      const mirror = known(repo);
      for (const name of candidates(mirror, ref)) {
        const commit = (await run(mirror, ['rev-parse', '--verify', '--quiet', `${name}^{commit}`], { quiet: true }).catch(() => '')).trim();
        if (isCommitId(commit)) return { commit };
      }
      return undefined;
    },
    async hasSteps(repo, commit, directory) {
      return (await repos.list(repo, commit)).includes(directory.replace(/\/+$/, ''));
    },
    async list(repo, commit) {
      const mirror = known(repo);
      if (!isCommitId(commit)) return [];
      const listed = await run(mirror, ['ls-tree', '-r', '-z', commit]).catch((error: unknown) => {
        throw gitFailed(`commit ${commit} of ${repo} could not be read`, error, 'was it pushed, and is the mirror fresh? /readyz tells');
      });
      const directories = listed.split('\0').flatMap((entry) => /^100755 blob [0-9a-f]+\t(.+)\/\d\d-[^/]+$/s.exec(entry)?.[1] ?? []);
      return [...new Set(directories)].sort();
    },
    async pin(repo, commit) {
      const mirror = known(repo);
      try {
        if (!isCommitId(commit) || (await run(mirror, ['cat-file', '-t', commit])).trim() !== 'commit') throw new Error('not a commit');
        await run(mirror, ['update-ref', `refs/heads/pin/${commit}`, commit]);
      } catch (error) {
        throw gitFailed(`commit ${commit.slice(0, 40)} of ${repo} could not be pinned`, error, 'was it pushed, and is the mirror fresh? /readyz tells');
      }
    },
    async unpinExcept(repo, commits) {
      const mirror = known(repo);
      try {
        const pinned = (await run(mirror, ['for-each-ref', '--format=%(objectname)', 'refs/heads/pin'])).split('\n').filter(isCommitId);
        const gone = pinned.filter((commit) => !commits.has(commit));
        if (gone.length > 0) await run(mirror, ['update-ref', '--stdin'], { input: gone.map((commit) => `delete refs/heads/pin/${commit}\n`).join('') });
      } catch (error) {
        throw gitFailed(`old pins of ${repo} could not be removed`, error, 'is the state directory writable?');
      }
    },
    status() {
      return [...mirrors.values()].map((mirror) => ({
        name: mirror.name,
        ...(mirror.url === undefined ? {} : { url: redact(mirror.url) }),
        stale: mirror.url !== undefined && (mirror.error !== undefined || mirror.lastGoodAt === undefined),
        ...(mirror.lastGoodAt === undefined ? {} : { lastGoodAt: mirror.lastGoodAt }),
        ...(mirror.error === undefined ? {} : { error: mirror.error }),
      }));
    },
    dir: (name) => mirrors.get(name)?.directory,
    environment: () => env,
    async stop() {
      for (const timer of timers.splice(0)) clearInterval(timer);
      aborter.abort();
      await Promise.allSettled(running);
    },
  };
  return repos;
}

/** What a profile's `ref` may mean, full names first tried as branch, then as tag. Upstream's refs live under refs/upstream here. */
function candidates(mirror: Mirror, ref: string): string[] {
  if (isCommitId(ref)) return [ref];
  if (!isRefName(ref)) return [];
  const base = mirror.url === undefined ? 'refs' : 'refs/upstream';
  if (ref.startsWith('refs/')) return /^refs\/(heads|tags)\/./.test(ref) ? [`${base}/${ref.slice('refs/'.length)}`] : [];
  return [`${base}/heads/${ref}`, `${base}/tags/${ref}`];
}

/** A local upstream as Git may spell it when it asks whether the directory's owner is trusted. */
function localPaths(url: string | undefined): string[] {
  const path = url?.startsWith('file:///') ? fileURLToPath(url) : url?.startsWith('/') ? url : undefined;
  return path === undefined ? [] : [path, join(path, '.git'), `${path}.git`];
}

async function removeDeadLocks(directory: string, nowMs: number): Promise<void> {
  const refs = await readdir(join(directory, 'refs'), { recursive: true, withFileTypes: true });
  for (const entry of [...(await readdir(directory, { withFileTypes: true })), ...refs]) {
    if (!entry.isFile() || !entry.name.endsWith('.lock')) continue;
    const path = join(entry.parentPath, entry.name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: nowMs }));
    if (nowMs - mtimeMs > DEAD_LOCK_MS) await rm(path, { force: true });
  }
}
