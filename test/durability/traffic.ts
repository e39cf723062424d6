// A crowd of DHCP clients behind one relay: they boot, renew and give back as fast as they are answered, and remember each promise made to them.
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { ip4ToNumber, type Ip4, type Mac } from '../../src/addr.ts';
import { ipOf, ips, message, messageOf, OPT, uint32Of, type MessageName, type Options } from '../../src/dhcp/options.ts';
import { decode, encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { seededRandom } from '../mutate.ts';
import type { Row } from './site.ts';

const SERVER: Ip4 = '127.0.0.1';
const RELAY: Ip4 = '127.0.0.2';

/** An ACK: the address is this machine's at least until then. */
export interface Claim {
  readonly mac: Mac;
  readonly ip: Ip4;
  /** Milliseconds since 1970, counted from when the REQUEST was sent: the server's own figure is later. */
  readonly expiresAt: number;
}

export interface Crowd {
  /** What machines were promised and did not give back, by address. */
  readonly claims: ReadonlyMap<Ip4, Claim>;
  /** What no correct server says; must stay empty. */
  readonly wrongs: readonly string[];
  readonly counts: { acks: number; releases: number; unanswered: number };
  /** Questions that wait for an answer just now. */
  readonly waiting: number;
  /** When each REQUEST left, in milliseconds since 1970, by its transaction id. */
  readonly sentAt: ReadonlyMap<number, number>;
  /** Lets so many machines speak at once. */
  go(atOnce: number): void;
  /** No new questions; resolves when all that had been sent to us is read. */
  halt(): Promise<void>;
  /** One machine at a time until so many ACKs have come. */
  acks(count: number, atOnce: number): Promise<void>;
  /** What the server says now of an address that it promised: `ack`, `nak` or nothing, after three tries. */
  confirm(claim: Pick<Claim, 'mac' | 'ip'>, how: 'renew' | 'init-reboot'): Promise<MessageName | undefined>;
  close(): Promise<void>;
}

export interface CrowdOptions {
  readonly machines: number;
  readonly seed: number;
  /** How often, of ten times, a machine with an address gives it back instead of renewing it; default 1. */
  readonly releases?: number;
}

/** One question of a machine. */
interface Question {
  readonly mac: Mac;
  readonly sentAt: number;
  /** How often the machine had given its address back by then. */
  readonly releases: number;
  readonly resolve: (reply: Packet | undefined) => void;
}

const PATIENCE_MS = 1_000;

export async function openCrowd({ machines, seed, releases = 1 }: CrowdOptions): Promise<Crowd> {
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  socket.bind(67, RELAY);
  await once(socket, 'listening');
  socket.setRecvBufferSize(4 << 20);
  const random = seededRandom(seed);
  const claims = new Map<Ip4, Claim>();
  const ipOfMac = new Map<Mac, Ip4>();
  const releasesOf = new Map<Mac, number>();
  const questions = new Map<number, Question>();
  const sentAt = new Map<number, number>();
  const wrongs: string[] = [];
  const counts = { acks: 0, releases: 0, unanswered: 0 };
  const idle = Array.from({ length: machines }, (_, n): Mac => `02:00:${[n >>> 24, n >>> 16, n >>> 8, n].map((byte) => (byte & 255).toString(16).padStart(2, '0')).join(':')}`);
  let nextXid = 1;
  let running = false;
  let onAck: () => void = () => {};
  let workers: Promise<void>[] = [];

  socket.on('message', (bytes) => {
    const reply = decode(bytes);
    const question = questions.get(reply.xid);
    if (!question) return;
    // Even if nobody waits for it any more: it was promised.
    if (messageOf(reply.options) === 'ack') promised(question, reply);
    question.resolve(reply);
  });

  function promised({ mac, sentAt: at, releases: before }: Question, { yiaddr: ip, options }: Packet): void {
    counts.acks++;
    if ((releasesOf.get(mac) ?? 0) !== before) return;
    const other = claims.get(ip);
    if (other && other.mac !== mac && other.expiresAt > Date.now()) wrongs.push(`${ip} was given to ${mac} while ${other.mac} has it`);
    drop(mac);
    claims.set(ip, { mac, ip, expiresAt: at + (uint32Of(options, OPT.leaseTime) ?? 0) * 1000 });
    ipOfMac.set(mac, ip);
    onAck();
  }

  function drop(mac: Mac): void {
    const ip = ipOfMac.get(mac);
    ipOfMac.delete(mac);
    if (ip !== undefined && claims.get(ip)?.mac === mac) claims.delete(ip);
  }

  function send(mac: Mac, type: MessageName, more: readonly [number, Uint8Array][], ciaddr: Ip4 = NO_IP): number {
    const options: Options = new Map([[OPT.messageType, message(type)], ...more]);
    const chaddr = Uint8Array.from([...mac.split(':').map((pair) => parseInt(pair, 16)), ...new Uint8Array(10)]);
    const xid = nextXid++;
    sentAt.set(xid, Date.now());
    socket.send(encode({ op: 1, htype: 1, hlen: 6, hops: 1, xid, secs: 0, flags: 0, ciaddr, yiaddr: NO_IP, siaddr: NO_IP, giaddr: RELAY, chaddr, sname: '', file: '', options }) as Uint8Array, 67, SERVER);
    return xid;
  }

  function ask(mac: Mac, type: MessageName, more: readonly [number, Uint8Array][], ciaddr?: Ip4): Promise<Packet | undefined> {
    return new Promise((resolve) => {
      const xid = send(mac, type, more, ciaddr);
      const timer = setTimeout(() => {
        counts.unanswered++;
        resolve(undefined);
      }, PATIENCE_MS);
      const answered = (reply: Packet | undefined): void => {
        clearTimeout(timer);
        questions.delete(xid);
        resolve(reply);
      };
      questions.set(xid, { mac, sentAt: sentAt.get(xid)!, releases: releasesOf.get(mac) ?? 0, resolve: answered });
    });
  }

  const request = (mac: Mac, ip: Ip4, how: 'renew' | 'init-reboot') => (how === 'renew' ? ask(mac, 'request', [], ip) : ask(mac, 'request', [[OPT.requestedIp, ips(ip)]]));

  async function act(mac: Mac): Promise<void> {
    const ip = ipOfMac.get(mac);
    if (ip === undefined) {
      const offer = await ask(mac, 'discover', []);
      if (!offer || !running) return;
      await ask(mac, 'request', [[OPT.requestedIp, ips(offer.yiaddr)], [OPT.serverId, ips(ipOf(offer.options, OPT.serverId)!)]]);
      return;
    }
    if (random() * 10 < releases) {
      counts.releases++;
      releasesOf.set(mac, (releasesOf.get(mac) ?? 0) + 1);
      drop(mac);
      send(mac, 'release', [[OPT.serverId, ips(SERVER)]], ip);
      return;
    }
    const reply = await request(mac, ip, random() < 0.8 ? 'renew' : 'init-reboot');
    if (reply && messageOf(reply.options) === 'nak') wrongs.push(`${mac} was refused ${ip}, which it was promised`);
  }

  async function work(): Promise<void> {
    while (running) {
      const at = Math.floor(random() * idle.length);
      const mac = idle[at]!;
      idle[at] = idle.at(-1)!;
      idle.pop();
      await act(mac);
      idle.push(mac);
      // A machine that gives back waits for nobody: without this the loop would never turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  const crowd: Crowd = {
    claims,
    wrongs,
    counts,
    sentAt,
    get waiting() {
      return questions.size;
    },
    go(atOnce) {
      running = true;
      workers = Array.from({ length: atOnce }, work);
    },
    async halt() {
      running = false;
      // What the server sent is in our socket's buffer by now; one turn of the loop reads 32 datagrams at most.
      for (let quiet = 0, before = -1; quiet < 3; quiet = counts.acks === before ? quiet + 1 : 0) {
        before = counts.acks;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      for (const { resolve } of [...questions.values()]) resolve(undefined);
      await Promise.all(workers);
    },
    async acks(count, atOnce) {
      const wanted = counts.acks + count;
      await new Promise<void>((resolve) => {
        onAck = () => void (counts.acks >= wanted && resolve());
        crowd.go(atOnce);
      });
      onAck = () => {};
      await crowd.halt();
    },
    async confirm({ mac, ip }, how) {
      for (let tries = 0; tries < 3; tries++) {
        const reply = await request(mac, ip, how);
        if (reply && (reply.yiaddr === ip || messageOf(reply.options) === 'nak')) return messageOf(reply.options);
      }
      return undefined;
    },
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
  return crowd;
}

/** What the rows of a database lack of these promises, one line each; and addresses that stand there for another. */
export function brokenPromises(claims: Iterable<Claim>, rows: readonly Row[]): string[] {
  const byIp = new Map(rows.map((row) => [row.ip, row]));
  return [...claims].flatMap(({ ip, mac, expiresAt }) => {
    const row = byIp.get(ip);
    if (!row) return [`${ip} of ${mac} is lost`];
    if (row.mac !== mac) return [`${ip} of ${mac} stands there for ${row.mac}`];
    return row.expiresAt < expiresAt ? [`${ip} of ${mac} ends ${expiresAt - row.expiresAt} ms too early`] : [];
  }).sort((a, b) => ip4ToNumber(a.split(' ')[0]!) - ip4ToNumber(b.split(' ')[0]!));
}
