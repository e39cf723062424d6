// What a TFTP name stands for, and who may have it: loaders, a node's script, kernel and initrds, all from memory. A name never reaches the file system.
import { parseIp4, type Ip4, type Ip6, type Mac } from '../addr.ts';
import { GRUB_ROOT_CFG, grubFor } from '../boot/grub.ts';
import { scriptFor } from '../boot/ipxe.ts';
import type { BlobRef, BootSet } from '../boot/profile.ts';
import type { Serve } from '../boot/request.ts';
import type { StageDetail } from '../boot/timeline.ts';
import { GRUB_CFG, GRUB_ROOT_CFG_FILE, readTftpName, TFTP_AUTOEXEC, TFTP_INITRD, TFTP_KERNEL, TFTP_SCRIPT, UKI_FILE } from '../boot/urls.ts';
import type { Answer, Booter } from '../booter.ts';
import { findLoader, type Loaders } from '../loaders.ts';
import type { FileCache } from './file-cache.ts';
import { TFTP_ERROR } from './packet.ts';
import type { FilePieces } from './rings.ts';

export interface TftpFile {
  /** On a SharedArrayBuffer, except for scripts. All of the file; with `pieces`: the ring that they pass through. */
  readonly bytes: Uint8Array;
  readonly pieces?: FilePieces;
  /** The stage that is seen once the last byte was acknowledged; none when the file is not part of a boot. */
  readonly stage?: 'loader' | 'script' | 'kernel' | 'initrd';
  /** What is written down with the stage, beside the name and the size. */
  readonly detail?: StageDetail;
  /** To be called when no thread reads the bytes any more; absent when they stay as they are for ever. */
  readonly release?: () => void;
}

export interface TftpAsk {
  readonly peer: Ip4 | Ip6;
  /** Our own address, which the peer reached. */
  readonly local: Ip4 | Ip6;
  /** Whom the peer's subnet serves. */
  readonly serve: Serve;
}

/** What a refused client is told in an ERROR. */
export interface TftpRefusal {
  readonly code: number;
  readonly message: string;
}

export type Opened = { readonly file: TftpFile; readonly answer: Answer } | { readonly refusal: TftpRefusal };

export interface TftpFiles {
  /** The content behind a name as it was asked for. Opens nothing by that name. */
  open(asked: string, ask: TftpAsk): Promise<Opened>;
}

export interface BootFilesParts {
  readonly loaders: Loaders;
  readonly booter: Pick<Booter, 'ask'>;
  readonly cache: FileCache;
  readonly httpPort: number;
  readonly publicBase?: string;
}

/**
 * A machine is known by its address, as everywhere. A MAC in the name only says more: whoever may not be that machine gets nothing that depends on
 * it. By IPv6, where rackseed gives no addresses, the MAC is taken at its word for loader, kernel and initrd, which hold no secret, and nothing is
 * written down: neither a stage nor the boot's boot set.
 */
export function bootFiles({ loaders, booter, cache, httpPort, publicBase }: BootFilesParts): TftpFiles {
  function openScript(answer: Answer, mac: Mac, { local }: TftpAsk, file: string): Opened {
    const { decision } = answer;
    const to = { mac, baseUrl: `http://${local}:${httpPort}` };
    const script = file === GRUB_CFG ? grubFor(answer, { ...to, via: 'tftp' }) : scriptFor(answer, { ...to, publicBase });
    // A script that only says why to wait is not the stage.
    return { file: { bytes: Buffer.from(script), ...(decision.kind === 'boot' ? { stage: 'script' } : {}) }, answer };
  }

  async function openImage(answer: Answer, name: typeof TFTP_KERNEL | typeof TFTP_INITRD | typeof UKI_FILE): Promise<Opened> {
    const { decision, bootSet, boot } = answer;
    if (decision.kind === 'hold') return refused(TFTP_ERROR.undefined, `not now: ${decision.why}`);
    if (decision.kind !== 'boot' || !bootSet) return notFound;
    const parts = partsOf(bootSet, name);
    if (!parts) return notFound;
    const held = await cache.get(parts);
    if (!held) return refused(TFTP_ERROR.undefined, 'server busy: other large files are being sent, ask again later');
    return { file: { ...held, ...(boot ? { stage: name === TFTP_INITRD ? 'initrd' : 'kernel' } : {}) }, answer };
  }

  return {
    async open(asked, ask) {
      const { mac, file } = readTftpName(asked);
      const ip = parseIp4(ask.peer);
      const by = { via: 'tftp', serve: ask.serve, ...(ip ? { ip } : mac ? { mac } : {}) } as const;
      const first = await booter.ask(by);
      if (file === GRUB_ROOT_CFG_FILE) return { file: { bytes: Buffer.from(GRUB_ROOT_CFG) }, answer: withoutBoot(first) };
      const barred = refusalOf(first, file);
      if (barred) return barred;
      const loader = file === UKI_FILE ? undefined : findLoader(loaders, file, first.node);
      if (loader) {
        const { name, bytes, digest, version } = loader;
        return ip ? { file: { bytes, stage: 'loader', detail: { message: name, digest, version } }, answer: first } : { file: { bytes }, answer: withoutBoot(first) };
      }

      const isGrubs = mac !== undefined && file === GRUB_CFG;
      const image = mac !== undefined && (file === TFTP_KERNEL || file === TFTP_INITRD || file === UKI_FILE) ? file : undefined;
      if (!isGrubs && file !== TFTP_SCRIPT && file !== TFTP_AUTOEXEC && !image) return notFound;
      if (!ip) return image ? openImage(withoutBoot(first), image) : refused(TFTP_ERROR.accessViolation, 'scripts are for IPv4 machines, whose address tells that they are theirs');
      const { node, boot } = first;
      if (mac !== undefined && node && !isOf(first, mac)) return notYours;
      const about = mac ?? boot?.mac ?? node?.macs[0];
      if (about === undefined) return notFound;
      // By its address alone: a stranger that asks under a node's MAC does not even learn that it is one.
      if (!node) return image ? openImage(first, image) : openScript(first, about, ask, file);
      // The boot set is fixed by whatever is read from it first. Without a boot there is none to fix. The boot is named, or one whose node has left
      // the YAML meanwhile would not be found by the MAC.
      const named = { ...by, mac: about, ...(boot ? { bootId: boot.id } : {}) };
      const answer = image && !boot ? first : await booter.ask({ ...named, wants: 'script', ...(image || isGrubs ? {} : { asker: 'ipxe' }) });
      return refusalOf(answer, file) ?? (image ? openImage(answer, image) : openScript(answer, about, ask, file));
    },
  };
}

const refused = (code: number, message: string): Opened => ({ refusal: { code, message } });
const notFound = refused(TFTP_ERROR.notFound, 'file not found');
const notYours = refused(TFTP_ERROR.accessViolation, 'this path is not for the machine at this address');

/** What a decision alone refuses. To its disk GRUB goes as its configuration says: without one it would stand at a prompt. */
function refusalOf({ decision }: Answer, file: string): Opened | undefined {
  if (decision.kind === 'silent') return refused(TFTP_ERROR.accessViolation, decision.why);
  if (decision.kind === 'local' && file !== GRUB_CFG) return refused(TFTP_ERROR.notFound, decision.why);
  return undefined;
}

function isOf({ node, boot }: Answer, mac: Mac): boolean {
  return boot?.mac === mac || node?.macs.includes(mac) === true;
}

/** So that nothing is written of a boot whose machine did not prove to be the one that asks. */
function withoutBoot({ boot: _boot, ...answer }: Answer): Answer {
  return answer;
}

function partsOf({ image }: BootSet, name: typeof TFTP_KERNEL | typeof TFTP_INITRD | typeof UKI_FILE): readonly BlobRef[] | undefined {
  if (name === UKI_FILE) return image.uki && [image.uki];
  return name === TFTP_KERNEL ? [image.kernel] : image.initrds;
}
