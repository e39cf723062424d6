// Whether an address is in use on its link, asked of the kernel's ARP: no raw socket, no root (TRAPS 2).
import { createSocket, type Socket } from 'node:dgram';
import { once, setMaxListeners } from 'node:events';
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import type { Ip4, Mac } from '../addr.ts';
import { DISCARD_PORT, findNeighbour, ONE_BYTE } from './neighbours.ts';

export type Verdict =
  | { readonly kind: 'free' }
  | { readonly kind: 'in-use'; readonly mac: Mac }
  /** Nobody could be asked: neither free nor used. `why` is for people. */
  | { readonly kind: 'unknown'; readonly why: string };

export interface ConflictCheck {
  /**
   * `from` is our own address on the link. 12-200 ms; about 10 s for an address whose last user the kernel still remembers. Never
   * rejects. At most 64 are asked for at once, the others wait their turn.
   */
  ask(link: string, ip: Ip4, from: Ip4): Promise<Verdict>;
  close(): Promise<void>;
}

/** The kernel remembers 1,024 neighbours in all (gc_thresh3) and starts to forget at 512. */
const AT_ONCE = 64;
/** When the table is looked at, in milliseconds after the byte. An answer takes 12 ms; 200 ms of silence are "free" (measured, TRAPS 2). */
const LOOKS_MS = [15, 50, 100, 200] as const;
const OLD_ENTRY_LOOKS_MS = 500;
const FREE: Verdict = { kind: 'free' };

export function createConflictCheck(): ConflictCheck {
  const sockets = new Map<Ip4, Promise<Socket>>();
  const waiting: (() => void)[] = [];
  const closing = new AbortController();
  // One for each address that is looked for.
  setMaxListeners(0, closing.signal);
  let underWay = 0;

  const enter = async (): Promise<void> => {
    if (underWay >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
    else underWay++;
  };
  const leave = (): void => {
    // Whoever waits takes over the place.
    const next = waiting.shift();
    if (next) next();
    else underWay--;
  };

  const socketOf = (from: Ip4): Promise<Socket> => {
    const known = sockets.get(from);
    if (known) return known;
    const opened = open(from);
    sockets.set(from, opened);
    // The address may come back to its card later.
    opened.catch(() => sockets.delete(from));
    return opened;
  };

  /** Answers why it could not be sent. */
  const poke = async (from: Ip4, ip: Ip4): Promise<string | undefined> => {
    try {
      const socket = await socketOf(from);
      await new Promise<void>((resolve, reject) => socket.send(ONE_BYTE, DISCARD_PORT, ip, (error) => (error ? reject(error) : resolve())));
      return undefined;
    } catch (error) {
      return `nothing can be sent from ${from} to ${ip} (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`;
    }
  };

  /** `undefined`: the kernel knew of a user before it was asked, and believes it for a while. */
  async function look(link: string, ip: Ip4, from: Ip4): Promise<Verdict | undefined> {
    const before = await findNeighbour(link, ip);
    const failed = await poke(from, ip);
    if (failed) return { kind: 'unknown', why: failed };
    if (before?.mac) return undefined;
    let passed = 0;
    for (const at of LOOKS_MS) {
      await pause(at - passed);
      passed = at;
      const entry = await findNeighbour(link, ip);
      if (entry?.mac) return { kind: 'in-use', mac: entry.mac };
      if (!entry && at === LOOKS_MS.at(-1)) return { kind: 'unknown', why: `${link} asks nobody for ${ip}: a card without ARP, a route by another card, or a full neighbour table` };
    }
    return FREE;
  }

  /**
   * The kernel first trusts an old entry, then asks the MAC that it remembers, and only then gives it up: 9 s with Linux's own settings. Shorter
   * waits would find every address in use whose last lease ended.
   */
  async function outwait(link: string, ip: Ip4): Promise<Mac | undefined> {
    const patience = await patienceOf(link);
    for (let passed = 0; passed < patience; passed += OLD_ENTRY_LOOKS_MS) {
      await pause(OLD_ENTRY_LOOKS_MS);
      if (!(await findNeighbour(link, ip))?.mac) return undefined;
    }
    return (await findNeighbour(link, ip))?.mac;
  }

  async function looked(link: string, ip: Ip4, from: Ip4): Promise<Verdict | undefined> {
    await enter();
    try {
      return closing.signal.aborted ? CLOSED : await look(link, ip, from);
    } finally {
      leave();
    }
  }

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(done, ms);
      function done(): void {
        clearTimeout(timer);
        closing.signal.removeEventListener('abort', done);
        resolve();
      }
      closing.signal.addEventListener('abort', done);
    });

  return {
    async ask(link, ip, from) {
      const cards = networkInterfaces();
      // The kernel sends no ARP for an address of its own, whichever card has it.
      const own = Object.values(cards).flatMap((all) => all ?? []).find((one) => one.address === ip);
      if (own) return { kind: 'in-use', mac: own.mac };
      const card = cards[link];
      if (!card) return { kind: 'unknown', why: `${link} is down or not there` };
      // Nobody else is on it.
      if (card.some((one) => one.internal)) return FREE;
      const verdict = await looked(link, ip, from);
      if (verdict) return closing.signal.aborted ? CLOSED : verdict;
      const mac = await outwait(link, ip);
      if (closing.signal.aborted) return CLOSED;
      if (mac) return { kind: 'in-use', mac };
      // The kernel asked only the MAC that it knew; a new machine may have the address by now.
      return (await looked(link, ip, from)) ?? { kind: 'unknown', why: `${ip} has come back while it was looked for` };
    },
    async close() {
      closing.abort();
      for (const next of waiting.splice(0)) next();
      await Promise.all([...sockets.values()].map((opened) => opened.then((socket) => socket.close(), () => undefined)));
      sockets.clear();
    },
  };
}

const CLOSED: Verdict = { kind: 'unknown', why: 'the daemon stops' };

async function open(from: Ip4): Promise<Socket> {
  const socket = createSocket('udp4');
  // What the network complains about later (port unreachable) is an answer, too, and ARP has heard it before.
  socket.on('error', () => {});
  try {
    socket.bind(0, from);
    await Promise.race([once(socket, 'listening'), once(socket, 'error').then(([error]) => Promise.reject(error as Error))]);
    socket.unref();
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** How long the kernel may take to give up an old entry of this link, in milliseconds, with a second to spare. */
async function patienceOf(link: string): Promise<number> {
  const setting = async (name: string, otherwise: number): Promise<number> => {
    try {
      const value = Number(await readFile(`/proc/sys/net/ipv4/neigh/${link}/${name}`, 'utf8'));
      return Number.isFinite(value) ? value : otherwise;
    } catch {
      return otherwise;
    }
  };
  const trusted = await setting('delay_first_probe_time', 5);
  const asked = (await setting('ucast_solicit', 3)) + (await setting('mcast_resolicit', 0)) + (await setting('app_solicit', 0));
  return trusted * 1000 + asked * (await setting('retrans_time_ms', 1000)) + 2000;
}
