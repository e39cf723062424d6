// What an edit would do: two generations side by side, node by node, with what each node runs now. Pure.
import { diffBootSets, namesOf, own, type BootChange, type Needs } from './boot-diff.ts';
import type { Node } from './boot/node.ts';
import type { BootSet, Generation } from './boot/profile.ts';
import { canonicalJson, type Digest } from './digest.ts';

/** As BootChange; `boot`: it needs nothing done, and counts whenever the node boots next. */
export interface PlannedChange extends Omit<BootChange, 'needs'> {
  readonly needs: Needs | 'boot';
}

/**
 * `reboot`: it runs something else, and only a reboot brings this · `steps`: its steps alone differ · `next boot`: it runs nothing of ours now, or what it runs is not
 * touched: it gets this when it boots · `none`: it runs this already · `gone`: no profile names it any more, so what it runs goes on until it stops.
 */
export type Effect = 'reboot' | 'steps' | 'next boot' | 'none' | 'gone';

export interface PlannedNode {
  readonly name: string;
  readonly was: 'added' | 'removed' | 'changed';
  /** Of a removed one: its last. */
  readonly profile: string;
  /** What it would be assigned against what it is; empty where it is new or removed. */
  readonly changes: readonly PlannedChange[];
  readonly effect: Effect;
  readonly controller?: true;
  /** Why its image would not fit in its memory, by what its last boot said of that. */
  readonly noRoom?: string;
}

/** A tag or ref that means something else than when the current generation was made. */
export interface Update {
  readonly profile: string;
  /** `image debian-k0s:stable`, `repository site ref main`. */
  readonly what: string;
  readonly from: string;
  readonly to: string;
  /** It is written as it was, so what it means has moved; absent: how it was written then is not known. */
  readonly moved?: true;
}

export interface Plan {
  readonly from: Digest;
  readonly to: Digest;
  /** Whether a reload would swap the generation. */
  readonly changes: boolean;
  readonly nodes: readonly PlannedNode[];
  readonly updates: readonly Update[];
  /** Profiles that are others, new or gone, and have no node in either: nothing boots otherwise for now. */
  readonly withoutNodes: readonly string[];
  /** The operators' own quirks are others. */
  readonly quirks: boolean;
}

/** Of a node, as far as it is known. */
export interface Runs {
  /** Absent: it runs nothing of ours, or is booting. `gone`: it does, and what it was is not kept. */
  readonly bootSet?: BootSet | 'gone';
  /** What its last boot failed of, when it did. */
  readonly failure?: string;
}

/** What a profile's file says, before it is resolved. */
export interface WrittenRefs {
  /** `debian-k0s:stable`. */
  readonly image?: string;
  readonly postBoot?: { readonly repo: string; readonly ref: string };
}

export interface PlanParts {
  readonly from: Generation;
  readonly to: Generation;
  readonly runs: (node: string) => Runs;
  /** Of the profiles by name, as `to` was written, and as `from` was, where that is known. */
  readonly written: { readonly to: ReadonlyMap<string, WrittenRefs>; readonly from?: ReadonlyMap<string, WrittenRefs> };
}

export function planOf({ from, to, runs, written }: PlanParts): Plan {
  const nodes = namesOf(from.nodes, to.nodes).flatMap((name) => plannedNode(from, to, name, runs) ?? []);
  const inUse = new Set([...Object.values(from.nodes), ...Object.values(to.nodes)].map(({ profile }) => profile));
  const isOther = (name: string) => own(from.profiles, name)?.bootSet !== own(to.profiles, name)?.bootSet || !own(from.profiles, name) !== !own(to.profiles, name);
  return {
    from: from.id,
    to: to.id,
    changes: from.id !== to.id,
    nodes,
    updates: Object.keys(to.profiles).sort().flatMap((name) => updatesOf(name, bootSetOf(from, name), bootSetOf(to, name), written)),
    withoutNodes: namesOf(from.profiles, to.profiles).filter((name) => !inUse.has(name) && isOther(name)),
    quirks: canonicalJson(from.quirks ?? []) !== canonicalJson(to.quirks ?? []),
  };
}

/** undefined: nothing changes for it. */
function plannedNode(from: Generation, to: Generation, name: string, runsOf: (node: string) => Runs): PlannedNode | undefined {
  const [was, is] = [own(from.nodes, name), own(to.nodes, name)];
  const [old, next] = [was && bootSetOf(from, was.profile), is && bootSetOf(to, is.profile)];
  const isSame = was && is && own(from.profiles, was.profile)?.bootSet === own(to.profiles, is.profile)?.bootSet;
  if (!is) return { name, was: 'removed', profile: was!.profile, changes: [], effect: 'gone', ...controller(was!, old) };
  const ofNode = was ? diffNodes(was, is) : [];
  const changes = was && !isSame ? [...ofNode, ...diffBootSets(old, next)] : ofNode;
  if (was && changes.length === 0) return undefined;
  const runs = runsOf(name);
  const noRoom = next && noRoomFor(next, runs.failure);
  return { name, was: was ? 'changed' : 'added', profile: is.profile, changes, effect: effectOf(ofNode, next, runs), ...controller(is, next), ...(noRoom === undefined ? {} : { noRoom }) };
}

/** What it takes until the node has all of it: what it runs counts, not what it was assigned. */
function effectOf(ofNode: readonly PlannedChange[], next: BootSet | undefined, { bootSet }: Runs): Effect {
  if (bootSet === undefined) return 'next boot';
  if (bootSet === 'gone') return 'reboot';
  const needs = new Set([...ofNode, ...diffBootSets(bootSet, next)].map((change) => change.needs));
  return needs.has('reboot') ? 'reboot' : needs.has('steps') ? 'steps' : needs.has('boot') ? 'next boot' : 'none';
}

/** What stands in the node's own entry. */
function diffNodes(a: Node, b: Node): PlannedChange[] {
  return [
    ...changed('profile', a.profile, b.profile, 'boot'),
    ...changed('macs', a.macs.join(' '), b.macs.join(' '), 'boot'),
    ...changed('address', a.ip, b.ip, 'reboot'),
    ...changed('loader', a.loader, b.loader, 'boot'),
    ...changed('loaders', a.loaders, b.loaders, 'boot'),
    ...changed('exit', a.exit, b.exit, 'boot'),
    ...changed('next', a.next, b.next, 'boot'),
    ...members('dhcpOptions', a.dhcpOptions, b.dhcpOptions, 'boot', canonicalJson),
    ...(canonicalJson(a.sshKeys ?? []) === canonicalJson(b.sshKeys ?? []) ? [] : [{ what: 'own ssh', from: keys(a.sshKeys), to: keys(b.sshKeys), needs: 'reboot' as const }]),
    ...members('own config', a.config, b.config, 'reboot', (text) => `${Buffer.byteLength(String(text))} bytes`),
    ...members('labels', a.labels, b.labels, 'steps', String),
    ...members('own vars', a.vars, b.vars, 'steps', String),
  ];
}

function changed(what: string, from: string | undefined, to: string | undefined, needs: PlannedChange['needs']): PlannedChange[] {
  return from === to ? [] : [{ what, ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), needs }];
}

function members(what: string, a: object = {}, b: object = {}, needs: PlannedChange['needs'], words: (value: unknown) => string): PlannedChange[] {
  const [was, is] = [a as Record<string, unknown>, b as Record<string, unknown>];
  return namesOf(a, b).flatMap((name): PlannedChange[] => {
    const [old, next] = [own(was, name), own(is, name)];
    if (canonicalJson(old ?? null) === canonicalJson(next ?? null)) return [];
    return [{ what: `${what}.${name}`, ...(old === undefined ? {} : { from: words(old) }), ...(next === undefined ? {} : { to: words(next) }), needs }];
  });
}

const keys = (lines: readonly string[] = []): string => `${lines.length} ${lines.length === 1 ? 'key' : 'keys'}`;

/** As far as a variable or label `role` says it, the node's own first; the shipped steps `k0s-single` make each node the controller of its own cluster. */
function controller(node: Node, bootSet: BootSet | undefined): { readonly controller?: true } {
  const role = own(node.vars, 'role') ?? own(node.labels, 'role') ?? own(bootSet?.vars, 'role');
  const says = role === undefined ? bootSet?.postBoot?.repo === 'post-boot' && bootSet.postBoot.steps === 'k0s-single' : /^controller\b/.test(role);
  return says ? { controller: true } : {};
}

/** What must stay free for the system itself beside an image in memory, in MiB: as the initrd stage has it (fetch.sh). */
export const MARGIN_MIB = 192;

/**
 * The rule of the initrd stage (images/common/initrd/lib/rackseed/fetch.sh). All that is ever known of a node's memory is what was available when its image did not
 * fit: without such a failure nothing is said, and undefined is answered. An image that is kept on a disk needs no room.
 */
export function noRoomFor({ image, root, cmdline }: Pick<BootSet, 'image' | 'root' | 'cmdline'>, failure: string | undefined): string | undefined {
  const said = /not enough memory: (\d+) MiB are available/.exec(failure ?? '')?.[1];
  if (said === undefined || root.cache === 'disk') return undefined;
  const margin = Number(cmdline.findLast((word) => /^rackseed\.margin=\d+$/.test(word))?.split('=')[1] ?? MARGIN_MIB);
  const need = Math.floor(image.squashfs.size / 1_048_576) + 1;
  return Number(said) >= need + margin ? undefined : `the squashfs takes ${need} MiB and ${margin} MiB must stay free; its last boot had ${said} MiB`;
}

function updatesOf(profile: string, a: BootSet | undefined, b: BootSet | undefined, written: PlanParts['written']): Update[] {
  const [was, is] = [written.from?.get(profile), written.to.get(profile)];
  const updates: Update[] = [];
  /** Written otherwise than it was, it is an edit. */
  const update = (what: string, from: string, to: string, before: string | undefined, now: string): void => {
    if (before === undefined || before === now) updates.push({ profile, what, from, to, ...(before === undefined ? {} : { moved: true }) });
  };
  if (a && b && is?.image !== undefined && !is.image.includes('@') && a.image.name === b.image.name && a.image.digest !== b.image.digest) update(`image ${is.image}`, a.image.digest, b.image.digest, was?.image, is.image);
  if (a?.postBoot && b?.postBoot && is?.postBoot && a.postBoot.repo === b.postBoot.repo && a.postBoot.commit !== b.postBoot.commit && is.postBoot.ref !== b.postBoot.commit) {
    const words = (refs: WrittenRefs['postBoot']) => refs && `repository ${refs.repo} ref ${refs.ref}`;
    update(words(is.postBoot)!, a.postBoot.commit, b.postBoot.commit, words(was?.postBoot), words(is.postBoot)!);
  }
  return updates;
}

function bootSetOf({ profiles, bootSets }: Generation, profile: string): BootSet | undefined {
  const digest = own(profiles, profile)?.bootSet;
  return digest === undefined ? undefined : own(bootSets, digest);
}
