// What lab tests share: the compiled lab run as root or as an ordinary user, and a search for what it left behind.
import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const CLI = join(ROOT, 'dist/cli.js');
/** Kept between runs, so that an image is built once. */
export const TEST_STATE = process.env['RACKSEED_TEST_STATE'] ?? join(tmpdir(), 'rackseed-test-state');
/** Any id that nobody has; it needs no line in /etc/passwd. */
export const USER_ID = 64_321;

/** Root of the machine itself, not of a user namespace: only that root can become somebody else. */
export function isTrueRoot(): boolean {
  return process.getuid?.() === 0 && /^\s*0\s+0\s+4294967295/.test(readFileSync('/proc/self/uid_map', 'utf8'));
}

/** Where the repository is for a program that runs through `asUser`. */
export const USER_ROOT = isTrueRoot() ? '/mnt' : ROOT;

/**
 * The command line that runs `argv` as an ordinary user, with the repository at `USER_ROOT`: mounted there, because the checkout may be below a
 * directory that only root may enter. The tun device gets the mode that udev gives it on Debian. Who is no true root is ordinary enough.
 */
export function asUser(argv: readonly string[], dir: string): string[] {
  if (!isTrueRoot()) return [...argv];
  const script = `set -e
    mount --bind "$1" /mnt
    if [ "$(stat -c %a /dev/net/tun)" != 666 ]; then [ -e "$2/tun" ] || mknod "$2/tun" c 10 200; chmod 666 "$2/tun"; mount --bind "$2/tun" /dev/net/tun; fi
    shift 2
    cd /mnt
    exec setpriv --reuid ${USER_ID} --regid ${USER_ID} --clear-groups -- env -u XDG_STATE_HOME PATH=/usr/local/bin:/usr/bin:/bin "$@"`;
  return ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', script, 'sh', ROOT, dir, ...argv];
}

/** A new directory that anybody may pass through. */
export function openDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-lab-test-'));
  chmodSync(dir, 0o755);
  return dir;
}

export function removeDir(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
}

export interface Started {
  readonly child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** The exit code; -1 for any signal. */
  readonly ended: Promise<number>;
}

/** Runs a program of the checkout; with `typed` its stdin is ours to write to (`child.stdin`), else it is at its end. */
export function start(argv: readonly string[], { env, typed = false }: { readonly env?: NodeJS.ProcessEnv; readonly typed?: boolean } = {}): Started {
  const child = spawn(argv[0]!, argv.slice(1), { cwd: ROOT, env: { ...process.env, ...env }, stdio: [typed ? 'pipe' : 'ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout!.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr!.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = new Promise<number>((resolve) => child.once('close', (code) => resolve(code ?? -1)));
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

/** Polls until `found` has an answer; fails with what was said when the program ends or the time is up first. */
export async function until<T>(what: string, timeoutMs: number, found: () => T | undefined | Promise<T | undefined>, started?: Started): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let over = false;
  void started?.ended.then(() => (over = true));
  for (;;) {
    const answer = await found();
    if (answer !== undefined) return answer;
    if (over || Date.now() > deadline) throw new Error(`${what}: ${over ? 'the program ended' : `not within ${timeoutMs} ms`}\n${started ? `${started.stdout()}\n${started.stderr()}` : ''}`);
    await sleep(100);
  }
}

/** Processes (no zombies) that name `text` in their command line, as `pid command`; not ourselves. */
export function processesNaming(text: string): string[] {
  return processes((pid) => {
    const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    return line.includes(text) ? `${pid} ${line}` : undefined;
  });
}

/** Processes in the network namespace of that name (`net:[4026532178]`). */
export function processesIn(namespace: string): string[] {
  return processes((pid) => (readlinkSync(`/proc/${pid}/ns/net`) === namespace ? pid : undefined));
}

export function namespaceOf(pid: number): string {
  return readlinkSync(`/proc/${pid}/ns/net`);
}

function processes(match: (pid: string) => string | undefined): string[] {
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return [];
    try {
      return match(pid) ?? [];
    } catch {
      // Ended meanwhile, or a zombie, which has neither a command line nor a namespace.
      return [];
    }
  });
}

/** What labs with this state directory have left of their runs: nothing. (Image builds have directories of their own, and tests of their own.) */
export function leftovers(state: string): string[] {
  const dir = join(state, 'run');
  const runs = existsSync(dir) ? readdirSync(dir).map((run) => join(dir, run)) : [];
  const mounts = readFileSync('/proc/mounts', 'utf8').split('\n').filter((line) => line.includes(`${dir}/`));
  return [...runs, ...mounts, ...processesNaming(`${dir}/`)];
}

/** What is mounted on this machine, line by line: compared before and after. */
export function mounts(): string[] {
  return readFileSync('/proc/mounts', 'utf8').trimEnd().split('\n');
}
