// The seam between the DHCP responder and its sockets: where a datagram came in, and how an answer leaves.
import type { Ip4 } from '../addr.ts';

export type DhcpPort = 67 | 4011;

/** Where a datagram came in. */
export interface Ingress {
  /** The card's name. */
  readonly link: string;
  readonly port: DhcpPort;
  /** The sender, as the kernel saw it. */
  readonly from: Ip4;
  readonly fromPort: number;
}

export interface Destination {
  readonly address: Ip4;
  readonly port: number;
}

export interface Transport {
  /**
   * Sends out of this card, from this port. Resolves true when the kernel took the datagram; false when it did not (card down, no route): that is
   * logged here, once a minute a card, and is no error of the caller's.
   */
  send(link: string, port: DhcpPort, bytes: Uint8Array, to: Destination): Promise<boolean>;
  /** From now on datagrams go to `take`; those that came before wait, unless it is so long that their clients have asked again. `bytes` is the caller's to keep. */
  hear(take: (bytes: Uint8Array, from: Ingress) => void): void;
  /** No more datagrams come in; answers under way can still be sent. */
  deafen(): void;
  close(): Promise<void>;
}
