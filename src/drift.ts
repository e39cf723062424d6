// The drift of nodes as the stores and the current generation have it, for the API and the metrics: boot sets read once, each pair compared once.
import { changesBetween, driftOf, type Drift } from './boot-drift.ts';
import type { BootChange } from './boot-diff.ts';
import { nextOf } from './boot/next.ts';
import type { Node } from './boot/node.ts';
import type { BootSet, Generation } from './boot/profile.ts';
import type { Boot } from './boot/timeline.ts';
import type { Digest } from './digest.ts';
import type { NodeHistory } from './store/boot-rows.ts';
import type { BootStore } from './store/boots.ts';

/** Nodes by what is pending; one that waits for both counts in both, and an unknown one in neither. */
export interface DriftFigures {
  readonly rebootPending: number;
  readonly stepsPending: number;
  readonly unknown: number;
}

export interface DriftView {
  of(node: Node, history: Pick<NodeHistory, 'running' | 'next'>, newest: Boot['state'] | undefined): Promise<Drift>;
  /** Of all nodes of the generation. */
  figures(): Promise<DriftFigures>;
}

/** Pairs of boot sets that are remembered: a site has a handful, and edits bring new ones. */
const PAIRS_KEPT = 1000;

export function createDrift({ generation, boots }: { readonly generation: () => Generation; readonly boots: Pick<BootStore, 'bootSet' | 'running'> }): DriftView {
  /** Boot sets never change, so neither does what differs between two. */
  const pairs = new Map<string, readonly BootChange[]>();

  async function changesOf(running: Digest | undefined, assigned: Digest | undefined): Promise<readonly BootChange[] | undefined> {
    if (running === undefined || assigned === undefined || running === assigned) return undefined;
    const key = `${running} ${assigned}`;
    const known = pairs.get(key);
    if (known) return known;
    const content = async (digest: Digest): Promise<BootSet | undefined> => generation().bootSets[digest] ?? (await boots.bootSet(digest));
    const changes = changesBetween(running, assigned, await content(running), await content(assigned));
    if (pairs.size >= PAIRS_KEPT) pairs.clear();
    if (changes) pairs.set(key, changes);
    return changes;
  }

  const assignedTo = (node: Node): Digest | undefined => generation().profiles[node.profile]?.bootSet;

  return {
    async of(node, history, newest) {
      const { running } = history;
      const assigned = assignedTo(node);
      const changes = await changesOf(running, assigned);
      return driftOf({ newest, running, assigned, toDisk: nextOf(node, history) === 'local' }, () => changes);
    },
    async figures() {
      const systems = await boots.running();
      const counted = { rebootPending: 0, stepsPending: 0, unknown: 0 };
      for (const node of Object.values(generation().nodes)) {
        const system = systems.get(node.name);
        if (!system) {
          counted.unknown++;
          continue;
        }
        const { running, newest } = system;
        const assigned = assignedTo(node);
        // Of thousands of nodes a few pairs: the others wait for nothing.
        const changes = pairs.get(`${running} ${assigned}`) ?? (await changesOf(running, assigned));
        const drift = driftOf({ newest, running, assigned, toDisk: nextOf(node, system) === 'local' }, () => changes);
        counted.unknown += Number(drift.state === 'unknown');
        counted.rebootPending += Number(drift.rebootPending);
        counted.stepsPending += Number(drift.stepsPending);
      }
      return counted;
    },
  };
}
