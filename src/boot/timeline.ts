// A boot and its stages as recorded, and what a chain of firmware is expected to show on its way to ready.
import type { Ip4, Mac } from '../addr.ts';
import type { Digest } from '../digest.ts';

/** The stages before the post-boot steps, in the order in which a machine passes them. */
export const STAGES = ['discover', 'offer', 'lease', 'loader', 'script', 'kernel', 'initrd', 'config', 'root', 'userspace'] as const;
/** `step:30-k0s` is a post-boot step; `ready` and `failed` end a boot. */
export type StageName = (typeof STAGES)[number] | `step:${string}` | 'ready' | 'failed';

export interface Stage {
  readonly name: StageName;
  readonly state: 'ok' | 'running' | 'failed';
  /** Milliseconds since 1970 of the first and the last time it was seen. */
  readonly firstAt: number;
  readonly lastAt: number;
  /** How often it was seen: retransmitted DISCOVERs, retried downloads, repeated steps. */
  readonly count: number;
  readonly detail: StageDetail;
}

/** What was seen, for people and for `why`. Strings from machines are values here, never keys. */
export interface StageDetail {
  /** One line. */
  readonly message?: string;
  /** Of a post-boot step: what it said of itself. */
  readonly result?: 'changed' | 'unchanged';
  readonly exitCode?: number;
  readonly durationMs?: number;
  readonly bytes?: number;
  /** Up to 64 KiB of a step's output. */
  readonly tail?: string;
}

export interface Boot {
  /** A ULID. */
  readonly id: string;
  readonly node: string;
  readonly mac: Mac;
  readonly ip?: Ip4;
  readonly state: 'open' | 'ready' | 'failed';
  /** One line, when failed. */
  readonly why?: string;
  readonly startedAt: number;
  readonly endedAt?: number;
  readonly profile: string;
  /** The generation that was current when the boot set was fixed, else when the boot started. */
  readonly generation: Digest;
  /** Fixed when the first file that embeds it is rendered; undefined before. */
  readonly bootSet?: Digest;
  /** The session: set when the initrd stage enrolled. The token itself is never stored. */
  readonly tokenHash?: string;
  readonly enrolledAt?: number;
  readonly stages: readonly Stage[];
}

export function stageOf(boot: Boot, name: StageName): Stage | undefined {
  return boot.stages.find((stage) => stage.name === name);
}

export function hasStage(boot: Boot, name: StageName): boolean {
  return stageOf(boot, name) !== undefined;
}
