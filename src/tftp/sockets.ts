// The TFTP server's listening sockets: one for each address of ours, or one of a card that systemd opened. Bound before root is given up.
import { createSocket, type Socket } from 'node:dgram';
import { ip4ToNumber, type Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import { inheritedSocket } from '../net/inherited.ts';

export interface TftpListener {
  readonly socket: Socket;
  /** Our own address that this peer asked. */
  readonly localFor: (peer: Ip4) => Ip4;
}

export interface TftpSockets {
  readonly listeners: readonly TftpListener[];
  close(): Promise<void>;
}

export interface TftpPlaces {
  /** Our own addresses on the boot LANs; never 0.0.0.0, an answer must come from the address that was asked. */
  readonly listen: readonly Ip4[];
  /** Cards whose socket systemd may have opened (`tftp-<name>`): it stands in for their addresses of `listen`. */
  readonly links?: readonly { readonly name: string; readonly serverIps: readonly Ip4[] }[];
  /** Default 69. */
  readonly port?: number;
}

/** PORT_UNAVAILABLE when one address cannot be had; then none is. */
export async function bindTftp({ listen, links = [], port = 69 }: TftpPlaces): Promise<TftpSockets> {
  const listeners: TftpListener[] = [];
  const inherited = new Set<Ip4>();
  const close = async (): Promise<void> => {
    await Promise.all(listeners.splice(0).map(({ socket }) => new Promise<void>((resolve) => socket.close(resolve))));
  };
  try {
    for (const { name, serverIps } of links) {
      const found = port === 69 && serverIps.length > 0 ? inheritedSocket(`tftp-${name}`) : undefined;
      if (!found) continue;
      serverIps.forEach((local) => inherited.add(local));
      listeners.push({ socket: found.socket, localFor: (peer) => nearest(serverIps, peer) });
    }
    for (const local of listen) {
      if (!inherited.has(local)) listeners.push({ socket: await listenOn(local, port), localFor: () => local });
    }
  } catch (error) {
    await close();
    throw error;
  }
  // An ICMP error for a refusal that nobody awaits any more must not end the daemon.
  for (const { socket } of listeners) socket.on('error', () => {});
  return { listeners, close };
}

/**
 * A socket that is bound to a card does not tell which address of it was asked. A card has one, nearly always; of several it is the one in the
 * peer's subnet, which shares the most leading bits with it.
 */
function nearest(ours: readonly Ip4[], peer: Ip4): Ip4 {
  const distance = (ip: Ip4) => (ip4ToNumber(ip) ^ ip4ToNumber(peer)) >>> 0;
  return ours.reduce((best, ip) => (distance(ip) < distance(best) ? ip : best));
}

async function listenOn(local: Ip4, port: number): Promise<Socket> {
  // A rack that powers on sends its requests within milliseconds: the default buffer holds a hundred or two.
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 });
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
    throw new AppError('PORT_UNAVAILABLE', `TFTP cannot listen on ${local}:${port} (${code})`, hint, error);
  }
  socket.removeAllListeners('error');
  return socket;
}
