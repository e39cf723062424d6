// The DHCP server's sockets: ports 67 and 4011 of each card, so that an answer leaves by the card where the request came in.
import type { Log } from '../log.ts';
import { createBurst, type Burst } from '../net/burst.ts';
import { watchCards } from '../net/card-watch.ts';
import { BUFFER_BYTES, growBuffers, hasDeviceSockets, type BoundSocket } from '../net/device-socket.ts';
import { drain, LONGEST } from '../net/drain.ts';
import { closed, openOnDevice, openPort, warnOfOthers, wayOf, type LinkAddresses } from './card-ports.ts';
import type { DhcpPort, Ingress, Transport } from './transport.ts';

export interface TransportParts {
  readonly links: readonly LinkAddresses[];
  readonly log: Log;
}

/** One port of one card. */
interface CardPort {
  readonly link: string;
  readonly port: DhcpPort;
  /** The first one sends; all hear. */
  sockets: readonly BoundSocket[];
  burst?: Burst | undefined;
}

const PORTS: readonly DhcpPort[] = [67, 4011];
/** Datagrams that came before hear() are kept up to here, about as many as the kernel's buffer holds. */
const MOST_WAITING = 8_192;
/** Who asked longer ago has asked again. */
const WAITED_MS = 4_000;
const COMPLAIN_MS = 60_000;

/**
 * Opens ports 67 and 4011 of every card; no links, no sockets. PORT_UNAVAILABLE when one cannot be had, and none is left open then. The sockets
 * survive their card going down and its addresses changing; those of a card that is deleted and made anew are opened again where we still may.
 */
export async function openTransport({ links, log }: TransportParts): Promise<Transport> {
  const ports: CardPort[] = [];
  const complain = createComplaints(log);
  const waiting: [bytes: Buffer, from: Ingress, at: number][] = [];
  let take: (bytes: Buffer, from: Ingress) => void = (bytes, from) => {
    if (waiting.length < MOST_WAITING) waiting.push([bytes, from, performance.now()]);
  };
  const attach = (one: CardPort): void => {
    const { link, port, sockets } = one;
    const [first] = sockets;
    one.burst = first?.fd === undefined ? undefined : createBurst(first.fd);
    const heard = (bytes: Buffer, from: string, fromPort: number) => {
      if (bytes.length <= LONGEST) take(bytes, { link, port, from, fromPort });
    };
    for (const { socket, fd } of sockets) {
      socket.on('message', (bytes, peer) => {
        heard(bytes, peer.address, peer.port);
        if (fd !== undefined) drain(fd, heard);
      });
      // A late complaint of the network about one machine is no reason to stop serving the others.
      socket.on('error', (error) => complain(link, 'dhcp: socket', error));
    }
  };

  const way = wayOf(links);
  try {
    for (const link of links) {
      if (way !== 'inherited') await warnOfOthers(way, link, log);
      for (const port of PORTS) {
        const opened: CardPort = { link: link.name, port, sockets: await openPort(way, link, port) };
        ports.push(opened);
        attach(opened);
      }
    }
    warnOfSmallBuffers(ports, log);
  } catch (error) {
    await Promise.all(ports.map(shut));
    throw error;
  }
  const senders = new Map(links.map(({ name }) => [name, new Map(ports.filter(({ link }) => link === name).map((one) => [one.port, one]))]));
  let endWatch = () => {};
  let reopening = Promise.resolve();
  if (way !== 'plain' && links.length > 0) {
    const names = links.map(({ name }) => name);
    endWatch = watchCards(names, {
      gone: (link) => log.warn({ link }, 'dhcp: the card is gone'),
      replaced: (link) => {
        reopening = reopening.then(() => reopen(link, ports, attach, log));
      },
    });
  }
  if (links.length > 0) log.info({ way, links: links.map(({ name }) => name) }, 'dhcp: sockets open');

  return {
    send: (link, port, bytes, to) =>
      new Promise((resolve) => {
        const failed = (error: unknown) => {
          complain(link, 'dhcp: a datagram was not sent', error);
          resolve(false);
        };
        const sender = senders.get(link)?.get(port);
        const alone = (): void => {
          try {
            const socket = sender?.sockets[0]?.socket;
            if (!socket) throw new Error('no socket is open there');
            socket.send(bytes, to.port, to.address, (error) => (error ? failed(error) : resolve(true)));
          } catch (error) {
            // dgram throws where the kernel would refuse: port 0, which is what a forged sender has.
            failed(error);
          }
        };
        // What the kernel refuses in a burst is tried again alone: dgram waits for room, and knows why not.
        if (!sender?.burst?.send(bytes, to.address, to.port, (sent) => (sent ? resolve(true) : alone()))) alone();
      }),
    hear(taker) {
      take = taker;
      const oldest = performance.now() - WAITED_MS;
      for (const [bytes, from, at] of waiting.splice(0)) if (at >= oldest) taker(bytes, from);
    },
    deafen() {
      take = () => {};
      waiting.length = 0;
    },
    async close() {
      endWatch();
      take = () => {};
      await reopening;
      await Promise.all(ports.map(shut));
    },
  };
}

/** A socket is bound to the card, not to its name: when another card has taken the name, it must be opened again. */
async function reopen(link: string, ports: readonly CardPort[], attach: (port: CardPort) => void, log: Log): Promise<void> {
  try {
    if (!hasDeviceSockets()) throw new Error('Node alone cannot bind a socket to a card');
    for (const one of ports.filter((port) => port.link === link)) {
      const fresh = await openOnDevice(link, one.port);
      await shut(one);
      one.sockets = [fresh];
      attach(one);
      growBuffers(fresh);
    }
    log.warn({ link }, 'dhcp: the card was deleted and made anew, its sockets are open again');
  } catch (error) {
    log.error({ link, hint: `restart rackseed; with sockets from systemd: systemctl stop rackseed 'rackseed-*@${link}.socket' && systemctl start rackseed`, err: error }, 'dhcp: the card was deleted and made anew, nothing is heard on it until a restart');
  }
}

function warnOfSmallBuffers(ports: readonly CardPort[], log: Log): void {
  const bytes = Math.min(BUFFER_BYTES, ...ports.flatMap(({ sockets }) => sockets.map(growBuffers)));
  if (bytes === BUFFER_BYTES) return;
  log.warn({ bytes, wanted: BUFFER_BYTES, hint: `sysctl -w net.core.rmem_max=${BUFFER_BYTES}` }, 'dhcp: the receive buffer is small, machines that start all at once may have to ask twice');
}

/** Logs what goes wrong on a card: the first time, and then once a minute at most. */
function createComplaints(log: Log): (link: string, message: string, error: unknown) => void {
  const last = new Map<string, number>();
  return (link, message, error) => {
    const now = performance.now();
    if (now - (last.get(link) ?? -COMPLAIN_MS) < COMPLAIN_MS) return;
    last.set(link, now);
    log.warn({ link, err: error }, message);
  };
}

async function shut(port: CardPort): Promise<void> {
  const { sockets } = port;
  port.sockets = [];
  port.burst?.flush();
  port.burst = undefined;
  await Promise.all(sockets.map(({ socket }) => closed(socket)));
}
