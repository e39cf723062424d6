// One read transfer as a pure machine: step(state, event) -> state + actions. No socket, no clock, no file bytes: times are numbers in milliseconds.
import { TFTP_ERROR } from './packet.ts';
import { answered, backOff, FIRST_TIMEOUT_MS, measure, soonMs, TRIES, waitMs } from './rto.ts';
import { blockCount, type TransferTerms } from './terms.ts';
import { copy, type Draft, type Step, type TransferAction, type TransferEvent, type TransferState } from './transfer-state.ts';

export type { Step, TransferAction, TransferEvent, TransferOutcome, TransferState } from './transfer-state.ts';
export { blockCount, DEFAULT_WINDOW, ETHERNET_BLOCK, LARGEST_BLOCK, negotiate, type TransferTerms } from './terms.ts';

/** A peer that has answered before is given up after this long without progress. */
export const GIVE_UP_MS = 20_000;
/** Of the tries before the client's turn so many are a block and a window by turns, the others a block. */
const WINDOW_TRIES = 8;
/** After an ACK from inside the window: so long nothing newer must come before its rest counts as lost (a quarter of a round trip, at least this). */
const SHORTEST_SETTLE_MS = 1;
/** No burst is smaller on a link that loses much: RFC 5681's, and the client's answer then costs one block in three. */
const SMALLEST_BURST = 2;
/**
 * Until the first ACK the address may be forged: so few packets make no flood, so short a wait leaves the slots to others. But a client that has our last
 * answer, at most 0.8 s after the first, says so again 5 s later.
 */
export const RESENDS_BEFORE_FIRST_ACK = 3;
export const GIVE_UP_BEFORE_FIRST_ACK_MS = 6_000;

/** Answers a read request: with an OACK when an option was granted, else with the first block. `seed`: any 32-bit number, the source of jitter. */
export function begin(terms: TransferTerms, now: number, seed: number): Step {
  const draft: Draft = {
    terms,
    seed: seed | 0,
    lastBlock: blockCount(terms),
    ended: false,
    heard: false,
    progressAt: now,
    blocksSent: 0,
    resent: 0,
    acked: terms.options.size > 0 ? -1 : 0,
    sentTo: 0,
    burstAt: now,
    sentOnce: true,
    highest: 0,
    asksForAck: 0,
    burst: terms.windowSize,
    repeats: false,
    gap: false,
    probed: false,
    silences: 0,
    unmeasured: 0,
    timeoutMs: FIRST_TIMEOUT_MS,
    srttMs: -1,
    rttvarMs: 0,
    deadlineAt: Infinity,
    timerAt: Infinity,
  };
  return draft.acked < 0 ? expectAnswer(draft, now, [OACK]) : send(draft, now);
}

/** The transfer after `event`. An ended one takes every event and does nothing. */
export function step(state: TransferState, event: TransferEvent): Step {
  if (state.ended) return unmoved(state);
  switch (event.kind) {
    case 'ack':
      return onAck(state, event.block, event.at);
    case 'timer':
      return onTimer(state, event.at);
    case 'error':
      return onError(state, event.code, event.message);
    case 'asked-again': {
      // Our answer was lost, or theirs is a duplicate: until the first ACK the answer to the request is repeated, later it says nothing new. As
      // often as by the timer, and with it: the address may be forged, and a request of 25 bytes is answered by 516.
      if (state.heard || state.silences >= RESENDS_BEFORE_FIRST_ACK) return unmoved(state);
      const draft = copy(state);
      draft.silences++;
      draft.sentOnce = false;
      return { state: draft, actions: [repeat(draft)] };
    }
  }
}

function onAck(state: TransferState, block: number, at: number): Step {
  // 16 bits tell the block as long as no more than 65535 are out, which is RFC 7440's largest window.
  const ahead = (block - state.acked) & 0xffff;
  if (ahead === 0) return onSameAck(state, at);
  const acked = state.acked + ahead;
  // RFC 1123 4.2.3.1: an ACK for nothing that is out is old, and sending again because of it would double the rest of the stream.
  if (acked > state.highest) return unmoved(state);
  const draft = copy(state);
  draft.acked = acked;
  draft.heard = true;
  draft.progressAt = at;
  answered(draft);
  if (acked < state.sentTo) return state.probed ? goBack(draft, at) : settle(draft, at);
  draft.gap = false;
  if (acked === state.sentTo) {
    if (state.sentOnce) measure(draft, Math.max(0, at - state.burstAt));
    // A client that answers a whole window, but nothing less, gets whole windows.
    if (state.silences > 1 && !state.probed) draft.burst = state.terms.windowSize;
    else if (state.burst < state.terms.windowSize) draft.burst++;
  }
  if (acked === state.lastBlock) return end(draft, [{ kind: 'end', outcome: 'complete' }]);
  return send(draft, at);
}

/**
 * The ACK that is known, once more. A client sends one for each block that it did not expect, so most are echoes of a burst that has been replaced,
 * or doubled by the network: none of them ever sends anything by itself (RFC 1123 4.2.3.1). But the first block of this burst may be lost, so the
 * question whether it is comes sooner; and after that question the same ACK is its answer.
 */
function onSameAck(state: TransferState, at: number): Step {
  if (state.terms.windowSize === 1 || state.acked < 0) return unmoved(state);
  if (state.probed) {
    const draft = copy(state);
    answered(draft);
    return goBack(draft, at);
  }
  if (state.gap) return settle(copy(state), at);
  const soonerAt = state.burstAt + soonMs(state);
  if (soonerAt >= state.deadlineAt) return unmoved(state);
  const draft = copy(state);
  draft.deadlineAt = soonerAt;
  return { state: draft, actions: setTimer(draft, []) };
}

function onError(state: TransferState, code: number, message: string): Step {
  // TRAPS 1.7: a ROM asks for the size, reads it in the OACK, and hangs up to allocate memory. PXE ROMs say 8, others 0.
  if (state.acked < 0 && (code === TFTP_ERROR.undefined || code === TFTP_ERROR.optionsRefused)) {
    return end(copy(state), [{ kind: 'end', outcome: 'aborted' }]);
  }
  return end(copy(state), [{ kind: 'end', outcome: 'failed', why: `the client sent error ${code}${message ? `: ${message}` : ''}` }]);
}

function onTimer(state: TransferState, at: number): Step {
  const draft = copy(state);
  draft.timerAt = Infinity;
  if (at < state.deadlineAt) return { state: draft, actions: setTimer(draft, []) };
  if (at >= state.progressAt + giveUpMs(state)) {
    const farewell: TransferAction = { kind: 'error', code: TFTP_ERROR.undefined, message: 'no acknowledgement came, giving up' };
    const last: TransferAction = { kind: 'end', outcome: 'failed', why: state.heard ? 'the client fell silent' : 'the client never answered' };
    return end(draft, state.heard ? [farewell, last] : [last]);
  }
  if (!state.heard && state.silences >= RESENDS_BEFORE_FIRST_ACK) {
    draft.deadlineAt = state.progressAt + giveUpMs(state);
    return { state: draft, actions: setTimer(draft, []) };
  }
  if (state.gap) {
    // A client that has got some of these blocks before answers each with the ACK of what it had then, and takes what comes behind. To go back now
    // could be to send blocks that it has, which it would answer likewise: every block twice, to the end of the file. So it is asked first.
    if (!state.repeats || state.probed) return goBack(draft, at);
    draft.probed = true;
    draft.deadlineAt = at + soonMs(draft);
    return { state: draft, actions: setTimer(draft, [repeat(draft)]) };
  }
  backOff(draft);
  // Silence means that the end of the burst or its ACK was lost, or all of it. One block tells which: where the client has the others, it is
  // what it waits for or has had already (RFC 1350: acknowledged again), else it is out of order, and RFC 7440 has it answered by the ACK of
  // what is there. A whole window instead would fall into the queue that has just overflowed.
  if (!state.probed || state.acked < 0 || (draft.silences > WINDOW_TRIES && draft.silences < TRIES)) {
    draft.probed = true;
    return expectAnswer(draft, at, [repeat(draft)]);
  }
  // Still silence: some clients answer nothing but a whole window (RFC 7440 only says SHOULD of the rest), and some answer what is out of order once
  // for each block that they wait for (U-Boot), which was lost. Only now, all of it again.
  draft.probed = false;
  return send(draft, at, state.terms.windowSize);
}

/** Sends what follows the last ACK in one burst of so many blocks at most. */
function send(draft: Draft, at: number, most: number = draft.burst): Step {
  const { acked, lastBlock, terms } = draft;
  let count = Math.min(most, lastBlock - acked);
  if (count < terms.windowSize && acked + count < lastBlock && (count + 1 === terms.windowSize || acked + count + 1 === lastBlock)) count++;
  // A client acknowledges whole windows, the end, and what comes out of order (RFC 7440). So a smaller burst is followed by the block after the
  // next one: it is answered by the ACK of all that came before it.
  const outOfOrder = count < terms.windowSize && acked + count < lastBlock ? acked + count + 2 : 0;
  const sentTo = acked + count;
  draft.blocksSent += count;
  if (draft.highest > acked) draft.resent += Math.min(sentTo, draft.highest) - acked;
  draft.repeats = draft.highest > acked;
  draft.sentTo = sentTo;
  draft.burstAt = at;
  // Copies of an earlier burst do not count: the client had no use for them, or the last ACK would be a higher one.
  draft.sentOnce = draft.silences === 0;
  draft.highest = Math.max(sentTo, draft.highest);
  draft.asksForAck = sentTo;
  const actions: TransferAction[] = [{ kind: 'blocks', first: acked + 1, count }];
  if (outOfOrder > 0) {
    draft.asksForAck = outOfOrder;
    draft.blocksSent++;
    draft.resent++;
    actions.push({ kind: 'blocks', first: outOfOrder, count: 1 });
  }
  return expectAnswer(draft, at, actions);
}

/** Waits for what else the client has to say of this burst. */
function settle(draft: Draft, at: number): Step {
  draft.gap = true;
  draft.deadlineAt = Math.min(at + Math.max(SHORTEST_SETTLE_MS, draft.srttMs / 4), draft.progressAt + GIVE_UP_MS);
  return { state: draft, actions: setTimer(draft, []) };
}

/** The first lost block and what follows: half as many as before (RFC 5681's rule for a link that overflows), as each loss costs all behind it. */
function goBack(draft: Draft, at: number): Step {
  draft.gap = false;
  draft.probed = false;
  draft.burst = Math.max(Math.min(SMALLEST_BURST, draft.terms.windowSize), draft.burst >> 1);
  return send(draft, at);
}

/** The one packet that has the client answer: the OACK, or a block of the burst that left before. */
function repeat(draft: Draft): TransferAction {
  if (draft.acked < 0) return OACK;
  draft.blocksSent++;
  draft.resent++;
  return { kind: 'blocks', first: draft.asksForAck, count: 1 };
}

/** Sets the deadline by which what is sent now must be answered. */
function expectAnswer(draft: Draft, at: number, actions: TransferAction[]): Step {
  const giveUpAt = draft.progressAt + giveUpMs(draft);
  const mayResend = draft.heard || draft.silences < RESENDS_BEFORE_FIRST_ACK;
  draft.deadlineAt = mayResend ? Math.min(at + waitMs(draft), giveUpAt) : giveUpAt;
  return { state: draft, actions: setTimer(draft, actions) };
}

/** A timer that is due too early is left as it is, it will be set again when it comes: a lock-step transfer sets one in 20 ms, not one an ACK. */
function setTimer(draft: Draft, actions: TransferAction[]): TransferAction[] {
  if (draft.deadlineAt >= draft.timerAt) return actions;
  draft.timerAt = draft.deadlineAt;
  actions.push({ kind: 'timer', atMs: draft.deadlineAt });
  return actions;
}

function end(draft: Draft, actions: readonly TransferAction[]): Step {
  draft.ended = true;
  return { state: draft, actions };
}

function giveUpMs({ heard }: TransferState): number {
  return heard ? GIVE_UP_MS : GIVE_UP_BEFORE_FIRST_ACK_MS;
}

function unmoved(state: TransferState): Step {
  return { state, actions: NOTHING };
}

const OACK: TransferAction = { kind: 'oack' };
const NOTHING: readonly TransferAction[] = [];
