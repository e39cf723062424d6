// A disk that cannot give a file's blocks: ext4 on a loop device whose image was cut short, so that the kernel itself answers EIO.
import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, truncateSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { digestOfBytes } from '../../src/digest.ts';
import { createLog } from '../../src/log.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import type { OnRotten } from '../../src/store/quarantine.ts';
import { startScrub } from '../../src/store/scrub.ts';
import { createVerifiedBlobs, type VerifiedBlobs } from '../../src/store/verified.ts';

const MIB = 1 << 20;
const content = Buffer.from(Array.from({ length: 12 * MIB }, (_, i) => (i * 13 + (i >> 9)) & 255));
const digest = digestOfBytes(content);
const small = Buffer.from('whole, and on the part of the disk that works');

let dir: string;
let disk: string;
let image: string;
let path: string;
let blobs: VerifiedBlobs;
let rotten: Parameters<OnRotten>[];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-eio-'));
  [disk, image] = [join(dir, 'disk'), join(dir, 'image')];
  mkdirSync(disk);
  execFileSync('truncate', ['-s', '24M', image]);
  // Blocks of 4 KiB make one group of it: all inodes lie at its beginning.
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-O', '^has_journal', '-b', '4096', image]);
  mount();
  const store = createBlobStore(disk);
  path = store.path(digest);
  await store.add(Readable.from([small]));
  await store.add(Readable.from([content]));
  rotten = [];
  blobs = createVerifiedBlobs({ stateDir: disk, onRotten: (...told) => void rotten.push(told) });
});
afterEach(async () => {
  // Lazily: files are closed in the background.
  execFileSync('umount', ['-l', disk]);
  rmSync(dir, { recursive: true, force: true });
});

function mount(options = 'loop'): void {
  execFileSync('mount', ['-o', options, image, disk]);
}
/** From here on the disk has only its first half; the file system's own blocks lie there. Nothing of the file is in memory. */
function fail(options?: string): void {
  execFileSync('umount', [disk]);
  copyFileSync(image, `${image}.whole`);
  mount(options);
  truncateSync(image, 9 * MIB);
}
const told = (movedTo: unknown) => [[digest, expect.stringMatching(/^the disk cannot read it: EIO: /), movedTo]];
const inQuarantine = expect.stringContaining(join('blobs', 'quarantine'));

it('a blob that cannot be read is refused before its first byte, moved to quarantine and told of once; others are served', async () => {
  fail();
  expect(await Promise.all([blobs.open(digest), blobs.open(digest)])).toEqual([undefined, undefined]);
  expect(await blobs.open(digest)).toBeUndefined();
  expect(rotten).toEqual(told(inQuarantine));
  expect([existsSync(path), readdirSync(join(disk, 'blobs', 'quarantine')).length]).toEqual([false, 1]);
  const other = (await blobs.open(digestOfBytes(small)))!;
  const bytes = Buffer.alloc(small.length);
  await other.read(bytes, bytes.length, 0);
  expect(bytes.equals(small)).toBe(true);
  other.close();
});

it('a blob that was verified before is cut where the disk fails, for all who read it, and is in quarantine then', async () => {
  const [held, other] = [(await blobs.open(digest))!, (await blobs.open(digest))!];
  // Of its last extent on the disk the second half goes.
  const extents = [...execFileSync('filefrag', ['-v', path], { encoding: 'utf8' }).matchAll(/^ *\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):/gm)].map(([, ...numbers]) => numbers.map((blocks) => Number(blocks) * 4096));
  const [from, place, length] = extents.sort((a, b) => b[1]! - a[1]!)[0] as [number, number, number];
  // Its pages leave the memory with it open: it is the disk that is asked.
  execFileSync('sync');
  truncateSync(image, place + length / 2);
  execFileSync('sh', ['-c', 'echo 1 > /proc/sys/vm/drop_caches']);
  const bytes = Buffer.alloc(4096);
  await held.read(bytes, 4096, from);
  expect(bytes.equals(content.subarray(from, from + 4096))).toBe(true);
  await expect(held.read(bytes, 4096, from + length - 4096)).rejects.toThrow('EIO');
  await expect(other.read(bytes, 4096, from)).rejects.toThrow('is not what it was');
  expect(rotten).toEqual(told(inQuarantine));
  held.close();
  other.close();
  expect(await blobs.open(digest)).toBeUndefined();
});

it('the scrub finds a blob that cannot be read, before anybody asks for it', async () => {
  fail();
  const running = startScrub({ stateDir: disk, blobs, everyMs: 1, log: createLog('fatal', { write: () => undefined }), now: () => performance.now() * 1e6, bytesPerSecond: 1e9, restMs: 5 });
  await vi.waitFor(() => expect(rotten).toEqual(told(inQuarantine)), { timeout: 10_000 });
  await running.stop();
  expect(existsSync(path)).toBe(false);
});

it('on a disk that is read-only it stays where it is, refused and told of once', async () => {
  fail('loop,ro');
  for (let n = 0; n < 3; n++) expect(await blobs.open(digest)).toBeUndefined();
  expect(await blobs.scrub(digest, { bytesPerSecond: 1e9 })).toBe('rotten');
  expect(rotten).toEqual([[digest, expect.stringMatching(/^the disk cannot read it: EIO: .*, and it cannot be moved away: EROFS: /)]]);
  // It was the cable: the scrub sees that it can be read again.
  const fd = openSync(image, 'r+');
  writeSync(fd, readFileSync(`${image}.whole`).subarray(9 * MIB), 0, undefined, 9 * MIB);
  closeSync(fd);
  expect(await blobs.scrub(digest, { bytesPerSecond: 1e9 })).toBe('good');
  const blob = (await blobs.open(digest))!;
  expect(blob.size).toBe(content.length);
  blob.close();
});

it('a blob whose inode cannot be read is told of once by whoever asks for it, and not once more by the scrub', async () => {
  execFileSync('umount', [disk]);
  const [, block, offset] = /located at block (\d+), offset 0x([0-9a-f]+)/.exec(execFileSync('debugfs', ['-R', `imap ${path.slice(disk.length)}`, image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))!;
  const fd = openSync(image, 'r+');
  // The file system keeps a checksum of each inode.
  writeSync(fd, Buffer.alloc(64, 0x5a), 0, 64, Number(block) * 4096 + parseInt(offset!, 16) + 32);
  closeSync(fd);
  mount();
  expect(await blobs.stat(digest)).toBeUndefined();
  expect(await blobs.open(digest)).toBeUndefined();
  expect(await blobs.scrub(digest, { bytesPerSecond: 1e9 })).toBe('rotten');
  expect(rotten).toEqual([[digest, expect.stringMatching(/^the disk cannot read it: .*, so it cannot be moved away$/)]]);
});
