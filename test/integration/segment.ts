// Machines that are made up, on a real link: any MAC and address, DHCP by raw frames, ARP for the addresses that they have taken.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Ip4, Mac } from '../../src/addr.ts';
import { ipOf, ips, message, messageOf, OPT, type MessageName } from '../../src/dhcp/options.ts';
import { decode, encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import type { Namespace } from '../../src/lab/network.ts';

export interface Heard {
  readonly toMac: Mac;
  readonly from: Ip4;
  readonly fromPort: number;
  readonly to: Ip4;
  readonly toPort: number;
  readonly bytes: Uint8Array;
}

export interface Way {
  /** The sender's address; default 0.0.0.0, as of a machine that has none. */
  readonly from?: Ip4;
  readonly fromPort?: number;
  /** Default: everybody. */
  readonly to?: Ip4;
  readonly toPort?: number;
}

export interface Segment {
  /** Sends one datagram as the machine with this MAC. */
  send(mac: Mac, bytes: Uint8Array, way?: Way): void;
  /** Resolves when all that was sent is on the link. */
  sent(): Promise<void>;
  /** Sends it and waits for the answer with its transaction id; undefined when none came in time. */
  ask(packet: Packet, way?: Way, timeoutMs?: number): Promise<{ readonly packet: Packet; readonly heard: Heard } | undefined>;
  /** No answer to this transaction is waited for any more: it counts as none. */
  forget(xid: number): void;
  /** From now on this machine answers ARP for the address. */
  claim(ip: Ip4, mac: Mac): void;
  disown(ip: Ip4): void;
  /** Every UDP datagram on the link that did not come from here. */
  onDatagram(take: (heard: Heard) => void): void;
  close(): Promise<void>;
}

const EVERYBODY: Mac = 'ff:ff:ff:ff:ff:ff';
const PUMP = new URL('wire.py', import.meta.url).pathname;

/** On the card of a namespace, which needs no address. */
export async function openSegment(ns: Namespace, card: string): Promise<Segment> {
  const [program, ...args] = ns.wrap(dieWithUs(['python3', PUMP, card]));
  const pump = spawn(program!, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  // It ends when we close its input; what is written after that is lost, as on any wire.
  pump.stdin.on('error', () => {});
  const claimed = new Map<Ip4, Mac>();
  const learned = new Map<Ip4, Mac>();
  const asked = new Map<number, (answer?: { readonly packet: Packet; readonly heard: Heard }) => void>();
  const marks: (() => void)[] = [];
  const takers: ((heard: Heard) => void)[] = [];
  let rest = Buffer.alloc(0);

  const write = (frame: Uint8Array): void => {
    const head = Buffer.alloc(2);
    head.writeUInt16BE(frame.length);
    pump.stdin.write(Buffer.concat([head, frame]));
  };
  const sent = () => new Promise<void>((resolve) => {
    marks.push(resolve);
    write(new Uint8Array());
  });

  function take(frame: Buffer): void {
    const type = frame.readUInt16BE(12);
    if (type === 0x0806) return onArp(frame);
    if (type !== 0x0800 || frame.length < 42 || frame[23] !== 17) return;
    const at = 14 + (frame[14]! & 15) * 4;
    const heard: Heard = {
      toMac: macAt(frame, 0),
      from: ipAt(frame, 26),
      to: ipAt(frame, 30),
      fromPort: frame.readUInt16BE(at),
      toPort: frame.readUInt16BE(at + 2),
      bytes: Uint8Array.from(frame.subarray(at + 8, at + frame.readUInt16BE(at + 4))),
    };
    learned.set(heard.from, macAt(frame, 6));
    for (const taker of takers) taker(heard);
    if (heard.bytes.length < 240 || heard.bytes[0] !== 2) return;
    const packet = decode(heard.bytes);
    asked.get(packet.xid)?.({ packet, heard });
  }

  function onArp(frame: Buffer): void {
    learned.set(ipAt(frame, 28), macAt(frame, 22));
    const mac = claimed.get(ipAt(frame, 38));
    if (frame.readUInt16BE(20) !== 1 || mac === undefined) return;
    const reply = Buffer.concat([frame.subarray(6, 12), bytesOfMac(mac), frame.subarray(12, 20), Uint8Array.of(0, 2), bytesOfMac(mac), frame.subarray(38, 42), frame.subarray(22, 32)]);
    write(reply);
  }

  pump.stdout.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    let at = 0;
    while (rest.length - at >= 2) {
      const length = rest.readUInt16BE(at);
      if (rest.length - at - 2 < length) break;
      if (length === 0) marks.shift()?.();
      else take(rest.subarray(at + 2, at + 2 + length));
      at += 2 + length;
    }
    rest = rest.subarray(at);
  });
  const segment: Segment = {
    send(mac, bytes, { from = NO_IP, fromPort = 68, to = '255.255.255.255', toPort = 67 } = {}) {
      write(frameOf(mac, learned.get(to) ?? EVERYBODY, from, fromPort, to, toPort, bytes));
    },
    sent,
    ask(packet, way, timeoutMs = 10_000) {
      const bytes = encode(packet);
      if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
      return new Promise((resolve) => {
        const timer = setTimeout(done, timeoutMs);
        function done(answer?: { readonly packet: Packet; readonly heard: Heard }): void {
          clearTimeout(timer);
          asked.delete(packet.xid);
          resolve(answer);
        }
        asked.set(packet.xid, done);
        segment.send(macAt(Buffer.from(packet.chaddr), 0), bytes, way);
      });
    },
    forget: (xid) => asked.get(xid)?.(),
    claim: (ip, mac) => void claimed.set(ip, mac),
    disown: (ip) => void claimed.delete(ip),
    onDatagram: (taker) => void takers.push(taker),
    async close() {
      if (pump.exitCode !== null || pump.signalCode !== null) return;
      const gone = once(pump, 'exit');
      pump.stdin.end();
      await gone;
    },
  };
  // The pump's first word: its socket is there.
  await new Promise<void>((resolve, reject) => {
    marks.push(resolve);
    pump.once('exit', (code) => reject(new Error(`the pump on ${card} ended: ${code}`)));
  });
  return segment;
}

export type Option = readonly [tag: number, value: Uint8Array];

export interface Machine {
  readonly mac: Mac;
  /** Its address, once it has one by `dora`. */
  readonly ip: Ip4 | undefined;
  packet(type: MessageName, options?: readonly Option[], more?: Partial<Packet>): Packet;
  discover(timeoutMs?: number, options?: readonly Option[]): Promise<Packet | undefined>;
  /** The answer to its REQUEST in state SELECTING. */
  select(offer: Packet, timeoutMs?: number): Promise<Packet | undefined>;
  /** DISCOVER and REQUEST, each sent again after `waitMs` as a client does; answers the ACK and how many packets it took. */
  dora(tries?: number, waitMs?: number): Promise<{ readonly ack: Packet; readonly sent: number }>;
}

let nextXid = 0x5000_0000;

/** `own` goes into each of its packets. */
export function machineOn(segment: Segment, mac: Mac, own: readonly Option[] = []): Machine {
  const chaddr = Uint8Array.of(...bytesOfMac(mac), ...new Uint8Array(10));
  let ip: Ip4 | undefined;
  const machine: Machine = {
    mac,
    get ip() {
      return ip;
    },
    packet: (type, options = [], more = {}) => ({
      op: 1, htype: 1, hlen: 6, hops: 0, xid: nextXid++, secs: 0, flags: 0, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, giaddr: NO_IP, chaddr, sname: '', file: '',
      options: new Map([[OPT.messageType, message(type)], ...own, ...options]),
      ...more,
    }),
    discover: async (timeoutMs, options) => (await segment.ask(machine.packet('discover', options), {}, timeoutMs))?.packet,
    async select(offer, timeoutMs) {
      const server = ipOf(offer.options, OPT.serverId)!;
      const answer = await segment.ask(machine.packet('request', [[OPT.serverId, ips(server)], [OPT.requestedIp, ips(offer.yiaddr)]]), {}, timeoutMs);
      if (answer && messageOf(answer.packet.options) === 'ack') segment.claim((ip = answer.packet.yiaddr), mac);
      return answer?.packet;
    },
    async dora(tries = 8, waitMs = 4_000) {
      let sent = 0;
      while (sent < tries) {
        sent++;
        const offer = await machine.discover(waitMs);
        if (!offer) continue;
        for (let again = 0; again < 3; again++) {
          sent++;
          const ack = await machine.select(offer, waitMs);
          if (ack && messageOf(ack.options) === 'ack') return { ack, sent };
          if (ack) break;
        }
      }
      throw new Error(`${mac} got no address with ${sent} packets`);
    },
  };
  return machine;
}

function frameOf(mac: Mac, toMac: Mac, from: Ip4, fromPort: number, to: Ip4, toPort: number, bytes: Uint8Array): Uint8Array {
  const frame = Buffer.alloc(42 + bytes.length);
  frame.set(bytesOfMac(toMac), 0);
  frame.set(bytesOfMac(mac), 6);
  frame.writeUInt16BE(0x0800, 12);
  frame.writeUInt16BE(0x4500, 14);
  frame.writeUInt16BE(28 + bytes.length, 16);
  frame[22] = 64;
  frame[23] = 17;
  frame.set(ips(from), 26);
  frame.set(ips(to), 30);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) sum += frame.readUInt16BE(at);
  sum = (sum & 0xffff) + (sum >>> 16);
  frame.writeUInt16BE(~(sum + (sum >>> 16)) & 0xffff, 24);
  frame.writeUInt16BE(fromPort, 34);
  frame.writeUInt16BE(toPort, 36);
  // The checksum stays 0: none.
  frame.writeUInt16BE(8 + bytes.length, 38);
  frame.set(bytes, 42);
  return frame;
}

function bytesOfMac(mac: Mac): Uint8Array {
  return Uint8Array.from(mac.split(':'), (pair) => Number.parseInt(pair, 16));
}

function macAt(bytes: Buffer, at: number): Mac {
  return bytes.subarray(at, at + 6).toString('hex').match(/../g)!.join(':');
}

function ipAt(bytes: Buffer, at: number): Ip4 {
  return bytes.subarray(at, at + 4).join('.');
}
