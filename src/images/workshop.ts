// Where an image is built: a temporary directory, and programs that run as root in namespaces of their own, so that nothing outlives a build.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, createWriteStream, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { userInfo } from 'node:os';
import { AppError } from '../errors.ts';
import { emulated, emulationFor, mapOwnIds, needPrivateRegistration, type BuiltArch, type Emulation } from './emulation.ts';

/** Program -> the Debian package that has it. */
const TOOLS = { mmdebstrap: 'mmdebstrap', mksquashfs: 'squashfs-tools', unshare: 'util-linux', veritysetup: 'cryptsetup-bin', xz: 'xz-utils', zstd: 'zstd' } as const;

export interface Workshop {
  /** Empty at first; gone when the workshop is closed. */
  readonly dir: string;
  /** Everything that the programs say. */
  readonly log: string;
  /** Runs a program as root of its own mount and process namespaces; its output goes to the log and, by line, to `onLine`. Answers the exit code. */
  asRoot(argv: readonly string[], onLine?: (line: string) => void): Promise<number>;
  /** The last lines of the program that ran last. */
  said(): string;
  /** Removes the directory, whoever owns what is in it. Safe to call twice. */
  close(): void;
}

/**
 * What runs programs of `arch`, where this machine does not; nothing without `arch`, for work that runs none. PACKAGES_MISSING with the apt line, or IMAGE_BUILD_FAILED when an ordinary user has no
 * range of subordinate ids, or when this machine cannot run them.
 */
export function needTools(arch: BuiltArch | undefined, emulator?: string): Emulation | undefined {
  const rootless = process.getuid?.() !== 0;
  const wanted: readonly (readonly [string, string])[] = [...Object.entries(TOOLS), ...(rootless ? [['newuidmap', 'uidmap'] as const] : [])];
  const missing = wanted.filter(([program]) => !onPath(program)).map(([, name]) => name);
  if (missing.length > 0) throw new AppError('PACKAGES_MISSING', `to build images, ${missing.join(' and ')} must be installed`, `${rootless ? 'sudo ' : ''}apt-get install --no-install-recommends ${missing.join(' ')}`);
  const emulation = arch && emulationFor(arch, PATHS, emulator);
  if (emulation) needPrivateRegistration();
  if (!rootless) return emulation;
  const { username, uid } = userInfo();
  for (const file of ['/etc/subuid', '/etc/subgid']) {
    if (ranges(file).some(([owner, , count]) => (owner === username || owner === String(uid)) && Number(count) >= 65536)) continue;
    throw new AppError('IMAGE_BUILD_FAILED', `${username} has no 65536 subordinate ids in ${file}`, `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${username} (a range that nobody else has), or build as root`);
  }
  return emulation;
}

/** A fresh workshop below `<stateDir>/tmp`; what builds that were killed left there is removed. The signal ends the running program. */
export function openWorkshop(stateDir: string, name: string, emulation: Emulation | undefined, signal: AbortSignal): Workshop {
  const tmp = join(stateDir, 'tmp');
  const logs = join(stateDir, 'log');
  for (const dir of [tmp, logs]) mkdirSync(dir, { recursive: true });
  for (const left of readdirSync(tmp)) {
    const pid = /^image-.*\.(\d+)\.[^.]+$/.exec(left)?.[1];
    if (pid !== undefined && !isRunning(Number(pid))) remove(join(tmp, left));
  }
  for (const left of readdirSync(logs)) {
    const pid = /^image-.*\.(\d+)\.[^.]+\.log$/.exec(left)?.[1];
    if (pid !== undefined && !isRunning(Number(pid))) rmSync(join(logs, left), { force: true });
  }
  // The log of a build that is at work belongs to it: a second one of the same image beside it writes its own.
  const beside = readdirSync(tmp).some((other) => other.startsWith(`image-${name}.`));
  const dir = mkdtempSync(join(tmp, `image-${name}.${process.pid}.`));
  const log = join(logs, beside ? `${basename(dir)}.log` : `image-${name}.log`);
  // A disk without room for the log has none for the image: the program at work says so itself.
  const output = createWriteStream(log).on('error', () => undefined);
  let said: string[] = [];
  let open = true;
  const close = (): void => {
    if (open) remove(dir);
    open = false;
    process.off('exit', close);
    output.end();
  };
  process.on('exit', close);
  return {
    dir,
    log,
    close,
    said: () => said.join('\n'),
    async asRoot(argv, onLine) {
      signal.throwIfAborted();
      said = [];
      output.write(`\n# ${argv.join(' ')}\n`);
      const [program, ...args] = inNamespaces(emulation ? emulated(emulation, join(dir, 'binfmt'), argv) : argv, emulation);
      // No SOURCE_DATE_EPOCH of the caller: times are ours to fix. TMPDIR inside, or mmdebstrap's own leftovers would stay in /tmp.
      const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, TMPDIR: dir, LC_ALL: 'C.UTF-8', DEBIAN_FRONTEND: 'noninteractive', SOURCE_DATE_EPOCH: String(EPOCH), PATH: PATHS } });
      // SIGKILL for unshare is SIGKILL for process 1 of the namespace (--kill-child), and with it for all of them; their mounts go too.
      const end = (): void => void child.kill('SIGKILL');
      signal.addEventListener('abort', end, { once: true });
      process.on('exit', end);
      try {
        const ended = new Promise<number>((resolve, reject) => {
          child.on('error', reject);
          child.on('close', (code) => resolve(code ?? 137));
        });
        // It may fail while nobody waits for it yet.
        ended.catch(() => undefined);
        for (const stream of [child.stdout, child.stderr]) {
          // readline ends a line at a carriage return too, which is how mksquashfs moves its bar.
          createInterface({ input: stream }).on('line', (line) => {
            onLine?.(line);
            if (PROGRESS_BAR.test(line)) return;
            output.write(`${line}\n`);
            if (said.push(line) > 2 * LINES_KEPT) said = said.slice(-LINES_KEPT);
          });
        }
        if (emulation && process.getuid?.() === 0 && child.pid !== undefined) {
          await mapOwnIds(child.pid, () => child.exitCode !== null || child.signalCode !== null).catch((error: unknown) => {
            end();
            throw error;
          });
        }
        return await ended;
      } finally {
        signal.removeEventListener('abort', end);
        process.off('exit', end);
        signal.throwIfAborted();
      }
    },
  };
}

/** Runs a program that must succeed; IMAGE_BUILD_FAILED with `what` and its last line otherwise. */
export async function must(shop: Workshop, argv: readonly string[], what: string, onLine?: (line: string) => void): Promise<void> {
  let last = '';
  const code = await shop.asRoot(argv, (line) => {
    if (line.trim() !== '') last = line.trim();
    onLine?.(line);
  });
  if (code !== 0) throw new AppError('IMAGE_BUILD_FAILED', `${what}: ${last || `${argv[0]} ended with ${code}`}`, `the whole log is ${shop.log}`);
}

/** 2025-01-01: one fixed time for every file of every image, so that equal content gives equal bytes. */
export const EPOCH = 1_735_689_600;

const PATHS = [...new Set([...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'])].filter(Boolean).join(delimiter);
/** Lines of the running program that are kept for its reason; the log on disk may lag behind them. */
const LINES_KEPT = 200;
const PROGRESS_BAR = /^\[[=|/\\ -]*\]\s+\d+\/\d+\s+\d+%/;

/**
 * An ordinary user is root of a user namespace in which their range of subordinate ids are the other users. setpriv: a builder that is
 * killed outright takes its programs with it. Root needs a user namespace where programs are emulated: what is registered outside of one is registered for all.
 */
function inNamespaces(argv: readonly string[], emulation?: Emulation): string[] {
  const own = process.getuid?.() !== 0 ? ['--user', '--map-root-user', '--map-auto'] : emulation ? ['--user'] : [];
  return ['setpriv', '--pdeathsig', 'KILL', '--', 'unshare', ...own, '--mount', '--pid', '--fork', '--kill-child', '--', ...argv];
}

/** Synchronous, because it must work in an exit handler too. */
function remove(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true });
  } catch {
    // Files of subordinate ids: only their own namespace's root may.
    const [program, ...args] = inNamespaces(['rm', '-rf', '--one-file-system', dir]);
    spawnSync(program!, args, { stdio: 'ignore', env: { ...process.env, PATH: PATHS } });
  }
}

function onPath(program: string): boolean {
  return PATHS.split(delimiter).some((dir) => {
    try {
      accessSync(join(dir, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function ranges(file: string): string[][] {
  try {
    return readFileSync(file, 'utf8').split('\n').map((line) => line.split(':'));
  } catch {
    return [];
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
