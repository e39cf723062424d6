// What a transfer knows, what happens to it and what it wants done: the values that step() takes and gives. Pure.
import type { TransferTerms } from './terms.ts';

/** Read it, do not build it: begin() and step() are its only makers. Blocks count from 1 and never wrap; block 0 is the OACK. */
export interface TransferState {
  readonly terms: TransferTerms;
  readonly seed: number;
  readonly lastBlock: number;
  readonly ended: boolean;
  /** A new ACK has come, so the peer is where it says. */
  readonly heard: boolean;
  /** When the last new ACK came; at first, the start. */
  readonly progressAt: number;
  /** DATA packets over the whole transfer, for the log; `resent` of them carried a block that left more than once. */
  readonly blocksSent: number;
  readonly resent: number;
  /** The client has every block up to this one; -1 = the OACK is out. */
  readonly acked: number;
  /** The burst that is out are the blocks acked+1 (as it was then) to `sentTo`, since `burstAt`. */
  readonly sentTo: number;
  readonly burstAt: number;
  /** `sentTo` left once since the client said what it has, so that its ACK measures the path (Karn). */
  readonly sentOnce: boolean;
  /** The highest block that ever left: no honest ACK is beyond it. */
  readonly highest: number;
  /** The block of the burst that every client answers, whatever it has got of the others. */
  readonly asksForAck: number;
  /** How many blocks the next burst may have: the window, less after losses. */
  readonly burst: number;
  /** The burst has blocks that left before, so the client may have some of them. */
  readonly repeats: boolean;
  /** The last ACK was from inside the burst: unless a newer one comes, what follows it was lost. */
  readonly gap: boolean;
  /** `asksForAck` was sent again, and nothing came since. */
  readonly probed: boolean;
  /** How often the timer found silence since the last new ACK. */
  readonly silences: number;
  /** How many new ACKs in a row came after a silence. */
  readonly unmeasured: number;
  readonly timeoutMs: number;
  /** -1 = no round trip was measured yet. */
  readonly srttMs: number;
  readonly rttvarMs: number;
  /** When a timer event is due, and for when the runner has one: not later. */
  readonly deadlineAt: number;
  readonly timerAt: number;
}

/** The one copy that an event makes, while it is being filled in. */
export type Draft = { -readonly [Key in keyof TransferState]: TransferState[Key] };

/** Written out because `{ ...state }` takes ten times as long in V8 (840 ns an event against 75): this runs for every ACK. */
export function copy(from: TransferState): Draft {
  const { terms, seed, lastBlock, ended, heard, progressAt, blocksSent, resent, acked, sentTo, burstAt, sentOnce, highest, asksForAck } = from;
  const { burst, repeats, gap, probed, silences, unmeasured, timeoutMs, srttMs, rttvarMs, deadlineAt, timerAt } = from;
  return {
    terms, seed, lastBlock, ended, heard, progressAt, blocksSent, resent, acked, sentTo, burstAt, sentOnce, highest, asksForAck,
    burst, repeats, gap, probed, silences, unmeasured, timeoutMs, srttMs, rttvarMs, deadlineAt, timerAt,
  };
}

export type TransferEvent =
  /** Its block number as on the wire: 16 bits. */
  | { readonly kind: 'ack'; readonly block: number; readonly at: number }
  | { readonly kind: 'error'; readonly code: number; readonly message: string; readonly at: number }
  | { readonly kind: 'timer'; readonly at: number }
  /** The peer sent its request once more. */
  | { readonly kind: 'asked-again'; readonly at: number };

/** `complete`: every byte was acknowledged · `aborted`: the client wanted the size only · `failed`: anything else. */
export type TransferOutcome = 'complete' | 'aborted' | 'failed';

export type TransferAction =
  /** Send the OACK of terms.options. */
  | { readonly kind: 'oack' }
  /**
   * Send these in one burst. Numbers count from 1 and never wrap (the wire has the low 16 bits); block n is the bytes from (n-1)*blockSize to
   * n*blockSize, the last one is shorter, maybe empty.
   */
  | { readonly kind: 'blocks'; readonly first: number; readonly count: number }
  /** Send an ERROR to the peer. */
  | { readonly kind: 'error'; readonly code: number; readonly message: string }
  /** Replaces the timer that is set; a timer event that comes early does no harm. */
  | { readonly kind: 'timer'; readonly atMs: number }
  | { readonly kind: 'end'; readonly outcome: TransferOutcome; readonly why?: string };

export interface Step {
  readonly state: TransferState;
  readonly actions: readonly TransferAction[];
}
