// The DHCP server: sockets around decode, identify, the Booter, the address rules and the reply.
import type { Logger } from 'pino';
import { formatSubnet, subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { BootRequest } from '../boot/request.ts';
import type { Answer, Booter } from '../booter.ts';
import type { SubnetSettings } from '../config/settings.ts';
import type { LeaseStore } from '../store/leases.ts';
import { identify } from './client.ts';
import { chooseAddress, HOLD_MS, judgeRequest, QUARANTINE_MS, stateOf, subnetFor, type Addresses, type Candidate, type Hold } from './lease.ts';
import { ipOf, messageOf, OPT } from './options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, NO_IP, type Packet } from './packet.ts';
import { destination, renderInform, renderLease, renderNak, type ReplyParts } from './reply.ts';
import { openSockets, type Sockets } from './sockets.ts';

export interface DhcpServerParts {
  readonly subnets: readonly SubnetSettings[];
  /** Port of the HTTP server for machines, on each subnet's serverIp. */
  readonly httpPort: number;
  readonly booter: Booter;
  readonly leases: LeaseStore;
  /** The node that the current generation reserves an address for. */
  readonly reserved: (ip: Ip4) => string | undefined;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface DhcpServer {
  /** PORT_UNAVAILABLE when port 67 or a serverIp cannot be bound; nothing is left open then. */
  start(): Promise<void>;
  /** Stops listening, and waits for the answers under way. */
  stop(): Promise<void>;
  readonly counters: Readonly<Counters>;
}

/** Datagrams since the start, by what became of them. */
export interface Counters {
  received: number;
  /** Not DHCP at all. */
  malformed: number;
  /** DHCP, but not for a server, or of a machine without an Ethernet address. */
  ignored: number;
  /** Of machines that we leave to others. */
  silent: number;
  /** A machine that we want to answer, but cannot. */
  refused: number;
  offers: number;
  acks: number;
  naks: number;
  informs: number;
  releases: number;
  declines: number;
  /** Our own failures. */
  failed: number;
}

/** One datagram that is worth an answer. */
interface Exchange {
  readonly packet: Packet;
  readonly mac: Mac;
  readonly request: BootRequest;
  readonly log: Logger;
}

export function createDhcpServer(parts: DhcpServerParts): DhcpServer {
  const { subnets, booter, leases, log, now } = parts;
  const counters: Counters = { received: 0, malformed: 0, ignored: 0, silent: 0, refused: 0, offers: 0, acks: 0, naks: 0, informs: 0, releases: 0, declines: 0, failed: 0 };
  const holds = new Map<Ip4, Hold>();
  const underWay = new Set<Promise<void>>();
  const isOurs = (ip: Ip4) => subnets.some((subnet) => subnet.serverIp === ip);
  let sockets: Sockets | undefined;

  /** One catch per datagram: whatever the wire brings, the loop goes on. */
  async function receive(bytes: Uint8Array): Promise<void> {
    counters.received++;
    try {
      await answer(decode(bytes));
    } catch (error) {
      if (error instanceof DhcpDecodeError) {
        counters.malformed++;
        log.debug({ why: error.message, bytes: bytes.length }, 'dhcp: malformed datagram');
      } else {
        counters.failed++;
        log.error({ err: error }, 'dhcp: datagram not answered');
      }
    }
  }

  async function answer(packet: Packet): Promise<void> {
    const mac = macOf(packet);
    const type = messageOf(packet.options);
    if (packet.op !== 1 || mac === undefined) return void counters.ignored++;
    const exchange: Exchange = { packet, mac, request: identify(packet), log: log.child({ mac }) };
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
    const known = await ask(exchange);
    if (!known) return;
    const { answer, candidate, subnet, record, parts } = known;
    await record('discover', describe(exchange.request));
    const choice = chooseAddress(await addressesOf(subnet), candidate, ipOf(exchange.packet.options, OPT.requestedIp));
    if ('why' in choice) return refuse(exchange, choice.why);
    // Nothing may be awaited between the choice and this: two machines that ask at once must not be offered one address.
    hold(choice.ip, exchange.mac);
    const reply = renderLease(parts, 'offer', choice.ip);
    if (!reply || !(await send(exchange, subnet, reply))) return;
    counters.offers++;
    exchange.log.info({ ip: choice.ip, node: answer.node?.name, asker: exchange.request.asker, decision: answer.decision.kind }, 'dhcp: offer');
    await record('offer', choice.ip);
  }

  async function onRequest(exchange: Exchange): Promise<void> {
    const { packet, mac } = exchange;
    const asked = stateOf(packet);
    if (!asked) return void counters.ignored++;
    if (asked.server && !isOurs(asked.server)) {
      // RFC 2131 section 3.1 step 4: the client chose another server, our offer is free again.
      forgetHolds(mac);
      exchange.log.debug({ server: asked.server }, 'dhcp: another server was chosen');
      return void counters.silent++;
    }
    const known = await ask(exchange);
    if (!known) return;
    const { answer, candidate, subnet, record, parts } = known;
    const verdict = judgeRequest(await addressesOf(subnet), candidate, asked);
    if (verdict.kind === 'silent') {
      exchange.log.debug({ why: verdict.why }, 'dhcp: request left to others');
      return void counters.silent++;
    }
    if (verdict.kind === 'nak') return refuse(exchange, verdict.why, subnet);
    const { ip } = verdict;
    const reply = renderLease(parts, 'ack', ip);
    if (!reply) return;
    await takeOver(ip, candidate);
    // Durable before the ACK leaves, and the database settles races: the loser gets a NAK.
    const lease = await leases.take({ ip, mac, subnet: formatSubnet(subnet.subnet), expiresAt: now() + subnet.leaseSeconds * 1000 }, now());
    if (!lease) return refuse(exchange, `${ip} was taken by another machine`, subnet);
    forgetHolds(mac);
    // Before the ACK: the machine's first TFTP or HTTP request may follow it within a millisecond, known by this address alone.
    if (known.bootId) await booter.leased(known.bootId, ip, mac);
    if (!(await send(exchange, subnet, reply))) return;
    counters.acks++;
    exchange.log.info({ ip, node: answer.node?.name, asker: exchange.request.asker, decision: answer.decision.kind }, 'dhcp: ack');
    await record('lease', ip);
  }

  /** RFC 2131 section 4.3.5: the machine has its address from elsewhere and wants the rest. */
  async function onInform(exchange: Exchange): Promise<void> {
    // Its answer goes to ciaddr: only to addresses of our own subnets, or anybody could have us send packets anywhere.
    const { ciaddr } = exchange.packet;
    if (!subnets.some(({ subnet }) => ciaddr !== NO_IP && subnetContains(subnet, ciaddr))) return void counters.ignored++;
    const known = await ask(exchange);
    const reply = known && renderInform(known.parts);
    if (reply && (await send(exchange, known.subnet, reply))) counters.informs++;
  }

  async function onRelease({ packet, mac, log }: Exchange): Promise<void> {
    const server = ipOf(packet.options, OPT.serverId);
    if (packet.ciaddr === NO_IP || (server && !isOurs(server))) return void counters.ignored++;
    const lease = await leases.at(packet.ciaddr);
    if (lease?.mac !== mac || lease.expiresAt <= now()) return void counters.ignored++;
    await leases.release(packet.ciaddr, mac);
    counters.releases++;
    log.info({ ip: packet.ciaddr }, 'dhcp: release');
  }

  /** Only the machine that was given the address may say that it is in use: anybody else could take addresses from us one by one. */
  async function onDecline({ packet, mac, log }: Exchange): Promise<void> {
    const ip = ipOf(packet.options, OPT.requestedIp);
    const server = ipOf(packet.options, OPT.serverId);
    const lease = ip && (await leases.at(ip));
    const subnet = ip && subnets.find((entry) => lease && formatSubnet(entry.subnet) === lease.subnet);
    if (!lease || !subnet || lease.mac !== mac || lease.expiresAt <= now() || (server && !isOurs(server))) return void counters.ignored++;
    await leases.decline(ip, lease.subnet, now() + QUARANTINE_MS);
    counters.declines++;
    log.warn({ ip, hours: QUARANTINE_MS / 3600_000 }, 'dhcp: address declined, another machine uses it');
  }

  /** The Booter's word on the machine, and all that follows from it; undefined when we leave it to others. */
  async function ask(exchange: Exchange) {
    const { packet, mac, request } = exchange;
    const answer: Answer = await booter.ask(request);
    const { decision, node, boot } = answer;
    if (decision.kind === 'silent' || !node) {
      exchange.log.debug({ why: decision.kind === 'silent' ? decision.why : 'no node' }, 'dhcp: silent');
      return void counters.silent++;
    }
    const subnet = subnetFor(subnets, packet, node.ip) as SubnetSettings | undefined;
    if (!subnet) return refuse(exchange, `no subnet of ours holds the relay ${packet.giaddr}`);
    const booting = request.asker !== 'os';
    const candidate: Candidate = { node, mac, booting };
    const bootId = booting ? boot?.id : undefined;
    const record = async (stage: 'discover' | 'offer' | 'lease', detail: string) => {
      if (bootId) await booter.seen(bootId, stage, { message: detail });
    };
    const reply: ReplyParts = { packet, request, answer, subnet, httpPort: parts.httpPort };
    return { answer, candidate, subnet, bootId, record, parts: reply };
  }

  /** A machine that we want to serve and cannot: a NAK when it asks for an address that it must not use, else nothing, and the log says why. */
  async function refuse(exchange: Exchange, why: string, nakFor?: SubnetSettings): Promise<undefined> {
    exchange.log.warn({ why }, nakFor ? 'dhcp: nak' : 'dhcp: refused');
    if (!nakFor) return void counters.refused++;
    if (await send(exchange, nakFor, renderNak(exchange.packet, nakFor, why))) counters.naks++;
    return undefined;
  }

  async function send(exchange: Exchange, subnet: SubnetSettings, reply: Packet): Promise<boolean> {
    const bytes = encode(reply, maxBytesFor(exchange.packet));
    if (!(bytes instanceof Uint8Array)) {
      await refuse(exchange, bytes.why);
      return false;
    }
    await sockets?.send(subnet.serverIp, bytes, destination(exchange.packet, reply));
    return sockets !== undefined;
  }

  async function addressesOf(subnet: SubnetSettings): Promise<Addresses> {
    return { subnet, leases: await leases.list(formatSubnet(subnet.subnet)), holds, reserved: parts.reserved, now: now() };
  }

  function hold(ip: Ip4, mac: Mac): void {
    const at = now();
    for (const [other, { until }] of holds) if (until <= at) holds.delete(other);
    forgetHolds(mac);
    holds.set(ip, { mac, until: at + HOLD_MS });
  }

  function forgetHolds(mac: Mac): void {
    for (const [ip, entry] of holds) if (entry.mac === mac) holds.delete(ip);
  }

  /** The reservation is the node's, not the card's: the card that the machine boots from now gets it from the one that had it. */
  async function takeOver(ip: Ip4, { node, mac, booting }: Candidate): Promise<void> {
    const lease = booting && ip === node.ip ? await leases.at(ip) : undefined;
    if (lease && lease.mac !== mac && node.macs.includes(lease.mac)) await leases.release(ip, lease.mac);
  }

  const take = (bytes: Uint8Array) => {
    const work = receive(bytes).finally(() => underWay.delete(work));
    underWay.add(work);
  };

  return {
    counters,
    async start() {
      sockets = await openSockets(subnets.map((entry) => entry.serverIp), take, log);
      log.info({ subnets: subnets.map((entry) => formatSubnet(entry.subnet)) }, 'dhcp: listening');
    },
    async stop() {
      sockets?.deafen();
      await Promise.allSettled(underWay);
      await sockets?.close();
      sockets = undefined;
    },
  };
}

/** What a DISCOVER said of its machine, for people. */
function describe({ asker, arch, firmware, features }: BootRequest): string {
  return [asker, arch, firmware, features && `[${features.join(' ')}]`].filter(Boolean).join(' ');
}
