// Images that are not made of Debian's packages: a tree, a container image, and Alpine by a mirror that stands in for its own. Built whole, with a root of BusyBox.
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync, chmodSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { digestOfBytes, hexOf, sha256Hex } from '../../src/digest.ts';
import { formatFault, FaultsError } from '../../src/errors.ts';
import { buildImage, type BuildResult } from '../../src/images/build.ts';
import { createImageStore } from '../../src/images/manifest.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createBlobStore } from '../../src/store/blobs.ts';
import { openDir, removeDir } from '../lab-process.ts';

const ARCH = process.arch === 'arm64' ? 'arm64' : 'amd64';
const ALPINE_ARCH = process.arch === 'arm64' ? 'aarch64' : 'x86_64';

let dir: string;
let images: string;
let state: string;
beforeAll(() => void execFileSync('ip', ['link', 'set', 'lo', 'up']));
beforeEach(() => {
  dir = openDir();
  [images, state] = [join(dir, 'images'), join(dir, 'state')];
  mkdirSync(state);
});
afterEach(() => removeDir(dir));

/** A root whose programs are all BusyBox's; with `kernel`, something that is called one, and modules. */
function busyboxRoot(at: string, kernel: boolean): string {
  for (const path of ['bin', 'sbin', 'usr/bin', 'usr/sbin', 'etc', 'var/lib', 'boot', 'lib/modules']) mkdirSync(join(at, path), { recursive: true });
  copyFileSync('/bin/busybox', join(at, 'bin/busybox'));
  for (const name of ['sh', 'mkdir', 'echo', 'touch', 'rm', 'cat']) symlinkSync('busybox', join(at, 'bin', name));
  symlinkSync('/bin/busybox', join(at, 'sbin/init'));
  symlinkSync('../bin/busybox', join(at, 'bin/chown'));
  // Debian's BusyBox is made without these two; what Alpine's do with such words:
  script(at, 'sbin/addgroup', '[ "$1 $2" = "-S -g" ] && echo "$4:x:$3:" >>/etc/group');
  script(at, 'sbin/adduser', '[ "$1 $2 $3 $4 $6" = "-S -D -H -u -G" ] && echo "${12}:x:$5:901:$7:$9:${11}" >>/etc/passwd');
  writeFileSync(join(at, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  writeFileSync(join(at, 'etc/group'), 'root:x:0:\n');
  writeFileSync(join(at, 'etc/shadow'), 'root:*:::::::\n');
  writeFileSync(join(at, 'etc/issue'), 'a system\n');
  if (kernel) addKernel(at, '6.1-test');
  return at;
}

function script(at: string, path: string, text: string): void {
  writeFileSync(join(at, path), `#!/bin/sh\n${text}\n`);
  chmodSync(join(at, path), 0o755);
}

function addKernel(at: string, version: string, name = version): void {
  const modules = join(at, 'lib/modules', version);
  mkdirSync(modules, { recursive: true });
  writeFileSync(join(at, 'boot', `vmlinuz-${name}`), arm64Kernel());
  for (const file of ['modules.dep', 'modules.alias', 'modules.builtin', 'modules.softdep', 'modules.builtin.modinfo', 'modules.order', 'modules.symbols']) writeFileSync(join(modules, file), '');
}

/** Nobody starts it; for arm64 the builder wants to see an EFI program. */
function arm64Kernel(): Buffer {
  const bytes = Buffer.alloc(128);
  bytes.write('MZ');
  bytes.writeUInt32LE(0x40, 0x3c);
  bytes.write('PE\0\0', 0x40);
  bytes.writeUInt16LE(0xaa64, 0x44);
  return bytes;
}

function image(name: string, yaml: string): string {
  mkdirSync(join(images, name), { recursive: true });
  writeFileSync(join(images, name, 'image.yaml'), `${yaml}arch: ${ARCH}\n`);
  return join(images, name);
}

const build = (name: string): Promise<BuildResult> => buildImage({ name, imagesDir: [images, SHIPPED.images], stateDir: state, signal: new AbortController().signal });
const squashfs = ({ manifest }: BuildResult): string => createBlobStore(state).path(manifest.squashfs.digest);
const cat = (built: BuildResult, path: string): string => execFileSync('unsquashfs', ['-cat', squashfs(built), path], { encoding: 'utf8' });
const listing = (built: BuildResult): string[] => execFileSync('unsquashfs', ['-llnumeric', squashfs(built)], { encoding: 'utf8' }).split('\n').map((line) => line.replace(/^(\S+)\s+(\S+).* squashfs-root(.*)$/, '$1 $2 $3'));

describe('a tree', () => {
  test('is an image with its own kernel, files, users and cmdline; a change of it makes another', async () => {
    const at = image('mine', 'base: { tree: ./rootfs }\nkernel: { cmdline: [quiet] }\nusers: [{ name: etcd, uid: 901 }]\nfiles: [{ path: /etc/motd, contents: hello, owner: etcd }]\nlayout: { persist: [/var, /data] }\n');
    busyboxRoot(join(at, 'rootfs'), true);
    const built = await build('mine');
    expect(built.manifest).toMatchObject({ name: 'mine', arch: ARCH, kernel: { version: '6.1-test' }, cmdline: ['quiet'], packages: [] });
    expect(cat(built, 'etc/passwd')).toMatch(/^etcd:x:901:901:/m);
    expect(cat(built, 'etc/rackseed/layout')).toBe('readonly /usr\npersist /var\npersist /data\nconfig /config\n');
    expect(listing(built)).toEqual(expect.arrayContaining(['-rw-r--r-- 901/0 /etc/motd', '-rw-r--r-- 0/0 /etc/issue', 'drwxr-xr-x 0/0 /data', 'drwxr-xr-x 0/0 /config', '-rwxr-xr-x 0/0 /usr/lib/rackseed/agent']));
    expect(listing(built).filter((line) => line.includes('/boot/'))).toEqual([]);
    expect((await build('mine')).unchanged).toBe(true);
    writeFileSync(join(at, 'rootfs/etc/issue'), 'changed\n');
    expect((await build('mine')).unchanged).toBe(false);
  });

  test.each([
    ['without a kernel', 'base: { tree: ./rootfs }\n', false, /\/boot has 0 kernels/],
    ['that cannot install packages', 'base: { tree: ./rootfs }\npackages: [git]\n', true, /the base has neither apt-get nor apk, so git cannot be installed/],
    ['that cannot remove them', 'base: { tree: ./rootfs }\nremove: [git]\n', true, /remove: the image has neither dpkg nor apk/],
    ['without systemd for its onboot steps', 'base: { tree: ./rootfs }\nonboot: [{ name: a, run: b }]\n', true, /onboot: the image has no systemd/],
    ['without systemctl for its services', 'base: { tree: ./rootfs }\nservices: [a.service]\n', true, /services: a\.service: the image has no systemctl/],
  ])('%s says so, and leaves nothing', async (_what, yaml, kernel, message) => {
    busyboxRoot(join(image('mine', yaml), 'rootfs'), kernel);
    await expect(build('mine')).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(message) as string });
    expect([readdirSync(join(state, 'tmp')), existsSync(join(state, 'images/mine'))]).toEqual([[], false]);
  });
});

describe('a container image', () => {
  /** An OCI layout whose second layer takes a file of the first away. */
  function oci(at: string): void {
    const blobs = join(at, 'blobs/sha256');
    mkdirSync(blobs, { recursive: true });
    const blob = (bytes: Buffer) => {
      const digest = digestOfBytes(bytes);
      writeFileSync(join(blobs, hexOf(digest)), bytes);
      return { digest, size: bytes.length };
    };
    const json = (value: object) => blob(Buffer.from(JSON.stringify(value)));
    busyboxRoot(join(dir, 'one'), true);
    mkdirSync(join(dir, 'two/etc'), { recursive: true });
    writeFileSync(join(dir, 'two/etc/.wh.issue'), '');
    writeFileSync(join(dir, 'two/etc/second'), 'layer\n');
    const layers = ['one', 'two'].map((name) => execFileSync('tar', ['-c', '--owner=0', '--group=0', '-C', join(dir, name), '.'], { maxBuffer: 1 << 26 }));
    const config = json({ architecture: ARCH, os: 'linux', rootfs: { type: 'layers', diff_ids: layers.map((layer) => digestOfBytes(layer)) } });
    writeFileSync(join(at, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [json({ schemaVersion: 2, config, layers: layers.map(blob) })] }));
  }

  test('is an image, layer over layer', async () => {
    oci(join(image('mine', 'base: { oci: ./os }\n'), 'os'));
    const built = await build('mine');
    expect(cat(built, 'etc/second')).toBe('layer\n');
    expect(listing(built).filter((line) => /\/etc\/(issue|\.wh)/.test(line))).toEqual([]);
    expect(listing(built)).toContain('-rwxr-xr-x 0/0 /bin/busybox');
    expect((await build('mine')).unchanged).toBe(true);
  });

  test('with a damaged layer is refused by its digest, and nothing is left', async () => {
    const at = image('mine', 'base: { oci: ./os }\n');
    oci(join(at, 'os'));
    const [largest] = readdirSync(join(at, 'os/blobs/sha256')).map((name) => join(at, 'os/blobs/sha256', name)).sort((a, b) => readFileSync(b).length - readFileSync(a).length);
    const bytes = readFileSync(largest!);
    bytes[5000]! ^= 1;
    writeFileSync(largest!, bytes);
    await expect(build('mine')).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(/os: layer 1: sha256:.*: its content has another digest/) as string });
    expect(readdirSync(join(state, 'tmp'))).toEqual([]);
  });
});

describe('Alpine', () => {
  let server: Server;
  let mirror: string;
  let files: Map<string, Buffer>;
  beforeAll(async () => {
    server = createServer((request, response) => {
      const bytes = files.get(request.url!);
      response.writeHead(bytes ? 200 : 404).end(bytes);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}/alpine`;
  });
  afterAll(() => void server.close());

  /** A release whose apk writes down what it was asked for, and brings what linux-virt and openrc would. */
  function release(): void {
    const root = busyboxRoot(join(dir, 'mini'), false);
    cpSync('/bin/busybox', join(root, 'bin/busybox.static'));
    writeFileSync(join(root, 'sbin/apk'), `#!/bin/sh
[ "$1" = add ] || exit 3
case "$*" in *nosuch*) echo "ERROR: unable to select packages:"; echo "  nosuch (no such package):"; exit 1 ;; esac
echo "$*" >/etc/apk-was-asked
[ -r /etc/resolv.conf ] && [ -r /proc/version ] || exit 4
mkdir -p /boot /lib/modules/6.12-0-virt /lib/apk/db
echo kernel >/boot/vmlinuz-virt
touch /boot/initramfs-virt
for f in dep alias builtin softdep builtin.modinfo order symbols; do touch /lib/modules/6.12-0-virt/modules.$f; done
printf 'P:openrc\\nV:0.62-r0\\n\\nP:linux-virt\\nV:6.12-r0\\n\\n' >/lib/apk/db/installed
printf '#!/bin/sh\\necho "$*" >>/etc/rc-was-asked\\n' >/sbin/rc-update
/bin/busybox chmod 755 /sbin/rc-update
`);
    chmodSync(join(root, 'sbin/apk'), 0o755);
    const tar = execFileSync('tar', ['-cz', '--owner=0', '--group=0', '-C', root, '.'], { maxBuffer: 1 << 26 });
    const at = `/alpine/v3.22/releases/${ALPINE_ARCH}`;
    files = new Map([
      [`${at}/latest-releases.yaml`, Buffer.from(`---\n-\n  branch: v3.22\n  flavor: alpine-virt\n  file: alpine-virt.iso\n-\n  branch: v3.22\n  version: 3.22.1\n  flavor: alpine-minirootfs\n  file: alpine-minirootfs-3.22.1.tar.gz\n  sha256: ${sha256Hex(tar)}\n`)],
      [`${at}/alpine-minirootfs-3.22.1.tar.gz`, tar],
    ]);
  }

  test.runIf(process.arch === 'x64')('is its minirootfs with packages by apk, services by OpenRC and users by BusyBox', async () => {
    release();
    image('mine', `base: { alpine: v3.22, mirror: "${mirror}" }\nkernel: { package: linux-virt }\npackages: [git]\nusers: [{ name: etcd, uid: 901 }]\nservices:\n  - sshd\n  - { name: rackseed-agent, contents: "#!/sbin/openrc-run" }\n`);
    const built = await build('mine');
    expect(built.manifest).toMatchObject({ kernel: { version: '6.12-0-virt' }, packages: ['linux-virt 6.12-r0', 'openrc 0.62-r0'] });
    expect(cat(built, 'etc/apk/repositories')).toBe(`${mirror}/v3.22/main\n${mirror}/v3.22/community\n`);
    expect(cat(built, 'etc/apk-was-asked')).toBe('add --no-cache --no-progress alpine-base busybox-static kmod openrc linux-virt git\n');
    expect(cat(built, 'etc/rc-was-asked')).toBe('--quiet add sshd default\n--quiet add rackseed-agent default\n');
    expect(cat(built, 'etc/passwd')).toMatch(/^etcd:x:901:901:/m);
    expect(listing(built)).toContain('-rwxr-xr-x 0/0 /etc/init.d/rackseed-agent');
    expect(listing(built).filter((line) => /resolv\.conf|\/boot\/|policy-rc/.test(line))).toEqual([]);
  });

  test.runIf(process.arch === 'x64')('without such a package says which', async () => {
    release();
    image('mine', `base: { alpine: v3.22, mirror: "${mirror}" }\npackages: [nosuch]\n`);
    await expect(build('mine')).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(/packages: unable to select packages:.*nosuch/) as string });
  });

  test.each([
    ['with another digest', (at: string) => files.set(`${at}/alpine-minirootfs-3.22.1.tar.gz`, Buffer.from('evil')), /minirootfs-3\.22\.1\.tar\.gz: its sha256 is .*, and latest-releases\.yaml says/],
    ['that is not there', (at: string) => files.delete(`${at}/alpine-minirootfs-3.22.1.tar.gz`), /minirootfs-3\.22\.1\.tar\.gz: 404/],
    ['whose name climbs', (at: string) => files.set(`${at}/latest-releases.yaml`, Buffer.from(`- flavor: alpine-minirootfs\n  file: ../../x.tar.gz\n  sha256: ${'0'.repeat(64)}\n`)), /latest-releases\.yaml names no minirootfs/],
  ])('%s is refused', async (_what, spoil, message) => {
    release();
    spoil(`/alpine/v3.22/releases/${ALPINE_ARCH}`);
    image('mine', `base: { alpine: v3.22, mirror: "${mirror}" }\n`);
    await expect(build('mine')).rejects.toMatchObject({ code: 'IMAGE_BUILD_FAILED', message: expect.stringMatching(message) as string, hint: expect.stringContaining('base.mirror') as string });
  });

  test('whose mirror does not answer says so', async () => {
    image('mine', 'base: { alpine: v3.22, mirror: "http://127.0.0.1:40009/alpine" }\n');
    await expect(build('mine')).rejects.toMatchObject({ message: expect.stringMatching(/^http:\/\/127\.0\.0\.1:40009\/alpine\/v3\.22\/releases\/.*\/latest-releases\.yaml: .*ECONNREFUSED/) as string });
  });
});

test('several processors are several images: the first has the plain tags', async () => {
  const at = image('mine', 'base: { tree: ./rootfs }\n');
  busyboxRoot(join(at, 'rootfs'), true);
  const other = ARCH === 'amd64' ? 'arm64' : 'amd64';
  writeFileSync(join(at, 'image.yaml'), `base: { tree: ./rootfs }\narch: [${other}, ${ARCH}]\n`);
  const { manifest } = await buildImage({ name: 'mine', arch: ARCH, imagesDir: [images, SHIPPED.images], stateDir: state, signal: new AbortController().signal });
  const tags = await createImageStore(state).tags('mine');
  expect([tags[`latest-${ARCH}`], tags['latest']]).toEqual([manifest.digest, undefined]);
});

test('an unknown image names both directories\' near one', async () => {
  image('mine', 'from: nothing\n');
  const fault = await build('mine').catch((error: unknown) => (error instanceof FaultsError ? error.faults.map(formatFault) : error));
  expect(fault).toEqual([expect.stringContaining('mine/image.yaml:1:7: from: there is no image nothing')]);
});
