// The programs that a thread started: whoever starts a thread ends what a dead one left behind.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc } from '../net/libc.ts';
import { createNoted } from './noted.ts';

/** Of one thread at a time. */
const MOST = 64;
/** How long the kernel may take to end a process that was killed, in milliseconds. */
const END_MS = 5_000;
const LOOK_MS = 20;

export interface Children {
  /** For the thread. */
  readonly shared: SharedArrayBuffer;
  /** Notes a process that leads a group of its own; to be called again when it is over. One that finds no room is not noted. */
  note(pid: number): () => void;
  /** When the thread is dead: kills what is noted, with its group, and takes the kernel's last word of it, without which a zombie stays. */
  end(): Promise<void>;
}

export function createChildren(shared?: SharedArrayBuffer): Children {
  const pids = createNoted(MOST, shared);
  return { shared: pids.shared, note: pids.note, end: async () => void (await Promise.all(pids.take().map(endGroup))) };
}

async function endGroup(pid: number): Promise<void> {
  // It may have ended while the thread died, and its number may be another's now.
  if (parentOf(pid) !== process.pid) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It is a zombie already, alone in its group.
  }
  // Only the thread that started it would have reaped it; without koffi nobody can.
  const c = libc();
  for (const lateAt = performance.now() + END_MS; c?.waitpid(pid, null, WNOHANG) === 0 && performance.now() < lateAt; ) await sleep(LOOK_MS);
}

const WNOHANG = 1;

/** proc(5): field 4 of stat; undefined when there is no such process. */
function parentOf(pid: number): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[1]);
  } catch {
    return undefined;
  }
}
