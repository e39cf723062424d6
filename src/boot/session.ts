// The session of a boot: who may enrol, what its token opens, what a report means, and the text that the initrd stage reads. Pure.
import { timingSafeEqual } from 'node:crypto';
import type { Node } from './node.ts';
import type { BootSet } from './profile.ts';
import { stageOf, type Boot, type Stage, type StageDetail, type StageName } from './timeline.ts';
import { blobPath } from './urls.ts';
import { sha256Hex } from '../digest.ts';
import type { Ip4, Mac } from '../addr.ts';

/** An enrolment later than this after the script was fetched is not that machine's, in milliseconds. */
export const ENROL_WITHIN_MS = 10 * 60_000;

/** What its initrd stage read in SMBIOS. */
export interface Smbios {
  readonly manufacturer?: string;
  readonly product?: string;
  readonly serial?: string;
}

/** Of what it says; the rest is left out: boards have names for `nothing here`. */
export function readSmbios(said: ReadonlyMap<string, string>): Smbios {
  const named = (['manufacturer', 'product', 'serial'] as const).flatMap((name): [string, string][] => {
    const value = (said.get(name) ?? '').replace(/[^ -~]/g, '?').trim().slice(0, 255);
    return /^$|^(to be filled by o\.e\.m\.|default string|not specified|none|0+)$/i.test(value) ? [] : [[name, value]];
  });
  return Object.fromEntries(named);
}

/** What a machine claims when it asks for its session. */
export interface Claim {
  /** The address the request came from. */
  readonly ip: Ip4;
  readonly mac?: Mac;
  readonly bootId?: string;
  readonly smbios?: Smbios;
}

/**
 * Why this claim may not enrol for this boot, or undefined when it may. `macs` are the node's: the initrd stage may use another of its cards
 * than the ROM did. `now` in milliseconds since 1970.
 */
export function refuseClaim(boot: Boot | undefined, macs: readonly Mac[], claim: Claim, now: number): string | undefined {
  if (!boot) return 'no boot of this machine is open';
  if (boot.state !== 'open') return `boot ${boot.id} has ended`;
  if (claim.bootId !== undefined && claim.bootId !== boot.id) return `boot ${claim.bootId} is not this machine's open boot`;
  if (claim.mac !== undefined && claim.mac !== boot.mac && !macs.includes(claim.mac)) return `boot ${boot.id} belongs to another machine`;
  if (boot.ip !== claim.ip) return `boot ${boot.id} has another address`;
  const script = stageOf(boot, 'script') ?? stageOf(boot, 'kernel');
  if (!boot.bootSet || !script) return `boot ${boot.id} has not fetched its script yet`;
  if (now - script.lastAt > ENROL_WITHIN_MS) return `boot ${boot.id} fetched its script more than 10 minutes ago`;
  return undefined;
}

/** What is kept of a token. */
export function tokenHash(token: string): string {
  return sha256Hex(token);
}

/** In a time that says nothing of how much of it was right. */
export function opensSession(boot: Boot, token: string): boolean {
  const [kept, said] = [Buffer.from(boot.tokenHash ?? ''), Buffer.from(tokenHash(token))];
  return kept.length === said.length && timingSafeEqual(kept, said);
}

export interface Report {
  readonly stage: StageName;
  readonly state: Stage['state'];
  readonly detail: StageDetail;
}

/** Stages that a node may report of itself; the others are seen by the servers only. */
export function isReportable(stage: string): stage is StageName {
  return stage === 'root' || stage === 'userspace' || stage === 'ready' || stage === 'failed' || /^step:[0-9A-Za-z][0-9A-Za-z._-]{0,99}$/.test(stage);
}

/** A profile's steps and their names are few; what reports more than this is no agent of ours. */
export const MOST_STAGES = 200;

/** How a report ends its boot, if it does. A failed report is the last word of the initrd stage or the agent: retries are reported as running. */
export function endOf(report: Report): { readonly state: 'ready' | 'failed'; readonly why?: string } | undefined {
  if (report.state === 'failed' || report.stage === 'failed') {
    const said = report.detail.message ?? 'no reason given';
    const where = report.stage.startsWith('step:') ? `step ${report.stage.slice('step:'.length)}: ` : report.stage === 'failed' ? '' : `${report.stage}: `;
    return { state: 'failed', why: where + said };
  }
  return report.stage === 'ready' && report.state === 'ok' ? { state: 'ready' } : undefined;
}

/**
 * What the initrd stage reads: one `key value` a line. Digest and root options come from here, never only from the command line. With a `publicBase`
 * (`https://cdn.example/rackseed`) the squashfs comes from there, and from us when that fails.
 */
export function renderConfig(boot: Boot, bootSet: BootSet, node: Pick<Node, 'name'>, publicBase?: string): string {
  const { squashfs } = bootSet.image;
  const ours = blobPath(squashfs.digest, boot.id);
  const pairs: [string, string | number][] = [
    ['node', node.name],
    ['hostname', node.name],
    ['machine-id', machineId(node.name)],
    // Without the boot's id, which would make each node's URL another one to a cache.
    ['squashfs-url', publicBase === undefined ? ours : publicBase + blobPath(squashfs.digest)],
    ...(publicBase === undefined ? [] : [['squashfs-fallback', ours] satisfies [string, string]]),
    ['squashfs-digest', squashfs.digest],
    ['squashfs-size', squashfs.size],
    ['root-state', bootSet.root.state],
  ];
  return pairs.map(([key, value]) => `${key} ${value}\n`).join('');
}

/** The same machine has the same machine id at every boot, though nothing on it is kept. */
function machineId(node: string): string {
  return sha256Hex(`rackseed machine-id ${node}`).slice(0, 32);
}

