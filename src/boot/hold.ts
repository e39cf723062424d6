// A node whose boots fail one after the other: when it is held, and why, in words. Pure.
import type { Digest } from '../digest.ts';
import type { StageName } from './timeline.ts';

/** Default of `boot.holdAfter`: a boot loop is the third most common complaint of the field. */
export const FAILURES_BEFORE_HOLD = 5;
/** How soon a held machine asks again, in seconds: soon enough for whoever released it and stands before it. */
export const HOLD_S = 60;

export interface LastFailure {
  /** The last stage that was seen of the boot that failed. */
  readonly stage?: StageName;
  /** One line. */
  readonly why?: string;
  /** What it booted. */
  readonly bootSet?: Digest;
}

export interface Failures {
  /** How many boots of the node failed one after the other, since the last one that got ready, another boot set, or a release. */
  readonly failedInRow: number;
  readonly lastFailure?: LastFailure;
}

/** `assigned`: what the node shall boot now. Another boot set than the one that failed is another chance. `holdAfter` 0: never. */
export function isHeld({ failedInRow, lastFailure }: Failures, assigned: Digest | undefined, holdAfter: number = FAILURES_BEFORE_HOLD): boolean {
  if (holdAfter === 0 || failedInRow < holdAfter) return false;
  return lastFailure?.bootSet === undefined || lastFailure.bootSet === assigned;
}

/** `5 boots failed in a row, the last at root: no squashfs`. */
export function holdWords({ failedInRow, lastFailure: { stage, why } = {} }: Failures): string {
  // A failed report names its stage itself (endOf).
  const named = why !== undefined && stage !== undefined && (why.startsWith(`${stage}: `) || why.startsWith(`step ${stage.slice('step:'.length)}: `));
  const last = [named ? undefined : stage, why].filter((part) => part !== undefined).join(': ');
  const at = stage === undefined ? ': ' : ' at ';
  return `${failedInRow} ${failedInRow === 1 ? 'boot' : 'boots'} failed in a row${last === '' ? '' : `, the last${at}${last}`}`;
}
