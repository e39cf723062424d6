// DHCP without sockets: one datagram in, at most one answer out. Full mode is here: asks the Booter, applies the address rules, keeps the leases.
import { subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import { AppError } from '../errors.ts';
import { identify } from './client.ts';
import { noCounts, type Counters } from './counters.ts';
import { createDesk, type DeskParts, type Exchange, type Wanted } from './exchange.ts';
import { chooseAddress, HOLD_MS, judgeRequest, QUARANTINE_MS, stateOf, subnetFor } from './lease.ts';
import type { Ledger } from './ledger.ts';
import { hostNameOf } from './names.ts';
import { ipOf, messageOf, OPT } from './options.ts';
import { decode, DhcpDecodeError, macOf, NO_IP, type Packet } from './packet.ts';
import { createProxied } from './proxied.ts';
import { leaseSecondsFor, renderInform, renderLease, renderNak } from './reply.ts';
import type { ServedSubnet } from './subnet.ts';
import type { Ingress } from './transport.ts';

/** What a link that we serve in full mode permits while another DHCP server may be on it. */
export interface LinkWatch {
  permits(link: string): { readonly reservations: boolean; readonly dynamic: boolean; readonly why?: string };
  /** A client chose another server. */
  overheard(link: string, server: Ip4): void;
  /** A question of our own, which the kernel lets us hear. */
  isOwn(packet: Packet): boolean;
}

export interface ResponderParts extends DeskParts {
  readonly subnets: readonly ServedSubnet[];
  readonly ledger: Ledger;
  /** The node of the current generation that has this card. */
  readonly nodeOf: (mac: Mac) => Node | undefined;
  readonly watch?: LinkWatch;
}

export interface Responder {
  /** Resolves when the datagram is dealt with; never rejects. */
  receive(bytes: Uint8Array, from: Ingress): Promise<void>;
  readonly counters: Readonly<Counters>;
}

export function createResponder(parts: ResponderParts): Responder {
  const { subnets, booter, ledger, log, now, watch } = parts;
  const counters = noCounts();
  const desk = createDesk(parts, counters);
  const { ask, encoded, record, refuse, send, tell, transmit, warn } = desk;
  const proxied = createProxied(parts, desk, counters);
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
    if (from.port === 4011) return type === 'request' || type === 'inform' ? proxied.onPort4011(exchange) : void counters.ignored++;
    if (subnet.mode === 'proxy') return proxied.onPort67(exchange);
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
    if (ip === NO_IP || (server && !ourIps.has(server)) || ledger.leasedTo(ip) !== mac) return void counters.ignored++;
    await ledger.release(ip, mac);
    counters.releases++;
    log.info({ mac, ip }, 'dhcp: release');
  }

  /** Only the machine that was given the address may say that it is in use: anybody else could take addresses from us one by one. */
  async function onDecline({ packet, mac }: Exchange): Promise<void> {
    const ip = ipOf(packet.options, OPT.requestedIp);
    const server = ipOf(packet.options, OPT.serverId);
    if (!ip || ledger.leasedTo(ip) !== mac || (server && !ourIps.has(server))) return void counters.ignored++;
    await ledger.quarantine(ip, now() + QUARANTINE_MS);
    counters.declines++;
    log.warn({ mac, ip, hours: QUARANTINE_MS / 3600_000 }, 'dhcp: address declined, another machine uses it');
  }

  async function nak(wanted: Wanted, why: string): Promise<void> {
    warn(wanted, 'dhcp: nak', why);
    if (await send(wanted, renderNak(wanted.packet, wanted.subnet, why))) counters.naks++;
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
          desk.failed(error);
        }
      }
    },
  };
}

/** What one option holds; longer ones are pieced together (RFC 3396), and nobody means that by a client id. */
const LONGEST_CLIENT_ID = 255;

/** Neither nobody nor a group: no card has such an address (IEEE 802). */
function isCard(mac: Mac): boolean {
  return mac !== '00:00:00:00:00:00' && (Number.parseInt(mac.charAt(1), 16) & 1) === 0;
}
