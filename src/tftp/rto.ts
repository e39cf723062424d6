// How long a transfer waits for an answer: the retransmission timeout of RFC 6298, with a LAN's numbers, for a link that loses. Pure.
import type { Draft, TransferState } from './transfer-state.ts';

/** A fixed timer of a second is what makes 1 % loss cost a minute (TRAPS 1.8). */
export const FIRST_TIMEOUT_MS = 100;
const SHORTEST_TIMEOUT_MS = 20;
/** RFC 6298's clock granularity: a path whose round trips never vary is not called dead for one that is this much later. */
const LEAST_VARIANCE_MS = 4;
/** So many new ACKs in a row may follow a silence before the timer stays long: 2 % of all on a link that loses 20 % each way. */
const UNMEASURED_ACKS = 4;
/**
 * Of a peer that has answered; on a slow path it is four times the timer. In seconds, one download in 30 was given up on a link that loses 20 % each
 * way, and a lost ACK that the client's own timer of 5 s repeated was taken for the path's round trip: the next losses then took seconds each.
 */
const LONGEST_BACKOFF_MS = 400;
const BACKOFF_ON_SLOW_PATHS = 4;
/** After so many silences in a row, 3 s on a fast path, it is the client's turn. */
export const TRIES = 12;

/** How long to wait for the answer to what is sent now. Jitter only lengthens: a path with steady round trips has its timer just above them. */
export function waitMs(draft: Draft): number {
  if (draft.silences >= TRIES) return draft.terms.clientsTurnMs;
  return Math.min(draft.timeoutMs * (1 + 0.125 * jitter(draft)), draft.terms.clientsTurnMs);
}

/** The timer, down to a quarter where its floor, not the path, makes it long; for when there is reason to ask. */
export function soonMs({ timeoutMs, srttMs, rttvarMs }: TransferState): number {
  return srttMs < 0 ? timeoutMs : timeoutMs * Math.min(1, Math.max(0.25, (srttMs + 4 * rttvarMs) / SHORTEST_TIMEOUT_MS));
}

/** The timer found silence once more. */
export function backOff(draft: Draft): void {
  draft.silences++;
  draft.sentOnce = false;
  // One loss says nothing of the path: the backoff begins when what was sent because of it, first one block and then a window, brings nothing either.
  const expected = draft.terms.windowSize > 1 ? 2 : 1;
  if (draft.heard && draft.silences <= expected && draft.unmeasured < UNMEASURED_ACKS) return;
  const longestMs = draft.heard ? Math.max(LONGEST_BACKOFF_MS, BACKOFF_ON_SLOW_PATHS * retransmissionTimeout(draft)) : Infinity;
  draft.timeoutMs = Math.min(draft.timeoutMs * 2, longestMs, draft.terms.clientsTurnMs);
}

/** The silence, if there was one, is over. */
export function answered(draft: Draft): void {
  draft.probed = false;
  if (draft.silences === 0) return;
  draft.silences = 0;
  // Karn's algorithm would keep the timer as long as the silences have made it until an ACK can be measured again: several times as long for 1 MiB on a
  // link that loses 20 %. So it is short again at once, but not time after time: then the path has become slower than the timer.
  draft.unmeasured++;
  if (draft.unmeasured <= UNMEASURED_ACKS) draft.timeoutMs = retransmissionTimeout(draft);
}

/** RFC 6298 section 2. */
export function measure(draft: Draft, rttMs: number): void {
  if (draft.srttMs < 0) {
    draft.srttMs = rttMs;
    draft.rttvarMs = rttMs / 2;
  } else {
    draft.rttvarMs = 0.75 * draft.rttvarMs + 0.25 * Math.abs(draft.srttMs - rttMs);
    draft.srttMs = 0.875 * draft.srttMs + 0.125 * rttMs;
  }
  draft.unmeasured = 0;
  draft.timeoutMs = retransmissionTimeout(draft);
}

function retransmissionTimeout({ srttMs, rttvarMs, terms }: Draft): number {
  const timeoutMs = srttMs < 0 ? FIRST_TIMEOUT_MS : srttMs + Math.max(LEAST_VARIANCE_MS, 4 * rttvarMs);
  return Math.min(Math.max(timeoutMs, SHORTEST_TIMEOUT_MS), terms.clientsTurnMs);
}

/** 0 to 1, the same for the same state: machines that power on together must not resend together. */
function jitter({ seed, blocksSent, silences }: Draft): number {
  let bits = Math.imul(seed ^ (blocksSent + silences), 0x9e3779b1);
  bits = Math.imul(bits ^ (bits >>> 15), 0x85ebca6b);
  return ((bits ^ (bits >>> 13)) >>> 0) / 2 ** 32;
}
