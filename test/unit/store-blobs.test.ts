// The blob store on a real file system: only whole, verified files ever get a name.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOfBytes, hexOf } from '../../src/digest.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';

describe('the blob store', () => {
  const content = Buffer.alloc(2_500_000, 'rackseed ');
  const digest = digestOfBytes(content);
  let dir: string;
  let blobs: BlobStore;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-blobs-'));
    blobs = createBlobStore(dir);
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));
  const incoming = () => readdirSync(join(dir, 'blobs', 'incoming'));
  const nothingStored = async () => expect([await blobs.list(), incoming()]).toEqual([[], []]);
  const pieces = (...parts: readonly (string | Buffer)[]) => Readable.from(parts);

  it('names a local file by its content and copies it', async () => {
    const source = join(dir, 'source');
    writeFileSync(source, content);
    const progress: number[] = [];
    expect(await blobs.add(source, undefined, (bytes) => progress.push(bytes))).toEqual({ digest, size: content.length });
    writeFileSync(source, 'changed in place by its owner');
    expect(readFileSync(blobs.path(digest)).equals(content)).toBe(true);
    expect(blobs.path(digest)).toBe(join(dir, 'blobs', 'sha256', hexOf(digest)));
    expect(progress.at(-1)).toBe(content.length);
    expect(incoming()).toEqual([]);
  });

  it('takes a stream that is what was expected, and the same content twice', async () => {
    const expected = { digest, size: content.length };
    const both = await Promise.all([blobs.add(pieces(content), expected), blobs.add(pieces(content.subarray(0, 7), content.subarray(7)), expected)]);
    expect(both).toEqual([expected, expected]);
    expect(await blobs.list()).toEqual([expected]);
    expect(await blobs.stat(digest)).toEqual(expected);
  });

  it.each([
    ['a digest that differs', () => pieces('other bytes'), { digest }, 'expected was'],
    ['fewer bytes than expected', () => pieces('abc'), { size: 4 }, '3 bytes arrived'],
    ['more bytes than expected', () => pieces('abc', 'def', 'ghi'), { size: 4 }, 'more than the expected 4'],
  ])('refuses %s and leaves nothing', async (_what, source, expected, message) => {
    await expect(blobs.add(source(), expected)).rejects.toMatchObject({ code: 'ARTIFACT_INVALID', message: expect.stringContaining(message) });
    await nothingStored();
  });

  it('leaves nothing of a stream that breaks off', async () => {
    const broken = Readable.from((async function* () {
      yield Buffer.from('half');
      throw new Error('connection reset');
    })());
    await expect(blobs.add(broken)).rejects.toThrow('connection reset');
    await nothingStored();
  });

  it('refuses what is no regular file, without waiting for a FIFO\'s writer', async () => {
    const fifo = join(dir, 'fifo');
    expect(spawnSync('mkfifo', [fifo]).status).toBe(0);
    for (const path of [join(dir, 'missing'), dir, fifo]) await expect(blobs.add(path)).rejects.toMatchObject({ code: 'ARTIFACT_INVALID' });
    await nothingStored();
  });

  it('opens a blob whose bytes stay whole while its name goes away', async () => {
    await blobs.add(pieces(content));
    const opened = await blobs.open(digest);
    rmSync(blobs.path(digest));
    expect(opened?.size).toBe(content.length);
    expect((await opened!.handle.readFile()).equals(content)).toBe(true);
    await opened!.handle.close();
    expect(await blobs.open(digest)).toBeUndefined();
    expect(await blobs.stat(digest)).toBeUndefined();
  });

  it('knows neither links nor directories nor foreign names as blobs, and makes no path of foreign text', async () => {
    writeFileSync(join(dir, 'secret'), 'secret');
    symlinkSync(join(dir, 'secret'), blobs.path(digest));
    mkdirSync(blobs.path(digestOfBytes('directory')));
    writeFileSync(join(dir, 'blobs', 'sha256', 'README'), '');
    expect(await blobs.open(digest)).toBeUndefined();
    expect(await blobs.open(digestOfBytes('directory'))).toBeUndefined();
    expect(await blobs.list()).toEqual([]);
    expect(() => blobs.path('sha256:../../etc/passwd')).toThrow('no digest');
  });

  it('removes what a dead process left half-written, and nothing of one that lives', async () => {
    const start = readFileSync(`/proc/${process.ppid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[19];
    const dead = spawnSync('true').pid;
    const alive = `${process.ppid}.${start}.aa`;
    for (const name of [`${dead}.1.aa`, `${process.ppid}.1.aa`, 'junk', alive]) writeFileSync(join(dir, 'blobs', 'incoming', name), 'half');
    createBlobStore(dir);
    expect(incoming()).toEqual([alive]);
  });

  it('says what to do about a state directory that cannot be written', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(() => createBlobStore(join(dir, 'file'))).toThrow(expect.objectContaining({ code: 'STORE_UNUSABLE' }));
    expect(existsSync(join(dir, 'file', 'blobs'))).toBe(false);
  });
});
