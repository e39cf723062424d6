// A node with `loader: uki`: which of its machines can boot the UKI, and how it travels. Pure.
import type { ImageRef } from './profile.ts';
import { typeWords, type BootRequest } from './request.ts';

/** What a profile's or a node's `loader` says for it. */
export const UKI_LOADER = 'uki';

/** `via`: how the UKI goes to this machine. `why`: the reason that it cannot. */
export type UkiWay = { readonly via: 'tftp' | 'http' } | { readonly why: string };

/**
 * `image` is what the node boots; undefined when its boot set is of an older generation, which is asked when the file is. A BIOS machine runs no EFI program,
 * and one that does not say what it is gets what a BIOS gets; an iPXE on UEFI starts one as the firmware does, by HTTP if it can. UEFI runs programs of its own
 * processor only, though one of 32 bits starts kernels of 64.
 */
export function ukiWay({ asker, arch, firmware, unknownType, features }: BootRequest, image: ImageRef | undefined): UkiWay {
  if (unknownType !== undefined) return { why: `loader: uki: no UKI is for ${typeWords(unknownType)}` };
  if (firmware === undefined) return { why: 'loader: uki needs UEFI, and this machine does not say whether it has that (DHCP option 93)' };
  if (firmware === 'bios') return { why: 'loader: uki needs UEFI, this machine boots by BIOS' };
  if (image && arch !== undefined && arch !== image.arch) return { why: `loader: uki: the UKI of image ${image.name} is for ${image.arch} firmware, this machine's is ${arch}` };
  if (image && !image.uki) return { why: `image ${image.name} has no UKI: rackseed image uki ${image.name}, then rackseed reload` };
  const byHttp = firmware === 'uefi-http' || (asker === 'ipxe' && features?.includes('http') === true);
  return { via: byHttp ? 'http' : 'tftp' };
}
