// The Booter: looks the machine up, asks decide(), and writes down each stage that was seen. All that the servers know.
import type { BootDecision } from './boot/decide.ts';
import type { Node } from './boot/node.ts';
import type { BootSet } from './boot/profile.ts';
import type { BootRequest } from './boot/request.ts';
import type { Boot, StageDetail, StageName } from './boot/timeline.ts';

export interface Answer {
  readonly decision: BootDecision;
  readonly node?: Node;
  /** The boot that the request belongs to; absent when there is none to speak of. */
  readonly boot?: Boot;
  /** With a `boot` decision: the content that it names. */
  readonly bootSet?: BootSet;
}

export interface Booter {
  /** Every protocol's one question. A DISCOVER may start a boot; nothing else changes anything. */
  ask(request: BootRequest): Promise<Answer>;
  /** A stage was seen just now. Unknown and ended boots are left as they are. Never throws: a boot must not die of its record. */
  seen(bootId: string, stage: StageName, detail?: StageDetail): Promise<void>;
}
