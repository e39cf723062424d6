// How a part of a blob goes out: the head and a first piece by Node, the rest past it where that is possible.
import type { ServerResponse } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import type { VerifiedBlob } from '../store/verified.ts';
import { BLOCK, type BlockReader, type LentBlock } from './block-cache.ts';
import type { Piece } from './pump-messages.ts';
import type { Pumps, Stream } from './pumps.ts';
import type { ByteRange } from './range.ts';

/** What Node writes at the beginning: the head goes out with it. */
const FIRST_PIECE = 16 * 1024;
/** What is less is with the kernel before a pump has heard of it. */
const PUMPED_FROM = 512 * 1024;
/** Blocks that a pump is given at once, by one message; and it has the next ones before it is through with them. */
const RUN_BLOCKS = 32;
/** A connection sends so much by Node, and then others have their turn. */
const TURN_BYTES = 2 * BLOCK;
/** What a connection reads for itself when each block of the cache is lent: few bytes, for there may be thousands. */
const OWN_PIECE = 128 * 1024;

/** The connection ended, by the client or because it was cut. */
export class Gone extends Error {
  constructor() {
    super('the client closed the connection');
  }
}

export interface Sending {
  readonly blob: VerifiedBlob;
  readonly reader: BlockReader;
  readonly range: ByteRange;
  readonly response: ServerResponse;
  readonly pumps: Pumps;
  /** Moves with the bytes that the kernel was given. */
  readonly given: { last: number };
}

/** Rejects when the client goes away (Gone) or the file is no longer what was verified. */
export async function sendBytes({ blob, reader, range: { first, last }, response, pumps, given }: Sending): Promise<void> {
  await turnOf(response);
  const out = writerOf(response);
  let own: Buffer | undefined;
  await byNode(first, Math.min(last, first + FIRST_PIECE - 1));
  const stream = last - given.last >= PUMPED_FROM ? await pumps.open(response.socket) : undefined;
  if (stream) await byPump(stream);
  else if (given.last < last) await byNode(given.last + 1, last);
  await out.end();

  async function byNode(from: number, to: number): Promise<void> {
    let turn = 0;
    for (let at = from; at <= to; ) {
      const block = await reader.take(Math.floor(at / BLOCK));
      const length = block ? partOf(block, at, to).length : await writeOwn(at, to);
      if (block) {
        try {
          reader.ahead(Math.floor((at + length) / BLOCK));
          await out.write(block.bytes.subarray(at % BLOCK, (at % BLOCK) + length));
        } finally {
          block.release();
        }
      }
      at += length;
      given.last = at - 1;
      turn += length;
      if (turn < TURN_BYTES) continue;
      // What the kernel takes at once leaves no gap: without this a client that reads as fast as we write would have the loop for itself.
      turn = 0;
      await setImmediate();
    }
  }

  /** When no block is to be had; resolves with the bytes that were written. */
  async function writeOwn(at: number, to: number): Promise<number> {
    own ??= Buffer.allocUnsafeSlow(OWN_PIECE);
    const length = Math.min(OWN_PIECE, to + 1 - at, BLOCK - (at % BLOCK));
    await blob.read(own, length, at);
    await out.write(own.subarray(0, length));
    return length;
  }

  async function byPump(stream: Stream): Promise<void> {
    // Nobody else tells it.
    const onClose = (): void => void stream.close();
    response.once('close', onClose);
    let before: Promise<void> | undefined;
    try {
      for (let at = given.last + 1; at <= last; ) {
        if (response.destroyed) throw new Gone();
        const blocks = await reader.takeRun(Math.floor(at / BLOCK), RUN_BLOCKS);
        if (blocks.length === 0) {
          await before;
          at += await writeOwn(at, last);
          given.last = at - 1;
          continue;
        }
        const pieces: Piece[] = [];
        for (const block of blocks) {
          if (at > last) break;
          const { offset, length } = partOf(block, at, last);
          const address = block.address! + offset;
          const before = pieces.at(-1);
          // What was read one after the other mostly lies so.
          if (before && before.address + before.length === address) pieces[pieces.length - 1] = { address: before.address, length: before.length + length };
          else pieces.push({ address, length });
          at += length;
        }
        reader.ahead(Math.floor(at / BLOCK));
        const run = sendRun(stream, pieces, blocks, at <= last);
        // It rejects again when it is waited for.
        run.catch(() => undefined);
        await before;
        before = run;
      }
      await before;
    } finally {
      response.off('close', onClose);
      await stream.close();
    }
  }

  async function sendRun(stream: Stream, pieces: readonly Piece[], blocks: readonly LentBlock[], more: boolean): Promise<void> {
    const taken = await stream.send(pieces, more);
    for (const block of blocks) block.release();
    given.last += taken;
    if (taken < pieces.reduce((sum, { length }) => sum + length, 0)) throw new Gone();
  }
}

/** The bytes of a block from byte `at` of the blob on, up to byte `last` of it. */
function partOf(block: LentBlock, at: number, last: number): { readonly offset: number; readonly length: number } {
  const offset = at % BLOCK;
  return { offset, length: Math.min(block.length - offset, last + 1 - at) };
}

/** A response to a pipelined request holds no memory before the ones ahead of it are out; rejects when the connection ends before. */
async function turnOf(response: ServerResponse): Promise<void> {
  // Node emits 'socket' when a response is given its connection; 'close' of one that never was comes from listener.ts.
  if (!response.socket && !response.destroyed) await new Promise<void>((resolve) => response.once('socket', () => resolve()).once('close', resolve));
  if (response.destroyed) throw new Gone();
}

/** Each promise settles when the kernel has the bytes, so that their memory may be used again; it rejects when the connection ends before. */
function writerOf(response: ServerResponse): { write(bytes: Buffer): Promise<void>; end(): Promise<void> } {
  /** Of what is being written. */
  let pending: ((error: Error) => void) | undefined;
  let closed = false;
  response.once('close', () => {
    closed = true;
    pending?.(new Gone());
  });
  const whenDone = (start: (done: (error?: Error | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => {
      if (closed || response.destroyed) return reject(new Gone());
      pending = reject;
      start((error) => {
        pending = undefined;
        if (error) reject(new Gone());
        else resolve();
      });
    });
  return { write: (bytes) => whenDone((done) => response.write(bytes, done)), end: () => whenDone((done) => response.end(done)) };
}
