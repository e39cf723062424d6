// One read transfer as a pure machine: step(state, event) -> state + actions. No socket, no clock: times are numbers in milliseconds.
import { TFTP_ERROR, type TftpOptions, type TftpPacket } from './packet.ts';

/** RFC 1350: what a client without options gets. RFC 2348: what it may ask for. */
const DEFAULT_BLOCK = 512;
const SMALLEST_BLOCK = 8;
export const LARGEST_BLOCK = 65464;
/** What an Ethernet frame carries: MTU 1500 - IPv4 20 - UDP 8 - TFTP 4. Fragments are lost by ROMs and firewalls (TRAPS 1.8). */
export const ETHERNET_BLOCK = 1468;

/** RFC 6298 with a LAN's numbers: a fixed timer of a second is what makes 1 % loss cost a minute (TRAPS 1.8). */
const FIRST_TIMEOUT_MS = 100;
const SHORTEST_TIMEOUT_MS = 20;
const LONGEST_TIMEOUT_MS = 2_000;
/** A peer that has answered before is given up after this long without progress. */
export const GIVE_UP_MS = 20_000;
/** Until the first ACK the address may be forged: so few packets make no flood, so short a wait leaves the slots to others. */
export const RESENDS_BEFORE_FIRST_ACK = 3;
export const GIVE_UP_BEFORE_FIRST_ACK_MS = 5_000;

/** Read it, do not build it: begin() and step() are its only makers. */
export interface TransferState {
  readonly ended: boolean;
  readonly bytes: Uint8Array;
  /** What the OACK says; empty = none was sent. */
  readonly options: TftpOptions;
  readonly blockSize: number;
  /**
   * The one packet that is out: 0 = the OACK, n = the nth block, counted from 1 and never wrapped. A window (RFC 7440) would make this
   * the first of several.
   */
  readonly index: number;
  readonly sentAt: number;
  /** How often the timer sent it again. */
  readonly resends: number;
  /** It left exactly once, so that its ACK measures the path (Karn). */
  readonly sentOnce: boolean;
  /** When the last new ACK came; at first, the start. */
  readonly progressAt: number;
  /** A new ACK has come, so the peer is where it says. */
  readonly heard: boolean;
  readonly timeoutMs: number;
  readonly longestTimeoutMs: number;
  readonly srttMs?: number;
  readonly rttvarMs: number;
  /** When the next timer event is due. */
  readonly deadlineAt: number;
  /** Over the whole transfer, for the log. */
  readonly resent: number;
}

export type TransferEvent =
  /** A datagram of the peer's own address and port. */
  | { readonly kind: 'packet'; readonly packet: TftpPacket; readonly at: number }
  | { readonly kind: 'timer'; readonly at: number }
  /** The peer sent its request once more. */
  | { readonly kind: 'asked-again'; readonly at: number };

/** `complete`: every byte was acknowledged · `aborted`: the client wanted the size only · `failed`: anything else. */
export type TransferOutcome = 'complete' | 'aborted' | 'failed';

export type TransferAction =
  | { readonly kind: 'send'; readonly packet: TftpPacket }
  /** Replaces the timer that is set; a timer event that comes early does no harm. */
  | { readonly kind: 'timer'; readonly atMs: number }
  | { readonly kind: 'end'; readonly outcome: TransferOutcome; readonly why?: string };

export interface Step {
  readonly state: TransferState;
  readonly actions: readonly TransferAction[];
}

/**
 * Answers a read request: with an OACK when one of its options can be granted, else with the first block. `maxBlockSize` is what the
 * path carries; options that are unknown or out of range are left out of the OACK (RFC 2347), never an error.
 */
export function begin(bytes: Uint8Array, asked: TftpOptions, now: number, maxBlockSize: number = ETHERNET_BLOCK): Step {
  const granted = new Map<string, string>();
  let blockSize = DEFAULT_BLOCK;
  let longestTimeoutMs = LONGEST_TIMEOUT_MS;
  for (const [name, value] of asked) {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : undefined;
    if (number === undefined) continue;
    if (name === 'tsize') granted.set(name, String(bytes.length));
    if (name === 'blksize' && number >= SMALLEST_BLOCK) {
      blockSize = Math.min(number, maxBlockSize, LARGEST_BLOCK);
      granted.set(name, String(blockSize));
    }
    // RFC 2349 wants the very number back. It stays the longest that we wait: a resend that comes sooner is never wrong, one after a client's 6 s is.
    if (name === 'timeout' && number >= 1 && number <= 255) {
      longestTimeoutMs = Math.min(number * 1000, LONGEST_TIMEOUT_MS);
      granted.set(name, value);
    }
  }
  const state: TransferState = {
    ended: false,
    bytes,
    options: granted,
    blockSize,
    index: granted.size > 0 ? 0 : 1,
    sentAt: now,
    resends: 0,
    sentOnce: true,
    progressAt: now,
    heard: false,
    timeoutMs: FIRST_TIMEOUT_MS,
    longestTimeoutMs,
    rttvarMs: 0,
    deadlineAt: now,
    resent: 0,
  };
  return send(state);
}

/** The transfer after `event`. An ended one takes every event and does nothing. */
export function step(state: TransferState, event: TransferEvent): Step {
  if (state.ended) return { state, actions: [] };
  switch (event.kind) {
    case 'timer':
      return onTimer(state, event.at);
    case 'asked-again':
      // Our answer was lost, or theirs is a duplicate: until the first ACK the answer to the request is repeated, later it says nothing new.
      return state.heard ? { state, actions: [] } : { state: { ...state, sentOnce: false }, actions: [{ kind: 'send', packet: packetOf(state) }] };
    case 'packet':
      if (event.packet.kind === 'ack') return onAck(state, event.packet.block, event.at);
      if (event.packet.kind === 'error') return onError(state, event.packet.code, event.packet.message);
      return { state, actions: [] };
  }
}

function onAck(state: TransferState, block: number, at: number): Step {
  // RFC 1123 4.2.3.1: an ACK for anything but what is out is old, and sending again because of it would double the rest of the stream.
  if (block !== (state.index & 0xffff)) return { state, actions: [] };
  const measured = state.sentOnce ? measure(state, Math.max(0, at - state.sentAt)) : state;
  if (state.index === lastIndex(state)) return end(measured, { kind: 'end', outcome: 'complete' });
  return send({ ...measured, index: state.index + 1, sentAt: at, progressAt: at, resends: 0, sentOnce: true, heard: true });
}

function onError(state: TransferState, code: number, message: string): Step {
  // TRAPS 1.7: a ROM asks for the size, reads it in the OACK, and hangs up to allocate memory. PXE ROMs say 8, others 0.
  if (state.index === 0 && (code === TFTP_ERROR.undefined || code === TFTP_ERROR.optionsRefused)) {
    return end(state, { kind: 'end', outcome: 'aborted' });
  }
  return end(state, { kind: 'end', outcome: 'failed', why: `the client sent error ${code}${message ? `: ${message}` : ''}` });
}

function onTimer(state: TransferState, at: number): Step {
  if (at < state.deadlineAt) return { state, actions: [{ kind: 'timer', atMs: state.deadlineAt }] };
  if (at >= state.progressAt + giveUpMs(state)) {
    const last = { kind: 'end', outcome: 'failed', why: state.heard ? 'the client fell silent' : 'the client never answered' } as const;
    const farewell: TransferAction = { kind: 'send', packet: { kind: 'error', code: TFTP_ERROR.undefined, message: 'no acknowledgement came, giving up' } };
    return end(state, ...(state.heard ? [farewell] : []), last);
  }
  return send({
    ...state,
    sentAt: at,
    resends: state.resends + 1,
    resent: state.resent + 1,
    sentOnce: false,
    timeoutMs: Math.min(state.timeoutMs * 2, state.longestTimeoutMs),
  });
}

/** RFC 6298 section 2. */
function measure(state: TransferState, rttMs: number): TransferState {
  const rttvarMs = state.srttMs === undefined ? rttMs / 2 : 0.75 * state.rttvarMs + 0.25 * Math.abs(state.srttMs - rttMs);
  const srttMs = state.srttMs === undefined ? rttMs : 0.875 * state.srttMs + 0.125 * rttMs;
  const timeoutMs = Math.min(Math.max(srttMs + 4 * rttvarMs, SHORTEST_TIMEOUT_MS), state.longestTimeoutMs);
  return { ...state, srttMs, rttvarMs, timeoutMs };
}

function send(state: TransferState): Step {
  const mayResend = state.heard || state.resends < RESENDS_BEFORE_FIRST_ACK;
  const giveUpAt = state.progressAt + giveUpMs(state);
  const deadlineAt = mayResend ? Math.min(state.sentAt + state.timeoutMs, giveUpAt) : giveUpAt;
  return {
    state: { ...state, deadlineAt },
    actions: [
      { kind: 'send', packet: packetOf(state) },
      { kind: 'timer', atMs: deadlineAt },
    ],
  };
}

function end(state: TransferState, ...actions: readonly TransferAction[]): Step {
  return { state: { ...state, ended: true }, actions };
}

function giveUpMs(state: TransferState): number {
  return state.heard ? GIVE_UP_MS : GIVE_UP_BEFORE_FIRST_ACK_MS;
}

function packetOf(state: TransferState): TftpPacket {
  if (state.index === 0) return { kind: 'oack', options: state.options };
  const start = (state.index - 1) * state.blockSize;
  return { kind: 'data', block: state.index & 0xffff, data: state.bytes.subarray(start, start + state.blockSize) };
}

/** The last block is the first one that is not full: empty when the size is a multiple (RFC 1350 section 6). */
function lastIndex(state: TransferState): number {
  return Math.floor(state.bytes.length / state.blockSize) + 1;
}
