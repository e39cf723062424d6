// Tampering with any byte of manifest, signature or squashfs ends in `failed: …` that names the file, in a real machine; and what is signed gets ready. Only with RACKSEED_FULL=1.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildImage } from '../../src/images/build.ts';
import type { ImageManifest } from '../../src/images/manifest.ts';
import { newKey, signatureText } from '../../src/images/minisign.ts';
import { signedText } from '../../src/images/signed-manifest.ts';
import { probeAccel } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { TEST_STATE } from '../lab-process.ts';
import { bootStage, sha256, type StageBoot, type StageRun } from '../stage-vm.ts';

const KEY = newKey();
/** Nobody reads it, and zstd cannot make it smaller: it stands in the squashfs as it is. */
const UNREAD = randomBytes(4 << 20);

let dir: string;
let image: ImageManifest;
let [kernel, initrd] = ['', ''];
let squashfs: Buffer;
let accel: 'kvm' | 'tcg';

/** The shipped image and one file more, its initrd with the key that signs. */
beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  dir = mkdtempSync(join(tmpdir(), 'rackseed-tamper-'));
  mkdirSync(join(dir, 'tampered'));
  writeFileSync(join(dir, 'tampered/unread'), UNREAD);
  writeFileSync(join(dir, 'tampered/image.yaml'), 'from: debian-k0s\nfiles:\n  - { path: /usr/lib/unread, source: unread }\n');
  const built = await buildImage({ name: 'tampered', imagesDir: [dir, SHIPPED.images], stateDir: TEST_STATE, trust: { keys: [KEY], signer: KEY }, onProgress: () => undefined });
  image = built.manifest;
  const blobs = createBlobStore(TEST_STATE);
  [kernel, initrd] = [blobs.path(image.kernel.digest), blobs.path(image.initrds[0]!.digest)];
  squashfs = readFileSync(blobs.path(image.squashfs.digest));
  accel = await probeAccel();
}, 20 * 60_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Given {
  readonly text?: string;
  readonly signature?: string;
  readonly squashfs?: Buffer | readonly Buffer[];
  readonly config?: StageBoot['config'];
}

/** Config names the digests of what is served, as a daemon would that an attacker has in hand; but for the squashfs, whose bytes are only altered on their way. */
function boot({ text = signedText(image), signature = signatureText(Buffer.from(text), KEY, 'test'), squashfs: bytes = squashfs, config = {} }: Given): Promise<StageRun> {
  const files = { '/manifest': Buffer.from(text, 'latin1'), '/signature': Buffer.from(signature, 'latin1'), '/squashfs': bytes };
  return bootStage({
    kernel, initrd, accel, limit: 400, memoryMiB: 1536, files,
    config: {
      'squashfs-url': '/squashfs', 'squashfs-digest': image.squashfs.digest, 'squashfs-size': image.squashfs.size,
      'manifest-url': '/manifest', 'manifest-digest': `sha256:${sha256(files['/manifest'])}`, 'signature-url': '/signature', 'signature-digest': `sha256:${sha256(files['/signature'])}`,
      'root-state': 'none', ...config,
    },
  });
}

const flip = (bytes: Buffer, at: number): Buffer => {
  const changed = Buffer.from(bytes);
  changed[at] = changed[at]! ^ 1;
  return changed;
};
const flipText = (text: string, at: number): string => flip(Buffer.from(text, 'latin1'), at).toString('latin1');
const failedAs = (run: StageRun): string | undefined => /rackseed: failed: ([^\r\n]*) \[/.exec(run.console)?.[1];

describe('an image that its key signed', { timeout: 15 * 60_000 }, () => {
  test('gets ready, with every block read once beside the system, and not before', async () => {
    const run = await boot({});
    expect(run.reports, run.console.slice(-3000)).toEqual(['root ok', 'userspace ok', 'ready ok']);
    expect(run.console).toContain(`image tampered, serial ${image.serial}, is signed (${KEY.id}.pub)`);
    const [mounted, switched, verified] = ['squashfs mounted, dm-verity checks what is read', "switching to the image's own init", `all ${image.verity!.blocks} blocks of the squashfs verify`].map((words) => run.console.indexOf(words));
    expect(mounted).toBeGreaterThan(0);
    expect(switched).toBeGreaterThan(mounted!);
    expect(verified).toBeGreaterThan(switched!);
    expect(run.asked['/squashfs']).toBe(1);
    console.log(`seconds since power-on: ${JSON.stringify(run.at)}; initrd ${image.initrds[0]!.size} bytes`);
  });

  test('of which the first copy was damaged on its way is fetched again, and gets ready', async () => {
    const run = await boot({ squashfs: [flip(squashfs, 40), squashfs] });
    expect(run.console).toContain('rackseed: squashfs: block 0 does not verify (first download)');
    expect(run.reports.at(-1)).toBe('ready ok');
  });
});

describe('tampering', { timeout: 15 * 60_000 }, () => {
  /** Bytes of the squashfs' own tables, by its superblock (Documentation/filesystems/squashfs.rst): inodes at 64, directories at 72. */
  const table = (at: number) => Number(squashfs.readBigUInt64LE(at)) + 20;
  const block = (at: number) => `squashfs: block ${Math.floor(at / 4096)} does not verify`;
  const signature = () => signatureText(Buffer.from(signedText(image)), KEY, 'test');

  test.each<readonly [string, () => Given, () => RegExp]>([
    ['with the manifest', () => ({ text: flipText(signedText(image), signedText(image).indexOf('kernel sha256:') + 20), signature: signature() }), () => /^signature: no key has signed this manifest; /],
    ['with the signature', () => ({ signature: flipText(signature(), signature().indexOf('\n') + 60) }), () => /^signature: no key has signed this manifest/],
    ['by another key', () => ({ signature: signatureText(Buffer.from(signedText(image)), newKey(), 'test') }), () => /^signature: no key has signed this manifest/],
    ['by an image that is too old', () => ({ config: { 'min-serial': image.serial! + 1 } }), () => /^manifest: image tampered has serial \d+, older than \d+ \(the profile's minSerial\)/],
    ["with the squashfs' superblock", () => ({ squashfs: flip(squashfs, 40) }), () => /^squashfs: block 0 does not verify$/],
    ["with the squashfs' inodes", () => ({ squashfs: flip(squashfs, table(64)) }), () => new RegExp(`^${block(table(64))}$`)],
    ['with the hash tree', () => ({ squashfs: flip(squashfs, image.verity!.blocks * 4096 + 5) }), () => /^squashfs: block \d+ does not verify$/],
  ])('%s is refused by the initrd stage', async (_what, given, why) => {
    const run = await boot(given());
    expect(failedAs(run), run.console.slice(-3000)).toMatch(why());
    expect(run.reports).toEqual([`root failed: ${failedAs(run)}`]);
    expect(run.console).not.toContain("switching to the image's own init");
    expect(run.console).toContain('rebooting in 3 s');
  });

  test('with a file that nobody reads ends the boot before it is ready', async () => {
    const at = squashfs.indexOf(UNREAD.subarray(2 << 20, (2 << 20) + 64));
    expect(at).toBeGreaterThan(0);
    const run = await boot({ squashfs: flip(squashfs, at) });
    expect(failedAs(run), run.console.slice(-3000)).toBe(block(at));
    expect(run.reports[0]).toBe('root ok');
    expect(run.reports).toContain(`root failed: ${block(at)}`);
    expect(run.reports).not.toContain('ready ok');
    expect(run.console).toContain("switching to the image's own init");
  });

  test('where the kernel has no dm-verity is found by the whole digest', async () => {
    const run = await bootWithout(['dm_verity', 'dm-verity.ko']);
    expect(failedAs(run), run.console.slice(-3000)).toMatch(/^squashfs has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}$/);
  });

  /** The same initrd with the module's file made empty, in a second archive behind the first: the kernel unpacks one over the other. */
  async function bootWithout([, file]: readonly [string, string]): Promise<StageRun> {
    const over = join(dir, 'over');
    const path = `lib/modules/${image.kernel.version}/kernel/drivers/md`;
    mkdirSync(join(over, path), { recursive: true });
    writeFileSync(join(over, path, file), '');
    const archive = execFileSync('cpio', ['-o', '-H', 'newc', '--quiet'], { cwd: over, input: `${path}/${file}\n` });
    const first = readFileSync(initrd);
    const both = join(dir, 'initrd');
    writeFileSync(both, Buffer.concat([first, Buffer.alloc((4 - (first.length % 4)) % 4), archive]));
    const kept = initrd;
    initrd = both;
    try {
      return await boot({ squashfs: flip(squashfs, squashfs.length >> 1) });
    } finally {
      initrd = kept;
    }
  }
});
