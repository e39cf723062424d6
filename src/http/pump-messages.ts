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

/** `send`: a run of pieces, behind those that came before; `more`: another run comes. */
export type ToPump =
  | { readonly kind: 'open'; readonly id: number; readonly fd: number }
  | { readonly kind: 'send'; readonly id: number; readonly pieces: readonly Piece[]; readonly more: boolean }
  | { readonly kind: 'close'; readonly id: number }
  | { readonly kind: 'end' };

/** `sent`: the oldest run that was not answered yet is over, the socket took so many bytes of it, and its pieces are read no more; `closed`: so is the stream's number. */
export type FromPump =
  | { readonly kind: 'ready'; readonly pours: boolean }
  | { readonly kind: 'sent'; readonly id: number; readonly bytes: number }
  | { readonly kind: 'closed'; readonly id: number };
