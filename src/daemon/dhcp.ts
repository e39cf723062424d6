// The DHCP part of the daemon: the settings held against this machine's cards, sockets, lookout, leases and the server, in the order of their needs.
import { formatSubnet, subnetContains, type Ip4, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import type { Serve } from '../boot/request.ts';
import type { Booter } from '../booter.ts';
import { defaultRouteCard, readCards } from '../dhcp/cards.ts';
import { createConflictCheck } from '../dhcp/conflict.ts';
import { QUARANTINE_MS } from '../dhcp/lease.ts';
import { createLedger, type Ledger } from '../dhcp/ledger.ts';
import { resolveLinks, type DhcpSettings, type Link } from '../dhcp/links.ts';
import { conflictError, openLookout, type LinkWatchStatus, type Lookout } from '../dhcp/lookout.ts';
import { decodeIfDhcp } from '../dhcp/packet.ts';
import { createReserve } from '../dhcp/ready.ts';
import { createDhcpServer } from '../dhcp/server.ts';
import { openTransport } from '../dhcp/sockets.ts';
import type { ServedSubnet } from '../dhcp/subnet.ts';
import type { Ingress, Transport } from '../dhcp/transport.ts';
import { AppError } from '../errors.ts';
import type { DhcpAdmin } from '../http/dhcp.ts';
import type { Log } from '../log.ts';
import type { Database } from '../store/db.ts';
import { DATABASE_RECOVERED, type EventStore, type NewEvent } from '../store/events.ts';
import type { LeaseStore } from '../store/leases.ts';

export interface DhcpPlan {
  readonly subnets: readonly ServedSubnet[];
  readonly links: readonly Link[];
  /** Where machines are sent to: TFTP and HTTP are to listen there. */
  readonly serverIps: readonly Ip4[];
  readonly serveAt: (ip: Ip4) => Serve | undefined;
}

/** What this machine's cards make of the settings. CONFIG_INVALID when they cannot carry them. */
export function planDhcp(dhcp: DhcpSettings, file: string): DhcpPlan {
  const plan = resolveLinks(dhcp, readCards(), defaultRouteCard());
  if ('fault' in plan) throw new AppError('CONFIG_INVALID', `${file}: ${plan.fault}`, plan.hint);
  return {
    ...plan,
    serverIps: [...new Set(plan.subnets.map((subnet) => subnet.serverIp))],
    serveAt: (ip) => plan.subnets.find(({ subnet }) => subnetContains(subnet, ip))?.serve,
  };
}

/** Whole milliseconds since 1970 at the start of the process, and from then on as time passes: a clock that is set must not stop a link for hours. */
const steady = (): number => Math.round(performance.timeOrigin + performance.now());

/** What needs the right to bind low ports. */
export interface DhcpSockets {
  readonly transport: Transport;
  readonly lookout: Lookout;
}

export async function openDhcpSockets({ subnets, links, serverIps }: DhcpPlan, dhcp: DhcpSettings, parts: { readonly onEvent: (event: NewEvent) => void; readonly log: Log }, stops: (() => unknown)[]): Promise<DhcpSockets> {
  const { onEvent, log } = parts;
  const transport = await openTransport({ links, log });
  stops.push(() => transport.close());
  const watched = dhcp.onConflict === 'ignore' ? [] : subnets.filter(({ mode, link }) => mode === 'full' && link !== undefined);
  const lookout = await openLookout({
    links: [...new Map(watched.map(({ link, serverIp }) => [link!, { name: link!, serverIp }])).values()],
    ours: serverIps,
    welcome: dhcp.otherServers,
    // When it was by the clock on the wall, as of every other event.
    onEvent: (event) => onEvent({ ...event, at: Date.now() }),
    log,
    now: steady,
  });
  stops.push(() => lookout.close());
  return { transport, lookout };
}

export interface DhcpParts {
  readonly plan: DhcpPlan;
  readonly dhcp: DhcpSettings;
  readonly sockets: DhcpSockets;
  readonly httpPort: number;
  readonly booter: Booter;
  readonly leases: LeaseStore;
  readonly database: Database;
  readonly events: EventStore;
  readonly nodeOf: (mac: Mac) => Node | undefined;
  readonly reserved: (ip: Ip4) => string | undefined;
  readonly log: Log;
  readonly now: () => number;
}

export interface RunningDhcp {
  readonly ledger: Ledger;
  /** For people: what each link does, and going on after another server was in the way. */
  readonly admin: DhcpAdmin;
  /** For /readyz. */
  reasons(): readonly string[];
}

/** Looks for other servers, loads the leases and serves. DHCP_CONFLICT when another server answers and `onConflict` is `refuse`. */
export async function startDhcp(parts: DhcpParts, stops: (() => unknown)[]): Promise<RunningDhcp> {
  const { plan, dhcp, sockets, database, events, log, now } = parts;
  const { lookout, transport } = sockets;
  // Answers to the preflight may come to port 67, where nobody listens yet.
  if (lookout.needsReplies) transport.hear(repliesFor(lookout));
  const subnets = await afterPreflight(plan.subnets, dhcp, lookout, log);

  const check = createConflictCheck();
  stops.push(() => check.close());
  // A restart does not bring back what the snapshot lacked.
  const [recovery] = await events.list({ kind: DATABASE_RECOVERED, limit: 1 });
  const recoveredAt = database.recovered ? now() : recovery?.at;
  const isCautious = recoveredAt !== undefined && subnets.some(({ leaseSeconds }) => recoveredAt + leaseSeconds * 1000 > now());
  const ledger = createLedger({
    subnets,
    leases: parts.leases,
    reserved: parts.reserved,
    ruledElsewhere: (ip) => dhcp.otherServers.length > 0 || dhcp.subnets.some(({ subnet, mode }) => mode === 'off' && subnetContains(subnet, ip)),
    noNew: ({ link }) => {
      const { dynamic, why } = link === undefined ? { dynamic: true, why: undefined } : lookout.permits(link);
      if (!dynamic) return why ?? 'another DHCP server may be on this link';
      return database.isTight() ? 'the disk is full: what room is left is for nodes' : undefined;
    },
    // Who was given an address after the snapshot has it for one lease time at most.
    ...(isCautious ? { cautiousUntil: ({ leaseSeconds }: ServedSubnet) => recoveredAt + leaseSeconds * 1000 } : {}),
    reserveFor: (subnet, pool, book) => {
      const isPlain = (ip: Ip4) => ip !== subnet.serverIp && ip !== subnet.router && parts.reserved(ip) === undefined;
      const reserve = createReserve({
        next: (accept) => book.nextFree(pool, now(), (ip) => isPlain(ip) && accept(ip)),
        check: (ip) => check.ask(subnet.link!, ip, subnet.serverIp),
        onInUse: (ip, mac) => {
          log.warn({ ip, mac, subnet: formatSubnet(subnet.subnet) }, 'dhcp: a free address is in use by a machine that did not get it here');
          void ledger.inUse(ip, mac, now() + QUARANTINE_MS).catch((error: unknown) => log.error({ err: error, ip }, 'dhcp: quarantine not written'));
          void events.add({ at: now(), kind: 'address-in-use', detail: { ip, mac } }).catch(() => undefined);
        },
        log,
        now: steady,
      });
      stops.push(() => reserve.stop());
      return reserve;
    },
    now,
  });
  await ledger.load();

  const server = createDhcpServer({
    subnets,
    httpPort: parts.httpPort,
    booter: parts.booter,
    ledger,
    nodeOf: parts.nodeOf,
    watch: lookout,
    ...(lookout.needsReplies ? { onReply: repliesFor(lookout) } : {}),
    transport,
    log,
    now,
    steady,
  });
  server.start();
  stops.push(() => server.stop());
  lookout.start();
  return {
    ledger,
    admin: {
      status() {
        const watched = new Map(lookout.status().map((status) => [status.link, onTheWall(status)]));
        const modeOf = (link: Link) => subnets.find((subnet) => subnet.link === link.name)?.mode ?? link.mode;
        return { links: plan.links.map((link) => ({ link: link.name, mode: modeOf(link), state: 'clear' as const, ...watched.get(link.name) })), counters: { ...server.counters() } };
      },
      resume: (link) => lookout.resume(link),
    },
    reasons: () => [...lookout.reasons(), ...(database.isTight() ? ['the disk is nearly full: dynamic addresses are not given out'] : [])],
  };
}

async function afterPreflight(subnets: readonly ServedSubnet[], dhcp: DhcpSettings, lookout: Lookout, log: Log): Promise<readonly ServedSubnet[]> {
  if (lookout.status().length === 0) return subnets;
  log.info({ links: lookout.status().map(({ link }) => link) }, 'dhcp: looking for other DHCP servers, 4.5 s');
  const found = await lookout.preflight();
  if (found.length === 0) return subnets;
  if (dhcp.onConflict === 'refuse') throw conflictError(found);
  log.warn({ found }, 'dhcp: another DHCP server answers: proxy mode on its link, as onConflict says');
  const links = new Set(found.map(({ link }) => link));
  for (const link of links) await lookout.leave(link);
  return subnets.map((subnet) => (subnet.link !== undefined && links.has(subnet.link) ? { ...subnet, mode: 'proxy', pools: [] } : subnet));
}

function repliesFor(lookout: Lookout): (bytes: Uint8Array, from: Ingress) => void {
  return (bytes, from) => {
    const packet = decodeIfDhcp(bytes);
    if (packet) lookout.heard(packet, from);
  };
}

/** Times of the steady clock as the clock on the wall has them now: what people read. */
function onTheWall(status: LinkWatchStatus): LinkWatchStatus {
  const set = Date.now() - steady();
  return { ...status, ...(status.since === undefined ? {} : { since: status.since + set }), ...(status.probedAt === undefined ? {} : { probedAt: status.probedAt + set }) };
}
