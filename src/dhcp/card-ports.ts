// Opening one port of one card for DHCP, in the best of three ways that this machine has.
import { createSocket, type Socket } from 'node:dgram';
import type { Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import type { Log } from '../log.ts';
import { hasDeviceSockets, literal, openDeviceSocket, type BoundSocket } from '../net/device-socket.ts';
import { inheritedFds, inheritedSocket } from '../net/inherited.ts';
import type { DhcpPort } from './transport.ts';

export interface LinkAddresses {
  readonly name: string;
  /** Ours on its link; the first one is what the plain way sends from. */
  readonly serverIps: readonly Ip4[];
}

/**
 * Where the sockets come from. `inherited`: systemd opened them. `device`: we do, bound to their cards. `plain`: without koffi, one card can be
 * served by a socket that hears everything and one that sends from its address (TRAPS 3).
 */
export type Way = 'inherited' | 'device' | 'plain';

/** Names of systemd's FileDescriptorName= before the card's name. */
const INHERITED: Readonly<Record<DhcpPort, string>> = { 67: 'dhcp-', 4011: 'pxe-' };
const HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another DHCP or PXE server (dnsmasq, isc-dhcp-server, kea, libvirt) holds the port: `ss -ulpn sport = :67 or sport = :4011` names it',
  EACCES: 'port 67 needs root or CAP_NET_BIND_SERVICE, or sockets from systemd (packaging/systemd)',
  EPERM: 'binding a socket to a card needs root, or CAP_NET_RAW before Linux 5.7, or sockets from systemd (packaging/systemd)',
  ENODEV: 'there is no such card: `ip link` lists those that there are',
  EADDRNOTAVAIL: 'no card of this machine has that address: `ip address` lists those that there are',
};

/** PORT_UNAVAILABLE when several cards are to be served and nothing here can tell them apart. */
export function wayOf(links: readonly LinkAddresses[]): Way {
  if ([...inheritedFds().keys()].some((name) => name.startsWith(INHERITED[67]))) return 'inherited';
  if (hasDeviceSockets()) return 'device';
  if (links.length <= 1) return 'plain';
  throw new AppError(
    'PORT_UNAVAILABLE',
    `dhcp: ${links.length} cards (${links.map(({ name }) => name).join(', ')}) are to be served, and Node alone cannot bind a socket to a card`,
    'install koffi (`npm install koffi`), or let systemd open the sockets (packaging/systemd), or list one card only',
  );
}

/** The first socket sends; all hear. */
export async function openPort(way: Way, link: LinkAddresses, port: DhcpPort): Promise<readonly BoundSocket[]> {
  if (way === 'plain') return openPlain(link, port);
  if (way === 'device') return [await openOnDevice(link.name, port)];
  const name = `${INHERITED[port]}${link.name}`;
  const found = inheritedSocket(name);
  if (found) {
    found.socket.setBroadcast(true);
    return [found];
  }
  throw new AppError('PORT_UNAVAILABLE', `dhcp: systemd handed over sockets, but none for port ${port} of ${link.name} (${name})`, `\`packaging/systemd/add-card ${link.name}\`, then \`systemctl daemon-reload && systemctl restart rackseed\``);
}

export async function openOnDevice(link: string, port: DhcpPort, shared = true): Promise<BoundSocket> {
  try {
    return (await openDeviceSocket(link, port, { shared }))!;
  } catch (error) {
    throw unavailable(`port ${port} of ${link}`, error);
  }
}

/**
 * Hears on 0.0.0.0, where broadcasts arrive, and on each `serverIp`, where the unicasts of renewing machines do. One socket alone would send every
 * broadcast out of the card of the default route; one that is bound to an address sends them out of the card that holds it (TRAPS 3).
 */
async function openPlain(link: LinkAddresses, port: DhcpPort): Promise<readonly BoundSocket[]> {
  const { name, serverIps } = link;
  if (serverIps.length === 0) throw new AppError('PORT_UNAVAILABLE', `dhcp: ${name} has no address to send from`, 'give it one, or install koffi (`npm install koffi`), which needs none');
  const sockets: BoundSocket[] = [];
  try {
    for (const address of new Set([...serverIps, '0.0.0.0'])) {
      const socket = await bind(address, port, true);
      sockets.push({ socket });
      socket.setBroadcast(true);
    }
    return sockets;
  } catch (error) {
    await Promise.all(sockets.map(({ socket }) => closed(socket)));
    throw error;
  }
}

/**
 * Ours must share the port with one another, and so share it with any server that is as generous (dnsmasq is). That can be right: libvirt's
 * serves its own bridge. So it is a warning, found by asking for the port alone once.
 */
export async function warnOfOthers(way: 'device' | 'plain', { name }: LinkAddresses, log: Log): Promise<void> {
  try {
    const socket = way === 'plain' ? await bind('0.0.0.0', 67, false) : (await openOnDevice(name, 67, false)).socket;
    await closed(socket);
  } catch (error) {
    if (!(error instanceof AppError) || !error.message.includes('EADDRINUSE')) throw error;
    log.warn({ link: name, hint: error.hint }, 'dhcp: another server listens on port 67 of this machine');
  }
}

async function bind(address: Ip4, port: DhcpPort, shared: boolean): Promise<Socket> {
  const socket = createSocket({ type: 'udp4', reuseAddr: shared, lookup: literal });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ address, port, exclusive: true }, resolve);
    });
    socket.removeAllListeners('error');
    return socket;
  } catch (error) {
    socket.close();
    throw unavailable(`${address}:${port}`, error);
  }
}

function unavailable(what: string, error: unknown): AppError {
  const { code = 'unknown' } = error as NodeJS.ErrnoException;
  return new AppError('PORT_UNAVAILABLE', `dhcp: cannot listen on ${what} (${code})`, HINTS[code] ?? 'the log has the cause', error);
}

export function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.close(() => resolve()));
}
