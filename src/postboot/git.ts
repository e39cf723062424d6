// One way to run Git: fixed arguments, an environment and settings of our own, a time limit, and errors in one line.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { simpleGit } from 'simple-git';
import { AppError } from '../errors.ts';

export interface GitOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly input?: string;
  /** Milliseconds without a byte of output after which Git is ended. */
  readonly silenceMs?: number;
  readonly signal?: AbortSignal;
  /** An exit code other than 0 that came without a word is an answer, not an error. */
  readonly quiet?: boolean;
}

const SILENCE_MS = 30_000;

/** What of our own environment Git may see: how to find programs, the operator's SSH agent, proxy and certificates. */
const KEPT = ['PATH', 'SSH_AUTH_SOCK', 'https_proxy', 'HTTPS_PROXY', 'no_proxy', 'NO_PROXY', 'SSL_CERT_FILE', 'SSL_CERT_DIR'] as const;

/**
 * The environment of every Git process. The allow-list of protocols is a variable because no repository's settings can widen it;
 * a URL that redirects or a submodule cannot leave it either.
 */
export function gitEnvironment(home: string): NodeJS.ProcessEnv {
  const kept = Object.fromEntries(KEPT.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])));
  return {
    ...kept,
    HOME: home,
    LC_ALL: 'C',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_TERMINAL_PROMPT: '0',
    GIT_ALLOW_PROTOCOL: 'https:ssh:file',
    GIT_ATTR_NOSYSTEM: '1',
    GIT_NO_REPLACE_OBJECTS: '1',
  };
}

/**
 * Writes the settings that Git reads instead of the user's. `trusted`: directories that may belong to another user, which are our
 * mirrors and the local upstreams that the operator named; local transports read this file but not `-c`.
 */
export async function writeGitHome(home: string, trusted: readonly string[]): Promise<void> {
  const quoted = (text: string) => `"${text.replace(/[\\"]/g, '\\$&')}"`;
  const lines = [
    '# Written by rackseed at each start; .netrc beside it is read for https upstreams.',
    '[core]',
    '\thooksPath = /dev/null',
    '\tsshCommand = ssh -oBatchMode=yes -oConnectTimeout=20',
    '[init]',
    '\ttemplateDir = ""',
    '\tdefaultBranch = main',
    '[gc]',
    '\tautoDetach = false',
    '[maintenance]',
    '\tautoDetach = false',
    '[fetch]',
    '\trecurseSubmodules = false',
    '[safe]',
    ...trusted.map((path) => `\tdirectory = ${quoted(path)}`),
  ];
  await mkdir(home, { recursive: true, mode: 0o700 });
  await writeFile(join(home, '.gitconfig'), `${lines.join('\n')}\n`, { mode: 0o600 });
}

/** Runs Git in `dir` and answers its stdout. No argument may be text of a user's unless it cannot start with a dash. */
export async function git(dir: string, args: readonly string[], options: GitOptions): Promise<string> {
  const { env, input } = options;
  const runner = simpleGit({
    baseDir: dir,
    timeout: { block: options.silenceMs ?? SILENCE_MS },
    allowEnvironment: Object.keys(env).filter((name) => name.startsWith('GIT_')),
    // simple-git alone takes a failure without a message for a success.
    errors: (error, result) => error ?? (result.exitCode !== 0 && !options.quiet ? Buffer.from(`exit code ${result.exitCode}`) : undefined),
    ...(input === undefined ? {} : { input: () => input }),
    ...(options.signal ? { abort: options.signal } : {}),
  }).env(env);
  return runner.raw([...args]);
}

/** The line of Git's complaint that says why, without credentials. */
export function gitComplaint(error: unknown): string {
  const lines = redact(error instanceof Error ? error.message : String(error))
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const telling = lines.find((line) => /^(fatal|error|ssh):/.test(line)) ?? lines.at(-1) ?? 'git failed';
  return telling.replace(/^(fatal|error): /, '').slice(0, 300);
}

/** As people and logs may see a URL or a complaint: `https://token@host/x` carries a secret. */
export function redact(text: string): string {
  return text.replace(/\b([a-z][a-z0-9+.-]*:\/\/)[^/@\s]*@/gi, '$1');
}

export function gitFailed(what: string, error: unknown, hint: string): AppError {
  return error instanceof AppError ? error : new AppError('GIT_FAILED', `${what}: ${gitComplaint(error)}`, hint, error);
}

/** Why a URL cannot be an upstream, or undefined. Accepted: https, ssh (both forms), file:// and absolute paths. */
export function urlFault(url: string): string | undefined {
  if (url === '' || url.length > 2000) return 'not a URL';
  if (url.startsWith('-')) return 'starts with a dash, which Git would read as an option';
  if (/[\u0000-\u0020\u007f]/.test(url)) return 'has a space or a control character in it';
  if (url.startsWith('/')) return undefined;
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1]?.toLowerCase();
  if (scheme === 'file') return url.startsWith('file:///') ? undefined : 'a file URL has three slashes: file:///srv/git/x.git';
  if (scheme === 'https' || scheme === 'ssh') return /^[a-z]+:\/\/([^/@]*@)?[a-z0-9[]/i.test(url) ? undefined : 'has no host';
  if (scheme === 'http' || scheme === 'git') return `${scheme} is not authenticated: whoever sits on the way could choose what nodes run as root; use https or ssh`;
  if (scheme) return `protocol ${scheme} is not allowed: use https, ssh or file`;
  if (/^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^:-]/.test(url)) return undefined;
  return 'not an https, ssh or file URL, nor an absolute path';
}

/** The rules of git-check-ref-format, as far as a name in a profile needs them: nothing here can be an option or an expression. */
export function isRefName(ref: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}$/.test(ref) && !/\.\.|@\{|\/\/|\/\.|\.lock(\/|$)|[./]$/.test(ref);
}

export function isCommitId(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text);
}
