// The initrd stage's parts, run by busybox ash in a mount namespace of their own, with made-up machines: /sys trees, and loop devices as disks.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const PARTS = ['say', 'cmdline', 'request', 'session', 'network', 'stack', 'disks', 'cache', 'root', 'persist', 'handover'];

export const isRoot = process.getuid?.() === 0;

export interface StageShell {
  readonly dir: string;
  /** The stage's script in the namespace; what it printed, line by line. `config` is what the daemon answered. */
  run(script: string, config?: readonly string[]): Promise<string[]>;
  /** What a person saw since the last call. */
  console(): string;
  close(): void;
}

/** A machine that is nothing but a directory. Mounts are gone when each script ends. */
export function createStageShell(): StageShell {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-stage-'));
  const bin = join(dir, 'bin');
  for (const name of ['bin', 'stage', 'root', 'run', 'dev', 'sys/class/block']) mkdirSync(join(dir, name), { recursive: true });
  execFileSync('busybox', ['--install', '-s', bin]);
  const env = {
    PATH: bin, LIB, STAGE: join(dir, 'stage'), ROOT: join(dir, 'root'), RUN: join(dir, 'run'), DEV: join(dir, 'dev'), SYS: join(dir, 'sys'), MODPROBE: 'true', RESOLV: join(dir, 'resolv'),
    KEPT: join(dir, 'kept'), ANSWER: join(dir, 'answer'), DISK_LOG: join(dir, 'disk.log'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), DISK_LOOKS: '3',
  };
  const sources = PARTS.map((part) => `. "$LIB/${part}.sh"`).join('; ');
  // Reports are told to the console: there is no daemon here. Drivers are the host's business.
  const quiet = 'load_modules() { :; }; report() { say "report $*"; }; integrity_config() { :; }; inhabit_config() { :; }; sleep() { :; }';
  const namespace = [...(isRoot ? [] : ['--user', '--map-root-user']), '--mount', '--propagation', 'private', '--'];
  return {
    dir,
    run(script, config = []) {
      writeFileSync(join(dir, 'answer'), ['HTTP/1.0 200 OK\r', '\r', ...config, ''].join('\n'));
      writeFileSync(join(dir, 'console'), '');
      return new Promise((resolve, reject) =>
        execFile('unshare', [...namespace, join(bin, 'ash'), '-c', `${sources}; ${quiet}; ${script}`], { env, timeout: 50_000 }, (error, stdout, stderr) =>
          error ? reject(new Error(`${error.message}\n${stdout}${stderr}`)) : resolve(stdout.trim().split('\n')),
        ),
      );
    },
    console: () => execFileSync('cat', [join(dir, 'console')], { encoding: 'utf8' }),
    close: () => rmSync(dir, { recursive: true, force: true }),
  };
}

/** Puts a file there, its directories made. */
export function put(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { mode });
}

/** A block device of the made-up machine: its place in /sys/devices, and `files` in its directory. */
export function plug(shell: StageShell, name: string, place: string, files: Readonly<Record<string, string>> = {}): void {
  const home = join(shell.dir, 'sys/devices', place);
  for (const [file, text] of Object.entries({ size: '0\n', ...files })) put(join(home, file), text);
  symlinkSync(home, join(shell.dir, 'sys/class/block', name));
}
