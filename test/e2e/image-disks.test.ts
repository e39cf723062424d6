// A machine with a disk: formatted when it is empty, kept from image to image, refused or missed with words, cached images, and a boot without a daemon. Only with RACKSEED_FULL=1.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hasStage, type Boot } from '../../src/boot/timeline.ts';
import { buildImage } from '../../src/images/build.ts';
import type { ImageManifest } from '../../src/images/manifest.ts';
import { startLabDaemon } from '../../src/lab/daemon.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { openDir, removeDir, TEST_STATE, until } from '../lab-process.ts';
import { openShell, SHELL_CMDLINE, shellArgs, type Shell } from './shell.ts';

const dir = openDir();
const PLACE = 'pci-0000:00:10.0';
/** Reports of attempts that fail cost seconds each, and nothing here is ever mended meanwhile. */
const WORDS = ['console=ttyS0', ...SHELL_CMDLINE, 'rackseed.wait=1', 'rackseed.tries=2'].join(', ');
let lab: Lab;
let vm: Vm | undefined;
let b: ImageManifest;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  mkdirSync(join(dir, 'images/k0s-b'), { recursive: true });
  writeFileSync(join(dir, 'images/k0s-b/image.yaml'), 'from: debian-k0s\npackages: [less]\n');
  const build = (name: string) => buildImage({ name, imagesDir: [join(dir, 'images'), SHIPPED.images], stateDir: TEST_STATE, onProgress: () => undefined });
  await build('debian-k0s');
  b = (await build('k0s-b')).manifest;
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
}, 900_000);
afterAll(async () => {
  await vm?.kill();
  await lab?.close();
  removeDir(dir);
});

/** A disk of 1 GiB, of which little is ever written. */
function newDisk(name: string, ...make: readonly string[]): string {
  const file = join(dir, name);
  writeFileSync(file, '');
  truncateSync(file, 1 << 30);
  if (make.length > 0) execFileSync(make[0]!, [...make.slice(1), file], { stdio: 'pipe' });
  return file;
}

async function profile(image: string, root: string): Promise<void> {
  const file = join(lab.site.profilesDir, 'k0s-single.yaml');
  const text = readFileSync(file, 'utf8').replace(/^image: .*$/m, `image: ${image}`).replace(/^root: .*$/m, `root: ${root}`).replace(/^cmdline: .*$/m, `cmdline: [${WORDS}]`);
  const before = (await lab.daemon.get<{ id: string }>('/api/generation')).body.id;
  if (text === readFileSync(file, 'utf8')) return;
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
  await until('the daemon to take the edit', 20_000, async () => ((await lab.daemon.get<{ id: string }>('/api/generation')).body.id === before ? undefined : true));
}

/** Pulls the plug and pushes the button, with that disk or none. */
async function powerOn(disk: string | undefined, memoryMiB = 2048): Promise<number> {
  await vm?.kill();
  const [n1] = lab.nodes;
  const drive = disk === undefined ? [] : ['-drive', `file=${disk},format=raw,if=none,id=d0`, '-device', 'virtio-blk-pci,drive=d0,addr=0x10'];
  vm = lab.powerOn({ ...n1!, vm: { ...n1!.vm, memoryMiB, more: [...shellArgs(join(dir, 'shell.sock')), ...drive] } });
  return vm.startedAt;
}

function bootSince(since: number, what: string, isIt: (boot: Boot) => boolean): Promise<Boot> {
  return until(`a boot ${what}`, 480_000, async () => {
    const boot = await lab.newestBoot('n1', since);
    return boot && isIt(boot) ? boot : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${consoleText().slice(-3000)}`);
  });
}

const over = async (since: number) => bootSince(since, 'that ended', ({ state }) => state !== 'open');
const consoleText = () => readFileSync(vm!.console.log, 'utf8');

async function inside<T>(work: (shell: Shell) => Promise<T>): Promise<T> {
  const shell = await openShell(join(dir, 'shell.sock'));
  try {
    return await work(shell);
  } finally {
    shell.close();
  }
}

/** Bytes that machines got by HTTP so far. */
function sent(): Promise<number> {
  return new Promise((resolve, reject) => {
    get({ socketPath: lab.site.socket, path: '/metrics' }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () => resolve(Number(/^rackseed_http_sent_bytes_total (\S+)$/m.exec(text)![1])));
    }).on('error', reject);
  });
}

const STATE = `{ state: LABEL=state, disk: "${PLACE}", cache: disk }`;
const ETC = "find /etc -xdev -type f ! -name .scribble -exec sha256sum {} + | sort -k2 | sha256sum";
const MEMORY = "grep -E 'MemTotal|MemAvailable|Shmem:' /proc/meminfo";
let disk: string;
let etc: string;

test('an empty disk is formatted; /usr is read-only, and what the layout persists lies on the disk', async () => {
  disk = newDisk('disk');
  await profile('debian-k0s', STATE);
  const boot = await over(await powerOn(disk));
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(consoleText()).toMatch(/rackseed: formatting vda with ext4, label state: it is empty/);
  await inside(async (shell) => {
    const mounts = await shell.run('findmnt -rno TARGET,FSTYPE,SOURCE,OPTIONS');
    console.log(mounts);
    for (const path of ['/var', '/home', '/opt', '/usr/local']) expect(mounts).toMatch(new RegExp(`^${path} ext4 /dev/vda\\[/persist${path}\\] rw`, 'm'));
    expect(mounts).toMatch(/^\/usr squashfs \S+ ro/m);
    expect(mounts).toMatch(/^\/var\/cache tmpfs /m);
    expect(await shell.run('touch /usr/bin/x 2>&1 || true')).toContain('Read-only file system');
    const upper = Number(await shell.run('findmnt -bno SIZE --target /run/initramfs/upper'));
    expect(upper).toBeGreaterThan(0.4 * 2048 * 2 ** 20);
    expect(upper).toBeLessThanOrEqual(0.5 * 2048 * 2 ** 20);
    // The names that the initrd stage gives are udev's.
    expect(await shell.run('ls /dev/disk/by-path')).toContain(PLACE);
    expect((await shell.run('systemctl --failed --no-legend --plain | cat')).trim()).toBe('');
    expect(await shell.run('cat /run/rackseed/state')).toContain('disk LABEL=state /dev/vda ext4');
    expect(await shell.run('stat -f -c %T /var/lib/k0s')).toContain('ext2/ext3');
    expect((await shell.run('dpkg -l less 2>/dev/null | grep ^ii || true')).trim()).toBe('');
    await until('the last known good', 20_000, async () => ((await shell.run('ls -A /run/initramfs/disk/.rackseed')).includes('last-good') ? true : undefined));
    etc = await shell.run(ETC);
    // Everywhere, as far as somebody goes who means it.
    await shell.run('for d in / /* /*/* /*/*/*; do case $d in /proc*|/sys*) ;; *) [ -d "$d" ] && [ ! -L "$d" ] && echo scribbled 2>/dev/null >"$d/.scribble"; echo x 2>/dev/null >>"$d/passwd-" ;; esac; done; echo x >>/etc/passwd; rm /etc/fstab /etc/debian_version; rm -rf /srv /media; true', 120_000);
    expect(await shell.run('cat /etc/.scribble /var/lib/.scribble')).toContain('scribbled');
    console.log(`memory in use after ready, image on the disk: ${await shell.run(MEMORY)}`);
    // Down in order: the disk is not in use any more when the machine stops.
    await shell.run('{ (sleep 2; systemctl reboot) >/dev/null 2>&1 & }');
  });
});

test('a reboot in order leaves a clean file system, downloads no image, and nothing outside of the persistent mounts is left', async () => {
  const since = Date.now();
  const before = await sent();
  const boot = await bootSince(since - 2_000, 'after the reboot that ended', ({ state, startedAt }) => state !== 'open' && startedAt > since - 2_000);
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(consoleText()).not.toMatch(/Failed unmounting|Failed deactivating/);
  expect(consoleText()).not.toMatch(/recovery (complete|required)|orphan cleanup/);
  expect(consoleText()).toMatch(/rackseed: image [0-9a-f]{64} is on the disk/);
  const bytes = (await sent()) - before;
  console.log(`bytes by HTTP in the boot with a cached image: ${bytes}`);
  // The kernel, the initrd, the steps and the artifact: not the squashfs.
  expect(bytes).toBeLessThan(40_000_000);
  await inside(async (shell) => {
    const left = (await shell.run("find / \\( -path /proc -o -path /sys \\) -prune -o \\( -name .scribble -o -name passwd- \\) -print", 240_000)).split('\n').map((line) => line.trim()).filter(Boolean);
    expect(left.length).toBeGreaterThan(10);
    expect(left.filter((path) => !/^\/(var|home|opt|usr\/local|run\/initramfs\/disk)\//.test(path))).toEqual([]);
    expect(left.filter((path) => path.startsWith('/var/cache/'))).toEqual([]);
    expect(await shell.run(ETC)).toBe(etc);
    expect(await shell.run('ls -d /srv /media /etc/debian_version')).toContain('/srv');
  });
});

test('another image with the kept disk has its own package list, and what was written stays', async () => {
  await profile('k0s-b', STATE);
  const boot = await over(await powerOn(disk));
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(consoleText()).toMatch(/\/var: \d+ entries came with the new image/);
  await inside(async (shell) => {
    expect(await shell.run('dpkg-query -W less')).toMatch(/^\s*less\s+\d/);
    expect((await shell.run("dpkg-query -W -f '${Package} ${Version}\\n'")).trim().split('\n').map((line) => line.trim()).sort()).toEqual([...b.packages].sort());
    expect(await shell.run('cat /var/lib/.scribble')).toContain('scribbled');
    expect((await shell.run('ls /run/initramfs/disk/.rackseed/images')).match(/squashfs/g)).toHaveLength(2);
    expect((await shell.run('systemctl --failed --no-legend --plain | cat')).trim()).toBe('');
  });
});

test('with the image on the disk, a machine needs less memory than the squashfs has bytes for it', async () => {
  const boot = await over(await powerOn(disk, 512));
  console.log(`512 MiB: ${boot.state} ${boot.why ?? ''}`);
  await inside(async (shell) => console.log(`512 MiB: ${await shell.run(MEMORY)}`));
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
});

test('a disk with data is refused, and not a byte of it is changed', async () => {
  const data = newDisk('data', 'mkfs.ext4', '-q', '-L', 'data');
  const hash = () => execFileSync('sha256sum', [data], { encoding: 'utf8' });
  const before = hash();
  const boot = await over(await powerOn(data));
  expect([boot.state, boot.why]).toEqual(['failed', `root: vda (${PLACE}) has no file system with the label state, and is not empty: there is ext4 data on it; nothing was written to it, root.wipe in the profile would format it`]);
  await vm?.kill();
  expect(hash()).toBe(before);
});

test('a disk that is not there ends the boot with what is there; where the profile says ephemeral it is told loudly', async () => {
  const failed = await over(await powerOn(undefined));
  expect([failed.state, failed.why]).toEqual(['failed', `root: the disk LABEL=state (${PLACE}) is not there; disks: none`]);
  await vm?.kill();
  await profile('k0s-b', STATE.replace(' }', ', onMissing: ephemeral }'));
  const boot = await over(await powerOn(undefined));
  expect([boot.state, boot.why]).toEqual(['ready', undefined]);
  expect(consoleText()).toMatch(/rackseed: WARNING: nothing that this boot writes will be kept/);
  await inside(async (shell) => {
    expect(await shell.run('cat /run/rackseed/state; findmnt -no FSTYPE /var')).toMatch(/none \(LABEL=state is missing\)\s+tmpfs/);
    console.log(`memory in use after ready, image in RAM: ${await shell.run(MEMORY)}`);
  });
});

test('without a daemon the last known good boots from the disk, its steps run, and the next boot with one is as ever', async () => {
  await profile('k0s-b', STATE);
  const since = await powerOn(disk);
  await bootSince(since, 'that has its initrd', (boot) => hasStage(boot, 'initrd'));
  await lab.daemon.stop();
  const banner = await until('the steps of the last known good', 400_000, () => (consoleText().includes('is ready [') || /rackseed: node n1 is ready/.test(consoleText()) ? consoleText() : undefined)).catch((error: Error) => {
    throw new Error(`${error.message}\n${consoleText().slice(-3000)}`);
  });
  expect(banner).toMatch(/rackseed: daemon away \(the daemon at \S+ does not answer.*\): booting the cached last known good of n1, squashfs [0-9a-f]{64}/);
  await inside(async (shell) => {
    expect(await shell.run('dpkg-query -W less; systemctl is-active k0scontroller; ls /run/rackseed')).toMatch(/less\s+\d[\s\S]*active[\s\S]*away/);
    expect(await shell.run('ls /run/rackseed')).not.toContain('token');
  });
  await vm?.kill();
  const daemon = await startLabDaemon(lab.link.ns, lab.site);
  try {
    const again = await over(await powerOn(disk));
    expect([again.state, again.why]).toEqual(['ready', undefined]);
  } finally {
    await vm?.kill();
    await daemon.stop();
  }
});
