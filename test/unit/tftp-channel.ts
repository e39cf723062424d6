// A simulated pair: the transfer machine on one side, a model client that obeys RFC 7440 on the other, and a bad link between them.
import { begin, blockCount, negotiate, step, type Step, type TransferAction, type TransferEvent, type TransferState } from '../../src/tftp/transfer.ts';

/**
 * How a client answers a block that it did not expect: `every` one by the ACK of what it has (EDK2), `once` for what it has, whereupon each one that
 * it ignores starts its timer anew (atftp; U-Boot too, but for the timer), or `never`: it acknowledges whole windows, the end, and what its own
 * timer repeats. `burst` (the benchmarks' client): the first one of each burst, that is again when their numbers do not rise any more.
 */
export type Manners = 'every' | 'burst' | 'once' | 'never';
export const MANNERS: readonly Manners[] = ['every', 'burst', 'once', 'never'];

/** When each copy of one packet arrives, in milliseconds after it left; none = it is lost. `at`: when it left. */
export type Link = (to: 'client' | 'server', at: number) => readonly number[];

export interface Case {
  readonly size: number;
  readonly options?: Record<string, string>;
  readonly link: Link;
  readonly manners?: Manners;
  /** Of the client, in milliseconds: then it sends its last packet again (EDK2), or the ACK of what it has. */
  readonly clientTimeoutMs?: number;
  readonly seed?: number;
}

export interface Outcome {
  /** What the client has, in the order in which it took it. */
  readonly received: Buffer;
  /** The client has the last block. */
  readonly done: boolean;
  readonly end: TransferAction | undefined;
  readonly state: TransferState;
  /** DATA packets that left; the largest burst among them; and how often the same block left, at most. */
  readonly packets: number;
  readonly largestBurst: number;
  readonly mostCopies: number;
  /** When the client had all, in simulated milliseconds. */
  readonly doneAt: number;
}

export const bytesOf = (size: number): Uint8Array => Uint8Array.from({ length: size }, (_, index) => (index * 7 + (index >> 8) * 13 + (index >> 16)) & 255);
export const asked = (options: Record<string, string> = {}): ReadonlyMap<string, string> => new Map(Object.entries(options));

/** A packet takes this long to leave, so that a burst is spread over time as on a link of 1 Gbit/s. */
const PACKET_MS = 0.012;

type Packet = { readonly kind: 'data'; readonly block: number; readonly data: Uint8Array } | { readonly kind: 'oack' } | { readonly kind: 'ack'; readonly block: number } | { readonly kind: 'rrq' };
type Due = { readonly at: number; readonly order: number; readonly to: 'client' | 'server' | 'client-timer'; readonly packet?: Packet };

export function simulate({ size, options = {}, link, manners = 'every', clientTimeoutMs = 1000, seed = 1 }: Case): Outcome {
  const bytes = bytesOf(size);
  const terms = negotiate(size, asked(options));
  const last = blockCount(terms);
  const queue = new Queue();
  let now = 0;
  let order = 0;

  const put = (to: 'client' | 'server', packet: Packet, leavesAt: number) => {
    for (const delay of link(to, leavesAt)) queue.push({ at: leavesAt + delay, order: order++, to, packet });
  };

  // The server: the machine, and what a runner does for it.
  let current: Step = begin(terms, 0, seed);
  let timerAt = Infinity;
  let end: TransferAction | undefined;
  let [packets, largestBurst, lineFreeAt] = [0, 0, 0];
  const copies = new Uint32Array(last + 1);
  const perform = (next: Step) => {
    current = next;
    for (const action of next.actions) {
      if (action.kind === 'timer') timerAt = action.atMs;
      else if (action.kind === 'end') end = action;
      else if (action.kind === 'oack') put('client', { kind: 'oack' }, now);
      else if (action.kind === 'blocks') {
        if (action.count < 1 || action.first < 1 || action.first + action.count - 1 > last) throw new Error(`there are no blocks ${action.first} + ${action.count} of ${last}`);
        packets += action.count;
        largestBurst = Math.max(largestBurst, action.count);
        for (let block = action.first; block < action.first + action.count; block++) {
          copies[block]!++;
          lineFreeAt = Math.max(lineFreeAt, now) + PACKET_MS;
          put('client', { kind: 'data', block: block & 0xffff, data: bytes.subarray((block - 1) * terms.blockSize, block * terms.blockSize) }, lineFreeAt);
        }
      }
    }
  };
  const take = (event: TransferEvent) => perform(step(current.state, event));

  // The client. It knows 16 bits of a block's number, as on the wire, and counts a window from its own last ACK.
  const received: Uint8Array[] = [];
  let [expects, sinceAck, nacked, strayed, doneAt, timerRound] = [1, 0, -1, Infinity, Infinity, 0];
  let lastSent: Packet = { kind: 'rrq' };
  const say = (packet: Packet) => {
    lastSent = packet;
    sinceAck = 0;
    put('server', packet, now);
    setClientTimer();
  };
  const setClientTimer = () => queue.push({ at: now + clientTimeoutMs, order: ++timerRound, to: 'client-timer' });
  const listen = (packet: Packet) => {
    if (packet.kind === 'oack') return expects === 1 && received.length === 0 ? say({ kind: 'ack', block: 0 }) : undefined;
    if (packet.kind !== 'data') return;
    const ackOfAll: Packet = { kind: 'ack', block: (expects - 1) & 0xffff };
    if (packet.block !== expects || doneAt < Infinity) {
      const behind = ((packet.block - expects + 0x8000) & 0xffff) - 0x8000;
      const newBurst = behind <= strayed;
      strayed = behind;
      if (manners === 'burst') return newBurst ? say(ackOfAll) : undefined;
      // RFC 1350: the last block again means that our last ACK was lost. A lock-step client acknowledges its last block again.
      const last = terms.windowSize === 1 || doneAt < Infinity;
      if (last ? packet.block === ackOfAll.block && (manners !== 'once' || nacked !== expects) : manners === 'every' || (manners === 'once' && nacked !== expects)) {
        nacked = expects;
        say(ackOfAll);
      } else if (manners === 'once') setClientTimer();
      return;
    }
    received.push(packet.data);
    strayed = Infinity;
    expects = (expects + 1) & 0xffff;
    sinceAck++;
    if (packet.data.length < terms.blockSize) doneAt = now;
    if (doneAt === now || sinceAck === terms.windowSize) say({ kind: 'ack', block: packet.block });
    else setClientTimer();
  };
  setClientTimer();
  perform(current);

  for (let turns = 0; turns < 3_000_000 && !(current.state.ended && queue.empty()); turns++) {
    const head = queue.head();
    if (!current.state.ended && timerAt <= (head?.at ?? Infinity)) {
      now = Math.max(now, timerAt);
      timerAt = Infinity;
      take({ kind: 'timer', at: now });
      continue;
    }
    if (!head) throw new Error('the transfer goes on, but neither a timer nor a packet is due');
    queue.pop();
    now = Math.max(now, head.at);
    if (head.to === 'client') listen(head.packet!);
    else if (head.to === 'client-timer') {
      // Only the newest timer counts, and after its last ACK the client is gone, as is one whose server has given up.
      if (head.order !== timerRound || doneAt < Infinity || current.state.ended) continue;
      if (lastSent.kind === 'rrq' || manners === 'every') {
        put('server', lastSent, now);
        setClientTimer();
      } else {
        strayed = Infinity;
        say({ kind: 'ack', block: (expects - 1) & 0xffff });
      }
    } else if (head.packet!.kind === 'rrq') take({ kind: 'asked-again', at: now });
    else if (head.packet!.kind === 'ack') take({ kind: 'ack', block: head.packet!.block, at: now });
  }
  return { received: Buffer.concat(received), done: doneAt < Infinity, end, state: current.state, packets, largestBurst, mostCopies: Math.max(...copies), doneAt };
}

/** Loses each packet with this probability, both ways, and keeps the order; the very first one is spared. */
export function lossy(loss: number, delayMs: number, seed: number): Link {
  const random = mulberry32(seed);
  let first = true;
  return () => {
    const lost = random() < loss && !first;
    first = false;
    return lost ? [] : [delayMs];
  };
}

/** A client whose card holds so many packets until its ROM, which needs `takesMs` for each, has taken them. */
export function smallRing(holds: number, takesMs: number, delayMs: number): Link {
  let busyUntil = 0;
  return (to, at) => {
    if (to === 'server') return [delayMs];
    const arrives = at + delayMs;
    if (busyUntil - arrives > holds * takesMs) return [];
    busyUntil = Math.max(busyUntil, arrives) + takesMs;
    return [busyUntil - at];
  };
}

function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** By time, then by the order in which they were put: a binary heap. */
class Queue {
  #items: Due[] = [];

  empty(): boolean {
    return this.#items.length === 0;
  }

  head(): Due | undefined {
    return this.#items[0];
  }

  push(item: Due): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0 && before(item, items[(at - 1) >> 1]!)) {
      items[at] = items[(at - 1) >> 1]!;
      at = (at - 1) >> 1;
    }
    items[at] = item;
  }

  pop(): void {
    const items = this.#items;
    const moved = items.pop()!;
    if (items.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++;
      if (!before(items[child]!, moved)) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = moved;
  }
}

function before(one: Due, other: Due): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}
