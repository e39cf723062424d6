// Verified blobs on a real file system: what is read is the digest's content, whatever happens to the files meanwhile.
import { appendFileSync, closeSync, copyFileSync, existsSync, linkSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync, truncateSync, unlinkSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { digestOfBytes, hexOf, type Digest } from '../../src/digest.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { startScrub } from '../../src/store/scrub.ts';
import { createVerdicts } from '../../src/store/verdicts.ts';
import { createVerifiedBlobs, type VerifiedBlob, type VerifiedBlobs } from '../../src/store/verified.ts';

const content = Buffer.from(Array.from({ length: 2_500_000 }, (_, i) => (i * 13 + (i >> 9)) & 255));
const digest = digestOfBytes(content);

let dir: string;
let store: BlobStore;
let blobs: VerifiedBlobs;
let path: string;
let rotten: { digest: Digest; why: string; movedTo: string | undefined }[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-verified-'));
  store = createBlobStore(dir);
  path = store.path(digest);
  rotten = [];
  blobs = createVerifiedBlobs({ stateDir: dir, onRotten: (of, why, movedTo) => void rotten.push({ digest: of, why, movedTo }) });
  await store.add(Readable.from([content]));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function readAll(blob: VerifiedBlob): Promise<Buffer> {
  const bytes = Buffer.alloc(blob.size);
  await blob.read(bytes, bytes.length, 0);
  return bytes;
}
/** Puts other bytes into the file itself. */
function edit(at: number, bytes: string): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, at);
  closeSync(fd);
}
/** Puts another file under the name. */
function replace(bytes: Buffer): void {
  writeFileSync(join(dir, 'other'), bytes);
  renameSync(join(dir, 'other'), path);
}
const quarantined = () => (existsSync(join(dir, 'blobs', 'quarantine')) ? readdirSync(join(dir, 'blobs', 'quarantine')) : []);
const openFiles = () =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try { return readlinkSync(`/proc/self/fd/${fd}`).startsWith(join(dir, 'blobs')); } catch { return false; }
  }).length;
const wrong = Buffer.from(content).fill(0, 1_200_000, 1_200_010);

describe('a verified blob', () => {
  it('gives the bytes from anywhere in the file', async () => {
    const blob = (await blobs.open(digest))!;
    expect([blob.size, (await readAll(blob)).equals(content)]).toEqual([content.length, true]);
    const part = Buffer.alloc(10);
    await blob.read(part, 5, content.length - 5);
    expect(part.subarray(0, 5).equals(content.subarray(-5))).toBe(true);
    await expect(blob.read(part, 10, content.length - 5)).rejects.toThrow('before its size');
    blob.close();
  });

  it('is one open file for all who read it at the same time, closed when the last one is done', async () => {
    const [a, b] = await Promise.all([blobs.open(digest), blobs.open(digest)]);
    const c = await blobs.open(digest);
    expect(openFiles()).toBe(1);
    a!.close();
    b!.close();
    expect((await readAll(c!)).equals(content)).toBe(true);
    c!.close();
    await vi.waitFor(() => expect(openFiles()).toBe(0));
  });

  it.each([
    ['has other bytes', () => replace(wrong)],
    ['has other bytes and times as before', () => {
      const { atime, mtime } = statSync(path);
      replace(wrong);
      utimesSync(path, atime, mtime);
    }],
    ['was edited in place, in the same moment, and its time set back', () => {
      const { atime, mtime } = statSync(path);
      edit(1_200_000, 'x');
      utimesSync(path, atime, mtime);
    }],
    ['is too short', () => truncateSync(path, 100)],
    ['is too long', () => appendFileSync(path, 'more')],
    ['is empty', () => truncateSync(path, 0)],
  ])('is refused, moved to quarantine and told of when the file %s, also after it was read before', async (_what, spoil) => {
    for (const readBefore of [false, true]) {
      if (readBefore) (await blobs.open(digest))!.close();
      spoil();
      expect(await blobs.open(digest)).toBeUndefined();
      expect(existsSync(path)).toBe(false);
      expect(rotten).toEqual([{ digest, why: expect.stringMatching(/^its content has the digest sha256:[0-9a-f]{64}$/), movedTo: expect.stringContaining(join('quarantine', `${hexOf(digest)}.`)) }]);
      expect(quarantined()).toHaveLength(1);
      expect(await blobs.open(digest)).toBeUndefined();
      expect(rotten).toHaveLength(1);
      rmSync(rotten.pop()!.movedTo!);
      await store.add(Readable.from([content]));
    }
    const blob = (await blobs.open(digest))!;
    expect((await readAll(blob)).equals(content)).toBe(true);
    blob.close();
  });

  it('is refused once and for all, and told of once, where it cannot be moved away', async () => {
    writeFileSync(join(dir, 'blobs', 'quarantine'), 'a file is in the way');
    replace(wrong);
    for (let i = 0; i < 3; i += 1) expect(await blobs.open(digest)).toBeUndefined();
    expect(rotten).toEqual([{ digest, why: expect.stringContaining('it cannot be moved away: '), movedTo: undefined }]);
  });

  it('stays whole for who has it open while its name goes to another file, or away', async () => {
    const blob = (await blobs.open(digest))!;
    replace(wrong);
    expect((await readAll(blob)).equals(content)).toBe(true);
    replace(content);
    expect((await readAll(blob)).equals(content)).toBe(true);
    const next = (await blobs.open(digest))!;
    unlinkSync(path);
    expect([(await readAll(blob)).equals(content), (await readAll(next)).equals(content)]).toEqual([true, true]);
    expect(await blobs.open(digest)).toBeUndefined();
    blob.close();
    next.close();
    expect(rotten).toEqual([]);
    await vi.waitFor(() => expect(openFiles()).toBe(0));
  });

  it('goes on when the file was only touched, linked or renamed', async () => {
    const blob = (await blobs.open(digest))!;
    for (const harmless of [() => utimesSync(path, new Date(), new Date()), () => linkSync(path, join(dir, 'link')), () => renameSync(path, join(dir, 'elsewhere'))]) {
      harmless();
      expect((await readAll(blob)).equals(content)).toBe(true);
    }
    blob.close();
  });

  it('goes on when the file is removed while it is looked at again because it was renamed', async () => {
    const verdicts = createVerdicts();
    blobs = createVerifiedBlobs({ stateDir: dir, verdicts, onRotten: (of, why, movedTo) => void rotten.push({ digest: of, why, movedTo }) });
    const blob = (await blobs.open(digest))!;
    renameSync(path, join(dir, 'elsewhere'));
    // It asks between looking at the file's times and hashing it.
    const asked = vi.spyOn(verdicts, 'of').mockImplementationOnce(() => void unlinkSync(join(dir, 'elsewhere')));
    expect((await readAll(blob)).equals(content)).toBe(true);
    expect([asked.mock.calls.length > 1, existsSync(join(dir, 'elsewhere')), rotten]).toEqual([true, false, []]);
    blob.close();
  });

  it.each([
    ['edited', () => edit(0, 'XX')],
    ['edited far from what is read', () => edit(2_400_000, 'XX')],
    ['edited, its time set back', () => { edit(0, 'XX'); utimesSync(path, 1, 1); }],
    ['cut', () => truncateSync(path, 2_000_000)],
    ['longer than it was', () => appendFileSync(path, 'x')],
  ])('reads nothing more from a file that was %s in place, for nobody who has it open', async (_what, spoil) => {
    const [one, two] = [(await blobs.open(digest))!, (await blobs.open(digest))!];
    const buffer = Buffer.alloc(1000);
    await one.read(buffer, 1000, 0);
    spoil();
    const outcomes = await Promise.allSettled([one.read(buffer, 1000, 0), two.read(Buffer.alloc(1000), 1000, 5000), one.read(Buffer.alloc(10), 10, 0)]);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
    one.close();
    two.close();
    await vi.waitFor(() => expect(openFiles()).toBe(0));
    expect(await blobs.open(digest)).toBeUndefined();
    expect(rotten).toHaveLength(1);
  });

  it('leaves a file in its place that was put there while the rotten one was judged', async () => {
    replace(wrong);
    const opening = blobs.open(digest);
    await new Promise((resolve) => setTimeout(resolve, 5));
    replace(content);
    await opening;
    const blob = await blobs.open(digest);
    expect((await readAll(blob!)).equals(content)).toBe(true);
    blob!.close();
    expect(quarantined()).toEqual([]);
  });

  it('is no link, directory or FIFO, and no foreign name', async () => {
    copyFileSync(path, join(dir, 'same'));
    unlinkSync(path);
    symlinkSync(join(dir, 'same'), path);
    expect([await blobs.open(digest), await blobs.stat(digest)]).toEqual([undefined, undefined]);
    unlinkSync(path);
    mkdirSync(path);
    expect([await blobs.open(digest), await blobs.stat(digest)]).toEqual([undefined, undefined]);
    await expect(blobs.open('sha256:../../etc/passwd')).rejects.toThrow('no digest');
  });
});

describe('the scrub', () => {
  const DAY = 86_400_000;
  const other = Buffer.from('another blob');
  const log = createLog('fatal', { write: () => undefined });
  let clock = 0;
  const scrub = (everyMs = 7 * DAY) => startScrub({ stateDir: dir, blobs, everyMs, log, now: () => clock, bytesPerSecond: 1e9, restMs: 5 });
  beforeEach(async () => {
    clock = 1_000 * DAY;
    await store.add(Readable.from([other]));
  });

  it('leaves alone what is new, reads each blob when it is due, and goes on after a restart where it was', async () => {
    const first = scrub();
    await vi.waitFor(() => expect(Object.keys(JSON.parse(readFileSync(join(dir, 'blobs', 'scrubbed.json'), 'utf8')) as object).sort()).toEqual([digest, digestOfBytes(other)].sort()));
    clock += 6 * DAY;
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(first.figures()).toEqual({ bytes: 0, blobs: 0 });
    clock += DAY;
    await vi.waitFor(() => expect(first.figures()).toEqual({ bytes: content.length + other.length, blobs: 2 }));
    await first.stop();
    clock += 6 * DAY;
    const second = scrub();
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(second.figures().blobs).toBe(0);
    clock += DAY;
    await vi.waitFor(() => expect(second.figures().blobs).toBe(2));
    await second.stop();
    expect(rotten).toEqual([]);
  });

  it('finds bytes that rotted before anybody asks for them, puts the file into quarantine, and the blob is gone for everybody', async () => {
    const running = scrub(1);
    await vi.waitFor(() => expect(existsSync(join(dir, 'blobs', 'scrubbed.json'))).toBe(true));
    replace(wrong);
    clock += DAY;
    await vi.waitFor(() => expect(rotten).toHaveLength(1));
    await running.stop();
    expect([existsSync(path), quarantined().length, await blobs.open(digest)]).toEqual([false, 1, undefined]);
    expect(readFileSync(rotten[0]!.movedTo!).equals(wrong)).toBe(true);
  });

  it('stops in the middle of a file', async () => {
    const running = startScrub({ stateDir: dir, blobs, everyMs: 1, log, now: () => (clock += DAY), bytesPerSecond: 100_000, restMs: 5 });
    await vi.waitFor(() => expect(running.figures().bytes).toBeGreaterThan(0));
    const before = performance.now();
    await running.stop();
    // The whole file would take 25 s at this rate.
    expect(performance.now() - before).toBeLessThan(10_000);
  });

  it.each(['', '{', '[]', 'null', '{"sha256:x":"y"}'])('starts over with a record that says %j', async (text) => {
    writeFileSync(join(dir, 'blobs', 'scrubbed.json'), text);
    const running = scrub();
    await vi.waitFor(() => expect(readFileSync(join(dir, 'blobs', 'scrubbed.json'), 'utf8')).toContain(digest));
    await running.stop();
    expect(running.figures().blobs).toBe(0);
  });
});
