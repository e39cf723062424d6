// A file that passes through a ring: whatever the disk's delays, the link's losses and the client's window, the client has its bytes, and memory is a ring.
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { BlobRef } from '../../src/boot/profile.ts';
import { blobFile, createBlobStore } from '../../src/store/blobs.ts';
import { createVerifiedBlobs, type VerifiedBlobs } from '../../src/store/verified.ts';
import { createFileCache, type HeldFile } from '../../src/tftp/file-cache.ts';
import { largestWindow, PIECE_BYTES, piecesInRing, RING_BYTES, type Reading } from '../../src/tftp/pieces.ts';
import { decodeTftp } from '../../src/tftp/packet.ts';
import { MOST_RINGS } from '../../src/tftp/rings.ts';
import { createRun, type Run, type TransferResult } from '../../src/tftp/runner.ts';
import { LARGEST_BLOCK } from '../../src/tftp/terms.ts';
import { GIVE_UP_MS } from '../../src/tftp/transfer.ts';
import { asked, bytesOf, lossy } from './tftp-channel.ts';

const noSlot = { progress() {}, holds() {} };

describe('pieces in a ring', () => {
  const sizes = fc.tuple(fc.integer({ min: 8, max: LARGEST_BLOCK }), fc.integer({ min: 0, max: 3_000_000 })).filter(([blockSize, size]) => size / blockSize < 20_000);

  test('are read once each, cover the file without a gap, and never lie over a block that may still be sent', () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 64 }), ([blockSize, size], window) => {
        const most = Math.min(window, largestWindow(blockSize));
        expect(most).toBeGreaterThanOrEqual(1);
        const readings: Reading[] = [];
        const pieces = piecesInRing({ size, blockSize }, (reading) => (readings.push(reading), pieces.arrived(reading.piece)));
        const lastBlock = Math.floor(size / blockSize) + 1;
        const overlap = new Map<number, number>();
        for (let acked = 0; acked < lastBlock; acked += most) {
          pieces.passed(acked);
          // The window, and the block behind it that a smaller burst is followed by.
          const count = Math.min(most + 1, lastBlock - acked);
          expect(pieces.has(acked + 1, count)).toBe(true);
          overlap.clear();
          for (const block of [acked + 1, acked + count]) {
            const place = pieces.placeOf(block);
            expect(place + Math.min(blockSize, size - (block - 1) * blockSize)).toBeLessThanOrEqual(RING_BYTES);
            expect(overlap.get(place) ?? block).toBe(block);
            overlap.set(place, block);
          }
        }
        let end = 0;
        for (const { piece, from, length, to } of readings) {
          expect([from, to % PIECE_BYTES, length <= PIECE_BYTES, piece]).toEqual([end, 0, true, readings.findIndex((one) => one.piece === piece)]);
          end += length;
        }
        expect(end).toBe(size);
      }),
      { numRuns: 100 },
    );
  });
});

interface Played {
  readonly received: Buffer;
  readonly result: TransferResult | undefined;
  readonly errors: readonly string[];
  readonly inFlight: number;
}

interface Play {
  readonly size: number;
  readonly options?: Record<string, string>;
  /** Of the n-th reading, in milliseconds; undefined: it never ends; 'broken': it fails. */
  readonly disk: (n: number) => number | undefined | 'broken';
  /** Whether the n-th packet, either way, is lost. */
  readonly lost?: (n: number) => boolean;
}

/** The real runner over a ring, a client of RFC 7440 that repeats its last ACK every second, and time that is a number. */
function play({ size, options = {}, disk, lost = () => false }: Play): Played {
  const file = bytesOf(size);
  const ring = new Uint8Array(RING_BYTES);
  const due: { readonly at: number; readonly what: () => void }[] = [];
  let [now, readings, packets, wakeAt, reading, inFlight] = [0, 0, 0, Infinity, 0, 0];
  let result: TransferResult | undefined;
  const errors: string[] = [];
  const later = (ms: number, what: () => void) => {
    const at = now + ms;
    let i = due.length;
    while (i > 0 && due[i - 1]!.at > at) i--;
    due.splice(i, 0, { at, what });
  };
  const carry = (what: () => void) => {
    if (!lost(packets++)) later(0.1, what);
  };
  const run: Run = createRun(
    { local: '', peer: { address: '', port: 0 }, bytes: ring, ringOf: size, options: asked(options), maxBlockSize: LARGEST_BLOCK },
    {
      packet(bytes) {
        const packet = decodeTftp(bytes);
        if (packet.kind === 'error') errors.push(packet.message);
        if (packet.kind === 'oack') carry(() => expects === 1 && sinceAck === 0 && acknowledge());
      },
      blocks(first, count) {
        for (let block = first; block < first + count; block++) {
          const data = ring.slice(run.placeOf(block), run.placeOf(block) + run.lengthOf(block));
          carry(() => hear(block, data));
        }
      },
      wakeAt: (ms) => (wakeAt = ms),
      read({ from, length, to, piece }) {
        const takes = disk(readings++);
        if (takes === undefined) return;
        inFlight = Math.max(inFlight, ++reading);
        later(takes === 'broken' ? 0 : takes, () => {
          reading--;
          if (takes === 'broken') return run.unreadable('the blob was changed');
          ring.set(file.subarray(from, from + length), to);
          run.arrived(piece, now);
        });
      },
      over: (how) => (result = how),
    },
    noSlot,
    () => now,
  );
  const received: Uint8Array[] = [];
  let [expects, sinceAck, done] = [1, 0, false];
  const acknowledge = () => {
    sinceAck = 0;
    const block = (expects - 1) & 0xffff;
    carry(() => run.ack(block, now));
  };
  const hear = (block: number, data: Uint8Array) => {
    if (block !== expects || done) return acknowledge();
    received.push(data);
    expects++;
    sinceAck++;
    done = data.length < run.terms.blockSize;
    if (done || sinceAck === run.terms.windowSize) acknowledge();
  };
  const repeat = () => {
    if (result) return;
    acknowledge();
    later(1_000, repeat);
  };
  later(1_000, repeat);
  run.start();
  for (let turns = 0; turns < 2_000_000 && !result; turns++) {
    const next = due[0];
    if (wakeAt <= (next?.at ?? Infinity)) {
      now = Math.max(now, wakeAt);
      wakeAt = Infinity;
      run.timer(now);
    } else {
      due.shift();
      now = Math.max(now, next!.at);
      next!.what();
    }
  }
  return { received: Buffer.concat(received), result, errors, inFlight };
}

describe('a transfer from a ring', () => {
  const fileSize = fc.integer({ min: 0, max: 8 * PIECE_BYTES });
  const windows = fc.constantFrom('1', '4', '16', '64');
  const blocks = fc.constantFrom('512', '1428', '1468', '8192', String(LARGEST_BLOCK));

  test('arrives byte for byte from a disk of any delays over a link of any losses', () => {
    fc.assert(
      fc.property(fileSize, windows, blocks, fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 12 }), fc.integer(), fc.constantFrom(0, 0, 0.02, 0.1), (size, windowsize, blksize, delays, seed, loss) => {
        const dice = lossy(loss, 0, seed);
        // Who loses all of the first answers is given up, ring or not.
        const played = play({ size, options: { windowsize, blksize }, disk: (n) => delays[n % delays.length]!, lost: (n) => n >= 8 && dice('client', n).length === 0 });
        expect(played.result?.outcome).toBe('complete');
        expect(played.received.equals(bytesOf(size))).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  test.each([0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, RING_BYTES, 3 * RING_BYTES + 17])('of %i bytes, without options: the first block waits for the disk, and nothing is sent twice', (size) => {
    const played = play({ size, disk: () => 300 });
    expect([played.result, played.received.equals(bytesOf(size))]).toEqual([expect.objectContaining({ outcome: 'complete', resent: 0 }), true]);
  });

  test('is read ahead of the peer', () => {
    const { inFlight, result } = play({ size: 3 * RING_BYTES, options: { blksize: '1468' }, disk: () => 1 });
    expect([result?.outcome, inFlight]).toEqual(['complete', 4]);
  });

  test('gets no larger window than the ring has room for', () => {
    const { result, received } = play({ size: 2 * RING_BYTES, options: { blksize: String(LARGEST_BLOCK), windowsize: '64' }, disk: () => 1 });
    expect([result?.windowSize, received.equals(bytesOf(2 * RING_BYTES))]).toEqual([5, true]);
  });

  test('ends with an ERROR, and nothing more is sent, when a reading fails', () => {
    const { result, errors, received } = play({ size: 3 * RING_BYTES, options: { blksize: '1024' }, disk: (n) => (n === 5 ? 'broken' : 1) });
    expect([result?.outcome, result?.why, errors]).toEqual(['failed', 'the blob was changed', ['the server is at fault, see its log']]);
    expect(received.equals(Buffer.from(bytesOf(3 * RING_BYTES).subarray(0, received.length)))).toBe(true);
    expect(received.length).toBeLessThan(3 * RING_BYTES);
  });

  test(`is given up when the disk is silent for ${GIVE_UP_MS / 1000} s`, () => {
    for (const options of [{}, { tsize: '0' }]) {
      const { result, errors } = play({ size: 3 * RING_BYTES, options, disk: (n) => (n < 2 && 'tsize' in options ? 1 : undefined) });
      expect([result?.outcome, result?.why, errors]).toEqual(['failed', 'the disk gave no bytes for 20 s', ['the server is at fault, see its log']]);
    }
  });
});

describe('a file that is larger than what is held', () => {
  let dir: string;
  let blobs: VerifiedBlobs;
  let parts: readonly BlobRef[];
  const content = Buffer.from(bytesOf(700_000));
  const cuts = [0, 200_000, 200_000, 200_001, 700_000];

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-tftp-pieces-'));
    const store = createBlobStore(dir);
    const all: BlobRef[] = [];
    for (let i = 1; i < cuts.length; i++) all.push(await store.add(Readable.from([content.subarray(cuts[i - 1], cuts[i])])));
    parts = all;
    blobs = createVerifiedBlobs({ stateDir: dir, onRotten: () => undefined });
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  /** Byte by byte as a transfer reads it: each piece in its place of the ring. */
  async function whole(held: HeldFile): Promise<Buffer> {
    const got: Buffer[] = [];
    const { size } = held.pieces!;
    for (let piece = 0, from = 0; from < size; piece++, from += PIECE_BYTES) {
      const reading = { piece, from, length: Math.min(PIECE_BYTES, size - from), to: (piece % 4) * PIECE_BYTES };
      await held.pieces!.read(reading);
      got.push(Buffer.from(held.bytes.subarray(reading.to, reading.to + reading.length)));
    }
    return Buffer.concat(got);
  }

  test('comes whole through a ring, over the seams of its blobs', async () => {
    const held = (await createFileCache(blobs, 100_000).get(parts))!;
    expect([held.pieces!.size, held.bytes.length, held.bytes.buffer instanceof SharedArrayBuffer]).toEqual([700_000, RING_BYTES, true]);
    expect((await whole(held)).equals(content)).toBe(true);
    held.release();
  });

  test('is in a ring of its own for each that asks, and the last ring is refused to nobody and the next to all until one is given back', async () => {
    const cache = createFileCache(blobs, 100_000);
    const all = await Promise.all(Array.from({ length: MOST_RINGS }, () => cache.get(parts)));
    expect(new Set(all.map((held) => held!.bytes.byteOffset)).size).toBe(MOST_RINGS);
    expect(new Set(all.map((held) => held!.bytes.buffer)).size).toBe(1);
    expect(await cache.get(parts)).toBeUndefined();
    all[7]!.release();
    // A second call is not another transfer's.
    all[7]!.release();
    const next = (await cache.get(parts))!;
    expect(next.bytes.byteOffset).toBe(all[7]!.bytes.byteOffset);
    expect(await cache.get(parts)).toBeUndefined();
    expect((await whole(next)).equals(content)).toBe(true);
    for (const held of [...all, next]) held!.release();
  });

  test('keeps its ring until its last reading has ended, so that nothing is read into another transfer', async () => {
    let go = () => {};
    const hung = new Promise<void>((resolve) => (go = resolve));
    let closed = 0;
    const slow: Pick<VerifiedBlobs, 'open'> = {
      async open(digest) {
        const blob = (await blobs.open(digest))!;
        return { ...blob, read: (...where) => hung.then(() => blob.read(...where)), close: () => (closed++, blob.close()) };
      },
    };
    const held = (await createFileCache(slow, 100_000).get(parts))!;
    const reading = held.pieces!.read({ piece: 0, from: 0, length: 1_000, to: 0 });
    held.release();
    expect(closed).toBe(0);
    go();
    await reading;
    expect(closed).toBe(parts.length);
  });

  test('is not opened when one of its blobs is missing or rotten, and its ring is free again', async () => {
    const cache = createFileCache(blobs, 100_000);
    renameSync(blobFile(dir, parts[3]!.digest), join(dir, 'away'));
    for (let n = 0; n <= MOST_RINGS; n++) await expect(cache.get(parts)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    writeFileSync(blobFile(dir, parts[3]!.digest), Buffer.alloc(parts[3]!.size));
    await expect(cache.get(parts)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  test('that is written to while it is sent gives no further byte; one that was replaced by another file is sent to its end', async () => {
    const cache = createFileCache(blobs, 100_000);
    const file = blobFile(dir, parts[3]!.digest);
    const [replaced, written] = [(await cache.get(parts))!, (await cache.get(parts))!];
    renameSync(file, join(dir, 'old'));
    writeFileSync(file, Buffer.alloc(parts[3]!.size, 'x'));
    expect((await whole(replaced)).equals(content)).toBe(true);
    rmSync(file);
    renameSync(join(dir, 'old'), file);
    await written.pieces!.read({ piece: 1, from: 300_000, length: 100_000, to: 0 });
    writeFileSync(file, Buffer.alloc(parts[3]!.size, 'x'));
    await expect(written.pieces!.read({ piece: 2, from: 400_000, length: 100_000, to: 0 })).rejects.toThrow(/changed/);
    replaced.release();
    written.release();
  });
});
