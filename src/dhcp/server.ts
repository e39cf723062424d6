// The DHCP server: the transport's datagrams through the inbox to the responder, as many at once as the store is given to commit.
import type { Counters } from './counters.ts';
import { createInbox, type InboxCounters } from './inbox.ts';
import { peekMac } from './packet.ts';
import { createResponder, type ResponderParts } from './responder.ts';
import type { Ingress, Transport } from './transport.ts';

export interface DhcpServerParts extends Omit<ResponderParts, 'send'> {
  readonly transport: Transport;
  /** Milliseconds on a clock that is never set: for how long something waited, and how often somebody asked. */
  readonly steady: () => number;
  /** Gets what servers say (op 2), which is none of ours. */
  readonly onReply?: (bytes: Uint8Array, from: Ingress) => void;
}

export interface DhcpServer {
  start(): void;
  /** Stops listening, and waits for the answers under way. */
  stop(): Promise<void>;
  counters(): Counters & InboxCounters;
}

/** Answers under way at once; more wait in the inbox, where nodes come first and the old are dropped. */
const MOST_UNDER_WAY = 1024;

/** `op` of what servers send. */
const BOOTREPLY = 2;

interface Datagram {
  readonly bytes: Uint8Array;
  readonly from: Ingress;
}

export function createDhcpServer(parts: DhcpServerParts): DhcpServer {
  const { transport, steady, log } = parts;
  const responder = createResponder({ ...parts, send: transport.send });
  const inbox = createInbox<Datagram>();
  const underWay = new Set<Promise<void>>();
  let ignored = 0;
  let stopped = false;

  function pump(): void {
    while (!stopped && underWay.size < MOST_UNDER_WAY) {
      const next = inbox.next(steady());
      if (!next) return;
      const work = responder.receive(next.item.bytes, next.item.from).finally(() => {
        underWay.delete(work);
        pump();
      });
      underWay.add(work);
    }
  }

  return {
    start() {
      transport.hear((bytes, from) => {
        if (bytes[0] === BOOTREPLY && parts.onReply) return parts.onReply(bytes, from);
        const mac = peekMac(bytes);
        if (mac === undefined) return void ignored++;
        const known = parts.nodeOf(mac) !== undefined;
        if (inbox.put({ bytes, from }, mac, known, steady())) pump();
        else log.debug({ mac }, 'dhcp: too many packets of one machine');
      });
      log.info({ subnets: parts.subnets.map(({ subnet, mode, link }) => ({ subnet, mode, link })) }, 'dhcp: listening');
    },
    async stop() {
      stopped = true;
      transport.deafen();
      await Promise.allSettled(underWay);
    },
    counters: () => ({ ...responder.counters, ignored: responder.counters.ignored + ignored, ...inbox.counters }),
  };
}
