// Whether a node runs what is assigned to it, and what it takes until it does. Pure.
import { diffBootSets, type BootChange } from './boot-diff.ts';
import type { BootSet } from './boot/profile.ts';
import type { Boot } from './boot/timeline.ts';
import type { Digest } from './digest.ts';

/** `unknown` is never counted as drift. */
export type DriftState = 'none' | 'drift' | 'unknown';

export interface Drift {
  readonly state: DriftState;
  /** Only a reboot brings what is assigned: image, command line, root options, and what else the initrd stage reads. */
  readonly rebootPending: boolean;
  /** Post-boot commit or steps, artifacts or variables are others than those that it was set up with. Both may be true. */
  readonly stepsPending: boolean;
  /** From what it runs to what is assigned. */
  readonly changes: readonly BootChange[];
  /** Why it is unknown. */
  readonly why?: string;
}

export interface DriftView {
  /** Of the newest boot; undefined: it never booted. */
  readonly newest: Boot['state'] | undefined;
  readonly running: Digest | undefined;
  /** undefined: its profile sends it to its own disk. */
  readonly assigned: Digest | undefined;
  /** Its next start is from its own disk, whatever its profile says. */
  readonly toDisk: boolean;
}

/** `changesOf` is asked only for two boot sets that differ; undefined: one of them is not kept any more. */
export function driftOf({ newest, running, assigned, toDisk }: DriftView, changesOf: (running: Digest, assigned: Digest) => readonly BootChange[] | undefined): Drift {
  if (assigned === undefined || toDisk) return unknown('it starts from its own disk, which nobody sees');
  if (newest === undefined) return unknown('it never booted');
  if (newest === 'open') return unknown('a boot is under way');
  // What it ran before may be gone, and what it runs now was not seen.
  if (newest !== 'ready' || running === undefined) return unknown('its newest boot did not get ready');
  if (assigned === running) return { state: 'none', rebootPending: false, stepsPending: false, changes: [] };
  const changes = changesOf(running, assigned);
  if (!changes) return unknown('what it runs is not kept');
  return { state: 'drift', rebootPending: changes.some(({ needs }) => needs === 'reboot'), stepsPending: changes.some(({ needs }) => needs === 'steps'), changes };
}

/** For `driftOf`, by content. Two digests of what reads the same, as another version of rackseed writes it, are a change all the same. */
export function changesBetween(running: Digest, assigned: Digest, a: BootSet | undefined, b: BootSet | undefined): readonly BootChange[] | undefined {
  if (!a || !b) return undefined;
  const changes = diffBootSets(a, b);
  return changes.length > 0 ? changes : [{ what: 'boot set', from: running, to: assigned, needs: 'reboot' }];
}

function unknown(why: string): Drift {
  return { state: 'unknown', rebootPending: false, stepsPending: false, changes: [], why };
}

/** One word for tables: `-`, `reboot`, `steps`, `reboot+steps`, `unknown`. */
export function driftWord({ state, rebootPending, stepsPending }: Pick<Drift, 'state' | 'rebootPending' | 'stepsPending'>): string {
  if (state === 'unknown') return 'unknown';
  return [...(rebootPending ? ['reboot'] : []), ...(stepsPending ? ['steps'] : [])].join('+') || '-';
}
