// What one generation changes against the one before it: profiles and nodes by name. Pure.
import { diffBootSets, namesOf, own, type BootChange } from './boot-diff.ts';
import type { Node } from './boot/node.ts';
import type { Generation } from './boot/profile.ts';

export interface GenerationChanges {
  readonly profiles: readonly { readonly name: string; readonly was: 'added' | 'removed' | 'changed'; /** Of a changed one: of what its nodes boot. */ readonly changes: readonly BootChange[] }[];
  /** Nodes, by name. */
  readonly added: readonly string[];
  readonly removed: readonly string[];
  /** Nodes that got another profile, those with the same two in one: what each boots then, against what its old profile gave it before. */
  readonly moved: readonly { readonly from: string; readonly to: string; readonly nodes: readonly string[]; readonly changes: readonly BootChange[] }[];
  /** Of nodes that are in both: what changed of their own entries, such as `ip`, `macs`, `vars`. Not part of any boot set. */
  readonly edited: readonly { readonly node: string; readonly keys: readonly string[] }[];
  /** The operators' own quirks are others, or stand in another order. */
  readonly quirks: boolean;
}

/** `before` undefined: the first generation that there was. */
export function diffGenerations(before: Generation | undefined, after: Generation): GenerationChanges {
  const [old, now] = [before?.nodes ?? {}, after.nodes];
  const setOf = (generation: Generation | undefined, profile: string) => {
    const digest = own(generation?.profiles, profile)?.bootSet;
    return digest === undefined ? undefined : generation!.bootSets[digest];
  };
  const profiles = namesOf(before?.profiles, after.profiles).flatMap((name): GenerationChanges['profiles'][number][] => {
    if (!own(before?.profiles, name)) return [{ name, was: 'added', changes: [] }];
    if (!own(after.profiles, name)) return [{ name, was: 'removed', changes: [] }];
    const changes = diffBootSets(setOf(before, name), setOf(after, name));
    return changes.length > 0 ? [{ name, was: 'changed', changes }] : [];
  });
  const both = Object.keys(now).filter((name) => own(old, name)).sort();
  const moved = new Map<string, { from: string; to: string; nodes: string[]; changes: readonly BootChange[] }>();
  for (const name of both) {
    const [from, to] = [old[name]!.profile, now[name]!.profile];
    if (from === to) continue;
    const known = moved.get(`${from}\n${to}`);
    if (known) known.nodes.push(name);
    else moved.set(`${from}\n${to}`, { from, to, nodes: [name], changes: diffBootSets(setOf(before, from), setOf(after, to)) });
  }
  return {
    profiles,
    added: Object.keys(now).filter((name) => !own(old, name)).sort(),
    removed: Object.keys(old).filter((name) => !own(now, name)).sort(),
    moved: [...moved.values()],
    edited: both.map((node) => ({ node, keys: editedKeys(old[node]!, now[node]!) })).filter(({ keys }) => keys.length > 0),
    quirks: !same(before?.quirks ?? [], after.quirks ?? []),
  };
}

/** The profile is told as a move. */
function editedKeys(a: Node, b: Node): string[] {
  if (same(a, b)) return [];
  const [was, is] = [a as unknown as Record<string, unknown>, b as unknown as Record<string, unknown>];
  return namesOf(was, is).filter((key) => key !== 'profile' && key !== 'name' && !same(was[key], is[key]));
}

/** Of two JSON values, whatever the order of their keys. Thousands of nodes are compared in one transaction: no text is made of them. */
function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null || Array.isArray(a) !== Array.isArray(b)) return false;
  const [was, is] = [a as Record<string, unknown>, b as Record<string, unknown>];
  const keys = Object.keys(was);
  return keys.length === Object.keys(is).length && keys.every((key) => Object.hasOwn(is, key) && same(was[key], is[key]));
}
