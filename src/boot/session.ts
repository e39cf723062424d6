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

/** Where the bytes of images come from beside us, and what only the daemon knows of the node. */
export interface ConfigParts {
  /** `https://cdn.example/rackseed`: asked first. */
  readonly publicBase?: string;
  /** Other servers with our digest paths: asked last, in their order. */
  readonly fallbacks?: readonly string[];
  /** Text of the node's OpenSSH private key file; given only where somebody may log in. */
  readonly hostKey?: string;
}

/**
 * What the initrd stage reads: one `key value` a line. Digest and root options come from here, never only from the command line. What is not said is absent. With a
 * `publicBase` the squashfs comes from there, and from us when that fails. The files come last, behind a line that counts them: each may be long, and who looks for
 * another key need not read them.
 */
export function renderConfig(boot: Boot, bootSet: BootSet, node: Pick<Node, 'name' | 'sshKeys' | 'config'>, { publicBase, fallbacks = [], hostKey }: ConfigParts = {}): string {
  const { image, root } = bootSet;
  const { squashfs, verity, signed } = image;
  // Elsewhere without the boot's id, which would make each node's URL another one to a cache.
  const [first, ...others] = [...(publicBase === undefined ? [] : [publicBase + blobPath(squashfs.digest)]), blobPath(squashfs.digest, boot.id), ...fallbacks.map((base) => base + blobPath(squashfs.digest))];
  const files = Object.entries({ ...bootSet.config, ...node.config });
  const pairs: [string, string | number | undefined][] = [
    ['node', node.name],
    ['hostname', node.name],
    ['machine-id', machineId(node.name)],
    ['squashfs-url', first],
    ...others.map((url): [string, string] => ['squashfs-fallback', url]),
    ['squashfs-digest', squashfs.digest],
    ['squashfs-size', squashfs.size],
    ['verity', verity && `${verity.rootHash} ${verity.blocks}`],
    // Small, and what all else is held against: from us alone.
    ['manifest-url', signed && blobPath(signed.manifest.digest, boot.id)],
    ['manifest-digest', signed?.manifest.digest],
    ['signature-url', signed && blobPath(signed.signature.digest, boot.id)],
    ['signature-digest', signed?.signature.digest],
    ['min-serial', root.minSerial],
    ['root-state', root.state],
    ['root-size', root.size],
    ['disk', root.disk],
    ['disk-format', root.format],
    ['disk-wipe', root.wipe && 'yes'],
    ['disk-missing', root.onMissing],
    ['cache', root.cache],
    ['shell', bootSet.shell && 'yes'],
    ['ssh-host-key', hostKey && base64(hostKey)],
    ...sshKeysOf(bootSet, node).map((line): [string, string] => ['ssh-key', line]),
    ['files', files.length > 0 ? files.length : undefined],
    ...files.map(([path, text]): [string, string] => ['file', `${modeOf(text)} ${path} ${base64(text)}`]),
  ];
  return pairs.flatMap(([key, value]) => (value === undefined ? [] : [`${key} ${oneLine(value)}\n`])).join('');
}

/** Who may log in as root: the boot set's keys and the node's own, each once. */
export function sshKeysOf(bootSet: Pick<BootSet, 'sshKeys'>, node: Pick<Node, 'sshKeys'>): readonly string[] {
  // The same key with other options or another comment is another line, and sshd takes the first.
  return [...new Set([...(bootSet.sshKeys ?? []), ...(node.sshKeys ?? [])].map((line) => line.trim()))];
}

/** What the initrd stage must know before it has its config, or without it: for the kernel's command line. */
export function stageWords({ root, shell }: Pick<BootSet, 'root' | 'shell'>): string[] {
  return [...(root.cache === 'disk' ? [`rackseed.state=${root.state}`] : []), ...(shell ? ['rackseed.shell=1'] : [])];
}

/** A program says so in its first line; nothing else is to be run. */
function modeOf(text: string): string {
  return text.startsWith('#!') ? '0755' : '0644';
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}

/** Profiles have no line break in a value; a boot set of another version of rackseed shall not smuggle a key in either. */
function oneLine(value: string | number): string {
  return String(value).replace(/[\r\n]+/g, ' ');
}

/** The same machine has the same machine id at every boot, though nothing on it is kept. */
function machineId(node: string): string {
  return sha256Hex(`rackseed machine-id ${node}`).slice(0, 32);
}

