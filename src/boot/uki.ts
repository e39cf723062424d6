// A node with `loader: uki`: which of its machines can boot the UKI, and how it travels. Pure.
import type { ImageRef } from './profile.ts';
import type { BootRequest } from './request.ts';

/** What a profile's or a node's `loader` says for it. */
export const UKI_LOADER = 'uki';

/** `via`: how the UKI goes to this machine. `why`: the reason that it cannot. */
export type UkiWay = { readonly via: 'tftp' | 'http' } | { readonly why: string };

/**
 * `image` is what the node boots; undefined when its boot set is of an older generation, which is asked when the file is. A BIOS machine runs no EFI program;
 * an iPXE on UEFI starts one as the firmware does, by HTTP if it can.
 */
export function ukiWay({ asker, firmware, features }: BootRequest, image: ImageRef | undefined): UkiWay {
  if (firmware === 'bios' || firmware === undefined) return { why: 'loader: uki needs UEFI, this machine boots by BIOS' };
  if (image && !image.uki) return { why: `image ${image.name} has no UKI: rackseed image uki ${image.name}, then rackseed reload` };
  const byHttp = firmware === 'uefi-http' || (asker === 'ipxe' && features?.includes('http') === true);
  return { via: byHttp ? 'http' : 'tftp' };
}
