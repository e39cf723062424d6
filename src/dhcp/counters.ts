// What became of the datagrams: the responder's counters, as `rackseed dhcp status` and the metrics show them.

/** Datagrams since the start, by what became of them. */
export interface Counters {
  received: number;
  /** Not DHCP at all. */
  malformed: number;
  /** DHCP, but not for a server: replies, BOOTP, other hardware than Ethernet, unknown messages, releases of what is not leased. */
  ignored: number;
  /** Of no subnet of ours: a foreign relay, a link that we do not serve. */
  foreign: number;
  /** Of machines that we leave to others. */
  silent: number;
  /** A machine that we want to answer, but cannot: the pool is used up, the packet too long. */
  refused: number;
  offers: number;
  acks: number;
  naks: number;
  /** Boot fields beside another server's lease: OFFERs on port 67 and ACKs on port 4011. */
  proxied: number;
  informs: number;
  releases: number;
  declines: number;
  /** The kernel did not take an answer. */
  unsent: number;
  /** Our own failures. */
  failed: number;
}

export function noCounts(): Counters {
  return { received: 0, malformed: 0, ignored: 0, foreign: 0, silent: 0, refused: 0, offers: 0, acks: 0, naks: 0, proxied: 0, informs: 0, releases: 0, declines: 0, unsent: 0, failed: 0 };
}
