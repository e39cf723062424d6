// The probe: one run of a booting machine's questions on a link, from DISCOVER to the file it would start.
import { randomInt } from 'node:crypto';
import type { Ip4, Mac } from '../addr.ts';
import { messageOf, OPT, textOf } from '../dhcp/options.ts';
import { merged, readAnswer, shown, type ProbeAnswer, type Target } from './answers.ts';
import { borrow } from './borrow.ts';
import { findCard, isOnLink, type Card } from './card.ts';
import { openExchange, type Exchange } from './exchange.ts';
import { fetchTarget, type Fetched } from './fetch.ts';
import { uuidFor, type Role } from './firmware.ts';
import { judge, serverOf, type Finding, type LeaseTaken } from './verdict.ts';

export interface ProbeOptions {
  readonly interface: string;
  readonly role: Role;
  /** Default: the card's own. */
  readonly mac?: Mac;
  readonly timeoutS: number;
  readonly fetch: boolean;
  /** Take the offered address for the time of the fetch. */
  readonly lease: boolean;
  /** The server that should answer; all others are strangers. */
  readonly expect?: Ip4;
}

export interface ProbeResult {
  /** A machine like this one could boot: no finding is a problem. */
  readonly ok: boolean;
  readonly interface: string;
  /** The address that it spoke from. */
  readonly source: Ip4;
  readonly as: Role;
  readonly mac: Mac;
  readonly timeoutS: number;
  readonly sent: number;
  readonly answers: readonly ProbeAnswer[];
  readonly lease?: LeaseTaken;
  readonly fetched?: readonly Fetched[];
  readonly findings: readonly Finding[];
}

/** More than this many servers on one link are a problem that fetching does not explain. */
const MOST_FETCHES = 4;
const REQUEST_MS = 4_000;

/** Asks, listens, follows and judges. PROBE_FAILED or PORT_UNAVAILABLE only when it could not ask at all. */
export async function probe(options: ProbeOptions): Promise<ProbeResult> {
  const card = findCard(options.interface);
  const { role, timeoutS, expect } = options;
  const mac = options.mac ?? card.mac;
  const exchange = await openExchange(card, { role, mac, uuid: uuidFor(mac), xid: randomInt(1, 0xffff_ffff) });
  try {
    const { heard, sent } = await exchange.discover(timeoutS * 1000);
    const answers = merged(heard.flatMap(({ packet, from, afterMs }) => readAnswer(packet, from, role, afterMs) ?? []));
    const targets = targetsOf(answers);
    const chosen = options.lease ? choose(answers, expect) : undefined;
    const wanted = options.fetch ? targets : [];
    const run: { lease?: LeaseTaken; fetched: Fetched[] } = chosen ? await withLease(exchange, card, chosen, wanted) : { fetched: await fetchAll(wanted, card, card.addresses[0].address) };
    const followed = { ...(run.lease ? { lease: run.lease } : {}), ...(options.fetch ? { fetched: run.fetched } : {}) };
    const findings = judge({ role, mac, answers, sent, timeoutS, ...(expect ? { expect } : {}), ...followed });
    return {
      ok: !findings.some(({ level }) => level === 'problem'),
      interface: card.name,
      source: card.addresses[0].address,
      as: role,
      mac,
      timeoutS,
      sent,
      answers,
      ...followed,
      findings,
    };
  } finally {
    await exchange.close();
  }
}

type Fetchable = Exclude<Target, { via: 'none' }>;

/** Each file once, also when several answers name it. */
function targetsOf(answers: readonly ProbeAnswer[]): Fetchable[] {
  const targets = answers.flatMap(({ target }) => (target.via === 'none' ? [] : [target]));
  return [...new Map(targets.map((target) => [JSON.stringify(target), target])).values()].slice(0, MOST_FETCHES);
}

/** As a ROM: the first offer that says what to boot, else the first. Of the expected server, when there is one. */
function choose(answers: readonly ProbeAnswer[], expect: Ip4 | undefined): ProbeAnswer | undefined {
  const offers = answers.filter((answer) => answer.kind === 'offer' && (!expect || serverOf(answer) === expect));
  return offers.find(({ target }) => target.via !== 'none') ?? offers[0];
}

async function fetchAll(targets: readonly Fetchable[], card: Card, source: Ip4): Promise<Fetched[]> {
  const fetched: Fetched[] = [];
  for (const target of targets) fetched.push(await fetchTarget(target, card, source));
  return fetched;
}

/** REQUEST, ACK, the address on the card, the fetch, and all of it undone. */
async function withLease(exchange: Exchange, card: Card, offer: ProbeAnswer, targets: readonly Fetchable[]): Promise<{ lease: LeaseTaken; fetched: Fetched[] }> {
  const own = card.addresses[0].address;
  const [address, server] = [offer.address!, serverOf(offer)];
  const answer = await exchange.request(address, server, REQUEST_MS);
  const said = answer && textOf(answer.options, OPT.message);
  if (!answer || messageOf(answer.options) !== 'ack') {
    const lease: LeaseTaken = { state: answer ? 'nak' : 'none', address, server, released: true, ...(said ? { why: shown(said) } : {}) };
    return { lease, fetched: await fetchAll(targets, card, own) };
  }
  const servers = [...new Set(targets.flatMap((target) => serverIn(target)))].filter((ip) => isOnLink(card, ip));
  const borrowed = await borrow(card, address, servers);
  try {
    const fetched = await fetchAll(targets, card, borrowed.kind === 'borrowed' ? address : own);
    // A machine that runs with this address would lose it to the next one.
    const release = isOnLink(card, server) && !(borrowed.kind === 'refused' && borrowed.inUse);
    if (release) await exchange.release(address, server);
    return { lease: { state: 'ack', address, server, released: release, ...(borrowed.kind === 'refused' ? { why: borrowed.why } : {}) }, fetched };
  } finally {
    if (borrowed.kind === 'borrowed') borrowed.giveBack();
  }
}

function serverIn(target: Fetchable): Ip4[] {
  if (target.via === 'tftp') return [target.server];
  const host = /^http:\/\/([0-9.]+)(?=[:/]|$)/i.exec(target.url)?.[1];
  return host ? [host] : [];
}
