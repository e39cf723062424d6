// The TFTP server's listening sockets: one for each address of ours, or one of a card that systemd opened. Bound before root is given up.
import { createSocket, type Socket } from 'node:dgram';
import { ip4ToNumber, parseIp4, parseIp6, subnet6Contains, subnetContains, type Ip4, type Ip6, type Subnet, type Subnet6 } from '../addr.ts';
import type { Serve } from '../boot/request.ts';
import { AppError } from '../errors.ts';
import { inheritedSocket } from '../net/inherited.ts';
import { ETHERNET_BLOCK } from './transfer.ts';

/** What holds for a peer by the subnet that it is in. */
export interface PeerTerms {
  readonly serve: Serve;
  /** What the path to it carries in one block, in bytes. */
  readonly blockSize: number;
}

/** A subnet whose machines are answered. */
export interface ServedPlace extends PeerTerms {
  readonly subnet: Subnet | Subnet6;
}

export interface TftpListener {
  readonly socket: Socket;
  /** Our own address that this peer asked. */
  readonly localFor: (peer: Ip4 | Ip6) => Ip4 | Ip6;
  /** Undefined: it is in no subnet that we serve, and gets no packet at all: an ERROR to a forged address would hit whoever has it. */
  readonly termsFor: (peer: Ip4 | Ip6) => PeerTerms | undefined;
}

export interface TftpSockets {
  readonly listeners: readonly TftpListener[];
  close(): Promise<void>;
}

export interface TftpPlaces {
  /** Our own addresses on the boot LANs; never 0.0.0.0 or `::`, an answer must come from the address that was asked. */
  readonly listen: readonly (Ip4 | Ip6)[];
  /** The first one that a peer is in counts; absent: every peer is answered, as nodes are, which is for tests. */
  readonly served?: readonly ServedPlace[];
  /** Cards whose socket systemd may have opened (`tftp-<name>`): it stands in for their addresses of `listen`. */
  readonly links?: readonly { readonly name: string; readonly serverIps: readonly Ip4[] }[];
  /** Default 69. */
  readonly port?: number;
}

const EVERYBODY: PeerTerms = { serve: 'known', blockSize: ETHERNET_BLOCK };

/** PORT_UNAVAILABLE when one address cannot be had; then none is. */
export async function bindTftp({ listen, served, links = [], port = 69 }: TftpPlaces): Promise<TftpSockets> {
  const listeners: TftpListener[] = [];
  const inherited = new Set<Ip4>();
  const termsFor = (peer: Ip4 | Ip6): PeerTerms | undefined => (served ? served.find(({ subnet }) => contains(subnet, peer)) : EVERYBODY);
  const close = async (): Promise<void> => {
    await Promise.all(listeners.splice(0).map(({ socket }) => new Promise<void>((resolve) => socket.close(resolve))));
  };
  try {
    for (const { name, serverIps } of links) {
      const here = serverIps.filter((local) => listen.includes(local));
      const found = port === 69 && here.length > 0 ? inheritedSocket(`tftp-${name}`) : undefined;
      if (!found) continue;
      here.forEach((local) => inherited.add(local));
      listeners.push({ socket: found.socket, localFor: (peer) => nearest(here, peer), termsFor });
    }
    for (const local of listen) {
      if (!inherited.has(local)) listeners.push({ socket: await listenOn(local, port), localFor: () => local, termsFor });
    }
  } catch (error) {
    await close();
    throw error;
  }
  // An ICMP error for a refusal that nobody awaits any more must not end the daemon.
  for (const { socket } of listeners) socket.on('error', () => {});
  return { listeners, close };
}

/** A link-local peer carries its card (`fe80::1%eth0`), and is in no subnet that can be named. */
function contains(subnet: Subnet | Subnet6, peer: Ip4 | Ip6): boolean {
  if ('network6' in subnet) {
    const ip = peer.includes(':') ? parseIp6(peer) : undefined;
    return ip !== undefined && subnet6Contains(subnet, ip);
  }
  return parseIp4(peer) !== undefined && subnetContains(subnet, peer);
}

/**
 * A socket that is bound to a card does not tell which address of it was asked. A card has one, nearly always; of several it is the one in the
 * peer's subnet, which shares the most leading bits with it.
 */
function nearest(ours: readonly Ip4[], peer: Ip4): Ip4 {
  const distance = (ip: Ip4) => (ip4ToNumber(ip) ^ ip4ToNumber(peer)) >>> 0;
  return ours.reduce((best, ip) => (distance(ip) < distance(best) ? ip : best));
}

async function listenOn(local: Ip4 | Ip6, port: number): Promise<Socket> {
  const isIp6 = local.includes(':');
  // A rack that powers on sends its requests within milliseconds: the default buffer holds a hundred or two.
  const socket = createSocket({ type: isIp6 ? 'udp6' : 'udp4', ipv6Only: isIp6, recvBufferSize: 4 << 20 });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ address: local, port, exclusive: true }, resolve);
    });
  } catch (error) {
    socket.close();
    const code = (error as NodeJS.ErrnoException).code;
    const hint =
      code === 'EADDRINUSE' ? 'another TFTP server holds it (dnsmasq, tftpd-hpa, atftpd?): stop that one, or set tftp.enabled: false'
      : code === 'EACCES' ? `port ${port} needs root or the capability CAP_NET_BIND_SERVICE`
      : code === 'EADDRNOTAVAIL' ? 'no card of this machine has that address'
      : undefined;
    throw new AppError('PORT_UNAVAILABLE', `TFTP cannot listen on ${isIp6 ? `[${local}]` : local}:${port} (${code})`, hint, error);
  }
  socket.removeAllListeners('error');
  return socket;
}
