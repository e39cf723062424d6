// Which boot a request belongs to: its node's open one, a new one, or none.
import type { BootRequest } from './request.ts';
import { hasStage, stageOf, type Boot } from './timeline.ts';

/** `continue` the open boot · `start` a new one · `none`: there is no boot to speak of. */
export type Correlation = 'continue' | 'start' | 'none';

/** An open boot that has seen no more than DHCP is still the same attempt for this long: firmware asks again and again. */
export const SAME_ATTEMPT_MS = 60_000;

/**
 * `openBoot` is the open boot of the node that the request's boot id, MAC or address led to. Only a DISCOVER of a ROM, or of an
 * iPXE that is the card's own, starts a boot; our initrd stage and running systems never do. `now` in milliseconds since 1970.
 */
export function correlate(openBoot: Boot | undefined, request: BootRequest, now: number): Correlation {
  const starts = request.via === 'dhcp' && request.message === 'discover' && (request.asker === 'rom' || request.asker === 'ipxe');
  if (!starts) return openBoot ? 'continue' : 'none';
  if (!openBoot) return 'start';
  if (request.asker === 'ipxe' && cameFromOurLoader(openBoot, now)) return 'continue';
  // The boot set is fixed before the script leaves, its stage is written after.
  const onlyDhcp = openBoot.bootSet === undefined && openBoot.stages.every((stage) => stage.name === 'discover' || stage.name === 'offer' || stage.name === 'lease');
  return onlyDhcp && ago(now, openBoot.startedAt) < SAME_ATTEMPT_MS ? 'continue' : 'start';
}

/** A loader that was fetched asks within this long; whoever asks later was switched off and on. */
export const LOADER_ASKS_MS = 120_000;

/** The loader was fetched a moment ago and nothing after it: this iPXE is the one we sent, not the card's. */
function cameFromOurLoader(boot: Boot, now: number): boolean {
  const loader = stageOf(boot, 'loader');
  return loader !== undefined && ago(now, loader.lastAt) < LOADER_ASKS_MS && !hasStage(boot, 'kernel') && !hasStage(boot, 'script');
}

/** What a clock that was set back calls the future is long ago, too. */
function ago(now: number, at: number): number {
  return Math.abs(now - at);
}
