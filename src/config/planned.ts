// The plan of an edit, from what the daemon's state directory knows: what each node runs, and why its last boot failed.
import type { BootSet, Generation } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import type { Fault } from '../errors.ts';
import { planOf, type Plan, type Runs } from '../plan.ts';
import type { BootStore } from '../store/boots.ts';
import type { Compiled } from './generations.ts';
import type { ProfileFile } from './profiles.ts';
import { writtenRefs } from './written.ts';

/** A plan, or every fault that keeps the edit from going live. */
export type PlanAnswer = { readonly plan: Plan; readonly faults: readonly [] } | { readonly plan?: undefined; readonly faults: readonly Fault[] };

export interface PlannedParts {
  /** The running generation, and the files that it was compiled from, where they are known. */
  readonly from: Generation;
  readonly fromFiles?: readonly ProfileFile[] | undefined;
  /** The edit, compiled. */
  readonly compiled: Compiled;
  readonly files: readonly ProfileFile[];
  readonly boots: Pick<BootStore, 'history' | 'bootSet'>;
}

export async function planned({ from, fromFiles, compiled, files, boots }: PlannedParts): Promise<PlanAnswer> {
  const to = compiled.generation;
  if (!to) return { faults: compiled.faults };
  const contents = new Map<Digest, Promise<BootSet | undefined>>();
  const contentOf = (digest: Digest) => contents.get(digest) ?? contents.set(digest, boots.bootSet(digest)).get(digest)!;
  const runs = new Map<string, Runs>();
  for (const name of Object.keys(to.nodes)) {
    const { running, lastFailure } = await boots.history(name);
    const bootSet = running === undefined ? undefined : ((await contentOf(running)) ?? 'gone');
    runs.set(name, { ...(bootSet === undefined ? {} : { bootSet }), ...(lastFailure?.why === undefined ? {} : { failure: lastFailure.why }) });
  }
  const before = fromFiles && writtenRefs(fromFiles);
  return { plan: planOf({ from, to, runs: (name) => runs.get(name) ?? {}, written: { to: writtenRefs(files), ...(before ? { from: before } : {}) } }), faults: [] };
}
