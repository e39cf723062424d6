// What a node does when it starts next: boot from us, boot from us once, or from its own disk. Pure.
import type { Next, Node } from './node.ts';
import { stageOf, type Boot } from './timeline.ts';

/** What was said of a node beside the YAML: by an operator, or by a boot-once that is used up. It holds until something else is said. */
export interface SaidNext {
  readonly next?: Next;
  /** Milliseconds since 1970. */
  readonly nextAt?: number;
}

export function nextOf(node: Pick<Node, 'next'> | undefined, { next }: SaidNext): Next {
  return next ?? node?.next ?? 'netboot';
}

/**
 * Whether the authenticated `ready` of this boot uses the node's boot-once up (TRAPS 1.10: nothing less does). The ready of a boot that had its script
 * before the operator said so is of the system that shall be replaced.
 */
export function usesBootOnceUp(boot: Boot, node: Pick<Node, 'next'> | undefined, said: SaidNext): boolean {
  if (nextOf(node, said) !== 'boot-once') return false;
  return said.nextAt === undefined || (stageOf(boot, 'script')?.firstAt ?? boot.startedAt) >= said.nextAt;
}
