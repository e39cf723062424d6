// DHCP without sockets: one datagram in, at most one answer out. Asks the Booter, applies the address rules, keeps the leases.
import { subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import type { BootRequest } from '../boot/request.ts';
import type { Answer, Booter } from '../booter.ts';
import { AppError } from '../errors.ts';
import type { Log } from '../log.ts';
import { identify } from './client.ts';
import { noCounts, type Counters } from './counters.ts';
import { chooseAddress, HOLD_MS, judgeRequest, QUARANTINE_MS, stateOf, subnetFor, type Candidate } from './lease.ts';
import type { Ledger } from './ledger.ts';
import { hostNameOf } from './names.ts';
import { ipOf, messageOf, OPT } from './options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, NO_IP, type Packet } from './packet.ts';
import { destination, leaseSecondsFor, renderInform, renderLease, renderNak, renderProxy, shortenable, type ReplyParts } from './reply.ts';
import type { ServedSubnet } from './subnet.ts';
import type { Ingress, Transport } from './transport.ts';

/** What a link that we serve in full mode permits while another DHCP server may be on it. */
export interface LinkWatch {
  permits(link: string): { readonly reservations: boolean; readonly dynamic: boolean; readonly why?: string };
  /** A client chose another server. */
  overheard(link: string, server: Ip4): void;
  /** A question of our own, which the kernel lets us hear. */
  isOwn(packet: Packet): boolean;
}

export interface ResponderParts {
  readonly subnets: readonly ServedSubnet[];
  /** Port of the HTTP server for machines, on each subnet's serverIp. */
  readonly httpPort: number;
  readonly booter: Booter;
  readonly ledger: Ledger;
  /** The node of the current generation that has this card. */
  readonly nodeOf: (mac: Mac) => Node | undefined;
  readonly watch?: LinkWatch;
  readonly send: Transport['send'];
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface Responder {
  /** Resolves when the datagram is dealt with; never rejects. */
  receive(bytes: Uint8Array, from: Ingress): Promise<void>;
  readonly counters: Readonly<Counters>;
}

/** One datagram that is worth an answer. */
interface Exchange {
  readonly packet: Packet;
  readonly mac: Mac;
  readonly from: Ingress;
  readonly subnet: ServedSubnet;
  readonly request: BootRequest;
}

/** An exchange that the Booter wants answered. */
interface Wanted extends Exchange {
  readonly answer: Answer;
  readonly candidate: Candidate;
  /** The boot whose stages this exchange is evidence of. */
  readonly bootId: string | undefined;
  readonly parts: ReplyParts;
}

export function createResponder(parts: ResponderParts): Responder {
  const { subnets, booter, ledger, log, now, watch } = parts;
  const counters = noCounts();
  const warnedAt = new Map<string, number>();
  const ourIps = new Set(subnets.map((subnet) => subnet.serverIp));

  async function answer(packet: Packet, from: Ingress): Promise<void> {
    const mac = macOf(packet);
    const type = messageOf(packet.options);
    if (packet.op !== 1 || mac === undefined || type === undefined || !isCard(mac) || watch?.isOwn(packet)) return void counters.ignored++;
    // Who asks port 4011 has its address: it sends from there.
    const known = from.port === 4011 ? from.from : (parts.nodeOf(mac)?.ip ?? ipOf(packet.options, OPT.requestedIp));
    const subnet = subnetFor(subnets, packet, from, known);
    if (!subnet) return void counters.foreign++;
    const exchange: Exchange = { packet, mac, from, subnet, request: identify(packet, subnet.serve) };
    const permitted = subnet.mode === 'full' && subnet.link !== undefined ? watch?.permits(subnet.link) : undefined;
    if (permitted && !permitted.reservations) return void counters.silent++;
    if (from.port === 4011) return type === 'request' || type === 'inform' ? onBootServerRequest(exchange) : void counters.ignored++;
    if (subnet.mode === 'proxy') return onProxied(exchange);
    switch (type) {
      case 'discover':
        return onDiscover(exchange);
      case 'request':
        return onRequest(exchange);
      case 'inform':
        return onInform(exchange);
      case 'release':
        return onRelease(exchange);
      case 'decline':
        return onDecline(exchange);
      default:
        counters.ignored++;
    }
  }

  async function onDiscover(exchange: Exchange): Promise<void> {
    const wanted = await ask(exchange);
    if (!wanted) return;
    const { candidate, subnet, packet } = wanted;
    record(wanted, 'discover', wanted.request);
    const addresses = ledger.addressesOf(subnet);
    const choice = chooseAddress(addresses, candidate, ipOf(packet.options, OPT.requestedIp));
    if ('why' in choice) return refuse(wanted, choice.why);
    // Nothing may be awaited between the choice and this: two machines that ask at once must not be offered one address.
    addresses.book.hold(choice.ip, { mac: wanted.mac, holder: candidate.holder, until: addresses.now + HOLD_MS });
    const reply = renderLease(wanted.parts, 'offer', choice.ip);
    if (!reply || !(await send(wanted, reply))) return;
    counters.offers++;
    tell(wanted, 'dhcp: offer', choice.ip);
    record(wanted, 'offer', choice.ip);
  }

  async function onRequest(exchange: Exchange): Promise<void> {
    const { packet, mac, subnet, from } = exchange;
    const asked = stateOf(packet);
    if (!asked) return void counters.ignored++;
    if (asked.server && !ourIps.has(asked.server)) {
      // RFC 2131 section 3.1 step 4: the client chose another server, our offer is free again.
      ledger.addressesOf(subnet).book.unhold(parts.nodeOf(mac)?.name ?? mac);
      if (packet.giaddr === NO_IP) watch?.overheard(from.link, asked.server);
      return void counters.silent++;
    }
    const wanted = await ask(exchange);
    if (!wanted) return;
    const { candidate } = wanted;
    const verdict = judgeRequest(ledger.addressesOf(subnet), candidate, asked);
    if (verdict.kind === 'silent') {
      log.debug({ mac, why: verdict.why }, 'dhcp: request left to others');
      return void counters.silent++;
    }
    if (verdict.kind === 'nak') return nak(wanted, verdict.why);
    const { ip } = verdict;
    const reply = renderLease(wanted.parts, 'ack', ip);
    // What cannot be sent must not be written.
    const bytes = reply && encoded(wanted, reply);
    if (!reply || !bytes) return;
    // Durable before the ACK leaves, and the database settles races: the loser gets a NAK.
    const taken = await take(wanted, ip);
    if (taken === 'no') return nak(wanted, `${ip} was taken by another machine`);
    if (taken === 'unknown') return void counters.failed++;
    // Before the ACK: the machine's first TFTP or HTTP request may follow it within a millisecond, known by this address alone.
    if (wanted.bootId) await booter.leased(wanted.bootId, ip, mac);
    if (!(await transmit(wanted, reply, bytes))) return;
    counters.acks++;
    tell(wanted, 'dhcp: ack', ip);
    record(wanted, 'lease', ip);
  }

  /** `unknown`: it could not be written. Then a dynamic address is never acknowledged; a reservation is nobody else's, written or not. */
  async function take({ candidate, packet, subnet }: Wanted, ip: Ip4): Promise<'yes' | 'no' | 'unknown'> {
    const hostname = hostNameOf(packet.options);
    const clientId = packet.options.get(OPT.clientId);
    const details = {
      expiresAt: now() + leaseSecondsFor(packet, subnet) * 1000,
      ...(hostname ? { hostname } : {}),
      ...(clientId && clientId.length <= LONGEST_CLIENT_ID ? { clientId: Buffer.from(clientId).toString('hex') } : {}),
    };
    try {
      return (await ledger.take(subnet, ip, candidate, details)) ? 'yes' : 'no';
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      const reserved = ip === candidate.node?.ip;
      log.error({ mac: candidate.mac, ip, err: error }, reserved ? 'dhcp: lease of a reservation not written' : 'dhcp: lease not written, no answer');
      return reserved ? 'yes' : 'unknown';
    }
  }

  /** RFC 2131 section 4.3.5: the machine has its address from elsewhere and wants the rest. */
  async function onInform(exchange: Exchange): Promise<void> {
    const { packet, subnet } = exchange;
    // Its answer goes to ciaddr: only to addresses of the subnet, or anybody could have us send packets anywhere.
    if (packet.ciaddr === NO_IP || !subnetContains(subnet.subnet, packet.ciaddr)) return void counters.ignored++;
    const wanted = await ask(exchange);
    const reply = wanted && renderInform(wanted.parts);
    if (reply && (await send(wanted, reply))) counters.informs++;
  }

  async function onRelease({ packet, mac }: Exchange): Promise<void> {
    const ip = packet.ciaddr;
    const server = ipOf(packet.options, OPT.serverId);
    if (ip === NO_IP || (server && !ourIps.has(server)) || ledger.leaseAt(ip)?.mac !== mac) return void counters.ignored++;
    await ledger.release(ip, mac);
    counters.releases++;
    log.info({ mac, ip }, 'dhcp: release');
  }

  /** Only the machine that was given the address may say that it is in use: anybody else could take addresses from us one by one. */
  async function onDecline({ packet, mac }: Exchange): Promise<void> {
    const ip = ipOf(packet.options, OPT.requestedIp);
    const server = ipOf(packet.options, OPT.serverId);
    if (!ip || ledger.leaseAt(ip)?.mac !== mac || (server && !ourIps.has(server))) return void counters.ignored++;
    await ledger.quarantine(ip, now() + QUARANTINE_MS);
    counters.declines++;
    log.warn({ mac, ip, hours: QUARANTINE_MS / 3600_000 }, 'dhcp: address declined, another machine uses it');
  }

  /** Port 67 of a proxied subnet: boot fields for a DISCOVER; from a REQUEST to the other server we learn the machine's address. */
  async function onProxied(exchange: Exchange): Promise<void> {
    const { packet, mac, request } = exchange;
    const type = messageOf(packet.options);
    if (type === 'request') {
      const asked = stateOf(packet);
      if (!asked || !parts.nodeOf(mac) || request.asker === 'os') return void counters.silent++;
      const { boot } = await booter.ask(request);
      if (boot) await booter.leased(boot.id, asked.ip, mac);
      return void counters.silent++;
    }
    // Nothing but a machine that boots gets a packet from a proxy.
    if (type !== 'discover' || (request.asker !== 'rom' && request.asker !== 'ipxe')) return void counters.silent++;
    const wanted = await ask(exchange);
    if (!wanted) return;
    record(wanted, 'discover', request);
    const reply = renderProxy(wanted.parts, 'offer');
    if (!reply) return silent(wanted, 'there is nothing to boot for it here');
    if (!(await send(wanted, reply))) return;
    counters.proxied++;
    tell(wanted, 'dhcp: proxy offer');
    record(wanted, 'offer', 'beside another server\'s lease');
  }

  /** Port 4011: a ROM with an address asks the boot server that it chose (PXE 2.1 section 2.2.4). HTTP Boot knows no such port. */
  async function onBootServerRequest(exchange: Exchange): Promise<void> {
    const { request, from, mac, subnet } = exchange;
    const pxe = (request.asker === 'rom' && request.firmware !== 'uefi-http') || request.asker === 'ipxe';
    if (!pxe) return void counters.silent++;
    // The answer goes back to the sender: only into the subnet.
    if (!subnetContains(subnet.subnet, from.from)) return void counters.foreign++;
    const wanted = await ask(exchange);
    if (!wanted) return;
    const reply = renderProxy(wanted.parts, 'ack');
    if (!reply) return silent(wanted, 'there is nothing to boot for it here');
    if (wanted.bootId) await booter.leased(wanted.bootId, from.from, mac);
    if (!(await send(wanted, reply))) return;
    counters.proxied++;
    tell(wanted, 'dhcp: boot server answer', from.from);
    record(wanted, 'offer', 'boot file, port 4011');
  }

  /** The Booter's word on the machine; undefined when we leave it to others. */
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

  /** A machine that we want to serve and cannot: no packet, and the log says why. */
  function refuse(wanted: Wanted, why: string): void {
    counters.refused++;
    warn(wanted, 'dhcp: refused', why);
  }

  async function nak(wanted: Wanted, why: string): Promise<void> {
    warn(wanted, 'dhcp: nak', why);
    if (await send(wanted, renderNak(wanted.packet, wanted.subnet, why))) counters.naks++;
  }

  /** Shortened if need be; undefined, and the log says so, when it does not fit its client even so. */
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

  /** Written behind the answer: the store keeps the order, and a machine must not wait for its record. */
  function record({ bootId }: Wanted, stage: 'discover' | 'offer' | 'lease', said: string | BootRequest): void {
    if (bootId) void booter.seen(bootId, stage, { message: typeof said === 'string' ? said : describe(said) });
  }

  /** Of strangers one line a minute of each kind: made-up addresses must not fill the log. */
  function warn({ mac, candidate: { node } }: Wanted, what: string, why: string): void {
    log[node !== undefined || isFirst(what) ? 'warn' : 'debug']({ mac, node: node?.name, why }, what);
  }

  /** In a minute. */
  function isFirst(what: string): boolean {
    const at = now();
    if (Math.abs(at - (warnedAt.get(what) ?? -Infinity)) < WARN_EVERY_MS) return false;
    warnedAt.set(what, at);
    return true;
  }

  /** Nodes are what people look for in a log; of strangers there may be thousands. */
  function tell({ mac, candidate, request, answer: { decision } }: Wanted, what: string, ip?: Ip4): void {
    const level = candidate.node ? 'info' : 'debug';
    if (!log.isLevelEnabled(level)) return;
    log[level]({ mac, ip, node: candidate.node?.name, asker: request.asker, decision: decision.kind, ...(decision.kind === 'hold' ? { why: decision.why } : {}) }, what);
  }

  return {
    counters,
    /** One catch per datagram: whatever the wire brings, the loop goes on. */
    async receive(bytes, from) {
      counters.received++;
      try {
        await answer(decode(bytes), from);
      } catch (error) {
        if (error instanceof DhcpDecodeError) {
          counters.malformed++;
          log.debug({ why: error.message, bytes: bytes.length }, 'dhcp: malformed datagram');
        } else {
          counters.failed++;
          log[isFirst('failed') ? 'error' : 'debug']({ err: error }, 'dhcp: datagram not answered');
        }
      }
    },
  };
}

const WARN_EVERY_MS = 60_000;
/** What one option holds; longer ones are pieced together (RFC 3396), and nobody means that by a client id. */
const LONGEST_CLIENT_ID = 255;

/** Neither nobody nor a group: no card has such an address (IEEE 802). */
function isCard(mac: Mac): boolean {
  return mac !== '00:00:00:00:00:00' && (Number.parseInt(mac.charAt(1), 16) & 1) === 0;
}

/** What a DISCOVER said of its machine, for people. */
function describe({ asker, arch, firmware, features }: BootRequest): string {
  return [asker, arch, firmware, features && `[${features.join(' ')}]`].filter(Boolean).join(' ');
}
