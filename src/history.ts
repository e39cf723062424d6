// What happened, for `rackseed history`: generations with what each changed, and of one node its assignments and boots.
import { changeWords, type BootChange } from './boot-diff.ts';
import type { Boot } from './boot/timeline.ts';
import type { Digest } from './digest.ts';
import { formatFault, type Fault } from './errors.ts';
import type { GenerationChanges } from './generation-diff.ts';
import type { BootStore } from './store/boots.ts';
import { RELOAD_REFUSED, type EventStore, type NewEvent } from './store/events.ts';
import type { Assignment, NodeStore, PastGeneration } from './store/nodes.ts';

/** A reload that took effect, or that was refused for its faults. Times are milliseconds since 1970. */
export type SiteEntry =
  | { readonly at: number; readonly outcome: 'swapped'; readonly who: string; readonly generation: Digest; readonly changes?: GenerationChanges }
  | { readonly at: number; readonly outcome: 'refused'; readonly who: string; readonly count: number; readonly faults: readonly string[] };

/** What a node's assignment became, or one of its boots. */
export type NodeEntry =
  | {
      readonly at: number;
      readonly kind: 'assigned';
      readonly who: string;
      readonly generation: Digest;
      /** Absent: none, before or after. */
      readonly from?: string;
      readonly to?: string;
      /** Of what it boots; empty also where that was not recorded. */
      readonly changes: readonly BootChange[];
      /** Of its own entry, such as `ip`. */
      readonly edited: readonly string[];
    }
  | {
      readonly at: number;
      readonly kind: 'boot';
      readonly boot: string;
      readonly state: Boot['state'];
      readonly why?: string;
      readonly endedAt?: number;
      readonly profile: string;
      readonly generation: Digest;
      readonly image?: { readonly name: string; readonly digest: Digest };
      readonly commit?: string;
    };

/** Faults of a refused reload that are kept: the first. */
const FAULTS_KEPT = 20;

export function refusedReload(faults: readonly Fault[], who: string, at: number): NewEvent {
  return { at, kind: RELOAD_REFUSED, detail: { who, count: faults.length, faults: faults.slice(0, FAULTS_KEPT).map(formatFault) } };
}

/** Newest first. */
export async function siteHistory({ nodes, events }: { readonly nodes: Pick<NodeStore, 'generations'>; readonly events: Pick<EventStore, 'list'> }, limit: number): Promise<{ readonly generations: readonly SiteEntry[] }> {
  const swapped = (await nodes.generations(limit)).map(({ id, at, who, changes }): SiteEntry => ({ at, outcome: 'swapped', who, generation: id, ...(changes ? { changes } : {}) }));
  const refused = (await events.list({ kind: RELOAD_REFUSED, limit })).map(({ at, detail }): SiteEntry => {
    const { who, count, faults } = detail as { who: string; count: number; faults: readonly string[] };
    return { at, outcome: 'refused', who, count, faults };
  });
  return { generations: newestFirst([...swapped, ...refused]).slice(0, limit) };
}

/** Newest first. Of a node that is gone, too. */
export async function nodeHistory(node: string, { nodes, boots }: { readonly nodes: Pick<NodeStore, 'history' | 'generations'>; readonly boots: Pick<BootStore, 'list' | 'bootSet'> }, limit: number): Promise<{ readonly node: string; readonly entries: readonly NodeEntry[] }> {
  const assigned = assignmentsOf(node, [...(await nodes.history(node))].reverse(), [...(await nodes.generations())].reverse()).reverse();
  const booted = await Promise.all((await boots.list({ node, limit })).map(async (boot) => bootEntry(boot, boots)));
  return { node, entries: newestFirst<NodeEntry>([...booted, ...assigned]).slice(0, limit) };
}

async function bootEntry({ id, state, why, startedAt, endedAt, profile, generation, bootSet }: Boot, boots: Pick<BootStore, 'bootSet'>): Promise<NodeEntry> {
  const content = bootSet === undefined ? undefined : await boots.bootSet(bootSet);
  const image = content && { name: content.image.name, digest: content.image.digest };
  const commit = content?.postBoot?.commit;
  return { at: startedAt, kind: 'boot', boot: id, state, profile, generation, ...(why === undefined ? {} : { why }), ...(endedAt === undefined ? {} : { endedAt }), ...(image ? { image } : {}), ...(commit === undefined ? {} : { commit }) };
}

/**
 * Each time the node got another profile, its profile another boot set, or its entry was edited; oldest first, as the rows and generations must be. A node has a row for each
 * of its MACs, so its profile is what any of them has.
 */
export function assignmentsOf(node: string, rows: readonly Assignment[], generations: readonly PastGeneration[]): NodeEntry[] {
  const key = ({ at }: { readonly at: number }, id: Digest): string => `${at} ${id}`;
  const byStep = new Map<string, Assignment[]>();
  for (const row of rows) byStep.set(key(row, row.generation), [...(byStep.get(key(row, row.generation)) ?? []), row]);
  const known = new Set(generations.map((one) => key(one, one.id)));
  // Generations go after a while, assignments do not.
  const lost = rows.filter((row, index) => !known.has(key(row, row.generation)) && rows.findIndex((other) => key(other, other.generation) === key(row, row.generation)) === index);
  const steps: readonly PastGeneration[] = [...lost.map(({ generation: id, at, who }) => ({ id, at, who })), ...generations].sort((a, b) => a.at - b.at);

  const profileOf = new Map<string, string>();
  const found: NodeEntry[] = [];
  for (const { id, at, who, changes } of steps) {
    const [from] = profileOf.values();
    for (const { mac, profile } of byStep.get(key({ at }, id)) ?? []) {
      if (profile === null) profileOf.delete(mac);
      else profileOf.set(mac, profile);
    }
    const [to] = profileOf.values();
    if (from === undefined && to === undefined) continue;
    const diff = from === to ? changes?.profiles.find(({ name, was }) => name === to && was === 'changed') : changes?.moved.find(({ nodes }) => nodes.includes(node));
    const edited = changes?.edited.find((one) => one.node === node)?.keys ?? [];
    if (from === to && !diff && edited.length === 0) continue;
    found.push({ at, kind: 'assigned', who, generation: id, ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), changes: diff?.changes ?? [], edited });
  }
  return found;
}

/** As people read it: `profile k0s: image … -> …; n1 moved from a to b; n2 added`. */
export function changesWords({ profiles, added, removed, moved, edited, quirks }: GenerationChanges): string {
  const parts = [
    ...profiles.map(({ name, was, changes }) => (was === 'changed' ? `profile ${name}: ${changes.map(changeWords).join(', ')}` : `profile ${name} ${was}`)),
    ...(added.length > 0 ? [`${names(added)} added`] : []),
    ...(removed.length > 0 ? [`${names(removed)} removed`] : []),
    ...moved.map(({ nodes, from, to }) => `${names(nodes)} moved from ${from} to ${to}`),
    ...edited.map(({ node, keys }) => `node ${node}: ${keys.join(', ')}`),
    ...(quirks ? ['quirks changed'] : []),
  ];
  return parts.join('; ');
}

/** In a line; programs get them all. */
function names(nodes: readonly string[]): string {
  const shown = nodes.slice(0, 5).join(', ');
  return `${nodes.length === 1 ? 'node' : 'nodes'} ${shown}${nodes.length > 5 ? ` and ${nodes.length - 5} more` : ''}`;
}

/** Of two at the same time the first of the list. */
function newestFirst<T extends { readonly at: number }>(entries: readonly T[]): T[] {
  return [...entries].sort((a, b) => b.at - a.at);
}
