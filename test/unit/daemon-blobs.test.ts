// What the daemon knows of blobs over a restart: a file that was verified is not read again before it is served, unless it has changed.
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { startBlobs, type ServedBlobs } from '../../src/daemon/blobs.ts';
import { digestOfBytes, type Digest } from '../../src/digest.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { openDatabase } from '../../src/store/db.ts';
import { createEventStore, type EventStore } from '../../src/store/events.ts';
import { createVerdictStore, type VerdictStore } from '../../src/store/verdicts.ts';

const content = Buffer.alloc(8 << 20, 'a content of its own');
const digest = digestOfBytes(content);

let dir: string;
let store: BlobStore;
let stop: () => Promise<void>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-known-'));
  store = createBlobStore(dir);
  await store.add(Readable.from([content]));
});
afterEach(async () => {
  await stop();
  rmSync(dir, { recursive: true, force: true });
});

async function start(): Promise<ServedBlobs & { readonly kept: VerdictStore; readonly events: EventStore }> {
  const database = openDatabase(join(dir, 'rackseed.db'));
  const [kept, events] = [createVerdictStore(database), createEventStore(database)];
  const stops: (() => unknown)[] = [];
  const served = await startBlobs({ stateDir: dir, kept, events, log: createLog('fatal', { write: () => undefined }), now: () => 1_000 }, stops);
  stop = async () => {
    for (const end of stops.reverse()) await end();
    await database.close();
    stop = async () => undefined;
  };
  return { ...served, kept, events };
}

/** Whether the blob's file had to be read before it was open; undefined when it is refused. By what this process has read from whatever. */
async function isHashed({ verified }: ServedBlobs, of: Digest = digest): Promise<boolean | undefined> {
  const read = () => Number(/^rchar: (\d+)/m.exec(readFileSync('/proc/self/io', 'utf8'))![1]);
  const before = read();
  const blob = await verified.open(of);
  blob?.close();
  return blob && read() - before > content.length / 2;
}
const isKept = async ({ kept }: { readonly kept: VerdictStore }) => (await kept.all()).some((verdict) => verdict.digest === digest);

it('a blob is hashed once, and not again by the next daemon', async () => {
  const first = await start();
  expect([await isHashed(first), await isHashed(first)]).toEqual([true, false]);
  await vi.waitFor(async () => expect(await isKept(first)).toBe(true));
  await stop();
  expect(await isHashed(await start())).toBe(false);
});

it.each([
  ['touched', () => utimesSync(store.path(digest), 1, 1), true],
  ['replaced by a copy', () => (copyFileSync(store.path(digest), join(dir, 'copy')), renameSync(join(dir, 'copy'), store.path(digest))), true],
  ['replaced by something else', () => (writeFileSync(join(dir, 'other'), 'other'), renameSync(join(dir, 'other'), store.path(digest))), undefined],
  ['spoilt in place, with its time as before', () => (writeFileSync(store.path(digest), content.fill('b', 0, 1)), utimesSync(store.path(digest), 1, 1)), undefined],
])('a file that was %s while no daemon ran is hashed again', async (_how, change, outcome) => {
  const first = await start();
  await isHashed(first);
  await vi.waitFor(async () => expect(await isKept(first)).toBe(true));
  await stop();
  change();
  content.fill('a', 0, 1);
  const second = await start();
  expect(await isKept(second)).toBe(false);
  expect(await isHashed(second)).toBe(outcome);
  await vi.waitFor(async () => expect((await second.events.list({ kind: 'blob-rotten', limit: 9 })).length).toBe(outcome ? 0 : 1));
});

it('what is known of a blob that is gone, or that somebody found wrong, is not kept', async () => {
  const first = await start();
  await isHashed(first);
  await vi.waitFor(async () => expect(await isKept(first)).toBe(true));
  const verdict = first.verdicts.of(digest)!;
  first.verdicts.note({ ...verdict, good: false });
  await vi.waitFor(async () => expect(await isKept(first)).toBe(false));
  expect(await isHashed(first)).toBeUndefined();
  first.verdicts.note(verdict);
  await vi.waitFor(async () => expect(await isKept(first)).toBe(true));
  expect(await isHashed(first)).toBe(false);
  await stop();
  unlinkSync(store.path(digest));
  expect(await isKept(await start())).toBe(false);
});

it('who has a blob open reads nothing more of it once another thread has found it wrong', async () => {
  const { verified, verdicts } = await start();
  const blob = (await verified.open(digest))!;
  const bytes = Buffer.alloc(100);
  await blob.read(bytes, 100, 0);
  verdicts.learn({ ...verdicts.of(digest)!, good: false });
  await expect(blob.read(bytes, 100, 0)).rejects.toThrow('was changed');
  await expect(blob.read(bytes, 100, 0)).rejects.toThrow('is not what it was');
  expect(await verified.open(digest)).toBeUndefined();
  blob.close();
});
