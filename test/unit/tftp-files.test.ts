// What a TFTP name means and who may have it: a table of names, hostile names, links laid in the directories, and what a stranger may learn.
import { linkSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FAILURES_BEFORE_HOLD } from '../../src/boot/hold.ts';
import type { BlobRef } from '../../src/boot/profile.ts';
import { readTftpName, tftpPath } from '../../src/boot/urls.ts';
import type { Serve } from '../../src/boot/request.ts';
import { loadLoaders } from '../../src/loaders.ts';
import { createFileCache, type HeldFile } from '../../src/tftp/file-cache.ts';
import { bootFiles, type Opened } from '../../src/tftp/files.ts';
import { HOSTILE_NAMES, NUL_NAMES, SYMLINKS } from '../hostile-names.ts';
import { MACS, SECRET, startTftpWorld, type TftpWorld } from '../tftp-world.ts';

let world: TftpWorld;
beforeEach(async () => {
  world = await startTftpWorld();
});
afterEach(() => world.close());

const { n1, n2, stranger } = { n1: '10.77.0.11', n2: '10.77.0.12', stranger: '10.77.0.99' };
const dashes = (mac: string) => mac.replaceAll(':', '-');
/** `error 1: why`, or the stage and the first bytes of a file. */
const told = (opened: Opened): string => ('refusal' in opened ? `error ${opened.refusal.code}: ${opened.refusal.message}` : `${opened.file.stage ?? 'no stage'}`);
const bytesOf = (opened: Opened): Buffer => ('refusal' in opened ? Buffer.alloc(0) : Buffer.from(opened.file.bytes));
const boot = async (id: string) => (await world.boots.get(id))!;

describe('a name', () => {
  test.each([
    ['undionly.kpxe', undefined, 'undionly.kpxe'],
    ['/undionly.kpxe', undefined, 'undionly.kpxe'],
    ['./undionly.kpxe', undefined, 'undionly.kpxe'],
    ['/.//./undionly.kpxe', undefined, 'undionly.kpxe'],
    ['../undionly.kpxe', undefined, '../undionly.kpxe'],
    ['52-54-00-12-34-5A/kernel', '52:54:00:12:34:5a', 'kernel'],
    ['/52:54:00:12:34:5a/kernel', '52:54:00:12:34:5a', 'kernel'],
    ['01-52-54-00-12-34-5a/initrd', '52:54:00:12:34:5a', 'initrd'],
    ['01-52-54-00-12-34-5A/initrd', '52:54:00:12:34:5a', 'initrd'],
    ['52540012345A/kernel', '52:54:00:12:34:5a', 'kernel'],
    // Six bytes and one slash, or it is no node's path.
    ['01:52:54:00:12:34:5a/initrd', undefined, '01:52:54:00:12:34:5a/initrd'],
    ['52-54-00-12-34/kernel', undefined, '52-54-00-12-34/kernel'],
    ['52-54:00-12:34-5a/kernel', undefined, '52-54:00-12:34-5a/kernel'],
    ['0152540012345a/kernel', undefined, '0152540012345a/kernel'],
    ['5254.0012.345a/kernel', undefined, '5254.0012.345a/kernel'],
    ['52-54-00-12-34-5a/', undefined, '52-54-00-12-34-5a/'],
    ['52-54-00-12-34-5a/../kernel', undefined, '52-54-00-12-34-5a/../kernel'],
    ['52-54-00-12-34-5a//kernel', undefined, '52-54-00-12-34-5a//kernel'],
  ])('%s is of %s and means %s', (asked, mac, file) => {
    expect(readTftpName(asked)).toEqual(mac === undefined ? { file } : { mac, file });
  });

  test('that we write is read as what it was', () => {
    expect(readTftpName(tftpPath(MACS.n1, 'kernel'))).toEqual({ mac: MACS.n1, file: 'kernel' });
  });
});

describe('a node gets', () => {
  test.each<[string, string, 'loader' | 'kernel' | 'initrd', 'loader' | 'kernel' | 'initrd']>([
    ['a loader', 'undionly.kpxe', 'loader', 'loader'],
    ['a loader under its MAC', `${dashes(MACS.n1)}/undionly.kpxe`, 'loader', 'loader'],
    ['its kernel', `${dashes(MACS.n1)}/kernel`, 'kernel', 'kernel'],
    ['its kernel under the MAC of its other card', `${MACS.n1b}/kernel`, 'kernel', 'kernel'],
    ['all of its initrds, one behind the other', `01-${dashes(MACS.n1)}/initrd`, 'initrd', 'initrd'],
  ])('%s', async (_what, name, content, stage) => {
    const id = await world.boot('n1');
    const opened = await world.open(name, n1);
    expect(told(opened)).toBe(stage);
    expect(bytesOf(opened).equals(world.content[content])).toBe(true);
    expect('answer' in opened && opened.answer.boot?.id).toBe(id);
  });

  test.each(['boot.ipxe', 'autoexec.ipxe', `${dashes(MACS.n1)}/boot.ipxe`, `${dashes(MACS.n1)}/autoexec.ipxe`])('its script as %s', async (name) => {
    const id = await world.boot('n1');
    const opened = await world.open(name, n1);
    expect(told(opened)).toBe('script');
    expect(bytesOf(opened).toString()).toMatch(new RegExp(`^#!ipxe\\n[^]*http://10\\.77\\.0\\.1:8080/blobs/sha256/[0-9a-f]{64}\\?boot=${id}`));
  });

  test('all bytes on shared memory, but for scripts', async () => {
    await world.boot('n1');
    for (const name of ['undionly.kpxe', `${MACS.n1}/kernel`, `${MACS.n1}/initrd`]) {
      const opened = await world.open(name, n1);
      expect('file' in opened && opened.file.bytes.buffer).toBeInstanceOf(SharedArrayBuffer);
    }
  });

  test('without a boot the kernel of its profile, and no stage for it', async () => {
    const opened = await world.open(`${MACS.n1}/kernel`, n1);
    expect(told(opened)).toBe('no stage');
    expect(bytesOf(opened).equals(world.content.kernel)).toBe(true);
  });
});

describe('a boot reads one boot set', () => {
  test.each([
    ['the script', 'boot.ipxe'],
    ['the kernel', `${MACS.n1}/kernel`],
    ['the initrd', `${MACS.n1}/initrd`],
  ])('that %s fixed: a swap after it changes no later file', async (_what, name) => {
    const id = await world.boot('n1');
    expect((await boot(id)).bootSet).toBeUndefined();
    await world.open(name, n1);
    const { bootSet } = await boot(id);
    expect(bootSet).toBeDefined();
    world.swap();
    expect(bytesOf(await world.open(`${MACS.n1}/kernel`, n1)).equals(world.content.kernel)).toBe(true);
    expect((await boot(id)).bootSet).toBe(bootSet);
    expect(bytesOf(await world.open(`${MACS.n2}/kernel`, n2)).equals(world.content.newKernel)).toBe(true);
  });

  test.each([
    ['its script', 'boot.ipxe', 'script'],
    ['its kernel', `${MACS.n1}/kernel`, 'kernel'],
    ['its initrd', `${MACS.n1}/initrd`, 'initrd'],
  ])('that it has fixed: %s is served after the node has left the YAML', async (_what, name, stage) => {
    const id = await world.boot('n1');
    await world.open('boot.ipxe', n1);
    world.forget('n1');
    const opened = await world.open(name, n1);
    expect(told(opened)).toBe(stage);
    expect('answer' in opened && opened.answer.boot?.id).toBe(id);
    // The boot is named for the machine at its address, for nobody else.
    expect(told(await world.open(name, stranger))).toMatch(/^error 2: /);
  });

  test('a loader fixes nothing', async () => {
    const id = await world.boot('n1');
    await world.open(`${MACS.n1}/undionly.kpxe`, n1);
    expect((await boot(id)).bootSet).toBeUndefined();
  });
});

describe('who may not', () => {
  const none = 'error 1: file not found';
  const silent = 'error 2: no profile names this machine';
  const notYours = 'error 2: this path is not for the machine at this address';
  test.each<[string, string, string, Serve, string]>([
    ['a stranger gets no loader', 'undionly.kpxe', stranger, 'known', silent],
    ["a stranger gets nothing under a node's MAC", `${MACS.n1}/kernel`, stranger, 'known', silent],
    ["a stranger gets no node's script", `${MACS.n1}/boot.ipxe`, stranger, 'known', silent],
    ['a node gets nothing of another one: kernel', `${MACS.n2}/kernel`, n1, 'known', notYours],
    ['a node gets nothing of another one: initrd', `${MACS.n2}/initrd`, n1, 'known', notYours],
    ['a node gets nothing of another one: script', `${MACS.n2}/boot.ipxe`, n1, 'known', notYours],
    ['a node gets nothing under a MAC that nobody has', `${MACS.stranger}/kernel`, n1, 'known', notYours],
    ['a node that boots from its disk', 'undionly.kpxe', '10.77.0.14', 'known', 'error 1: profile disk boots from disk'],
    ['a node that boots from its disk, its kernel', `${MACS.d1}/kernel`, '10.77.0.14', 'known', 'error 1: profile disk boots from disk'],
    ['kernel without a MAC is no name', 'kernel', n1, 'known', none],
    ['initrd without a MAC is no name', 'initrd', n1, 'known', none],
    ['nothing else is in a node\'s path', `${MACS.n1}/squashfs`, n1, 'known', none],
  ])('%s', async (_what, name, from, serve, answer) => {
    const id = await world.boot('n1');
    expect(told(await world.open(name, from, serve))).toBe(answer);
    expect((await boot(id)).bootSet).toBeUndefined();
  });

  test("the machine at a node's own address gets nothing while the boot of that node is at another", async () => {
    const id = await world.boot('n1');
    await world.booter.leased(id, '10.77.0.50', MACS.n1);
    for (const name of ['boot.ipxe', `${MACS.n1}/kernel`, `${MACS.n1}/initrd`]) expect(told(await world.open(name, n1)), name).toMatch(/^error 2: /);
    expect((await boot(id)).bootSet).toBeUndefined();
    expect(told(await world.open(`${MACS.n1}/kernel`, '10.77.0.50'))).toBe('kernel');
  });

  test('a node that failed five times gets no kernel before its time, as it gets no script', async () => {
    for (let n = 0; n < 6; n++) {
      const id = await world.boot('n1');
      await world.open('boot.ipxe', n1);
      await world.boots.end(id, 'failed', Date.now());
    }
    await world.boot('n1');
    expect(told(await world.open(`${MACS.n1}/kernel`, n1))).toMatch(/^error 0: not now: \d boots failed in a row$/);
    expect(told(await world.open('undionly.kpxe', n1))).toBe('loader');
  });
});

describe('requests that are forged, and never acknowledged,', () => {
  test.each([
    ['its script', () => 'boot.ipxe'],
    ['the script that iPXE asks for by itself', () => 'autoexec.ipxe'],
    ['its script by its path', () => `${dashes(MACS.n1)}/boot.ipxe`],
    ['its kernel', () => `${dashes(MACS.n1)}/kernel`],
    ['its initrd', () => `${dashes(MACS.n1)}/initrd`],
  ])('hold no node: %s', async (_what, name) => {
    const ids: string[] = [];
    for (let n = 0; n <= FAILURES_BEFORE_HOLD; n++) {
      ids.push(await world.boot('n1'));
      expect('file' in (await world.open(name(), n1))).toBe(true);
    }
    const states = await Promise.all(ids.map(async (id) => (await boot(id)).state));
    expect(states).toEqual([...Array(FAILURES_BEFORE_HOLD).fill('unfinished'), 'open']);
    expect(await world.boots.history('n1')).toEqual({ failedInRow: 0 });
    expect(told(await world.open(`${MACS.n1}/kernel`, n1))).toBe('kernel');
  });

  test('and a node that has its kernel each time, and gets no further, is held', async () => {
    for (let n = 0; n <= FAILURES_BEFORE_HOLD; n++) {
      const id = await world.boot('n1');
      await world.open('boot.ipxe', n1);
      await world.booter.seen(id, 'script');
      await world.booter.seen(id, 'kernel');
    }
    expect(await world.boots.history('n1')).toMatchObject({ failedInRow: FAILURES_BEFORE_HOLD });
    await world.boot('n1');
    expect(told(await world.open(`${MACS.n1}/kernel`, n1))).toMatch(/^error 0: not now: \d boots failed in a row, the last at kernel: the machine started over: boot \w+$/);
  });
});

describe('where strangers are let in', () => {
  test('one gets a loader and a script that says what to do', async () => {
    expect(told(await world.open('undionly.kpxe', stranger, 'discovered'))).toBe('loader');
    const script = await world.open(`${MACS.stranger}/boot.ipxe`, stranger, 'discovered');
    expect(told(script)).toBe('no stage');
    expect(bytesOf(script).toString()).toMatch(/^#!ipxe\n[^]*RS-HOLD: no profile names this machine/);
    expect(told(await world.open(`${MACS.stranger}/kernel`, stranger, 'any'))).toMatch(/^error 0: not now: no profile names this machine/);
  });

  test.each(['boot.ipxe', 'kernel', 'initrd', 'undionly.kpxe', 'x'])("one cannot tell by %s whether a MAC is a node's", async (file) => {
    const id = await world.boot('n1');
    const [known, unknown] = [await world.open(`${MACS.n1}/${file}`, stranger, 'any'), await world.open(`${MACS.stranger}/${file}`, stranger, 'any')];
    expect(told(known)).toBe(told(unknown));
    expect(bytesOf(known).toString().replaceAll(dashes(MACS.n1), dashes(MACS.stranger))).toBe(bytesOf(unknown).toString());
    expect((await boot(id)).bootSet).toBeUndefined();
  });
});

describe('by IPv6', () => {
  const peer = 'fd00:77::11';
  test.each<[string, string, Serve, string]>([
    ['a loader under the MAC of a node', `${MACS.n1}/undionly.kpxe`, 'known', 'no stage'],
    ['its kernel', `${MACS.n1}/kernel`, 'known', 'no stage'],
    ['its initrd', `${MACS.n1}/initrd`, 'known', 'no stage'],
    ['no script', `${MACS.n1}/boot.ipxe`, 'known', 'error 2: scripts are for IPv4 machines, whose address tells that they are theirs'],
    ['nothing without a MAC', 'undionly.kpxe', 'known', 'error 2: no profile names this machine'],
    ['nothing under a MAC that nobody has', `${MACS.stranger}/undionly.kpxe`, 'known', 'error 2: no profile names this machine'],
    ['a loader without a MAC, where strangers are let in', 'undionly.kpxe', 'discovered', 'no stage'],
    ['no kernel for a stranger that is let in', `${MACS.stranger}/kernel`, 'any', 'error 0: not now: no profile names this machine: add 52:54:00:00:00:99 under nodes in boot-profiles/'],
    ['nothing for a node that boots from its disk', `${MACS.d1}/undionly.kpxe`, 'known', 'error 1: profile disk boots from disk'],
  ])('%s', async (_what, name, serve, answer) => {
    const id = await world.boot('n1');
    const opened = await world.open(name, peer, serve);
    expect(told(opened)).toBe(answer);
    // Nothing is written by the word of a machine that cannot prove it.
    expect('answer' in opened && opened.answer.boot).toBeFalsy();
    expect((await boot(id)).bootSet).toBeUndefined();
  });

  test("the kernel is that of the boot's boot set once it is fixed", async () => {
    await world.boot('n1');
    await world.open('boot.ipxe', n1);
    world.swap();
    expect(bytesOf(await world.open(`${MACS.n1}/kernel`, peer)).equals(world.content.kernel)).toBe(true);
    expect(bytesOf(await world.open(`${MACS.n2}/kernel`, peer)).equals(world.content.newKernel)).toBe(true);
  });
});

describe('hostile names', () => {
  test(`all ${HOSTILE_NAMES.length} of them, of a node, a stranger and an IPv6 peer: ERROR 1 or 2 and no byte`, async () => {
    expect(HOSTILE_NAMES.length).toBeGreaterThanOrEqual(300);
    await world.boot('n1');
    for (const from of [n1, stranger, 'fd00:77::11']) {
      for (const name of [...HOSTILE_NAMES, ...NUL_NAMES, ...SYMLINKS.map((link) => link.name)]) {
        const opened = await world.open(name, from, from === stranger ? 'any' : 'known');
        expect([JSON.stringify(name), told(opened)]).toEqual([JSON.stringify(name), expect.stringMatching(/^error [12]: /)]);
      }
    }
  });
});

describe('symbolic links', () => {
  test('in the directory of loaders open nothing by their own names, whatever they point to', async () => {
    for (const { name, to } of SYMLINKS) symlinkSync(to, join(world.loadersDir, name));
    const loaders = await loadLoaders(world.loadersDir);
    expect(loaders.names).toEqual(['undionly.kpxe', 'snponly.efi']);
    for (const { name } of SYMLINKS) expect([name, loaders.get(name)]).toEqual([name, undefined]);
  });

  test('under the name of a loader are the choice of the operator, and read at start only', async () => {
    const file = join(world.loadersDir, 'snponly.efi');
    writeFileSync(join(world.dir, 'signed.efi'), 'the signed one');
    unlinkSync(file);
    symlinkSync('../signed.efi', file);
    const loaders = await loadLoaders(world.loadersDir);
    expect(Buffer.from(loaders.get('snponly.efi')!).toString()).toBe('the signed one');
    unlinkSync(file);
    symlinkSync('../secret', file);
    expect(Buffer.from(loaders.get('snponly.efi')!).toString()).toBe('the signed one');
  });

  test.each<[string, string, RegExp]>([
    ['to a directory', '..', /cannot be read/],
    ['to itself', 'undionly.kpxe', /cannot be read/],
    ['to nowhere', '/nonexistent', /no such file/],
  ])('of the loader that must be there, %s, are told at start', async (_what, to, message) => {
    const file = join(world.loadersDir, 'undionly.kpxe');
    unlinkSync(file);
    symlinkSync(to, file);
    await expect(loadLoaders(world.loadersDir)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: expect.stringMatching(message) });
  });

  const kernelFile = () => join(world.stateDir, 'blobs', 'sha256', world.image.kernel.digest.slice('sha256:'.length));
  test.each<[string, () => void]>([
    ['a link to a secret', () => symlinkSync(join(world.dir, 'secret'), kernelFile())],
    ['a link to the very bytes elsewhere', () => (writeFileSync(join(world.dir, 'elsewhere'), world.content.kernel), symlinkSync(join(world.dir, 'elsewhere'), kernelFile()))],
    ['a link to itself', () => symlinkSync(kernelFile(), kernelFile())],
    ['a link to /etc/passwd', () => symlinkSync('/etc/passwd', kernelFile())],
    ['a secret under its name', () => writeFileSync(kernelFile(), SECRET)],
    ['a secret of the right length', () => writeFileSync(kernelFile(), SECRET.repeat(2_000).slice(0, world.content.kernel.length))],
    ['a second name of a secret', () => linkSync(join(world.dir, 'secret'), kernelFile())],
    ['a file that is cut short', () => writeFileSync(kernelFile(), world.content.kernel.subarray(1))],
    ['nothing', () => {}],
  ])('in the store open nothing: %s in the place of a kernel', async (_what, lay) => {
    await world.boot('n1');
    rmSync(kernelFile());
    lay();
    await expect(world.open(`${MACS.n1}/kernel`, n1)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  test('laid over a kernel after it was read change nothing of what is sent', async () => {
    await world.boot('n1');
    await world.open(`${MACS.n1}/kernel`, n1);
    renameSync(kernelFile(), `${kernelFile()}.old`);
    symlinkSync(join(world.dir, 'secret'), kernelFile());
    expect(bytesOf(await world.open(`${MACS.n1}/kernel`, n1)).equals(world.content.kernel)).toBe(true);
  });
});

describe('files in memory', () => {
  const counted = (mostBytes?: number) => {
    const opened: string[] = [];
    const open: TftpWorld['blobs']['open'] = async (digest) => (opened.push(digest), world.blobs.open(digest));
    return { cache: createFileCache({ open }, mostBytes), opened };
  };

  test('are read once, however many ask at once', async () => {
    const { cache, opened } = counted();
    const all = await Promise.all(Array.from({ length: 50 }, () => cache.get(world.image.initrds)));
    expect(new Set(all.map((held) => held!.bytes)).size).toBe(1);
    expect(Buffer.from(all[0]!.bytes).equals(world.content.initrd)).toBe(true);
    for (const held of all) held!.release();
    await cache.get(world.image.initrds);
    expect(opened).toHaveLength(2);
  });

  test('make room for others in the order of their last use', async () => {
    const [first, second] = world.image.initrds.map((blob) => [blob]) as [[typeof world.image.kernel], [typeof world.image.kernel]];
    const third = [world.image.newKernel];
    // One byte too few for all three.
    const { cache, opened } = counted(first[0].size + second[0].size + third[0]!.size - 1);
    const send = async (parts: readonly BlobRef[]) => (await cache.get(parts))!.release();
    await send(first);
    await send(second);
    await send(first);
    await send(third);
    expect(opened).toHaveLength(3);
    // The second was used longest ago.
    await send(first);
    await send(third);
    expect(opened).toHaveLength(3);
    await send(second);
    expect(opened).toHaveLength(4);
  });

  test('that are being sent are found by all who ask, and never loaded once more beside themselves', async () => {
    const { kernel, initrds } = world.image;
    // Each alone fits, both do not: every other one that asks wants what was just crowded out.
    const { cache, opened } = counted(kernel.size);
    const held = [];
    for (let n = 0; n < 16; n++) held.push((await cache.get(n % 2 ? initrds : [kernel]))!);
    expect(opened).toHaveLength(3);
    expect(new Set(held.map(({ bytes }) => bytes)).size).toBe(2);
    expect(new Set(held.map(({ bytes }) => bytes.buffer)).size).toBe(1);
    expect(held[0]!.bytes.buffer.byteLength).toBe(2 * kernel.size);
  });

  test('that are being sent leave no room for another one until the last transfer has let go of one', async () => {
    await world.boot('n1');
    const { kernel, initrds, newKernel } = world.image;
    const { cache } = counted(kernel.size);
    const [one, again, other] = [await cache.get([kernel]), await cache.get([kernel]), await cache.get(initrds)];
    // 30,000 of 60,000 bytes and then 15,240: 14,760 are left.
    expect(await cache.get([...initrds, newKernel])).toBeUndefined();
    one!.release();
    // A second call is not the other transfer's.
    one!.release();
    expect(await cache.get([...initrds, newKernel])).toBeUndefined();
    again!.release();
    expect(Buffer.from((await cache.get([...initrds, newKernel]))!.bytes).equals(Buffer.concat([world.content.initrd, world.content.newKernel]))).toBe(true);
    expect(Buffer.from(other!.bytes).equals(world.content.initrd)).toBe(true);
    const full = bootFiles({ loaders: world.loaders, booter: world.booter, cache: { get: async () => undefined }, httpPort: 8080 });
    expect(told(await full.open(`${MACS.n1}/kernel`, { peer: n1, local: '10.77.0.1', serve: 'known' }))).toBe('error 0: server busy: other large files are being sent, ask again later');
  });

  test('of a disk that hangs hold up nobody who wants another', async () => {
    const { kernel, newKernel } = world.image;
    let go = () => {};
    const hung = new Promise<void>((resolve) => (go = resolve));
    const cache = createFileCache({ open: async (digest) => (digest === kernel.digest ? hung.then(() => world.blobs.open(digest)) : world.blobs.open(digest)) });
    const late = cache.get([kernel]);
    expect(Buffer.from((await cache.get([newKernel]))!.bytes).equals(world.content.newKernel)).toBe(true);
    go();
    expect(Buffer.from((await late)!.bytes).equals(world.content.kernel)).toBe(true);
  });

  test('never lie over one another, whatever is asked and let go in whatever order', async () => {
    const { kernel, initrds, newKernel } = world.image;
    const choices: readonly (readonly [readonly BlobRef[], Buffer])[] = [
      [[kernel], world.content.kernel],
      [initrds, world.content.initrd],
      [[newKernel], world.content.newKernel],
      [[newKernel, ...initrds], Buffer.concat([world.content.newKernel, world.content.initrd])],
      [[kernel, newKernel], Buffer.concat([world.content.kernel, world.content.newKernel])],
    ];
    const moves = fc.array(fc.record({ which: fc.nat(choices.length - 1), frees: fc.option(fc.nat()) }), { minLength: 1, maxLength: 30 });
    let refusals = 0;
    await fc.assert(
      fc.asyncProperty(moves, async (steps) => {
        const cache = createFileCache(world.blobs, kernel.size + newKernel.size);
        const held: { readonly file: HeldFile; readonly content: Buffer }[] = [];
        for (const { which, frees } of steps) {
          const [parts, content] = choices[which]!;
          const file = await cache.get(parts);
          if (file) held.push({ file, content });
          else refusals++;
          if (frees !== null && held.length > 0) held.splice(frees % held.length, 1)[0]!.file.release();
          for (const one of held) expect(Buffer.from(one.file.bytes).equals(one.content)).toBe(true);
        }
        for (const { file } of held.splice(0)) file.release();
        for (const [parts] of choices) (await cache.get(parts))!.release();
      }),
      { numRuns: 60 },
    );
    expect(refusals).toBeGreaterThan(0);
  });

  test('that cannot be read are asked for anew, so that what is put right is served', async () => {
    await world.boot('n1');
    const file = join(world.stateDir, 'blobs', 'sha256', world.image.kernel.digest.slice('sha256:'.length));
    renameSync(file, join(tmpdir(), `rackseed-kernel-${process.pid}`));
    await expect(world.open(`${MACS.n1}/kernel`, n1)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    renameSync(join(tmpdir(), `rackseed-kernel-${process.pid}`), file);
    expect(told(await world.open(`${MACS.n1}/kernel`, n1))).toBe('kernel');
  });

  test('that are rotten go to quarantine and are told', async () => {
    await world.boot('n1');
    const file = join(world.stateDir, 'blobs', 'sha256', world.image.kernel.digest.slice('sha256:'.length));
    rmSync(file);
    writeFileSync(file, Buffer.alloc(world.content.kernel.length));
    await expect(world.open(`${MACS.n1}/kernel`, n1)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect(world.rotten).toEqual([world.image.kernel.digest]);
  });
});
