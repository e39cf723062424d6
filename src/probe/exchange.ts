// DHCP as a client speaks it: one socket that hears, one that sends by the right card, and all answers to one DISCOVER.
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import type { Ip4 } from '../addr.ts';
import { messageOf } from '../dhcp/options.ts';
import { decodeIfDhcp, encode, macOf, type Packet } from '../dhcp/packet.ts';
import { AppError } from '../errors.ts';
import type { Card } from './card.ts';
import { discoverOf, requestOf, releaseOf, type Pretender } from './firmware.ts';

export interface Heard {
  readonly packet: Packet;
  /** The packet's source address. */
  readonly from: Ip4;
  /** Since the first packet that was sent, in milliseconds. */
  readonly afterMs: number;
}

export interface Discovered {
  readonly heard: readonly Heard[];
  /** How many DISCOVERs went out: a server may answer each. */
  readonly sent: number;
}

export interface Exchange {
  /** Asks for offers and listens the whole time; asks a second time when half of it passed in silence, as a ROM does. */
  discover(timeoutMs: number): Promise<Discovered>;
  /** Takes an offer; the ACK or NAK, or undefined when none came in time. */
  request(address: Ip4, server: Ip4, timeoutMs: number): Promise<Packet | undefined>;
  /** Gives the lease back; no server answers that. `server` must be on the card's link. */
  release(address: Ip4, server: Ip4): Promise<void>;
  close(): Promise<void>;
}

const SERVER_PORT = 67;
const CLIENT_PORT = 68;
const BROADCAST: Ip4 = '255.255.255.255';

const HINTS: Readonly<Record<string, string>> = {
  EACCES: 'port 68 needs root or CAP_NET_BIND_SERVICE: run it with sudo',
  EADDRINUSE: 'a DHCP client (dhclient, udhcpc, NetworkManager) holds port 68 alone: `ss -ulpn sport = :68` names it; stop it for the time of the probe',
};

/**
 * 0.0.0.0:68 hears what is sent to 255.255.255.255; the second socket, bound to the card's own address, sends broadcasts out of that card
 * whatever the default route is (TRAPS 3), and hears what comes to that address. PORT_UNAVAILABLE when port 68 cannot be had.
 */
export async function openExchange(card: Card, who: Pretender): Promise<Exchange> {
  const hearing = await bind('0.0.0.0');
  const sending = await bind(card.addresses[0].address).catch(async (error: unknown) => {
    await closed(hearing);
    throw error;
  });
  sending.setBroadcast(true);
  let startedAt: number | undefined;
  let take: (heard: Heard) => void = () => {};
  for (const socket of [hearing, sending]) {
    // A late complaint of the network (ICMP unreachable) says nothing about other servers.
    socket.on('error', () => {});
    socket.on('message', (bytes, { address }) => {
      const packet = decodeIfDhcp(bytes);
      if (!packet || packet.op !== 2 || packet.xid !== who.xid || macOf(packet) !== who.mac) return;
      take({ packet, from: address, afterMs: Math.round(performance.now() - (startedAt ?? performance.now())) });
    });
  }
  const send = async (packet: Packet, to: Ip4): Promise<void> => {
    const bytes = encode(packet);
    if (!(bytes instanceof Uint8Array)) throw new AppError('BUG', `the probe's own packet cannot be sent: ${bytes.why}`);
    startedAt ??= performance.now();
    await new Promise<void>((resolve, reject) => {
      sending.send(bytes, SERVER_PORT, to, (error) => {
        if (!error) return resolve();
        reject(new AppError('PROBE_FAILED', `nothing could be sent out of ${card.name}: ${(error as NodeJS.ErrnoException).code ?? error.message}`, `is it up, and does a firewall of this machine let UDP 68 -> 67 out? \`ip link show ${card.name}\`, \`nft list ruleset\``, error));
      });
    });
  };
  const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

  return {
    async discover(timeoutMs) {
      const heard: Heard[] = [];
      let sent = 1;
      take = (one) => void (messageOf(one.packet.options) === 'offer' && heard.push(one));
      await send(discoverOf(who), BROADCAST);
      await pause(timeoutMs / 2);
      if (heard.length === 0) {
        // The first packet after a link comes up is often lost (spanning tree, PortFast off).
        await send(discoverOf(who), BROADCAST);
        sent++;
      }
      await pause(timeoutMs / 2);
      take = () => {};
      return { heard, sent };
    },
    async request(address, server, timeoutMs) {
      const answered = new Promise<Packet>((resolve) => {
        take = ({ packet }) => {
          const type = messageOf(packet.options);
          if (type === 'ack' || type === 'nak') resolve(packet);
        };
      });
      await send(requestOf(who, address, server), BROADCAST);
      const answer = await Promise.race([answered, pause(timeoutMs).then(() => undefined)]);
      take = () => {};
      return answer;
    },
    release: (address, server) => send(releaseOf(who, address, server), server),
    async close() {
      await Promise.all([closed(hearing), closed(sending)]);
    },
  };
}

async function bind(address: Ip4): Promise<Socket> {
  // Shared, so that both of ours fit, and beside a DHCP client that shares as well: the kernel gives each a copy of a broadcast.
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  try {
    socket.bind(CLIENT_PORT, address);
    await once(socket, 'listening');
    return socket;
  } catch (error) {
    await closed(socket);
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    throw new AppError('PORT_UNAVAILABLE', `the probe cannot listen on ${address}:${CLIENT_PORT} (${code})`, HINTS[code] ?? 'port 68 is where DHCP answers come to', error);
  }
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.close(() => resolve()));
}
