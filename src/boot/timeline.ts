// A boot and its stages as recorded, and what a chain of firmware is expected to show on its way to ready.
import type { Ip4, Mac } from '../addr.ts';
import type { Digest } from '../digest.ts';
import type { AppliedQuirk } from './quirks.ts';
import type { Machine } from './request.ts';

/** The stages before the post-boot steps, in the order in which a machine passes them. */
export const STAGES = ['discover', 'offer', 'lease', 'loader', 'script', 'kernel', 'initrd', 'config', 'root', 'userspace'] as const;
/** `step:30-k0s` is a post-boot step; `ready` and `failed` end a boot. */
export type StageName = (typeof STAGES)[number] | `step:${string}` | 'ready' | 'failed';

/** Chains of firmware that end in our initrd stage; `-grub`: shim and GRUB in place of an iPXE; `-uki`: kernel, initrd and command line come in one file, with no iPXE; `-proxy`: another server gives the addresses. */
export const CHAINS = ['bios-ipxe', 'bios-rom', 'bios-ipxe-proxy', 'uefi-rom', 'uefi-rom-proxy', 'uefi-http', 'uefi-http-proxy', 'uefi-grub', 'uefi-http-grub', 'uefi-uki', 'uefi-http-uki'] as const;
export type Chain = (typeof CHAINS)[number];
/** Those in which an iPXE runs a script, or GRUB its configuration. */
const BY_SCRIPT = CHAINS.filter((chain) => !chain.endsWith('-uki'));

/**
 * What each stage is seen by, and in which chains. docs/BOOTING.md prints this table, and a test takes each piece of evidence away in turn.
 * `step:` stands for the steps of the node's profile.
 */
export const EVIDENCE: readonly { readonly stage: StageName | 'step:'; readonly evidence: string; readonly chains: readonly Chain[] }[] = [
  { stage: 'discover', evidence: 'a DHCPDISCOVER of the machine arrived', chains: CHAINS },
  { stage: 'offer', evidence: 'our DHCPOFFER was sent', chains: CHAINS },
  { stage: 'lease', evidence: 'the lease is on disk and our DHCPACK was sent', chains: CHAINS.filter((chain) => !chain.endsWith('-proxy')) },
  { stage: 'loader', evidence: 'the last TFTP block of the loader was acknowledged, or its last byte sent by HTTP', chains: ['bios-rom', 'uefi-rom', 'uefi-rom-proxy', 'uefi-http', 'uefi-http-proxy', 'uefi-grub', 'uefi-http-grub'] },
  { stage: 'script', evidence: "the script, or GRUB's configuration, was sent to the address of the boot", chains: BY_SCRIPT },
  { stage: 'kernel', evidence: "the kernel's last byte was sent, or the UKI's, which holds it", chains: CHAINS },
  { stage: 'initrd', evidence: "the last initrd's last byte was sent", chains: BY_SCRIPT },
  { stage: 'config', evidence: 'the initrd stage read its config, with its token', chains: CHAINS },
  { stage: 'root', evidence: 'the initrd stage reported its root mounted, with its token', chains: CHAINS },
  { stage: 'userspace', evidence: 'the node agent reported, with its token', chains: CHAINS },
  { stage: 'step:', evidence: 'the node agent reported that step, with its token', chains: CHAINS },
  { stage: 'ready', evidence: 'the node agent reported that all steps are done, with its token', chains: CHAINS },
];

/** What a chain shows on its way to ready, in order, when its profile has these post-boot steps. */
export function expectedStages(chain: Chain, steps: readonly string[]): StageName[] {
  return EVIDENCE.filter(({ chains }) => chains.includes(chain)).flatMap(({ stage }) => (stage === 'step:' ? steps.map((step): StageName => `step:${step}`) : [stage]));
}

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
  /** Of a loader: what was handed out under that name. `version` as its maker wrote it, or `unknown`. */
  readonly digest?: Digest;
  readonly version?: string;
  /** Up to 64 KiB of a step's output; only where it is asked for. */
  readonly tail?: string;
}

export interface Boot {
  /** A ULID. */
  readonly id: string;
  readonly node: string;
  readonly mac: Mac;
  readonly ip?: Ip4;
  /** What its DHCP packets said of the machine: script requests say nothing of it, and are decided by the same. */
  readonly machine?: Machine;
  /** What fitted the machine when this boot started; it holds to its end. Absent: nothing did. */
  readonly quirks?: readonly AppliedQuirk[];
  /** `unfinished`: the machine started over, or so it seemed, before it had got a kernel. */
  readonly state: 'open' | 'ready' | 'failed' | 'unfinished';
  /** One line, when failed or unfinished. */
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

/**
 * Whether it came so far that not to get ready is a failure of what it boots. What comes before the kernel is a packet or two, which anybody on the LAN can
 * send in a machine's name: a DISCOVER, a request for the script. Who enrolled runs our initrd stage, wherever its kernel came from.
 */
export function gotKernel(boot: Boot): boolean {
  return hasStage(boot, 'kernel') || boot.enrolledAt !== undefined;
}

export function hasStage(boot: Boot, name: StageName): boolean {
  return stageOf(boot, name) !== undefined;
}
