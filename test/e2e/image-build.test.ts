// The shipped image, built for real. The state directory is shared: other e2e tests boot what this one built.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FaultsError } from '../../src/errors.ts';
import { imageShow } from '../../src/commands/image-show.ts';
import { buildImage, type BuildResult, type BuildProgress } from '../../src/images/build.ts';
import { lockDigest, readLock } from '../../src/images/lock.ts';
import { verifyImage } from '../../src/images/verify.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { asUser, isTrueRoot, openDir, processesNaming, removeDir, start, TEST_STATE as stateDir, USER_ID, USER_ROOT } from '../lab-process.ts';

const options = { name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir };

let built: BuildResult;
const progress: BuildProgress[] = [];
let sourceBefore: string;

const sourceTree = (): string => execFileSync('find', [SHIPPED.images, '-printf', '%p %s %T@\\n'], { encoding: 'utf8' });

beforeAll(async () => {
  sourceBefore = sourceTree();
  built = await buildImage({ ...options, onProgress: (at) => void progress.push(at) });
}, 900_000);

const squashfs = (manifest = built.manifest, state = stateDir): string => createBlobStore(state).path(manifest.squashfs.digest);
const contentOf = (path: string): string => execFileSync('unsquashfs', ['-cat', squashfs(), path], { encoding: 'utf8' });

describe('image build debian-k0s', () => {
  test('leaves a manifest with kernel, initrd and squashfs whose files are what it says', async () => {
    const { manifest } = built;
    // The lab's firmware tests, whose state this is, make its UKI.
    expect(Object.keys(manifest).filter((key) => key !== 'uki').sort()).toEqual(['arch', 'builder', 'builtAt', 'cmdline', 'digest', 'initrds', 'input', 'kernel', 'lock', 'name', 'packages', 'sbom', 'serial', 'squashfs', 'verity']);
    expect(await verifyImage(manifest, createBlobStore(stateDir))).toEqual([]);
    expect(manifest.squashfs.chunks).toHaveLength(Math.ceil(manifest.squashfs.size / manifest.squashfs.chunkSize));
    for (const name of ['git', 'curl', 'systemd', 'busybox-static']) expect(manifest.packages.some((line) => line.startsWith(`${name} `)), name).toBe(true);
  });

  test('every block of the squashfs can be checked by the tree behind it, and one changed bit is found', () => {
    const { rootHash, blocks } = built.manifest.verity!;
    const bytes = readFileSync(squashfs());
    expect(built.manifest.squashfs.size).toBeGreaterThan(blocks * 4096);
    const copy = join(stateDir, 'tmp', `verity-${process.pid}`);
    const verify = (): string => {
      writeFileSync(copy, bytes);
      const argv = ['verify', '--no-superblock', '--salt=-', '--format=1', '--hash=sha256', '--data-block-size=4096', '--hash-block-size=4096', `--data-blocks=${blocks}`, `--hash-offset=${blocks * 4096}`, copy, copy, rootHash];
      return spawnSync('veritysetup', argv, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` } }).stderr;
    };
    try {
      expect(verify()).toBe('');
      bytes[blocks * 2048]! ^= 1;
      expect(verify()).toContain('Verification of data area failed');
    } finally {
      rmSync(copy, { force: true });
    }
  });

  test('its SBOM names every package with the sha256 that the lock has for it', () => {
    const { manifest } = built;
    const sbom = JSON.parse(readFileSync(createBlobStore(stateDir).path(manifest.sbom!.digest), 'utf8')) as { packages: { name: string; versionInfo: string; checksums?: { checksumValue: string }[] }[] };
    const locked = readLock(join(stateDir, 'locks/debian-k0s.lock'))!.locked['amd64']!.packages;
    for (const line of manifest.packages) {
      const [name = '', version] = line.split(' ');
      expect(sbom.packages.find((entry) => entry.name === name), name).toMatchObject({ versionInfo: version, checksums: [{ checksumValue: expect.stringMatching(/^[0-9a-f]{64}$/) }] });
    }
    // Another run may have locked other versions than those of today.
    if (manifest.lock === lockDigest(locked)) for (const [name, { sha256 }] of Object.entries(locked)) expect(sbom.packages.find((entry) => entry.name === name)?.checksums).toEqual([{ algorithm: 'SHA256', checksumValue: sha256 }]);
  });

  test('does nothing the second time', async () => {
    const again = await buildImage(options);
    expect(again).toMatchObject({ unchanged: true, phases: [], manifest: { digest: built.manifest.digest, builtAt: built.manifest.builtAt } });
  });

  test('`image show -o json` has the digest and size of each file', async () => {
    const shown = JSON.parse(await imageShow('debian-k0s', { state: stateDir, output: 'json' })) as Record<string, { digest: string; size: number }>;
    for (const file of ['kernel', 'initrd', 'squashfs']) expect(shown[file]).toMatchObject({ digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/), size: expect.any(Number) });
  });

  test('leaves no temporary directory and nothing in the source tree', () => {
    expect(readdirSync(join(stateDir, 'tmp')).filter((name) => name.startsWith('image-debian-k0s.'))).toEqual([]);
    expect(sourceTree()).toBe(sourceBefore);
    if (!built.unchanged) expect(new Set(progress.map((at) => at.phase))).toEqual(new Set(['packages', 'root', 'initrd', 'squashfs', 'store']));
  });

  test('the squashfs has the empty directories that are mounted on, and no identity', () => {
    const listing = execFileSync('unsquashfs', ['-llnumeric', squashfs()], { encoding: 'utf8', maxBuffer: 1 << 26 }).replaceAll(' squashfs-root', ' ').split('\n');
    for (const dir of ['proc', 'sys', 'dev', 'run', 'tmp']) {
      expect(listing.some((line) => line.startsWith('d') && line.endsWith(`:00 /${dir}`)), dir).toBe(true);
      expect(listing.filter((line) => line.includes(`:00 /${dir}/`)), dir).toEqual([]);
    }
    const sizes = new Map(listing.flatMap((line) => (line.startsWith('-') ? [[line.split(/\s+/)[5]!, Number(line.split(/\s+/)[2])] as const] : [])));
    expect(sizes.get('/etc/machine-id')).toBe(0);
    expect([...sizes.keys()].filter((path) => /^\/boot\/|ssh_host_|^\/var\/lib\/systemd\/random-seed|^\/var\/log\/|^\/var\/cache\/apt/.test(path))).toEqual([`/boot/config-${built.manifest.kernel.version}`]);
    expect(sizes.has('/usr/lib/rackseed/agent')).toBe(true);
  });

  test('its users have the ids of image.yaml and no password; root is locked', () => {
    const passwd = contentOf('etc/passwd');
    expect(passwd).toMatch(/^etcd:x:901:901:/m);
    const shadow = contentOf('etc/shadow').trim().split('\n').map((line) => line.split(':'));
    expect(shadow.filter(([, password]) => !password!.startsWith('!') && password !== '*')).toEqual([]);
  });

  test('the running system can say which image it is', () => {
    const { arch, builder, initrds, input, kernel, lock, name, packages } = built.manifest;
    expect(JSON.parse(contentOf('etc/rackseed/image.json'))).toEqual({ arch, builder, initrds, input, kernel, lock, name, packages });
  });

  test('the initrd starts with our stage and has the modules that it loads', () => {
    const path = createBlobStore(stateDir).path(built.manifest.initrds[0]!.digest);
    const names = execFileSync('sh', ['-c', 'zstd -dc "$1" | cpio -t --quiet', 'sh', path], { encoding: 'utf8' }).split('\n');
    expect(names).toEqual(expect.arrayContaining(['init', 'bin/busybox', 'dev', 'proc', 'sys']));
    for (const name of ['virtio_net', 'overlay', 'squashfs', 'loop']) expect(names.some((line) => line.endsWith(`/${name}.ko`)), name).toBe(true);
    expect(names.filter((line) => line.endsWith('.xz'))).toEqual([]);
  });
});

test('packages that Debian does not have are told with their places before anything is built, and nothing is left', async () => {
  const imagesDir = join(stateDir, 'tmp', `images-${process.pid}`);
  mkdirSync(join(imagesDir, 'broken'), { recursive: true });
  try {
    writeFileSync(join(imagesDir, 'broken', 'image.yaml'), 'base: { debian: trixie }\nkernel: { package: linux-image-cloud-amd46 }\npackages: [git, gti, firmware-bnx2]\n');
    const failure = await buildImage({ name: 'broken', imagesDir, stateDir }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(FaultsError);
    const where = 'Debian trixie (main; amd64) at http://deb.debian.org has no package';
    expect((failure as FaultsError).faults.map(({ line, column, message, hint }) => [line, column, message, hint])).toEqual([
      [2, 20, `kernel.package: ${where} linux-image-cloud-amd46`, 'did you mean linux-image-cloud-amd64?'],
      [3, 17, `${where} gti`, expect.stringMatching(/^did you mean \S+\?$/)],
      [3, 22, `${where} firmware-bnx2`, expect.stringMatching(/^(did you mean|firmware and drivers may need base\.components)/)],
    ]);
    expect(readdirSync(join(stateDir, 'tmp')).filter((name) => name.startsWith('image-broken.'))).toEqual([]);
  } finally {
    rmSync(imagesDir, { recursive: true });
  }
});

describe('an ordinary user', () => {
  let dir: string;
  beforeEach(() => (dir = openDir()));
  afterEach(() => removeDir(dir));

  /** As `asUser`, for a user who is in /etc/passwd and has subordinate ids, in files that only `argv` sees: newuidmap refuses anybody else. */
  function asUserWithIds(argv: readonly string[]): string[] {
    if (!isTrueRoot()) return [...argv];
    const name = 'rackseed-test';
    writeFileSync(join(dir, 'passwd'), `${readFileSync('/etc/passwd', 'utf8')}${name}:x:${USER_ID}:${USER_ID}::/nonexistent:/bin/sh\n`);
    writeFileSync(join(dir, 'subid'), `${name}:700000:65536\n`);
    const script = 'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/subid" /etc/subuid && mount --bind "$1/subid" /etc/subgid && shift && exec "$@"';
    return ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', script, 'sh', dir, ...asUser(argv, dir)];
  }

  // 41 s on two idle cores, with the packages that the build above has fetched.
  test('builds the same image, file by file and owner by owner, and leaves no file and no process', async () => {
    const state = join(dir, 'state');
    mkdirSync(state);
    cpSync(join(stateDir, 'cache'), join(state, 'cache'), { recursive: true });
    cpSync(join(stateDir, 'locks'), join(state, 'locks'), { recursive: true });
    if (isTrueRoot()) execFileSync('chown', ['-R', `${USER_ID}:${USER_ID}`, state]);
    const build = start(asUserWithIds([process.execPath, join(USER_ROOT, 'dist/cli.js'), 'image', 'build', 'debian-k0s', '--locked', '--state', state, '-o', 'json']));
    expect(await build.ended, build.stderr()).toBe(0);
    const manifest = JSON.parse(build.stdout()) as BuildResult['manifest'] & Pick<BuildResult, 'unchanged'>;
    expect([manifest.unchanged, manifest.input]).toEqual([false, built.manifest.input]);
    expect(await verifyImage(manifest, createBlobStore(state))).toEqual([]);
    expect(owners(manifest, state)).toEqual(owners());
    // By root and by a user, in two directories, at two times. Nothing but another lock may make a difference: what built.manifest is of may be older than it.
    if (manifest.lock === built.manifest.lock) expect([manifest.digest, manifest.verity, manifest.sbom]).toEqual([built.manifest.digest, built.manifest.verity, built.manifest.sbom]);
    expect(readdirSync(join(state, 'tmp'))).toEqual([]);
    expect(processesNaming(state)).toEqual([]);
  });

  /** `/path mode uid/gid` of everything that is not plainly root's; without the version of the kernel, which is in some paths. */
  function owners(manifest = built.manifest, state = stateDir): string[] {
    const lines = execFileSync('unsquashfs', ['-llnumeric', squashfs(manifest, state)], { encoding: 'utf8', maxBuffer: 1 << 26 }).split('\n');
    const unusual = lines.map((line) => line.split(/\s+/)).filter(([mode, owner]) => owner !== undefined && (owner !== '0/0' || /[st]/i.test(mode!.slice(1))));
    expect(unusual.length).toBeGreaterThan(5);
    return unusual.map(([mode, owner, , , , path]) => `${path} ${mode} ${owner}`);
  }
});
