// What a TFTP name stands for: loaders from memory and the node's script. A name never reaches the file system.
import type { Ip4 } from '../addr.ts';
import { renderScript } from '../boot/ipxe.ts';
import { TFTP_AUTOEXEC, TFTP_SCRIPT } from '../boot/urls.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Loaders } from '../loaders.ts';

export interface TftpFile {
  readonly bytes: Uint8Array;
  /** The stage that is seen once the last byte was acknowledged; none when the file is not part of a boot. */
  readonly stage?: 'loader' | 'script';
}

export interface TftpAsk {
  /** The peer's address. */
  readonly ip: Ip4;
  /** Our own address, which the peer reached. */
  readonly local: Ip4;
  /** The Booter's answer to this very request: never `silent` or `local`, those are refused before. */
  readonly answer: Answer;
}

export interface TftpFiles {
  /** The content behind a name without leading `/` or `./`; undefined when there is none. Opens nothing by that name. */
  open(name: string, ask: TftpAsk): Promise<TftpFile | undefined>;
}

/** The loaders by their names, and the node's script, which names the URLs of our HTTP server at the address that was asked. */
export function bootFiles(parts: { readonly loaders: Loaders; readonly booter: Booter; readonly httpPort: number }): TftpFiles {
  return {
    async open(name, { ip, local, answer }) {
      if (name !== TFTP_SCRIPT && name !== TFTP_AUTOEXEC) {
        const bytes = parts.loaders.get(name);
        return bytes && { bytes, stage: 'loader' };
      }
      const mac = answer.boot?.mac ?? answer.node?.macs[0];
      if (!mac) return undefined;
      // Asked once more, because only now it is known that the script is wanted: that fixes the boot set.
      const { decision, bootSet, node, boot } = await parts.booter.ask({ via: 'tftp', ip, mac, asker: 'ipxe', wants: 'script' });
      const script = renderScript(decision, bootSet, {
        mac,
        baseUrl: `http://${local}:${parts.httpPort}`,
        ...(node ? { node: node.name } : {}),
        ...(boot ? { bootId: boot.id, profile: boot.profile } : {}),
      });
      // A script that only says why to wait is not the stage.
      return { bytes: Buffer.from(script), ...(decision.kind === 'boot' ? { stage: 'script' } : {}) };
    },
  };
}

/** `/undionly.kpxe` and `./undionly.kpxe` mean `undionly.kpxe`: firmware and people write all three. */
export function fileName(asked: string): string {
  return asked.replace(/^(\.?\/)+/, '');
}
