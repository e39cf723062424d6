// What the initrd stage makes of an image's layout: read-only parts, and directories that outlive reboots and images; by busybox ash and real mounts.
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createStageShell, put, type StageShell } from './stage-shell.ts';

const LAYOUT = 'readonly /usr\npersist /var\npersist /home\npersist /usr/local\nconfig /config\n';
const [A, B] = ['a'.repeat(64), 'b'.repeat(64)];
/** A directory plays the mounted squashfs, and one plays the disk. */
const START = 'root_size=16m cache_kind=none image_dir=; mount -o bind,ro "$STAGE/lower" "$STAGE/lower"; mount -o bind "$STAGE/disk" "$STAGE/disk"';
const go = (digest: string, more = 'true') => `squashfs_digest=${digest}; ${START}; assemble && persist || { echo "$? $why"; exit 0; }; ${more}`;

let stage: StageShell;
const image = (path: string) => join(stage.dir, 'stage/lower', path);
const disk = (path: string) => join(stage.dir, 'stage/disk', path);
const kept = (path: string) => disk(`persist/${path}`);

beforeEach(() => {
  stage = createStageShell();
  mkdirSync(disk(''), { recursive: true });
  for (const path of ['proc', 'sys', 'dev', 'run', 'home', 'usr/local/bin', 'var/cache/apt', 'var/lib/k0s', 'etc', 'sbin']) mkdirSync(image(path), { recursive: true });
  put(image('etc/rackseed/layout'), LAYOUT);
  put(image('usr/bin/program'), 'image\n');
  put(image('usr/lib/rackseed/var/lib/dpkg/status'), 'packages of A\n');
  put(image('var/lib/service/data'), 'of A\n', 0o600);
  put(image('sbin/init'), '', 0o755);
  symlinkSync('../../usr/lib/rackseed/var/lib/dpkg', image('var/lib/dpkg'));
});
afterEach(() => stage.close());

/** Image B: the same with other packages, another version of a file, and one more. */
function imageB(): void {
  put(image('usr/lib/rackseed/var/lib/dpkg/status'), 'packages of B\n');
  put(image('var/lib/service/data'), 'of B\n');
  put(image('var/lib/service/new/file'), 'of B\n');
}

describe('the root', () => {
  it('is an overlay whose upper has a limit, with /usr read-only and /usr/local not', async () => {
    const asked = 'echo x 2>&1 >"$ROOT/usr/bin/new" | tail -n 1; echo x >"$ROOT/usr/local/bin/own" && echo x >"$ROOT/etc/hostname" && echo written; df -kP "$STAGE/upper" | tail -n 1 | tr -s " " | cut -d " " -f 2';
    expect(await stage.run(`(${go(A, asked)}) 2>&1`)).toEqual([expect.stringContaining('Read-only file system'), 'written', '16384']);
    expect(existsSync(image('etc/hostname'))).toBe(false);
    expect(readFileSync(kept('usr/local/bin/own'), 'utf8')).toBe('x\n');
  });

  it('takes no more than its size, whoever writes', async () => {
    expect(await stage.run(go(A, 'dd if=/dev/zero "of=$ROOT/etc/big" bs=1M count=20 2>&1 | grep -o "No space left on device"'))).toEqual(['No space left on device']);
  });

  it('of an image without a layout is one overlay, and nothing is kept', async () => {
    rmSync(image('etc/rackseed'), { recursive: true });
    await stage.run(go(A, 'echo x >"$ROOT/usr/bin/new"; echo x >"$ROOT/var/new"'));
    expect(existsSync(disk('persist'))).toBe(false);
  });

  it.each([
    ['readonly ../etc', 'persist /var\nreadonly ../etc\n'],
    ['persist /var/../etc', 'persist /var/../etc\n'],
    ['persist /$(touch ran)', 'persist /$(touch ran)\n'],
    ['persist', 'persist\n'],
  ])('refuses the layout "%s"', async (said, layout) => {
    writeFileSync(image('etc/rackseed/layout'), layout);
    expect(await stage.run(go(A))).toEqual([`2 the image's layout has a path that is none: ${said}`]);
  });

  it('needs the directory that is to be read-only', async () => {
    writeFileSync(image('etc/rackseed/layout'), 'readonly /srv\n');
    expect(await stage.run(go(A))).toEqual(['2 the image has no directory /srv, which its layout calls readonly']);
  });
});

describe('what persists', () => {
  it('is a bind mount of a real directory of the disk, visible as one', async () => {
    const found = await stage.run(go(A, 'grep " $ROOT/\\(var\\|home\\|usr/local\\) " /proc/self/mountinfo | sed "s/.*\\(persist[^ ]*\\) .*/\\1/" | sort'));
    expect(found).toEqual(['persist/home', 'persist/usr/local', 'persist/var']);
    expect(await stage.run(go(A, 'mkdir "$ROOT/var/lib/k0s/"{l,u,w,m} 2>/dev/null || mkdir "$ROOT/var/lib/k0s/l" "$ROOT/var/lib/k0s/u" "$ROOT/var/lib/k0s/w" "$ROOT/var/lib/k0s/m"; stat -f -c %T "$ROOT/var/lib/k0s" | grep -c overlay || true'))).toEqual(['0']);
  });

  it('is seeded once from the image, with owners, modes and times', async () => {
    utimesSync(image('var/lib/service/data'), 1_000_000, 1_000_000);
    await stage.run(go(A));
    expect(readFileSync(kept('var/lib/service/data'), 'utf8')).toBe('of A\n');
    const { mode, mtimeMs, uid } = lstatSync(kept('var/lib/service/data'));
    expect([mode & 0o7777, mtimeMs, uid]).toEqual([0o600, 1_000_000_000, process.getuid!()]);
    expect(stage.console()).toContain('/var is seeded from the image');
  });

  it('keeps what was written, changed and removed at the next boot of the same image', async () => {
    await stage.run(go(A, 'echo mine >"$ROOT/var/lib/service/data"; echo x >"$ROOT/var/lib/k0s/db"; rm -r "$ROOT/var/lib/rackseed" 2>/dev/null; rmdir "$ROOT/usr/local/bin"'));
    expect(await stage.run(go(A, 'cat "$ROOT/var/lib/service/data" "$ROOT/var/lib/k0s/db"; ls "$ROOT/usr/local"'))).toEqual(['mine', 'x']);
    expect(stage.console()).toBe('');
  });

  it('gets only missing entries from another image, and the package list is always the image\'s', async () => {
    await stage.run(go(A, 'echo mine >"$ROOT/var/lib/service/data"; rm -r "$ROOT/var/lib/k0s"; echo own >"$ROOT/var/own"'));
    imageB();
    expect(await stage.run(go(B, 'cd "$ROOT/var"; cat lib/service/data lib/service/new/file own lib/dpkg/status; ls lib'))).toEqual(['mine', 'of B', 'own', 'packages of B', 'dpkg', 'k0s', 'service']);
    expect(stage.console()).toContain('/var: 2 entries came with the new image');
  });

  it('lets a link of the image win over an older copy on the disk, and puts that aside', async () => {
    put(kept('var/lib/dpkg/status'), 'packages of an older image\n');
    put(kept('var/lib/own'), 'own\n');
    expect(await stage.run(go(A, 'cat "$ROOT/var/lib/dpkg/status" "$ROOT/var/lib/own"'))).toEqual(['packages of A', 'own']);
    expect(readFileSync(disk(`.rackseed/replaced/${A}/var/lib/dpkg/status`), 'utf8')).toBe('packages of an older image\n');
    expect(stage.console()).toContain(`/var/lib/dpkg belongs to the image; what the disk had is in .rackseed/replaced/${A}/var/lib/dpkg`);
  });

  it('follows no link on the disk: what it points at is another system\'s', async () => {
    mkdirSync(kept('var/lib'), { recursive: true });
    mkdirSync(join(stage.dir, 'outside'));
    symlinkSync(join(stage.dir, 'outside'), kept('var/lib/service'));
    await stage.run(go(A));
    expect(readdirSync(join(stage.dir, 'outside'))).toEqual([]);
    expect(readlinkSync(kept('var/lib/service'))).toBe(join(stage.dir, 'outside'));
  });

  it('leaves a file that stands where the image has a directory, and a dangling link', async () => {
    put(kept('var/lib/service'), 'a file\n');
    symlinkSync('/nowhere', kept('var/cache'));
    await stage.run(go(A));
    expect(readFileSync(kept('var/lib/service'), 'utf8')).toBe('a file\n');
    expect(readlinkSync(kept('var/cache'))).toBe('/nowhere');
  });

  it('refuses a disk where the directory is something else', async () => {
    mkdirSync(disk('persist'));
    symlinkSync('/etc', kept('var'));
    expect(await stage.run(go(A))).toEqual(['2 persist/var on the state disk is no directory']);
  });

  it('keeps caches in RAM', async () => {
    expect(await stage.run(go(A, 'echo x >"$ROOT/var/cache/apt/x"; ls "$ROOT/var/cache"; grep -c "^cache $ROOT/var/cache tmpfs" /proc/self/mounts'))).toEqual(['apt', '1']);
    expect(readdirSync(kept('var/cache/apt'))).toEqual([]);
  });

  it.each(['cp', 'mv'])('is whole after a power cut in the middle of the seeding (%s)', async (program) => {
    for (const n of [1, 2, 3, 4]) put(image(`var/lib/many/${n}`), `${n}\n`);
    mkdirSync(kept('var/lib/many'), { recursive: true });
    // Dies at the second file, after half of its bytes.
    const cut = program === 'cp' ? 'cp() { n=$((${n:-0} + 1)); [ "$n" -lt 2 ] || { : >"$aside/$count"; exit 0; }; busybox cp "$@"; }' : 'mv() { n=$((${n:-0} + 1)); [ "$n" -lt 2 ] || exit 0; busybox mv "$@"; }';
    await stage.run(`${cut}; ${go(A)}`);
    expect(existsSync(disk('.rackseed/seeded/var.from'))).toBe(false);
    for (const name of readdirSync(kept('var/lib/many'))) expect(readFileSync(kept(`var/lib/many/${name}`), 'utf8'), 'no half file is in place').toBe(`${name}\n`);
    await stage.run(go(A));
    expect(readdirSync(kept('var/lib/many')).map((name) => readFileSync(kept(`var/lib/many/${name}`), 'utf8'))).toEqual(['1\n', '2\n', '3\n', '4\n']);
    expect(existsSync(disk('.rackseed/seed'))).toBe(false);
    expect(readFileSync(disk('.rackseed/seeded/var.from'), 'utf8')).toBe(`${A}\n`);
  });

  it('is on the disk for sure before it has its name, and has its name before it is marked', async () => {
    const told = 'sync() { echo "sync $(ls -A "$aside" | wc -l) $([ -e "$mark" ] && echo marked)"; }; mv() { echo rename; busybox mv "$@"; }';
    writeFileSync(image('etc/rackseed/layout'), 'persist /var\n');
    expect((await stage.run(`${told}; ${go(A)}`)).map((line) => line.trim())).toEqual(['sync 1', 'rename', 'sync 0', 'sync 0 marked']);
  });

  it('says so when the disk is full, and mounts nothing half seeded', async () => {
    put(image('var/lib/big'), 'x'.repeat(3 << 20));
    const small = START.replace('mount -o bind "$STAGE/disk" "$STAGE/disk"', 'mount -t tmpfs -o size=1m small "$STAGE/disk"');
    const lines = await stage.run(go(A, 'echo no').replace(START, small));
    expect(lines.at(-1)).toMatch(/^2 \/var could not be seeded on the state disk, is it full\? \(\d+ KiB free\)$/);
  });

  it('lies in one tmpfs where there is no disk', async () => {
    const script = go(A, 'cat "$ROOT/var/lib/service/data" "$ROOT/var/lib/dpkg/status"; grep -c "^state $ROOT/\\(var\\|home\\|usr/local\\) tmpfs" /proc/self/mounts; echo x >"$ROOT/usr/local/bin/x" && echo x >"$ROOT/home/x"');
    rmSync(disk(''), { recursive: true });
    expect(await stage.run(script.replace('; mount -o bind "$STAGE/disk" "$STAGE/disk"', ''))).toEqual(['of A', 'packages of A', '3']);
    expect(readdirSync(disk(''))).toEqual([]);
  });
});

describe('images on the disk', () => {
  const SIZE = 1 << 20;
  const PREPARE = `state_label=state disk_gone= cache_kind=disk squashfs_size=${SIZE}; mount -o bind "$STAGE/disk" "$STAGE/disk"`;
  const images = () => readdirSync(disk('.rackseed/images')).sort();
  const hold = (digest: string, ageS: number, size = SIZE): void => {
    put(disk(`.rackseed/images/${digest}.squashfs`), 'x'.repeat(size));
    utimesSync(disk(`.rackseed/images/${digest}.squashfs`), Date.now() / 1000 - ageS, Date.now() / 1000 - ageS);
  };
  const hex = (char: string) => char.repeat(64);
  const cached = (digest: string, before = '') => stage.run(`${PREPARE}; ${before} squashfs_digest=${digest}; cached; echo "$? \${image_file#"$STAGE/"}"`);

  it('are used when the digest is there, whole', async () => {
    hold(A, 100);
    expect(await cached(A)).toEqual([`0 disk/.rackseed/images/${A}.squashfs`]);
    expect(stage.console()).toContain(`image ${A} is on the disk`);
  });

  it('have their place there when they are not', async () => {
    expect(await cached(A)).toEqual([`0 disk/.rackseed/images/${A}.squashfs`]);
    expect(stage.console()).toBe('');
  });

  it('lie in RAM where the profile does not cache, and where the disk is missing', async () => {
    expect(await cached(A, 'cache_kind=none;')).toEqual([`0 image/${A}.squashfs`]);
    expect(await cached(A, 'disk_gone=1;')).toEqual([`0 image/${A}.squashfs`]);
  });

  it('lie in RAM when the disk has no room, which is said', async () => {
    expect(await cached(A, 'mount -t tmpfs -o size=8m full "$STAGE/disk";')).toEqual([`0 image/${A}.squashfs`]);
    expect(stage.console()).toContain('WARNING: the image is not kept: the disk has 8 MiB free, 65 MiB are needed; it goes to RAM');
  });

  it('are two: the one of this boot and the newest other', async () => {
    for (const [index, char] of ['1', '2', '3'].entries()) hold(hex(char), 100 - index);
    await cached(hex('1'));
    expect(images()).toEqual([`${hex('1')}.squashfs`, `${hex('3')}.squashfs`]);
  });

  it('keep the last known good before a newer one', async () => {
    for (const [index, char] of ['1', '2', '3'].entries()) hold(hex(char), 100 - index);
    put(disk('.rackseed/last-good'), `node n1\nsquashfs-digest sha256:${hex('1')}\n`);
    await cached(A);
    expect(images()).toEqual([`${hex('1')}.squashfs`]);
  });

  it('lose parts of other downloads, and keep those of their own', async () => {
    for (const digest of [A, B]) put(disk(`.rackseed/images/${digest}.squashfs.part`), 'part');
    await cached(A);
    expect(images()).toEqual([`${A}.squashfs.part`]);
  });
});

describe('without a daemon', () => {
  const CONFIG = ['node n1', 'hostname n1', `machine-id ${'c'.repeat(32)}`, `squashfs-digest sha256:${A}`, 'squashfs-size 1048576', 'squashfs-url /blobs/x', 'root-state LABEL=state', 'cache disk', 'ssh-host-key c2VjcmV0'];
  /** The disk is mounted before: that it is found by its label is tested elsewhere. */
  const AWAY = 'mount -o bind "$STAGE/disk" "$STAGE/disk"; cmd_state=LABEL=state token= step=enrol status=000 why="no answer" mac=52:54:00:12:34:56';

  it('a boot becomes the last known good only when it is whole, and never one that lies in RAM', async () => {
    const candidate = () => (existsSync(disk('.rackseed/candidate')) ? readFileSync(disk('.rackseed/candidate'), 'utf8') : undefined);
    const boot = (more: string) => stage.run(`disks_config; squashfs_digest=${A}; ${START.replace('cache_kind=none', 'disk_gone=')}; cache_kind=disk; image_dir="$STAGE/disk/.rackseed/images"; ${more} assemble && persist`, CONFIG);
    await boot('');
    expect(candidate()).toBe(`${CONFIG.slice(0, -1).join('\n')}\n`);
    expect(lstatSync(disk('.rackseed/candidate')).mode & 0o777).toBe(0o600);
    for (const more of ['image_dir="$STAGE/image";', 'away=1;', 'rm "$STAGE/lower/sbin/init"; true;']) {
      put(disk('.rackseed/candidate'), 'of another boot');
      await boot(more).catch(() => undefined);
      expect(candidate(), more).toBe(more.startsWith('rm') ? 'of another boot' : undefined);
    }
  });

  it('the last known good is read as if it had come from the daemon', async () => {
    put(disk('.rackseed/last-good'), `${CONFIG.slice(0, -1).join('\n')}\n`);
    expect(await stage.run(`${AWAY}; daemon_away; echo "$? $node $squashfs_digest $squashfs_size $cache_kind $away"; cat "$RUN/away"`)).toEqual([`0 n1 ${A} 1048576 disk 1`, 'no answer']);
    expect(stage.console()).toContain(`daemon away (no answer): booting the cached last known good of n1, squashfs ${A}`);
  });

  it('a kept `wipe` is not done again', async () => {
    put(disk('.rackseed/last-good'), [...CONFIG.slice(0, -1), 'disk pci-0000:00:05.0', 'disk-wipe yes', ''].join('\n'));
    expect(await stage.run(`${AWAY}; daemon_away; echo "$? [$disk_wipe]"`)).toEqual(['0 []']);
  });

  it.each([
    ['there is no last known good', 'true', '1 no answer; and the disk has no last known good'],
    ['the last known good is damaged', 'mkdir -p "$STAGE/disk/.rackseed"; echo rubbish >"$STAGE/disk/.rackseed/last-good"', '1 no answer; and of the last known good: config has no usable'],
    ['the command line names no disk', 'cmd_state=', '1 no answer'],
    ['the daemon answers, and refuses', 'status=403', '1 no answer'],
    ['there is a session', 'token=x', '1 no answer'],
  ])('the boot fails as ever when %s', async (_name, how, expected) => {
    expect((await stage.run(`${AWAY}; ${how}; daemon_away; echo "$? $why"`))[0]).toContain(expected);
  });

  it('small signed files are there too', async () => {
    const script = 'mount -o bind "$STAGE/disk" "$STAGE/disk"; cache_kind=disk; echo text >"$RUN/text"; keep_text abc "$RUN/text"; kept_text abc "$RUN/again"; echo "$?"; cat "$RUN/again"; kept_text missing "$RUN/again"; echo "$?"';
    expect(await stage.run(script)).toEqual(['0', 'text', '1']);
  });
});

it('the parts are what busybox ash reads', () => {
  for (const part of ['disks', 'root', 'persist', 'cache']) execFileSync('busybox', ['ash', '-n', new URL(`../../images/common/initrd/lib/rackseed/${part}.sh`, import.meta.url).pathname]);
});
