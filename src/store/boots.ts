// Boots and their stages, and what each node was told to boot, runs, and last ran with success.
import type { Ip4, Mac } from '../addr.ts';
import type { BootSet } from '../boot/profile.ts';
import type { Boot, Stage, StageDetail, StageName } from '../boot/timeline.ts';
import type { Digest } from '../digest.ts';

export interface NewBoot {
  readonly id: string;
  readonly node: string;
  readonly mac: Mac;
  readonly profile: string;
  readonly generation: Digest;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
}

export interface SeenStage {
  readonly name: StageName;
  readonly state: Stage['state'];
  readonly at: number;
  readonly detail?: StageDetail;
}

export interface NodeHistory {
  readonly failedInRow: number;
  readonly lastFailedAt?: number;
  readonly running?: Digest;
  readonly lastGood?: Digest;
}

export interface BootStore {
  /** Starts a boot. An open boot of the same node ends as failed in the same transaction, `why` naming the new one. */
  start(boot: NewBoot): Promise<Boot>;
  get(id: string): Promise<Boot | undefined>;
  /** The one open boot of the node, if any. */
  open(node: string): Promise<Boot | undefined>;
  /** Newest first. */
  list(filter: { readonly node?: string; readonly limit: number }): Promise<readonly Boot[]>;
  /** Fixes the boot set if none is fixed yet, and keeps its content; answers the boot as it then is. */
  fixBootSet(id: string, digest: Digest, bootSet: BootSet, generation: Digest): Promise<Boot>;
  bootSet(digest: Digest): Promise<BootSet | undefined>;
  /** Every boot set that a boot which is open, or a node's running or last good system, still names: its blobs and pins must stay. */
  bootSetsInUse(): Promise<readonly BootSet[]>;
  /** Sets the boot's address; a later one replaces it. */
  setIp(id: string, ip: Ip4): Promise<void>;
  /** First enrolment wins: false when the boot has a session already. */
  enrol(id: string, tokenHash: string, at: number): Promise<boolean>;
  /** Writes a stage: inserted when new; else count and lastAt move on, and state and detail become the newest. */
  see(id: string, stage: SeenStage): Promise<void>;
  /** Ends an open boot; a boot that has ended already is left as it is. `ready` sets the node's running and last good boot sets. */
  end(id: string, state: 'ready' | 'failed', at: number, why?: string): Promise<void>;
  history(node: string): Promise<NodeHistory>;
}
