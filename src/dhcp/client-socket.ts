// A card's port 68: where the lookout speaks as a client would. Opened before root is given up, and kept.
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import type { Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import { openDeviceSocket } from '../net/device-socket.ts';
import { inheritedSocket } from '../net/inherited.ts';

export interface ClientSocket {
  /** Why port 68 could not be had (an errno code): answers then come to port 67, as to a relay (giaddr is our address). */
  readonly asRelay?: string;
  /** Rejects when the kernel does not take it: card down, no route. */
  send(bytes: Uint8Array, to: Ip4, port: number): Promise<void>;
  close(): Promise<void>;
}

const CLIENT_PORT = 68;
/** Another program has the port alone; or we never were root, as under systemd's socket activation. */
const WITHOUT_THE_PORT = ['EADDRINUSE', 'EACCES', 'EPERM'];

/** PORT_UNAVAILABLE when the card or our address on it is not there. `take` gets what comes in and who sent it. */
export async function openClientSocket(link: string, serverIp: Ip4, take: (bytes: Uint8Array, from: Ip4) => void): Promise<ClientSocket> {
  const { sockets, asRelay } = await open(link, serverIp);
  for (const socket of sockets) {
    // A late complaint of the network says nothing about other servers.
    socket.on('error', () => {});
    socket.on('message', (bytes, { address }) => take(bytes, address));
    socket.setBroadcast(true);
    socket.unref();
  }
  const [sending] = sockets;
  return {
    ...(asRelay ? { asRelay } : {}),
    send: (bytes, to, port) => new Promise((resolve, reject) => sending.send(bytes, port, to, (error) => (error ? reject(error) : resolve()))),
    close: () => closed(sockets),
  };
}

/** The first one sends. */
async function open(link: string, serverIp: Ip4): Promise<{ readonly sockets: readonly [Socket, ...Socket[]]; readonly asRelay?: string }> {
  try {
    return { sockets: await openOnPort68(link, serverIp) };
  } catch (error) {
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    if (WITHOUT_THE_PORT.includes(code)) return { sockets: [await bound(serverIp, 0)], asRelay: code };
    throw new AppError('PORT_UNAVAILABLE', `dhcp: cannot look for other DHCP servers on ${link} from ${serverIp}:${CLIENT_PORT} (${code})`, `is the card there, and is ${serverIp} its address? \`ip address\``, error);
  }
}

/** One socket of the card where that can be had; else one that sends by the card that holds the address, and one that hears broadcasts (TRAPS 3). */
async function openOnPort68(link: string, serverIp: Ip4): Promise<readonly [Socket, ...Socket[]]> {
  const device = inheritedSocket(`client-${link}`) ?? (await openDeviceSocket(link, CLIENT_PORT));
  if (device) return [device.socket];
  const sending = await bound(serverIp, CLIENT_PORT);
  try {
    return [sending, await bound('0.0.0.0', CLIENT_PORT)];
  } catch (error) {
    await closed([sending]);
    throw error;
  }
}

async function bound(address: Ip4, port: number): Promise<Socket> {
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  try {
    socket.bind(port, address);
    await once(socket, 'listening');
    return socket;
  } catch (error) {
    await closed([socket]);
    throw error;
  }
}

async function closed(sockets: readonly Socket[]): Promise<void> {
  await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
}
