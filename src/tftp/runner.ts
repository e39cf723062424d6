// One transfer at work: carries what comes from the peer to step() and its actions back out. What both kinds of sockets share.
import { decodeTftp, encodeTftp, TFTP_ERROR, TftpDecodeError, type TftpOptions } from './packet.ts';
import { largestWindow, piecesInRing, wholeFile, type Reading } from './pieces.ts';
import type { SlotWriter } from './slots.ts';
import { begin, GIVE_UP_MS, negotiate, step, type Step, type TransferEvent, type TransferOutcome, type TransferTerms } from './transfer.ts';

export interface Peer {
  readonly address: string;
  readonly port: number;
}

/** A transfer as the main thread hands it over; it survives a structured clone. */
export interface TransferOrder {
  /** Our own address that was asked: the answer leaves from it, whatever other addresses the host has. */
  readonly local: string;
  readonly peer: Peer;
  /** All of the file, or the ring that it passes through. */
  readonly bytes: Uint8Array;
  /** Set: `bytes` is a ring, and this the size of the file, in bytes. */
  readonly ringOf?: number;
  /** As asked. */
  readonly options: TftpOptions;
  /** What the path to the peer carries in one block, in bytes. */
  readonly maxBlockSize: number;
}

export interface TransferResult {
  readonly outcome: TransferOutcome | 'stopped';
  readonly why?: string;
  readonly durationMs: number;
  readonly blockSize: number;
  readonly windowSize: number;
  /** Blocks that left more than once. */
  readonly resent: number;
}

/** The sockets' part. A packet that cannot leave is a lost packet: the timer sends it again or gives up. */
export interface Outlet {
  packet(bytes: Uint8Array): void;
  /** One burst; see TransferAction. */
  blocks(first: number, count: number): void;
  /** Replaces what was set before. */
  wakeAt(ms: number): void;
  /** A piece of the file is to be laid into the ring; arrived() or unreadable() is the answer. */
  read(reading: Reading): void;
  /** Called once, last of all. */
  over(result: TransferResult): void;
}

/** What the peer's socket has heard is handed to exactly one of these; after the end all of them do nothing. */
export interface Run {
  readonly terms: TransferTerms;
  /** Where a block that is to be sent lies in `order.bytes`, and its length. */
  placeOf(block: number): number;
  lengthOf(block: number): number;
  start(): void;
  ack(block: number, at: number): void;
  /** Anything else that came from the peer. True: it is no TFTP at all. */
  other(datagram: Uint8Array, at: number): boolean;
  timer(at: number): void;
  askedAgain(at: number): void;
  arrived(piece: number, at: number): void;
  unreadable(why: string): void;
  fail(why: string): void;
  /** The peer is told in an ERROR 0 when there is a `message`. */
  stop(message?: string): void;
}

const OPCODE_DATA = 3;

export function createRun(order: TransferOrder, outlet: Outlet, slot: SlotWriter, now: () => number): Run {
  const terms = termsOf(order);
  const { size, blockSize } = terms;
  const pieces = order.ringOf === undefined ? wholeFile(blockSize) : piecesInRing(terms, outlet.read);
  const startedAt = now();
  const seed = Math.floor(Math.random() * 2 ** 32);
  const first = begin(terms, startedAt, seed);
  let { state } = first;
  /** The event whose answer is not in the ring yet: the transfer stands still, as does its clock. */
  let held: TransferEvent | 'begin' | undefined;
  let heldSince = 0;
  // Between the order and the bound socket there is nothing to send with.
  let started = false;
  let over = false;
  const note = () => slot.progress(state.progressAt, state.heard, Math.min(terms.size, Math.max(0, state.acked) * terms.blockSize));
  note();

  const finish = (outcome: TransferResult['outcome'], why?: string) => {
    if (over) return;
    over = true;
    outlet.over({ outcome, ...(why === undefined ? {} : { why }), durationMs: Math.round(now() - startedAt), blockSize: terms.blockSize, windowSize: terms.windowSize, resent: state.resent });
  };
  const perform = (next: Step) => {
    const moved = next.state.progressAt !== state.progressAt || next.state.heard !== state.heard;
    state = next.state;
    if (moved) note();
    for (const action of next.actions) {
      if (over) return;
      switch (action.kind) {
        case 'blocks':
          outlet.blocks(action.first, action.count);
          break;
        case 'timer':
          outlet.wakeAt(action.atMs);
          break;
        case 'oack':
          outlet.packet(encodeTftp({ kind: 'oack', options: terms.options }));
          break;
        case 'error':
          outlet.packet(encodeTftp({ kind: 'error', code: action.code, message: action.message }));
          break;
        case 'end':
          finish(action.outcome, action.why);
      }
    }
  };
  /** Whether the bytes that it sends are there; if not they are being read: what it says is acknowledged makes room for them. */
  const isThere = ({ state: { acked }, actions }: Step) => {
    if (order.ringOf === undefined) return true;
    pieces.passed(Math.max(0, acked));
    return actions.every((action) => action.kind !== 'blocks' || pieces.has(action.first, action.count));
  };
  const after = (event: TransferEvent | 'begin', at: number) => (event === 'begin' ? begin(terms, at, seed) : step(state, { ...event, at }));
  const hold = (event: TransferEvent | 'begin', at: number) => {
    held = event;
    heldSince = at;
    outlet.wakeAt(at + GIVE_UP_MS);
  };
  const take = (event: TransferEvent) => {
    if (!started || over) return;
    if (held) return takeWhileHeld(held, event);
    const next = step(state, event);
    if (isThere(next)) perform(next);
    else hold(event, event.at);
  };
  /** What else the peer says is lost, as on a link; but of two ACKs the one that says more is kept, and its ERROR ends the transfer. */
  const takeWhileHeld = (holding: TransferEvent | 'begin', event: TransferEvent) => {
    if (event.kind === 'error') return perform(step(state, event));
    if (event.kind === 'ack' && after(event, event.at).state.acked > after(holding, event.at).state.acked) return tryAgain(event, event.at);
    if (event.kind !== 'timer') return;
    if (event.at >= heldSince + GIVE_UP_MS) giveUp(`the disk gave no bytes for ${GIVE_UP_MS / 1000} s`);
    else outlet.wakeAt(heldSince + GIVE_UP_MS);
  };
  const tryAgain = (event: TransferEvent | 'begin', at: number) => {
    held = event;
    const next = after(event, at);
    if (!isThere(next)) return;
    held = undefined;
    perform(next);
    // The timer that the transfer had set was replaced when it was held; one that comes early does no harm.
    take({ kind: 'timer', at });
  };
  const giveUp = (why: string) => {
    if (over) return;
    if (started) outlet.packet(encodeTftp({ kind: 'error', code: TFTP_ERROR.undefined, message: 'the server is at fault, see its log' }));
    finish('failed', why);
  };

  return {
    terms,
    placeOf: pieces.placeOf,
    lengthOf: (block) => Math.min(blockSize, size - (block - 1) * blockSize),
    start() {
      started = true;
      if (isThere(first)) perform(first);
      else hold('begin', startedAt);
    },
    ack: (block, at) => take({ kind: 'ack', block, at }),
    other(datagram, at) {
      try {
        const packet = decodeTftp(datagram);
        if (packet.kind === 'ack') take({ kind: 'ack', block: packet.block, at });
        else if (packet.kind === 'error') take({ kind: 'error', code: packet.code, message: packet.message, at });
        return false;
      } catch (error) {
        if (error instanceof TftpDecodeError) return true;
        throw error;
      }
    },
    timer: (at) => take({ kind: 'timer', at }),
    askedAgain: (at) => take({ kind: 'asked-again', at }),
    arrived(piece, at) {
      pieces.arrived(piece);
      if (held && !over) tryAgain(held, at);
    },
    unreadable: giveUp,
    fail: (why) => finish('failed', why),
    stop(message) {
      if (message !== undefined && started && !over) outlet.packet(encodeTftp({ kind: 'error', code: TFTP_ERROR.undefined, message }));
      finish('stopped', message);
    },
  };
}

function termsOf({ bytes, ringOf, options, maxBlockSize }: TransferOrder): TransferTerms {
  const most = { blockSize: maxBlockSize };
  if (ringOf === undefined) return negotiate(bytes.length, options, most);
  const { blockSize, windowSize } = negotiate(ringOf, options, most);
  return negotiate(ringOf, options, { ...most, windowSize: Math.min(windowSize, largestWindow(blockSize)) });
}

/** Writes the four bytes before the data of `block` (counted from 1, never wrapped) to `out` at `at`. */
export function layHead(out: Uint8Array, at: number, block: number): void {
  out[at] = 0;
  out[at + 1] = OPCODE_DATA;
  out[at + 2] = block >>> 8;
  out[at + 3] = block;
}
