// Garbage collection and who uses a build: what stays, what goes, and what happens when somebody needs it meanwhile.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { imageRef, type BootSet, type Generation } from '../../src/boot/profile.ts';
import { digestOfValue, hexOf } from '../../src/digest.ts';
import { collectGarbage, type GcOptions } from '../../src/images/gc.ts';
import { createImageStore, imageDigest, type ImageManifest, type ImageStore } from '../../src/images/manifest.ts';
import { readUses } from '../../src/images/uses.ts';
import { createArtifactStore } from '../../src/store/artifacts.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { generationOf, nodeNamed } from './boot-world.ts';

const HOUR = 3_600_000;
/** All that the tests write is older than an hour then, but not than a day. */
const LATER = Date.now() + 2 * HOUR;

let dir: string;
let images: ImageStore;
let blobs: BlobStore;
let db: Database;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-gc-'));
  images = createImageStore(dir);
  blobs = createBlobStore(dir);
  db = openDatabase(join(dir, 'rackseed.db'));
});
afterEach(async () => {
  await db.close();
  rmSync(dir, { recursive: true });
});

const add = (text: string) => blobs.add(Readable.from([Buffer.from(text)]));

/** A build with a kernel that all share and three files of its own. */
async function build(text: string, tags: readonly string[] = [], name = 'one'): Promise<ImageManifest> {
  const [kernel, initrd, squashfs, sbom] = [await add('kernel'), await add(`initrd ${text}`), await add(`squashfs ${text}`), await add(`sbom ${text}`)];
  const content = { arch: 'amd64' as const, kernel: { ...kernel, version: '6' }, initrds: [initrd], squashfs: { ...squashfs, chunkSize: 4 << 20, chunks: [] } };
  const image: ImageManifest = { name, digest: imageDigest(content), ...content, sbom, packages: [], input: kernel.digest, builder: 'test/1', builtAt: Date.now() };
  await images.put(image);
  for (const tag of tags) await images.tag(name, tag, image.digest);
  return image;
}

const gc = (more: Partial<GcOptions> = {}) => collectGarbage({ stateDir: dir, now: LATER, settleMs: 0, ...more });
const left = async (): Promise<string[]> => (await images.list()).map(({ digest }) => digest).sort();
const bootSetOf = (image: ImageManifest): BootSet => ({ image: imageRef(image), cmdline: [], root: { state: 'none' }, artifacts: {}, vars: {} });

/** What a node booted at `at` and got ready with. */
async function ran(node: string, id: string, image: ImageManifest, end: 'ready' | 'failed' | undefined, at: number): Promise<void> {
  const boots = createBootStore(db);
  const bootSet = bootSetOf(image);
  await boots.start({ id, node, mac: '52:54:00:00:00:01', profile: 'p', generation: digestOfValue('g'), startedAt: at });
  await boots.fixBootSet(id, digestOfValue(bootSet), bootSet, { profile: 'p', generation: digestOfValue('g') });
  if (end) await boots.end(id, end, at + 1);
}

describe('image gc', () => {
  test('keeps latest, tags by hand and the newest dates, and removes the rest with all that only they name', async () => {
    const latest = await build('a', ['2026-11-22', 'latest']);
    const dated = await build('b', ['2026-11-21']);
    const arm = await build('arm', ['2026-11-01-arm64']);
    const named = await build('c', ['2026-11-01', 'stable']);
    const old = await build('d', ['2026-11-02']);
    const untagged = await build('e');
    const { builds, blobs: gone } = await gc({ keep: 2 });
    expect(Object.fromEntries(builds.map(({ image, why }) => [image.digest, why]))).toEqual({
      [latest.digest]: 'tag latest', [dated.digest]: 'one of the newest 2 dates', [arm.digest]: 'one of the newest 2 dates', [named.digest]: 'tag stable', [old.digest]: undefined, [untagged.digest]: undefined,
    });
    expect(await left()).toEqual([latest, dated, arm, named].map(({ digest }) => digest).sort());
    expect(gone.map(({ digest }) => digest).sort()).toEqual([old, untagged].flatMap((image) => [image.initrds[0]!.digest, image.squashfs.digest, image.sbom!.digest]).sort());
    for (const { digest } of gone) expect(await blobs.stat(digest)).toBeUndefined();
    expect(await blobs.stat(latest.kernel.digest)).toBeDefined();
    expect(Object.keys(await images.tags('one'))).toEqual(['2026-11-01', '2026-11-01-arm64', '2026-11-21', '2026-11-22', 'latest', 'stable']);
    expect(readdirSync(join(dir, 'blobs'))).not.toContain('removing');
  });

  test('--dry-run says the same and changes nothing', async () => {
    await build('a', ['latest']);
    const old = await build('b');
    const before = await blobs.list();
    const dry = await gc({ dryRun: true });
    expect([await left(), await blobs.list()]).toEqual([[(await images.get('one'))!.digest, old.digest].sort(), before]);
    const real = await gc();
    expect(dry.blobs).toEqual(real.blobs);
    expect(real.blobs).toHaveLength(3);
  });

  test('keeps what a profile of the current generation, a running or last good system, an open boot or one of the last day uses, and says who', async () => {
    const [profile, running, lastGood, open, recent, ancient] = [await build('profile'), await build('running'), await build('lastGood'), await build('open'), await build('recent'), await build('ancient')];
    const bootSet = bootSetOf(profile);
    const generation: Generation = { ...generationOf(nodeNamed('n1')), profiles: { 'k0s-single': { name: 'k0s-single', bootSet: digestOfValue(bootSet) } }, bootSets: { [digestOfValue(bootSet)]: bootSet } };
    await createNodeStore(db).assign(generation, 'test', 1);
    const day = LATER - 25 * HOUR;
    await ran('n2', 'A', ancient, 'ready', day - 3);
    await ran('n2', 'B', lastGood, 'ready', day - 2);
    await ran('n2', 'C', ancient, 'failed', day - 1);
    await ran('n3', 'D', running, 'ready', day);
    await ran('n4', 'E', recent, 'failed', day + 2 * HOUR);
    await ran('n5', 'F', open, undefined, day);
    const { builds } = await gc();
    const why = Object.fromEntries(builds.map((one) => [one.image.digest, one.why]));
    expect(why).toEqual({
      [profile.digest]: 'used by profile k0s-single, assigned to n1',
      [running.digest]: 'used by node n3, which runs on it',
      [lastGood.digest]: 'used by node n2, which was last good on it',
      [open.digest]: 'used by an open boot of node n5',
      [recent.digest]: 'used by a boot of node n4 within the last day',
      [ancient.digest]: undefined,
    });
    expect((await images.list()).some(({ digest }) => digest === ancient.digest)).toBe(false);
    for (const image of [profile, running, lastGood, open, recent]) for (const blob of [image.initrds[0]!, image.squashfs]) expect(await blobs.stat(blob.digest)).toBeDefined();
  });

  test('keeps what a file of boot-profiles names that no daemon has read yet, also one with faults', async () => {
    const [pinned, other] = [await build('pinned'), await build('other')];
    mkdirSync(join(dir, 'profiles'));
    writeFileSync(join(dir, 'profiles', 'a.yaml'), `cmdline: [\nimage: one@${pinned.digest} # :-(\n`);
    const { builds } = await gc({ profilesDir: join(dir, 'profiles') });
    expect(builds.find(({ image }) => image.digest === pinned.digest)?.why).toBe(`used by ${join(dir, 'profiles', 'a.yaml')}`);
    expect(await left()).toEqual([pinned.digest]);
    expect(await blobs.stat(other.squashfs.digest)).toBeUndefined();
  });

  test('keeps blobs of artifacts, of loader sets, of a UKI, of a signature, of manifests that a newer version wrote, and young ones', async () => {
    const [artifact, loader, uki, signature, future] = [await add('k0s'), await add('ipxe'), await add('uki'), await add('signature'), await add('future')];
    await createArtifactStore(db).add({ name: 'k0s', version: 'v1', ...artifact, addedAt: 1 });
    mkdirSync(join(dir, 'loaders'));
    writeFileSync(join(dir, 'loaders', 'own.json'), JSON.stringify({ files: [{ name: 'a', digest: loader.digest }] }));
    const image = await build('a', ['latest']);
    await images.put({ ...image, uki: { ...uki, cmdline: '', signed: false }, signed: { manifest: signature, signature }, ...{ future: [future.digest] } });
    const idle = await add('nobody names me');
    expect((await gc({ now: Date.now() })).blobs).toEqual([]);
    expect((await gc()).blobs).toEqual([idle]);
  });

  test('a blob with an old time that was added again a moment ago is young', async () => {
    const blob = await add('again');
    utimesSync(blobs.path(blob.digest), 1, 1);
    expect((await gc({ now: Date.now() })).blobs).toEqual([]);
    expect((await gc()).blobs).toEqual([blob]);
  });

  test('what somebody names while it goes comes back: a tag, and a boot set', async () => {
    const [tagged, used, idle] = [await build('tagged', ['2026-01-01']), await build('used'), await build('idle')];
    const running = gc({ settleMs: 400, keep: 0 });
    while ((await images.list()).length > 0 || !existsSync(join(dir, 'blobs', 'removing', hexOf(idle.squashfs.digest)))) await sleep(5);
    expect(await blobs.stat(used.squashfs.digest)).toBeUndefined();
    await ran('n1', 'A', used, undefined, LATER);
    writeFileSync(join(dir, 'images', 'one', 'tags', 'stable'), `${tagged.digest}\n`);
    const { builds, blobs: gone } = await running;
    expect(builds.filter(({ why }) => why === 'it was asked for meanwhile').map(({ image }) => image.digest).sort()).toEqual([tagged.digest, used.digest].sort());
    expect(await left()).toEqual([tagged.digest, used.digest].sort());
    expect(gone.map(({ digest }) => digest)).not.toContain(used.squashfs.digest);
    for (const image of [tagged, used]) for (const blob of [image.initrds[0]!, image.squashfs]) expect(await blobs.stat(blob.digest)).toBeDefined();
    expect(await blobs.stat(idle.squashfs.digest)).toBeUndefined();
    expect(await images.tags('one')).toEqual({ '2026-01-01': tagged.digest, stable: tagged.digest });
  });

  test('what a killed one left out of sight is looked at anew', async () => {
    const image = await build('a', ['latest']);
    mkdirSync(join(dir, 'blobs', 'removing'));
    renameSync(blobs.path(image.squashfs.digest), join(dir, 'blobs', 'removing', hexOf(image.squashfs.digest)));
    expect((await gc()).blobs).toEqual([]);
    expect(await blobs.stat(image.squashfs.digest)).toBeDefined();
  });

  test('a database that cannot be read ends it before anything is removed', async () => {
    await build('a');
    await db.close();
    for (const end of ['', '-wal', '-shm']) rmSync(join(dir, `rackseed.db${end}`), { force: true });
    writeFileSync(join(dir, 'rackseed.db'), 'this is no database, and long enough to be looked at: '.repeat(20));
    await expect(gc()).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
    expect(await images.list()).toHaveLength(1);
  });

  test('a snapshot of the database that a daemon may go on with counts, too', async () => {
    const image = await build('a');
    await ran('n1', 'A', image, 'ready', 1);
    mkdirSync(join(dir, 'snapshots'));
    db.read((sqlite) => sqlite.prepare('VACUUM INTO ?').run(join(dir, 'snapshots', 'rackseed-20261121T000000Z.db')));
    await db.write((sqlite) => sqlite.exec('DELETE FROM boots; DELETE FROM node_systems; DELETE FROM boot_sets'));
    expect((await gc()).builds[0]?.why).toBe('used by node n1, which runs on it in the newest snapshot of the database');
    expect((await readUses({ stateDir: dir, now: LATER }, images)).of(image)).toEqual([]);
    rmSync(join(dir, 'snapshots'), { recursive: true });
    expect((await gc()).builds[0]?.why).toBeUndefined();
  });
});
