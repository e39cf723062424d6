// The DHCP server's sockets: one that hears broadcasts, and one per address of ours that replies leave by.
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import type { Logger } from 'pino';
import type { Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import type { Destination } from './reply.ts';

export interface Sockets {
  /** Resolves when the kernel took the datagram; rejects when it did not, e.g. of a card that is down. */
  send(from: Ip4, bytes: Uint8Array, to: Destination): Promise<void>;
  /** No more datagrams come in; answers under way can still be sent. */
  deafen(): void;
  close(): Promise<void>;
}

const PORT = 67;
/** The kernel's default holds 166 DHCP packets, less than a rack that powers on together (measured, TRAPS 3). */
const RECEIVE_BUFFER_BYTES = 4 << 20;

const HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another DHCP server (dnsmasq, isc-dhcp-server, kea, libvirt) holds port 67: `ss -ulpn sport = :67` names it',
  EACCES: 'port 67 needs root or CAP_NET_BIND_SERVICE',
  EADDRNOTAVAIL: 'no card of this machine has that address: set serverIp under dhcp.subnets to one that `ip address` lists',
};

/**
 * Hears on 0.0.0.0:67, where broadcasts arrive, and on each `serverIp`:67, where the unicasts of renewing machines do. One socket alone would
 * send every broadcast out of the card of the default route; a socket bound to an address sends them out of the card that holds it (TRAPS 3).
 * PORT_UNAVAILABLE when one cannot be bound; none is left open then.
 */
export async function openSockets(serverIps: readonly Ip4[], take: (bytes: Uint8Array) => void, log: Logger): Promise<Sockets> {
  const senders = new Map<Ip4, Socket>();
  const open: Socket[] = [];
  const close = async () => {
    await Promise.all(open.splice(0).map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
  };
  try {
    await warnOfOthers(log);
    for (const address of ['0.0.0.0', ...new Set(serverIps)]) {
      const socket = await bind(address, true);
      open.push(socket);
      if (address !== '0.0.0.0') senders.set(address, socket);
    }
    for (const socket of open) {
      socket.on('message', take);
      // A late complaint of the network about one machine is no reason to stop serving the others.
      socket.on('error', (error) => log.warn({ err: error }, 'dhcp: socket'));
      socket.setBroadcast(true);
      socket.setRecvBufferSize(RECEIVE_BUFFER_BYTES);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    send: (from, bytes, to) =>
      new Promise((resolve, reject) => {
        senders.get(from)!.send(bytes, to.port, to.address, (error) => (error ? reject(error) : resolve()));
      }),
    deafen: () => open.forEach((socket) => socket.removeAllListeners('message')),
    close,
  };
}

/**
 * Ours must share the port with one another, and so share it with any server that is as generous (dnsmasq is). That can be right: libvirt's
 * serves its own bridge. So it is a warning, found by asking for the port alone once.
 */
async function warnOfOthers(log: Logger): Promise<void> {
  try {
    (await bind('0.0.0.0', false)).close();
  } catch (error) {
    if (!(error instanceof AppError) || !error.message.includes('EADDRINUSE')) throw error;
    log.warn({ hint: error.hint }, 'dhcp: another server listens on port 67 of this machine');
  }
}

async function bind(address: Ip4, shared: boolean): Promise<Socket> {
  const socket = createSocket({ type: 'udp4', reuseAddr: shared });
  try {
    socket.bind(PORT, address);
    await once(socket, 'listening');
    return socket;
  } catch (error) {
    socket.close();
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    throw new AppError('PORT_UNAVAILABLE', `dhcp: cannot listen on ${address}:${PORT} (${code})`, HINTS[code] ?? 'the log has the cause', error);
  }
}
