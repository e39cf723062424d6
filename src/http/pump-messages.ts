// What an HTTP thread and its pumps say to one another: structured clones all of it.
import type { BellRope } from '../threads/bell.ts';

/** All that a pump is given at its start; the numbers stay the HTTP thread's to close. */
export interface PumpData {
  readonly epoll: number;
  readonly rope: BellRope;
}

/** A part of a block: where it lies in memory, and its bytes. */
export interface Piece {
  readonly address: number;
  readonly length: number;
}

/**
 * `send`: a run of pieces, behind those that came before; the first one opens the stream, with the number of its socket, and the one without `more` closes it once it is
 * over. Each message wakes who it is for: a download of 150 MB has three runs.
 */
export type ToPump =
  | { readonly kind: 'send'; readonly id: number; readonly fd: number; readonly pieces: readonly Piece[]; readonly more: boolean }
  | { readonly kind: 'close'; readonly id: number }
  | { readonly kind: 'end' };

/** `sent`: the oldest run that was not answered yet is over, the socket took so many bytes of it, and its pieces are read no more; `closed`, which was asked for: the stream's number is used no more. */
export type FromPump =
  | { readonly kind: 'ready'; readonly pours: boolean }
  | { readonly kind: 'sent'; readonly id: number; readonly bytes: number }
  | { readonly kind: 'closed'; readonly id: number };
