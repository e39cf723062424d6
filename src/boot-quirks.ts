// What fits a machine: what it says of itself, remembered for when it says nothing, held against the quirks of the generation.
import type { Node } from './boot/node.ts';
import type { Generation } from './boot/profile.ts';
import { quirksOf, sentBy, type AppliedQuirk, type KnownMachine, type Quirked } from './boot/quirks.ts';
import type { BootRequest } from './boot/request.ts';
import type { Smbios } from './boot/session.ts';
import type { Boot } from './boot/timeline.ts';
import type { Log } from './log.ts';
import type { NodeStore, Seen } from './store/nodes.ts';

export interface BootQuirks {
  /** Of a machine that starts: what it said is remembered, and what fits holds for the boot that it starts. */
  starts(node: Node, request: BootRequest, generation: Generation): Promise<readonly AppliedQuirk[]>;
  /** Of a request: its boot's; outside of any, for a stranger and for a node that goes to its own disk, what fits now. */
  of(boot: Boot | undefined, node: Node | undefined, request: BootRequest, generation: Generation): Promise<Quirked>;
  /** Known from the next start on. Never throws, and is not waited for. */
  learn(node: string, said: Smbios): void;
}

/** A machine that asks again and again as it starts is written down once. */
const SAME_START_MS = 60_000;

export function createBootQuirks({ nodes, log, now }: { readonly nodes: NodeStore; readonly log: Log; readonly now: () => number }): BootQuirks {
  /** Behind the answer, and never in its way: a boot must not die of its record. */
  function write(node: string, said: Omit<Seen, 'at'>): void {
    void nodes.see(node, { ...said, at: now() }).catch((error: unknown) => log.error({ node, err: error }, 'what the machine said of itself is not recorded'));
  }

  return {
    async starts(node, request, generation) {
      const seen = await nodes.seen(node.name);
      const { uuid, vendorClass, arch } = request;
      const isNews = (uuid !== undefined && uuid !== seen?.uuid) || vendorClass !== seen?.vendorClass || arch !== seen?.arch;
      if (isNews || now() - (seen?.at ?? 0) > SAME_START_MS) write(node.name, { ...(uuid ? { uuid } : {}), ...(vendorClass ? { vendorClass } : {}), ...(arch ? { arch } : {}) });
      return quirksOf(knownMachine({ ...smbiosOf(seen), ...wordsOf(request) }, request, node), generation.quirks, node);
    },
    async of(boot, node, request, generation) {
      if (boot) return sending(boot.quirks);
      // GRUB says nothing of itself when it asks for its script.
      if (request.asker !== 'rom' && request.asker !== 'ipxe' && request.wants !== 'script') return {};
      const seen = node && (await nodes.seen(node.name));
      // A script request says nothing of the machine: what its last start said holds for it.
      const words = request.via === 'dhcp' ? wordsOf(request) : seen;
      return sending(quirksOf(knownMachine({ ...smbiosOf(seen), ...words }, request, node), generation.quirks, node));
    },
    learn(node, said) {
      if (Object.keys(said).length > 0) write(node, said);
    },
  };
}

/**
 * What fits the node by all that is known of it: what its next boot gets, unless its card or its firmware is another one then. `latest`: its newest boot; without one,
 * or when that card is not the node's any more, it may be any of its cards.
 */
export function quirksOfNode(node: Node, seen: Seen | undefined, generation: Generation, latest?: Pick<Boot, 'mac'>): readonly AppliedQuirk[] {
  const card = latest && node.macs.includes(latest.mac) ? { mac: latest.mac } : {};
  return quirksOf(knownMachine(seen ?? {}, card, node), generation.quirks, node);
}

function sending(applied: readonly AppliedQuirk[] = []): Quirked {
  const quirks = sentBy(applied);
  return quirks ? { quirks } : {};
}

type Words = Omit<KnownMachine, 'macs'>;

function knownMachine({ vendorClass, arch, manufacturer, product }: Words, { mac }: Pick<BootRequest, 'mac'>, node: Node | undefined): KnownMachine {
  return { ...(vendorClass ? { vendorClass } : {}), ...(arch ? { arch } : {}), ...(manufacturer ? { manufacturer } : {}), ...(product ? { product } : {}), macs: mac ? [mac] : (node?.macs ?? []) };
}

function wordsOf({ vendorClass, arch }: BootRequest): Words {
  return { ...(vendorClass ? { vendorClass } : {}), ...(arch ? { arch } : {}) };
}

function smbiosOf(seen: Seen | undefined): Words {
  return { ...(seen?.manufacturer ? { manufacturer: seen.manufacturer } : {}), ...(seen?.product ? { product: seen.product } : {}) };
}
