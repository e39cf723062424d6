// One exchange, whatever the mode: the Booter's word, the answer on its way, the record of it, and what the log says.
import type { Ip4, Mac } from '../addr.ts';
import type { BootRequest } from '../boot/request.ts';
import type { Answer, Booter } from '../booter.ts';
import type { Log } from '../log.ts';
import type { Counters } from './counters.ts';
import type { Candidate } from './lease.ts';
import { encode, maxBytesFor, type Packet } from './packet.ts';
import { destination, shortenable, type ReplyParts } from './reply.ts';
import type { ServedSubnet } from './subnet.ts';
import type { Ingress, Transport } from './transport.ts';

/** One datagram that is worth an answer. */
export interface Exchange {
  readonly packet: Packet;
  readonly mac: Mac;
  readonly from: Ingress;
  readonly subnet: ServedSubnet;
  readonly request: BootRequest;
}

/** An exchange that the Booter wants answered. */
export interface Wanted extends Exchange {
  readonly answer: Answer;
  readonly candidate: Candidate;
  /** The boot whose stages this exchange is evidence of. */
  readonly bootId: string | undefined;
  readonly parts: ReplyParts;
}

export interface DeskParts {
  /** Port of the HTTP server for machines, on each subnet's serverIp. */
  readonly httpPort: number;
  readonly booter: Booter;
  readonly send: Transport['send'];
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface Desk {
  /** The Booter's word on the machine; undefined when we leave it to others. */
  ask(exchange: Exchange): Promise<Wanted | undefined>;
  /** No packet, because the machine is somebody else's. */
  silent(exchange: Exchange, why: string): void;
  /** A machine that we want to serve and cannot: no packet, and the log says why. */
  refuse(wanted: Wanted, why: string): void;
  /** Shortened if need be; undefined, and the log says so, when it does not fit its client even so. */
  encoded(wanted: Wanted, reply: Packet): Uint8Array | undefined;
  /** False when the kernel did not take it. */
  transmit(wanted: Wanted, reply: Packet, bytes: Uint8Array): Promise<boolean>;
  /** Both of them. */
  send(wanted: Wanted, reply: Packet): Promise<boolean>;
  /** Written behind the answer: the store keeps the order, and a machine must not wait for its record. */
  record(wanted: Wanted, stage: 'discover' | 'offer' | 'lease', said: string | BootRequest): void;
  /** Of strangers one line a minute of each kind: made-up addresses must not fill the log. */
  warn(wanted: Wanted, what: string, why: string): void;
  /** Nodes are what people look for in a log; of strangers there may be thousands. */
  tell(wanted: Wanted, what: string, ip?: Ip4): void;
  /** Our own failure: the first one in a minute is an error in the log. */
  failed(error: unknown): void;
}

export function createDesk(parts: DeskParts, counters: Counters): Desk {
  const { booter, log, now } = parts;
  const warnedAt = new Map<string, number>();

  async function ask(exchange: Exchange): Promise<Wanted | undefined> {
    const { packet, mac, request, subnet } = exchange;
    const answered = await booter.ask(request);
    const { decision, node, boot } = answered;
    if (decision.kind === 'silent') {
      silent(exchange, decision.why);
      return undefined;
    }
    const booting = request.asker !== 'os';
    const candidate: Candidate = { mac, holder: node?.name ?? mac, node, booting };
    const reply: ReplyParts = { packet, request, answer: answered, subnet, httpPort: parts.httpPort };
    return { packet, mac, from: exchange.from, subnet, request, answer: answered, candidate, parts: reply, bootId: booting ? boot?.id : undefined };
  }

  function silent({ mac }: Exchange, why: string): void {
    counters.silent++;
    log.debug({ mac, why }, 'dhcp: silent');
  }

  function refuse(wanted: Wanted, why: string): void {
    counters.refused++;
    warn(wanted, 'dhcp: refused', why);
  }

  function encoded(wanted: Wanted, reply: Packet): Uint8Array | undefined {
    const { packet } = wanted;
    const most = maxBytesFor(packet);
    let bytes = encode(reply, most);
    if (!(bytes instanceof Uint8Array)) {
      const shorter = shortenable(reply, packet);
      bytes = encode(shorter.packet, most, shorter);
    }
    if (bytes instanceof Uint8Array) return bytes;
    refuse(wanted, bytes.why);
    return undefined;
  }

  async function transmit({ packet, from }: Wanted, reply: Packet, bytes: Uint8Array): Promise<boolean> {
    const sent = await parts.send(from.link, from.port, bytes, destination(packet, reply, from));
    if (!sent) counters.unsent++;
    return sent;
  }

  async function send(wanted: Wanted, reply: Packet): Promise<boolean> {
    const bytes = encoded(wanted, reply);
    return bytes !== undefined && transmit(wanted, reply, bytes);
  }

  function record({ bootId }: Wanted, stage: 'discover' | 'offer' | 'lease', said: string | BootRequest): void {
    if (bootId) void booter.seen(bootId, stage, { message: typeof said === 'string' ? said : describe(said) });
  }

  function warn({ mac, candidate: { node } }: Wanted, what: string, why: string): void {
    log[node !== undefined || isFirst(what) ? 'warn' : 'debug']({ mac, node: node?.name, why }, what);
  }

  /** Of its kind, in a minute. */
  function isFirst(what: string): boolean {
    const at = now();
    if (Math.abs(at - (warnedAt.get(what) ?? -Infinity)) < WARN_EVERY_MS) return false;
    warnedAt.set(what, at);
    return true;
  }

  function tell({ mac, candidate, request, answer: { decision } }: Wanted, what: string, ip?: Ip4): void {
    const level = candidate.node ? 'info' : 'debug';
    if (!log.isLevelEnabled(level)) return;
    log[level]({ mac, ip, node: candidate.node?.name, asker: request.asker, decision: decision.kind, ...(decision.kind === 'hold' ? { why: decision.why } : {}) }, what);
  }

  function failed(error: unknown): void {
    counters.failed++;
    log[isFirst('failed') ? 'error' : 'debug']({ err: error }, 'dhcp: datagram not answered');
  }

  return { ask, silent, refuse, encoded, transmit, send, record, warn, tell, failed };
}

const WARN_EVERY_MS = 60_000;

/** What a DISCOVER said of its machine, for people. */
function describe({ asker, arch, firmware, features }: BootRequest): string {
  return [asker, arch, firmware, features && `[${features.join(' ')}]`].filter(Boolean).join(' ');
}
