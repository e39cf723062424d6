// Child processes of the lab: they die when we do, even by SIGKILL, and tell why they ended.
import { type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readlink } from 'node:fs/promises';

/**
 * The command line whose program the kernel kills when its parent, us, is gone. It
 * goes innermost, behind nsenter and unshare: entering a user namespace gives capabilities, and that clears the signal (prctl(2)).
 */
export function dieWithUs(argv: readonly string[]): string[] {
  return ['setpriv', '--pdeathsig', 'KILL', '--', ...argv];
}

/** Resolves when the child has ended, with one line: the last that it said on a piped stderr, else how it ended. Never rejects. */
export function ended(child: ChildProcess): Promise<string> {
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4096)));
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(said.trim().split('\n').at(-1) || (signal ? `killed by ${signal}` : `exit ${code}`)));
  });
}

/** Ends the child: `signal` first, SIGKILL when it is still there after `graceMs`. Resolves when it is gone. */
export async function stop(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM', graceMs = 5_000): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
  await gone;
  clearTimeout(timer);
}

/**
 * Kills every process whose network namespace is `pid`'s, but `pid` itself: what the daemon had started (git), and a VM that the user
 * pasted into another terminal. They would keep the namespace alive, and their network is going anyway.
 */
export async function killInside(pid: number): Promise<void> {
  const ours = await netOf(String(pid));
  // Never the namespace that we live in ourselves, whatever went wrong before.
  if (!ours || ours === (await netOf('self'))) return;
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === pid || (await netOf(name)) !== ours) continue;
    try {
      process.kill(Number(name), 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

async function netOf(pid: string): Promise<string | undefined> {
  try {
    return await readlink(`/proc/${pid}/ns/net`);
  } catch {
    return undefined;
  }
}
