// The rows of boots, their stages and what nodes run, and what they are in memory: the one place where a row becomes a Boot. All are frozen: many share them.
import type { Ip4, Mac } from '../addr.ts';
import type { Failures, LastFailure } from '../boot/hold.ts';
import type { SaidNext } from '../boot/next.ts';
import type { Next } from '../boot/node.ts';
import type { AppliedQuirk } from '../boot/quirks.ts';
import type { Machine } from '../boot/request.ts';
import type { Boot, Stage, StageDetail, StageName } from '../boot/timeline.ts';
import type { Digest } from '../digest.ts';

export interface BootRow {
  readonly id: string;
  readonly node: string;
  readonly mac: Mac;
  readonly ip: Ip4 | null;
  readonly machine: string | null;
  readonly quirks: string | null;
  readonly state: Boot['state'];
  readonly why: string | null;
  readonly started_at: number;
  readonly ended_at: number | null;
  readonly profile: string;
  readonly generation: Digest;
  readonly boot_set: Digest | null;
  readonly token_hash: string | null;
  readonly enrolled_at: number | null;
}

export interface StageRow {
  readonly name: StageName;
  readonly state: Stage['state'];
  readonly first_at: number;
  readonly last_at: number;
  readonly count: number;
  readonly detail: string;
  readonly tail?: string | null;
}

export interface SystemRow {
  readonly running: Digest | null;
  readonly last_good: Digest | null;
  readonly failed_in_row: number;
  readonly last_failed_at: number | null;
  readonly failed_boot_set: Digest | null;
  readonly failed_stage: StageName | null;
  readonly failed_why: string | null;
  readonly held_at: number | null;
  readonly next: Next | null;
  readonly next_after: string | null;
}


export interface NodeHistory extends Failures, SaidNext {
  readonly lastFailedAt?: number;
  /** Since when it is held; absent when nobody has told it so yet. Whether it is, boot/hold says. */
  readonly heldAt?: number;
  readonly running?: Digest;
  readonly lastGood?: Digest;
}

export function toBoot(row: BootRow, stages: readonly Stage[]): Boot {
  return Object.freeze({
    id: row.id,
    node: row.node,
    mac: row.mac,
    state: row.state,
    startedAt: row.started_at,
    profile: row.profile,
    generation: row.generation,
    ...(row.ip === null ? undefined : { ip: row.ip }),
    ...(row.machine === null ? undefined : { machine: Object.freeze(JSON.parse(row.machine) as Machine) }),
    ...(row.quirks === null ? undefined : { quirks: Object.freeze(JSON.parse(row.quirks) as AppliedQuirk[]) }),
    ...(row.why === null ? undefined : { why: row.why }),
    ...(row.ended_at === null ? undefined : { endedAt: row.ended_at }),
    ...(row.boot_set === null ? undefined : { bootSet: row.boot_set }),
    ...(row.token_hash === null ? undefined : { tokenHash: row.token_hash }),
    ...(row.enrolled_at === null ? undefined : { enrolledAt: row.enrolled_at }),
    stages,
  });
}

export function toStages(rows: readonly StageRow[]): readonly Stage[] {
  return Object.freeze(rows.map(toStage));
}

export function toStage(row: StageRow): Stage {
  const detail = JSON.parse(row.detail) as StageDetail;
  return Object.freeze({
    name: row.name,
    state: row.state,
    firstAt: row.first_at,
    lastAt: row.last_at,
    count: row.count,
    detail: Object.freeze(typeof row.tail === 'string' ? { ...detail, tail: row.tail } : detail),
  });
}

/** Of a node without a row: nothing has happened yet. */
export function toHistory(row: SystemRow | undefined): NodeHistory {
  return Object.freeze({
    failedInRow: row?.failed_in_row ?? 0,
    ...(row?.last_failed_at == null ? undefined : { lastFailedAt: row.last_failed_at }),
    ...(row?.running == null ? undefined : { running: row.running }),
    ...(row?.last_good == null ? undefined : { lastGood: row.last_good }),
    ...(row?.held_at == null ? undefined : { heldAt: row.held_at }),
    ...(row?.next == null ? undefined : { next: row.next }),
    ...(row?.next_after == null ? undefined : { nextAfter: row.next_after }),
    ...(row ? lastFailureOf(row) : undefined),
  });
}

function lastFailureOf({ failed_boot_set: bootSet, failed_stage: stage, failed_why: why }: SystemRow): { readonly lastFailure?: LastFailure } {
  if (bootSet === null && stage === null && why === null) return {};
  return { lastFailure: Object.freeze({ ...(stage === null ? undefined : { stage }), ...(why === null ? undefined : { why }), ...(bootSet === null ? undefined : { bootSet }) }) };
}
