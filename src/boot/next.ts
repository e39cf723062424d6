// What a node does when it starts next: boot from us, boot from us once, or from its own disk. Pure.
import type { Next, Node } from './node.ts';
import type { Boot } from './timeline.ts';

/** What was said of a node beside the YAML: by an operator, or by a boot-once that is used up. It holds until something else is said, or it is taken back. */
export interface SaidNext {
  readonly next?: Next;
  /** The boot that had its boot set already when that was said, or taken back. */
  readonly nextAfter?: string;
}

export function nextOf(node: Pick<Node, 'next'> | undefined, { next }: SaidNext): Next {
  return next ?? node?.next ?? 'netboot';
}

/**
 * Whether the authenticated `ready` of this boot uses the node's boot-once up (TRAPS 1.10: nothing less does). The ready of the boot that had its boot set
 * before the operator said so is of the system that shall be replaced.
 */
export function usesBootOnceUp(boot: Pick<Boot, 'id'>, node: Pick<Node, 'next'> | undefined, said: SaidNext): boolean {
  return nextOf(node, said) === 'boot-once' && said.nextAfter !== boot.id;
}
