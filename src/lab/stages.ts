// How the lab shows boots: one line a stage for people, one value a node for programs. Pure.
import type { Boot, Stage } from '../boot/timeline.ts';

export interface NodeReport {
  readonly name: string;
  /** The newest boot's id; absent when the node never asked for anything. */
  readonly boot?: string;
  readonly state: 'absent' | Boot['state'];
  readonly why?: string;
  readonly stages: readonly StageReport[];
}

export interface StageReport {
  readonly name: string;
  readonly state: Stage['state'];
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** Since power-on. */
  readonly sinceStartMs: number;
  /** Since the stage before; since power-on for the first. */
  readonly deltaMs: number;
  readonly count: number;
}

/** `powerOn`: milliseconds since 1970, the zero of the node's times. */
export function nodeReport(name: string, powerOn: number, boot: Boot | undefined): NodeReport {
  if (!boot) return { name, state: 'absent', stages: [] };
  let before = powerOn;
  const stages = boot.stages.map((stage): StageReport => {
    const deltaMs = stage.firstAt - before;
    before = stage.firstAt;
    return { name: stage.name, state: stage.state, atMs: stage.firstAt, sinceStartMs: stage.firstAt - powerOn, deltaMs, count: stage.count };
  });
  return { name, boot: boot.id, state: boot.state, ...(boot.why ? { why: boot.why } : {}), stages };
}

/**
 * The lines to print after `now` was seen and `before` had been: a stage that is new, and one that changed its state. Another boot
 * of the same node starts with a line of its own.
 */
export function stageLines(node: string, powerOn: number, before: Boot | undefined, now: Boot, color: boolean): string[] {
  const lines: string[] = [];
  const known = before?.id === now.id ? before : undefined;
  if (before && !known) lines.push(`${node.padEnd(4)} boots again${before.why ? `: ${clean(before.why)}` : ''}`);
  let last = powerOn;
  for (const stage of now.stages) {
    const old = known?.stages.find(({ name }) => name === stage.name);
    if (!old) lines.push(line(node, stage, stage.firstAt - powerOn, stage.firstAt - last, color));
    else if (old.state !== stage.state) lines.push(line(node, stage, stage.lastAt - powerOn, stage.lastAt - stage.firstAt, color));
    last = stage.firstAt;
  }
  const said = now.stages.some(({ name }) => name === 'failed');
  if (now.state === 'failed' && known?.state !== 'failed' && !said) lines.push(`${node.padEnd(4)} ${paint('failed', 31, color)}: ${clean(now.why ?? 'no reason given')}`);
  return lines;
}

function line(node: string, stage: Stage, at: number, delta: number, color: boolean): string {
  const { message, result, bytes, exitCode } = stage.detail;
  const details = [
    stage.state === 'ok' ? undefined : stage.state,
    result,
    exitCode ? `exit ${exitCode}` : undefined,
    bytes === undefined ? undefined : `${(bytes / 1024 / 1024).toFixed(1)} MiB`,
    message === undefined ? undefined : clean(message),
  ].filter((part) => part !== undefined);
  const code = stage.name === 'ready' ? 32 : stage.state === 'failed' || stage.name === 'failed' ? 31 : stage.state === 'running' ? 2 : 0;
  return `${node.padEnd(4)} ${seconds(at).padStart(7)} s ${`+${seconds(Math.max(0, delta))}`.padStart(8)}  ${paint(`${stage.name.padEnd(18)}${details.join(', ')}`.trimEnd(), code, color)}`;
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function paint(text: string, code: number, color: boolean): string {
  return color && code !== 0 ? `\u001b[${code}m${text}\u001b[0m` : text;
}

/** Text from a machine must not move the cursor of the person who reads it. */
function clean(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, '?').slice(0, 200);
}
