// A simulated machine for tests of the daemon: it speaks DHCP through a relay's socket, TFTP and HTTP from its own loopback address.
// Real sockets and a real daemon in one process; whole machines with real ROMs are in test/e2e.
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { parseMac, type Ip4, type Mac } from '../../src/addr.ts';
import { ipOf, ips, message, messageOf, OPT, subOptions, text, textOf, uint16s, uint8, userClasses, type MessageName, type Options } from '../../src/dhcp/options.ts';
import { decode, encode, macOf, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { decodeTftp, encodeTftp } from '../../src/tftp/packet.ts';

/** Where the daemon listens and where the relay of all simulated machines is. */
export const SERVER_IP: Ip4 = '127.0.0.1';
const RELAY_IP: Ip4 = '127.0.0.2';

export type Kind = 'rom' | 'uefi' | 'uefi-http' | 'ipxe' | 'ipxe-uefi' | 'ipxe-without-http' | 'initrd' | 'os';

export interface Answered {
  readonly status: number;
  readonly body: Buffer;
  readonly text: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** The relay that all machines of one test file share; close it at the end. */
export async function createRelay(): Promise<{ exchange(packet: Packet, timeoutMs?: number): Promise<Packet | undefined>; close(): Promise<void> }> {
  const socket: Socket = createSocket({ type: 'udp4', reuseAddr: true });
  socket.bind(67, RELAY_IP);
  await once(socket, 'listening');
  const waiting = new Map<number, (packet: Packet) => void>();
  socket.on('message', (bytes) => {
    const reply = decode(bytes);
    waiting.get(reply.xid)?.(reply);
  });
  /** When each machine's budget of packets is whole again: the server takes 10 at once and 5 a second, and real firmware sends far fewer. */
  const wholeAt = new Map<string, number>();
  const pace = async (mac: string): Promise<void> => {
    const whole = Math.max(wholeAt.get(mac) ?? 0, Date.now()) + 210;
    wholeAt.set(mac, whole);
    const early = whole - 9 * 210 - Date.now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
  };
  return {
    async exchange(packet, timeoutMs = 2_000) {
      await pace(macOf(packet) ?? '');
      const bytes = encode({ ...packet, giaddr: RELAY_IP, hops: 1 });
      if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
      return new Promise((resolve) => {
        const done = (reply: Packet | undefined): void => {
          clearTimeout(timer);
          waiting.delete(packet.xid);
          resolve(reply);
        };
        const timer = setTimeout(() => done(undefined), timeoutMs);
        waiting.set(packet.xid, done);
        socket.send(bytes, 67, SERVER_IP);
      });
    },
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

export type Relay = Awaited<ReturnType<typeof createRelay>>;

let nextXid = 1;

export function createMachine(relay: Relay, mac: Mac, httpPort: number) {
  const chaddr = Uint8Array.from([...mac.split(':').map((pair) => parseInt(pair, 16)), ...new Array<number>(10).fill(0)]);
  let ip: Ip4 | undefined;

  const packet = (type: MessageName, kind: Kind, more: readonly [number, Uint8Array][]): Packet => {
    const options: Options = new Map([[OPT.messageType, message(type)], ...identity(kind), ...more]);
    return { op: 1, htype: 1, hlen: 6, hops: 0, xid: nextXid++, secs: 0, flags: 0, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, giaddr: NO_IP, chaddr, sname: '', file: '', options };
  };

  const self = {
    mac: parseMac(mac)!,
    get ip(): Ip4 {
      return ip ?? '0.0.0.0';
    },
    /** Later requests come from here, though no lease was taken. */
    pretend(address: Ip4): void {
      ip = address;
    },
    discover: (kind: Kind, timeoutMs?: number) => relay.exchange(packet('discover', kind, []), timeoutMs),
    async request(kind: Kind, offer: Packet): Promise<Packet | undefined> {
      const server = ipOf(offer.options, OPT.serverId) ?? SERVER_IP;
      const reply = await relay.exchange(packet('request', kind, [[OPT.requestedIp, ips(offer.yiaddr)], [OPT.serverId, ips(server)]]));
      if (reply && messageOf(reply.options) === 'ack') ip = reply.yiaddr;
      return reply;
    },
    /** Takes the address that another server has for it, which we hear of by its REQUEST to that server. */
    async takeElsewhere(kind: Kind, address: Ip4, server: Ip4): Promise<void> {
      // No answer is the right one.
      await relay.exchange(packet('request', kind, [[OPT.requestedIp, ips(address)], [OPT.serverId, ips(server)]]), 300);
      ip = address;
    },
    /** Its question to port 4011, which firmware sends once it has an address. */
    bootServer: (kind: Kind) => exchangeFrom(self.ip, { ...packet('request', kind, []), ciaddr: self.ip }),
    /** DISCOVER, OFFER, REQUEST, ACK; answers the ACK. */
    async dora(kind: Kind): Promise<Packet> {
      const offer = await self.discover(kind);
      if (!offer) throw new Error(`no offer for ${mac}`);
      const ack = await self.request(kind, offer);
      if (!ack || messageOf(ack.options) !== 'ack') throw new Error(`no ACK for ${mac}`);
      return ack;
    },
    tftp: (name: string) => fetchTftp(name, self.ip),
    http: (method: string, path: string, options: { body?: string | Buffer; headers?: Record<string, string> } = {}): Promise<Answered> =>
      new Promise((resolve, reject) => {
        const url = path.startsWith('http') ? new URL(path) : new URL(path, `http://${SERVER_IP}:${httpPort}`);
        const request = httpRequest(url, { method, headers: options.headers, localAddress: self.ip, agent: false }, (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('end', () => {
            const body = Buffer.concat(chunks);
            resolve({ status: response.statusCode ?? 0, body, text: body.toString('utf8'), headers: response.headers });
          });
          response.on('error', reject);
        });
        request.on('error', reject);
        request.end(options.body);
      }),
  };
  return self;
}

export type Machine = ReturnType<typeof createMachine>;

export function bootFileOf(reply: Packet): string {
  return textOf(reply.options, OPT.bootFile) ?? reply.file;
}

function identity(kind: Kind): [number, Uint8Array][] {
  const boots = (by: string, type: number): [number, Uint8Array][] => [
    [OPT.vendorClass, text(`${by}:Arch:${String(type).padStart(5, '0')}:UNDI:003016`)],
    [OPT.clientArch, uint16s(type)],
  ];
  const pxe = boots('PXEClient', 0);
  switch (kind) {
    case 'rom':
      return pxe;
    case 'uefi':
      return boots('PXEClient', 7);
    case 'uefi-http':
      return boots('HTTPClient', 16);
    case 'ipxe-uefi':
      return [...boots('PXEClient', 7), [OPT.userClass, userClasses('iPXE')], [OPT.ipxe, subOptions([[19, uint8(1)], [36, uint8(1)]])]];
    case 'ipxe':
      return [...pxe, [OPT.userClass, userClasses('iPXE')], [OPT.ipxe, subOptions([[19, uint8(1)], [24, uint8(1)]])]];
    case 'ipxe-without-http':
      return [...pxe, [OPT.userClass, userClasses('iPXE')], [OPT.ipxe, subOptions([[24, uint8(1)]])]];
    case 'initrd':
      return [[OPT.vendorClass, text('rackseed-initrd')]];
    case 'os':
      return [];
  }
}

/** To port 4011 from the machine's own address, where the answer comes back to; undefined when there is none. */
async function exchangeFrom(address: Ip4, question: Packet, timeoutMs = 2_000): Promise<Packet | undefined> {
  const socket = createSocket('udp4');
  socket.bind(0, address);
  await once(socket, 'listening');
  try {
    const bytes = encode(question);
    if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
    socket.send(bytes, 4011, SERVER_IP);
    const signal = AbortSignal.timeout(timeoutMs);
    const [answer] = (await once(socket, 'message', { signal }).catch(() => [])) as [Buffer?];
    return answer && decode(answer);
  } finally {
    socket.close();
  }
}

/** A lock-step TFTP read from one address of this machine. Throws with the server's own words on an ERROR. */
async function fetchTftp(name: string, from: Ip4): Promise<Buffer> {
  const socket = createSocket('udp4');
  socket.bind(0, from);
  await once(socket, 'listening');
  try {
    const chunks: Uint8Array[] = [];
    socket.send(encodeTftp({ kind: 'rrq', file: name, mode: 'octet', options: new Map() }), 69, SERVER_IP);
    for (;;) {
      const [bytes, peer] = (await once(socket, 'message', { signal: AbortSignal.timeout(5_000) })) as [Buffer, { port: number; address: string }];
      const packet = decodeTftp(bytes);
      if (packet.kind === 'error') throw new Error(`TFTP ERROR ${packet.code}: ${packet.message}`);
      if (packet.kind !== 'data') throw new Error(`unexpected TFTP ${packet.kind}`);
      if (packet.block === chunks.length + 1) chunks.push(packet.data);
      // Awaited, because a socket that is closed at once never sends its last ACK.
      await new Promise((sent) => socket.send(encodeTftp({ kind: 'ack', block: packet.block }), peer.port, peer.address, sent));
      if (packet.data.length < 512) return Buffer.concat(chunks);
    }
  } finally {
    socket.close();
  }
}
