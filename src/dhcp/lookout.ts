// The lookout: looks for other DHCP servers on the links that we serve in full mode, before we serve and while we do.
import { randomBytes } from 'node:crypto';
import { networkInterfaces } from 'node:os';
import { ip4ToNumber, type Ip4, type Mac } from '../addr.ts';
import { AppError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { NewEvent } from '../store/events.ts';
import { openClientSocket, type ClientSocket } from './client-socket.ts';
import { DISCARD_PORT, findNeighbour, ONE_BYTE } from './neighbours.ts';
import { ipOf, message, messageOf, OPT, uint16s, type Options } from './options.ts';
import { BROADCAST_FLAG, decodeIfDhcp, encode, NO_IP, type Packet } from './packet.ts';
import { permits, PROBE_MS, step, UNWATCHED, type Permits, type RivalEvent, type RivalState } from './rivals.ts';

export interface LookoutLink {
  readonly name: string;
  /** Our own address on it. */
  readonly serverIp: Ip4;
}

/** A DHCP server on our link that is neither ours nor welcome. */
export interface Foreign {
  readonly link: string;
  readonly ip: Ip4;
  /** Absent: it did not answer ARP, as one behind a relay does not. */
  readonly mac?: Mac;
}

export interface LookoutParts {
  /** The links in full mode, whose `onConflict` is not `ignore`. */
  readonly links: readonly LookoutLink[];
  /** All our addresses that are server ids. */
  readonly ours: readonly Ip4[];
  /** `dhcp.otherServers`. */
  readonly welcome: readonly Ip4[];
  readonly onEvent: (event: NewEvent) => void;
  readonly log: Log;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** A link as operators see it. */
export interface LinkWatchStatus {
  readonly link: string;
  readonly state: 'clear' | 'suspended' | 'stopped';
  /** One line, when it is not clear. */
  readonly why?: string;
  /** Milliseconds since 1970. */
  readonly since?: number;
  readonly probedAt?: number;
  readonly probes: number;
  /** REQUESTs of clients that named another server. */
  readonly overheard: number;
  /** OFFERs of other servers. */
  readonly offers: number;
}

export interface Lookout {
  /** Looks on all links at once, for 4.5 s; call it once, before anything is served. */
  preflight(): Promise<readonly Foreign[]>;
  /** A link that is not served in full mode after all. */
  leave(link: string): Promise<void>;
  /** Looks again every 5 minutes from now on. */
  start(): void;
  permits(link: string): Permits & { readonly why?: string };
  /** A client on the link chose this server. */
  overheard(link: string, server: Ip4): void;
  /** A reply (op 2) that came to our port 67: needed only where `needsReplies`. */
  heard(packet: Packet, from: { readonly from: Ip4 }): void;
  /** Port 68 of some link could not be had, so that answers to us come to port 67. */
  readonly needsReplies: boolean;
  /** Whether a DISCOVER is one of ours: the kernel lets us hear our own broadcasts, and they are not to be answered. */
  isOwn(packet: Packet): boolean;
  /** An operator says that the other server is gone: one more look, then we go on. Answers the links that were stopped. REQUEST_INVALID for one that is not watched. */
  resume(link?: string): readonly string[];
  /** For /readyz: why a link is not served as it should be. */
  reasons(): readonly string[];
  status(): readonly LinkWatchStatus[];
  close(): Promise<void>;
}

interface Watched {
  readonly link: LookoutLink;
  readonly socket: ClientSocket;
  state: RivalState;
  permits: Permits & { readonly why?: string };
  probes: number;
  overheard: number;
  offers: number;
}

interface Probe {
  readonly watched: Watched;
  /** By server id. */
  readonly found: Map<Ip4, Promise<Foreign>>;
  readonly onFound: (foreign: Foreign) => void;
}

/** dnsmasq answers the first one after 3.0 s, Kea after 4 ms (measured, TRAPS 2); the others are there because the first may get lost. */
const DISCOVERS_AT_MS = [0, 1_500, 3_000] as const;
const PREFLIGHT_MS = 4_500;
const TICK_MS = 1_000;
/** Servers that one probe names. */
const MOST_FOUND = 8;
/** Transaction ids of probes that have ended. */
const SPENT_KEPT = 64;
/** A machine of the link answers ARP in 12 ms. */
const ARP_LOOKS_MS = [15, 35, 50, 100] as const;
const BROADCAST: Ip4 = '255.255.255.255';
const ALL: Permits = { reservations: true, dynamic: true };

/** Binds port 68 of each link, which needs root (else: `needsReplies`); nothing is sent yet. PORT_UNAVAILABLE when a card or its address is not there. */
export async function openLookout({ links, ours, welcome, onEvent, log, now }: LookoutParts): Promise<Lookout> {
  const accepted = new Set([...ours, ...welcome]);
  const watched = new Map<string, Watched>();
  /** By transaction id, while it listens. */
  const probes = new Map<number, Probe>();
  const spent = new Set<number>();
  let ticking: NodeJS.Timeout | undefined;
  const closing = new AbortController();

  /** A DISCOVER series of one link: `onFound` at once for each stranger; resolves false when not one could be sent. */
  async function look(one: Watched, listenMs: number, onFound: Probe['onFound']): Promise<boolean> {
    const id = randomBytes(10);
    const xid = id.readUInt32BE(6);
    // Locally administered, unicast.
    id[0] = (id[0]! & 0xfc) | 0x02;
    const probe: Probe = { watched: one, found: new Map(), onFound };
    probes.set(xid, probe);
    one.probes++;
    let sent = 0;
    let passed = 0;
    for (const at of [...DISCOVERS_AT_MS, listenMs]) {
      await pause(at - passed, closing.signal);
      passed = at;
      if (at < listenMs && !closing.signal.aborted && (await sendDiscover(one, id, xid, at))) sent++;
    }
    // Late ones still get their MAC, but they are not waited for.
    await Promise.all(probe.found.values());
    probes.delete(xid);
    // Our own questions may wait in our own socket longer than we listen for answers.
    spent.add(xid);
    if (spent.size > SPENT_KEPT) spent.delete(spent.values().next().value!);
    return sent > 0;
  }

  async function sendDiscover({ link, socket }: Watched, id: Uint8Array, xid: number, afterMs: number): Promise<boolean> {
    // Without a carrier the kernel takes everything and sends nothing; such a card is not listed.
    if (!networkInterfaces()[link.name]) return false;
    const bytes = encode(discoverOf(id, xid, Math.floor(afterMs / 1000), socket.asRelay === undefined ? NO_IP : link.serverIp));
    if (!(bytes instanceof Uint8Array)) throw new AppError('BUG', `the lookout's own packet cannot be sent: ${bytes.why}`);
    try {
      await socket.send(bytes, BROADCAST, 67);
      return true;
    } catch (error) {
      log.debug({ link: link.name, err: error }, 'dhcp: the lookout cannot send');
      return false;
    }
  }

  /** An answer to one of our probes, from whichever socket. */
  function take(packet: Packet, from: Ip4): void {
    const probe = packet.op === 2 ? probes.get(packet.xid) : undefined;
    // Without an address it is a boot server's offer, which harms nobody.
    if (!probe || messageOf(packet.options) !== 'offer' || packet.yiaddr === NO_IP) return;
    const ip = ipOf(packet.options, OPT.serverId) ?? from;
    if (accepted.has(ip)) return;
    probe.watched.offers++;
    // Anybody can make up any number of them; one is enough to stop.
    if (probe.found.has(ip) || probe.found.size >= MOST_FOUND) return;
    const found = macOfServer(probe.watched, ip).then((mac) => ({ link: probe.watched.link.name, ip, ...(mac ? { mac } : {}) }));
    probe.found.set(ip, found);
    void found.then(probe.onFound);
  }

  function advance(one: Watched, event: RivalEvent): void {
    const { state, actions } = step(one.state, event);
    if (state !== one.state) {
      one.state = state;
      const why = whyOf(one);
      one.permits = { ...permits(state), ...(why ? { why } : {}) };
    }
    for (const action of actions) {
      if (action.kind === 'log') log[action.level]({ link: one.link.name, ...action.fields }, action.message);
      else if (action.kind === 'event') onEvent({ at: now(), kind: action.event, detail: { link: one.link.name, ...action.detail } });
      else void probe(one);
    }
  }

  async function probe(one: Watched): Promise<void> {
    let found = false;
    const sent = await look(one, PROBE_MS, ({ ip, mac }) => {
      found = true;
      advance(one, { kind: 'offered', server: ip, ...(mac ? { mac } : {}), at: now() });
    });
    if (!found && !closing.signal.aborted) advance(one, { kind: sent ? 'silence' : 'blind', at: now() });
  }

  const stopped = (): Watched[] => [...watched.values()].filter((one) => one.state.standing.kind === 'stopped');

  for (const link of links) {
    try {
      const socket = await openClientSocket(link.name, link.serverIp, (bytes, from) => {
        const packet = decodeIfDhcp(bytes);
        if (packet) take(packet, from);
      });
      if (socket.asRelay !== undefined) {
        const hint = socket.asRelay === 'EADDRINUSE' ? 'a program holds it alone: `ss -ulpn sport = :68` names it' : 'it needs root or CAP_NET_BIND_SERVICE, or a systemd socket';
        log.warn({ link: link.name, why: socket.asRelay, hint }, 'dhcp: port 68 cannot be had: other servers are looked for as by a relay, which finds only those that serve this very subnet');
      }
      watched.set(link.name, { link, socket, state: UNWATCHED, permits: ALL, probes: 0, overheard: 0, offers: 0 });
    } catch (error) {
      await Promise.all([...watched.values()].map((one) => one.socket.close()));
      throw error;
    }
  }

  return {
    needsReplies: [...watched.values()].some((one) => one.socket.asRelay !== undefined),
    async preflight() {
      const found: Foreign[] = [];
      await Promise.all(
        [...watched.values()].map(async (one) => {
          const before = found.length;
          const sent = await look(one, PREFLIGHT_MS, (foreign) => {
            found.push(foreign);
            advance(one, { kind: 'offered', server: foreign.ip, ...(foreign.mac ? { mac: foreign.mac } : {}), at: now() });
          });
          if (found.slice(before).every((foreign) => foreign.link !== one.link.name)) advance(one, { kind: sent ? 'silence' : 'blind', at: now() });
        }),
      );
      return found;
    },
    async leave(link) {
      const one = watched.get(link);
      watched.delete(link);
      await one?.socket.close();
    },
    start() {
      ticking ??= setInterval(() => {
        for (const one of watched.values()) advance(one, { kind: 'tick', at: now() });
      }, TICK_MS).unref();
    },
    permits: (link) => watched.get(link)?.permits ?? ALL,
    overheard(link, server) {
      const one = watched.get(link);
      if (!one || accepted.has(server)) return;
      one.overheard++;
      advance(one, { kind: 'overheard', server, at: now() });
    },
    heard: (packet, { from }) => take(packet, from),
    isOwn: (packet) => probes.has(packet.xid) || spent.has(packet.xid),
    resume(link) {
      const one = link === undefined ? undefined : watched.get(link);
      if (link !== undefined && !one) throw new AppError('REQUEST_INVALID', `no watch is kept on ${link}`, `links that are watched: ${[...watched.keys()].join(', ') || 'none (only those in full mode are)'}`);
      const resumed = stopped().filter((each) => !one || each === one);
      for (const each of resumed) advance(each, { kind: 'resume', at: now() });
      return resumed.map((each) => each.link.name);
    },
    reasons: () => stopped().map((one) => `dhcp: ${one.link.name}: ${one.permits.why}`),
    status: () =>
      [...watched.values()].map(({ link, state: { standing, probedAt }, permits: { why }, probes: count, overheard, offers }) => ({
        link: link.name,
        state: standing.kind,
        ...(why ? { why } : {}),
        ...(standing.kind === 'clear' ? {} : { since: standing.since }),
        ...(probedAt === undefined ? {} : { probedAt }),
        probes: count,
        overheard,
        offers,
      })),
    async close() {
      clearInterval(ticking);
      closing.abort();
      await Promise.all([...watched.values()].map((one) => one.socket.close()));
    },
  };
}

/** For a daemon that is to refuse: names all that were found and every way out. */
export function conflictError(found: readonly Foreign[]): AppError {
  const who = found.map(({ link, ip, mac }) => `${ip} (${mac ?? 'MAC unknown'}) on ${link}`).join(', ');
  return new AppError(
    'DHCP_CONFLICT',
    `another DHCP server answers where rackseed would give out addresses: ${who}`,
    `stop it; or set mode: proxy for that link (boot beside it); or onConflict: proxy; or, if it is known and welcome, otherServers: [${[...new Set(found.map(({ ip }) => ip))].join(', ')}]`,
  );
}

function whyOf({ state: { standing } }: Watched): string | undefined {
  if (standing.kind === 'clear') return undefined;
  if (standing.kind === 'suspended') return `no new dynamic offers: ${standing.why}`;
  const who = `${standing.server}${standing.mac ? ` (${standing.mac})` : ''}`;
  return `stopped, because another DHCP server answered: ${who}${standing.answering ? '' : ', which was silent when last looked for'}; stop it, then \`rackseed dhcp resume\``;
}

/** As an ordinary client without an address: with option 60 of a PXE ROM, boot servers would answer too. */
function discoverOf(id: Uint8Array, xid: number, secs: number, giaddr: Ip4): Packet {
  const chaddr = new Uint8Array(16);
  chaddr.set(id.subarray(0, 6));
  const options: Options = new Map([
    [OPT.messageType, message('discover')],
    [OPT.maxSize, uint16s(1472)],
    [OPT.parameterList, Uint8Array.of(OPT.subnetMask, OPT.router, OPT.dns)],
  ]);
  return { op: 1, htype: 1, hlen: 6, hops: giaddr === NO_IP ? 0 : 1, xid, secs, flags: BROADCAST_FLAG, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, giaddr, chaddr, sname: '', file: '', options };
}

/** The byte leaves by the link's own socket, so that a server with an address of another subnet is asked for on this very link. */
async function macOfServer({ link, socket }: Watched, ip: Ip4): Promise<Mac | undefined> {
  // Nobody at all, or a group.
  const first = ip4ToNumber(ip) >>> 24;
  if (first === 0 || first >= 224) return undefined;
  await socket.send(ONE_BYTE, ip, DISCARD_PORT).catch(() => {});
  for (const ms of ARP_LOOKS_MS) {
    await pause(ms);
    const mac = (await findNeighbour(link.name, ip))?.mac;
    if (mac) return mac;
  }
  return undefined;
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    }
    signal?.addEventListener('abort', done);
  });
}
