// The block cache and the book of sent parts: right bytes for every reader, bounded memory, and no stage before the whole was sent.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK, createBlockCache, type LentBlock } from '../../src/http/block-cache.ts';
import { createCoverage } from '../../src/http/coverage.ts';
import type { VerifiedBlob } from '../../src/store/verified.ts';

/** A blob of `blocks` blocks and 100 bytes; the first byte of each tells which it is. */
function blobOf(name: number, blocks: number) {
  const state = { reads: 0, closed: 0, fail: false };
  const blob: VerifiedBlob = {
    digest: `sha256:${String(name).padStart(64, '0')}`,
    size: blocks * BLOCK + 100,
    async read(buffer, length, at) {
      state.reads += 1;
      await new Promise((resolve) => setImmediate(resolve));
      if (state.closed > 0) throw new Error('read after close');
      if (state.fail) throw new Error('changed');
      buffer[0] = name;
      buffer[length - 1] = at / BLOCK;
    },
    close: () => void (state.closed += 1),
  };
  return { blob, state };
}

describe('the block cache', () => {
  it('reads a block once for all who want it at the same time, and again for nobody while it is there', async () => {
    const { blob, state } = blobOf(1, 4);
    const cache = createBlockCache(8 * BLOCK);
    const readers = [cache.read(blob), cache.read(blob), cache.read(blob)];
    const lent = await Promise.all(readers.map((reader) => reader.take(2)));
    for (const block of lent) block!.release();
    (await readers[0]!.take(2))!.release();
    expect(state.reads).toBe(1);
    expect(lent.map((block) => [block!.bytes.length, block!.bytes[0]])).toEqual([[BLOCK, 1], [BLOCK, 1], [BLOCK, 1]]);
    expect((await readers[0]!.take(4))!.bytes.length).toBe(100);
  });

  it('lends nothing when each slot is in use, and something again when one is not', async () => {
    const { blob } = blobOf(1, 9);
    const reader = createBlockCache(2 * BLOCK).read(blob);
    const [first] = [await reader.take(0), await reader.take(1)];
    expect(await reader.take(2)).toBeUndefined();
    reader.ahead(3);
    first!.release();
    expect((await reader.take(2))!.bytes[BLOCK - 1]).toBe(2);
    expect(await createBlockCache(BLOCK - 1).read(blob).take(0)).toBeUndefined();
  });

  it('lends a run of what is in memory: beyond half of the slots only blocks that are lent already', async () => {
    const { blob } = blobOf(1, 8);
    const cache = createBlockCache(8 * BLOCK);
    const [one, two] = [cache.read(blob), cache.read(blob)];
    for (let index = 0; index < 8; index += 1) (await one.take(index))!.release();
    const first = await one.takeRun(0, 8);
    expect(first.map(({ bytes }) => bytes[BLOCK - 1])).toEqual([0, 1, 2, 3]);
    const same = await two.takeRun(0, 8);
    expect(same.length).toBe(4);
    // One that nobody has is lent all the same, or its reader would stand still.
    expect((await two.takeRun(4, 8)).length).toBe(1);
    for (const block of [...first, ...same]) block.release();
    expect((await one.takeRun(0, 2)).length).toBe(2);
  });

  it('tells the error of a read to those who waited for it, forgets the block, and asks again', async () => {
    const { blob, state } = blobOf(1, 2);
    const cache = createBlockCache(2 * BLOCK);
    const [one, two] = [cache.read(blob), cache.read(blob)];
    state.fail = true;
    expect((await Promise.allSettled([one.take(0), two.take(0)])).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    one.ahead(1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    state.fail = false;
    for (const index of [0, 1]) (await two.take(index))!.release();
  });

  it("does not fail a download for another one's file of the same digest", async () => {
    const [broken, good] = [blobOf(1, 2), blobOf(1, 2)];
    broken.state.fail = true;
    const cache = createBlockCache(4 * BLOCK);
    const [one, two] = [cache.read(broken.blob), cache.read(good.blob)];
    const [failed, block] = await Promise.allSettled([one.take(0), two.take(0)]);
    expect([failed.status, block.status, good.state.reads]).toEqual(['rejected', 'fulfilled', 1]);
  });

  it('gives the blob back once, and only when nothing is read from it any more', async () => {
    const { blob, state } = blobOf(1, 9);
    const reader = createBlockCache(4 * BLOCK).read(blob);
    (await reader.take(0))!.release();
    reader.ahead(1);
    reader.close();
    expect(state.closed).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect([state.closed, state.reads]).toEqual([1, 2]);
  });

  it('serves followers of a download through an image larger than the cache from memory', async () => {
    const { blob, state } = blobOf(1, 60);
    const cache = createBlockCache(20 * BLOCK);
    const readers = [0, 2, 5].map((behind) => ({ reader: cache.read(blob), at: -behind }));
    for (let step = 0; step < 66; step += 1) {
      for (const one of readers) {
        if (one.at >= 0 && one.at <= 60) (await one.reader.take(one.at))!.release();
        one.at += 1;
      }
    }
    expect(state.reads).toBeLessThanOrEqual(61 + 5);
  });

  it('keeps part of an image larger than the cache for downloads that come after one another', async () => {
    const cache = createBlockCache(30 * BLOCK);
    let reads = 0;
    for (let round = 0; round < 6; round += 1) {
      const { blob, state } = blobOf(1, 39);
      const reader = cache.read(blob);
      for (let index = 0; index <= 39; index += 1) (await reader.take(index))!.release();
      reader.close();
      reads += state.reads;
    }
    // By age alone it would be 240: each block leaves just before it is wanted again.
    expect(reads).toBeLessThan(200);
  });

  it('never changes a block that is lent, never reads after close, and gives each reader the block that it asked for', async () => {
    const action = fc.record({ reader: fc.nat(3), what: fc.constantFrom('take', 'take', 'take', 'release', 'ahead', 'reopen'), index: fc.nat(6) });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 5 }), fc.array(action, { maxLength: 60 }), async (slots, actions) => {
        const cache = createBlockCache(slots * BLOCK);
        const of = (n: number) => ({ n: (n % 2) + 1, ...blobOf((n % 2) + 1, 6) });
        const open = [0, 1, 2, 3].map((n) => { const one = of(n); return { ...one, reader: cache.read(one.blob) }; });
        const lent: { block: LentBlock; name: number; index: number }[] = [];
        const pending: Promise<unknown>[] = [];
        const right = () => expect(lent.every(({ block, name, index }) => block.bytes[0] === name && block.bytes[block.bytes.length - 1] === index)).toBe(true);
        for (const { reader, what, index } of actions) {
          const one = open[reader]!;
          if (what === 'take') {
            pending.push(one.reader.take(index).then((block) => {
              if (block) lent.push({ block, name: one.n, index });
            }));
          } else if (what === 'release') {
            await Promise.all(pending.splice(0));
            lent.shift()?.block.release();
          } else if (what === 'ahead') one.reader.ahead(index);
          else {
            await Promise.all(pending.splice(0));
            one.reader.close();
            const next = of(reader);
            open[reader] = { ...next, reader: cache.read(next.blob) };
          }
          right();
        }
        await Promise.all(pending);
        await new Promise((resolve) => setImmediate(resolve));
        right();
        expect(new Set(lent.map(({ name, index }) => `${name}/${index}`)).size).toBeLessThanOrEqual(slots);
      }),
      { numRuns: 200 },
    );
  });
});

describe('the book of sent parts', () => {
  it('says whole exactly when each byte went out, in whatever order and overlap', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.array(fc.tuple(fc.nat(39), fc.nat(39)), { maxLength: 30 }), (size, parts) => {
        const coverage = createCoverage(10);
        const sent = new Set<number>();
        for (const [a, b] of parts) {
          const [first, last] = [Math.min(a, b, size - 1), Math.min(Math.max(a, b), size - 1)];
          for (let at = first; at <= last; at += 1) sent.add(at);
          const whole = sent.size === size;
          expect(coverage.add('k', first, last, size)).toBe(whole);
          if (whole) sent.clear();
        }
      }),
    );
  });

  it('takes a part that was cut for what is before another one, and never for the end', () => {
    const coverage = createCoverage(10);
    expect([coverage.add('a', 0, 9, 10, true), coverage.add('a', 0, 9, 10, true), coverage.add('a', 6, 9, 10)]).toEqual([false, false, true]);
    expect([coverage.add('b', 6, 9, 10), coverage.add('b', 0, 4, 10, true), coverage.add('b', 5, 7, 10, true)], 'it may be told of late').toEqual([false, false, true]);
    expect([coverage.add('c', 0, 0, 1, true), coverage.add('c', 0, -1, 1, true), coverage.add('c', 0, 0, 1)]).toEqual([false, false, true]);
  });

  it('counts an empty file as sent, and each file of each boot for itself', () => {
    const coverage = createCoverage(10);
    expect([coverage.add('a', 0, -1, 0), coverage.add('a', 0, 4, 10), coverage.add('b', 5, 9, 10), coverage.add('a', 5, 9, 10)]).toEqual([true, false, false, true]);
  });

  it('forgets the oldest beyond its limit, and who asks for bytes far apart again and again', () => {
    const coverage = createCoverage(2);
    for (const key of ['a', 'b', 'c']) coverage.add(key, 0, 4, 10);
    expect([coverage.add('a', 5, 9, 10), coverage.add('c', 5, 9, 10)]).toEqual([false, true]);
    const scattered = createCoverage(2);
    for (let at = 0; at < 1000; at += 2) expect(scattered.add('x', at, at, 1001)).toBe(false);
    expect(scattered.add('x', 0, 1000, 1001)).toBe(true);
  });
});
