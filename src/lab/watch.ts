// Follows the boots of a lab's machines through the API, as any other client would, and tells what is new.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Boot } from '../boot/timeline.ts';
import { AppError } from '../errors.ts';
import type { Lab, LabNode } from './lab.ts';
import { nodeReport, stageLines, type NodeReport } from './stages.ts';
import type { Vm } from './vm.ts';

const EVERY_MS = 200;

/** A node that is watched; `boot` and `ended` are filled in by watching. */
export interface Machine {
  readonly node: LabNode;
  /** Absent when the user starts the machine: its times then count from its first DISCOVER. */
  readonly vm?: Vm;
  boot?: Boot | undefined;
  /** Why QEMU is gone, when we did not end it. */
  ended?: string;
}

export interface Watching {
  /** New lines, for people. */
  readonly say: (line: string) => void;
  /** What is being waited for; called on each round. */
  readonly waiting?: (text: string) => void;
  readonly color: boolean;
  readonly signal: AbortSignal;
  /** Return as soon as each node's newest boot is ready or failed. */
  readonly untilSettled: boolean;
  /** Milliseconds; 0 = for ever. */
  readonly timeoutMs: number;
}

/** What became of the wait; `interrupted` is the abort signal. LAB_FAILED when the daemon ends. */
export type Outcome = 'settled' | 'timeout' | 'interrupted';

export async function watchBoots(lab: Lab, machines: readonly Machine[], how: Watching): Promise<Outcome> {
  const deadline = how.timeoutMs > 0 ? Date.now() + how.timeoutMs : Infinity;
  let daemonEnded: string | undefined;
  void lab.daemon.exited.then((words) => (daemonEnded = words));
  for (const machine of machines) void machine.vm?.exited.then((words) => words !== undefined && (machine.ended = words));
  for (;;) {
    if (how.signal.aborted) return 'interrupted';
    for (const machine of machines) {
      const { node, vm } = machine;
      // The newest boot is the one that counts: the record of an earlier one ended when this one began.
      const boot = await lab.newestBoot(node.name, vm?.startedAt).catch(() => undefined);
      if (!boot) continue;
      for (const line of stageLines(node.name, zero(machine, boot), machine.boot, boot, how.color)) how.say(line);
      machine.boot = boot;
    }
    if (daemonEnded !== undefined) throw new AppError('LAB_FAILED', `the daemon ended: ${daemonEnded}`, `its log: ${lab.daemon.log} (lab --keep keeps it)`);
    if (how.untilSettled && machines.every((machine) => isSettled(machine))) return 'settled';
    if (Date.now() > deadline) return 'timeout';
    how.waiting?.(waitingFor(machines));
    await sleep(EVERY_MS, undefined, { signal: how.signal }).catch(() => undefined);
  }
}

export function reportOf(machine: Machine): NodeReport {
  const report = nodeReport(machine.node.name, zero(machine, machine.boot), machine.boot);
  return machine.ended !== undefined && report.state !== 'ready' ? { ...report, state: 'failed', why: `QEMU ended: ${machine.ended}` } : report;
}

function isSettled(machine: Machine): boolean {
  return machine.ended !== undefined || (machine.boot !== undefined && machine.boot.state !== 'open');
}

function zero(machine: Machine, boot: Boot | undefined): number {
  return machine.vm?.startedAt ?? boot?.startedAt ?? 0;
}

function waitingFor(machines: readonly Machine[]): string {
  const open = machines.filter((machine) => !isSettled(machine));
  const [first] = open;
  if (!first) return '';
  const last = first.boot?.stages.at(-1);
  const since = last ? `${Math.round((Date.now() - last.lastAt) / 1000)} s after ${last.name}` : 'nothing seen yet';
  return `waiting for ${first.node.name} (${since})${open.length > 1 ? ` and ${open.length - 1} more` : ''}`;
}
