// What the initrd stage makes of config's ssh keys, host key and files, in a root of its own: busybox ash in a mount and UTS namespace, real tmpfs mounts, a real ext4.
import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { hostKeyOf } from '../../src/boot/ssh-keys.ts';
import { renderConfig } from '../../src/boot/session.ts';
import { bootSet, bootWith, nodeNamed } from '../unit/boot-world.ts';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1Wj0c0Tm1bUuUjXcPpDR2kdqzjvtoj3x4QqvYhqv5g me@example';
const hostKey = hostKeyOf(Buffer.alloc(32, 7), 'n1');
let bin: string;
let dir: string;
let root: string;

beforeAll(() => {
  bin = mkdtempSync(join(tmpdir(), 'rackseed-busybox-'));
  execFileSync('busybox', ['--install', '-s', bin]);
});
afterAll(() => rmSync(bin, { recursive: true, force: true }));
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-inhabit-'));
  root = join(dir, 'root');
  put('etc/passwd', 'daemon:x:1:1::/usr/sbin:/bin/false\nroot:x:0:0:root:/root:/bin/sh\n');
  put('etc/rackseed/layout', 'readonly /usr\npersist /var\nconfig /config\n');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A file of the image. */
function put(path: string, content: string, mode = 0o644): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
  chmodSync(join(root, path), mode);
}

const HEAD = 'HTTP/1.1 200 OK\r\nssh-key header\r\ncontent-type: text/plain\r\n\r\n';

/**
 * Runs the script with the stage's parts, in namespaces of its own, behind `answer` as the daemon's. What it wants to see of the mounts it must show itself:
 * they end with it. Its /run is its own too.
 */
function ash(answer: string, script: string): string[] {
  writeFileSync(join(dir, 'answer'), answer.startsWith('HTTP') ? answer : HEAD + answer);
  const parts = ['say', 'cmdline', 'request', 'inhabit', 'config-stick'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
  const setting = `mount -t tmpfs own /run; node_name=n1 machine_id=${'0'.repeat(32)} lease_ip=10.77.0.11 mac=52:54:00:00:00:01 config_fault=`;
  const env = { PATH: bin, LIB, ROOT: root, ANSWER: join(dir, 'answer'), SEED: join(dir, 'seed'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), STICK: join(dir, 'stick') };
  const user = process.getuid!() === 0 ? [] : ['--user', '--map-root-user'];
  return execFileSync('/usr/bin/unshare', [...user, '--mount', '--uts', join(bin, 'ash'), '-c', `${parts}; ${setting}; ${script}`], { env, encoding: 'utf8', timeout: 20_000, stdio: ['ignore', 'pipe', 'pipe'] }).trim().split('\n');
}

const BOTH = 'inhabit_config; echo "fault=$config_fault"; inhabit; echo "code=$? $why"; cd "$ROOT"';
const rendered = (config: Record<string, string>, sshKeys: readonly string[] = [KEY]): string =>
  renderConfig(bootWith(['script']), { ...bootSet, sshKeys, config }, nodeNamed('n1'), sshKeys.length > 0 ? { hostKey: hostKey.file } : {});
const said = (): string => readFileSync(join(dir, 'console'), 'utf8');

describe('ssh', () => {
  it("keys and host key of the daemon's own rendering are the files that sshd wants", () => {
    const lines = ash(rendered({}), `${BOTH}; stat -c "%a %n" root/.ssh root/.ssh/authorized_keys etc/ssh/ssh_host_ed25519_key`);
    expect(lines).toEqual(['fault=', expect.stringMatching(/^code=0/), '700 root/.ssh', '600 root/.ssh/authorized_keys', '600 etc/ssh/ssh_host_ed25519_key']);
    expect(readFileSync(join(root, 'root/.ssh/authorized_keys'), 'utf8')).toBe(`${KEY}\n`);
    expect(readFileSync(join(root, 'etc/ssh/ssh_host_ed25519_key'), 'utf8')).toBe(hostKey.file);
    expect(existsSync(join(dir, 'seed'))).toBe(false);
  });

  it('without keys there is neither, and what host keys the image brought are gone', () => {
    put('etc/ssh/ssh_host_rsa_key', 'the same to everybody');
    ash(rendered({}, []), BOTH);
    expect([existsSync(join(root, 'root')), existsSync(join(root, 'etc/ssh/ssh_host_rsa_key')), existsSync(join(root, 'etc/ssh/ssh_host_ed25519_key'))]).toEqual([false, false, false]);
  });

  it("goes where the image's root lives, and follows no link out of it", () => {
    put('etc/passwd', 'root:x:0:0:root:/var/root:/bin/sh\n');
    mkdirSync(join(root, 'var/root/.ssh'), { recursive: true });
    symlinkSync(join(dir, 'elsewhere'), join(root, 'var/root/.ssh/authorized_keys'));
    expect(ash(rendered({}), BOTH)[1]).toMatch(/^code=0/);
    expect(readFileSync(join(root, 'var/root/.ssh/authorized_keys'), 'utf8')).toBe(`${KEY}\n`);
    expect(existsSync(join(dir, 'elsewhere'))).toBe(false);
    rmSync(join(root, 'var/root/.ssh'), { recursive: true });
    mkdirSync(join(dir, 'elsewhere'));
    symlinkSync(join(dir, 'elsewhere'), join(root, 'var/root/.ssh'));
    expect(ash(rendered({}), BOTH)[1]).toBe('code=2 the ssh keys could not be written');
  });

  it('a line is text, whatever it holds', () => {
    const evil = `command="echo $(touch ${dir}/ran) \`touch ${dir}/ran\`",no-pty ${KEY.split(' ').slice(0, 2).join(' ')} a  b%s\\n`;
    ash(`ssh-key ${evil}\n`, BOTH);
    expect(readFileSync(join(root, 'root/.ssh/authorized_keys'), 'utf8')).toBe(`${evil}\n`);
    expect(existsSync(join(dir, 'ran'))).toBe(false);
  });

  it.each(['bm90IGEga2V5', '!!!', ''])('a host key that is none is a fault of config: %j', (value) => {
    expect(ash(`ssh-host-key ${value}\n`, 'inhabit_config 2>/dev/null; echo "$config_fault"')).toEqual(['ssh-host-key']);
  });
});

describe('/config', () => {
  const LOOK = `${BOTH}; grep " $ROOT/config " /proc/mounts | cut -d " " -f 3,4; (cd config; find . -type f | sort | while read -r f; do stat -c "%a %n" "$f"; cat "$f"; echo; done); touch config/new 2>/dev/null; echo "write=$?"`;

  it('has the files of config, read-only, with program bits where they are programs', () => {
    const lines = ash(rendered({ 'etc/motd': 'hello\n  two\n', 'run.sh': '#!/bin/sh\n', empty: '', 'a/b/c.conf': 'ä $(id) `id` \\n%s' }), LOOK);
    expect(lines[2]).toMatch(/^tmpfs ro,/);
    expect(lines.slice(3).filter(Boolean)).toEqual(['644 ./a/b/c.conf', 'ä $(id) `id` \\n%s', '644 ./empty', '644 ./etc/motd', 'hello', '  two', '755 ./run.sh', '#!/bin/sh', 'write=1']);
    expect(readFileSync(join(root, 'etc/motd'), 'utf8')).toBe('hello\n  two\n');
  });

  it('is there without anything in it too, and where the layout says', () => {
    put('etc/rackseed/layout', 'config /srv/config\n');
    expect(ash(rendered({}, []), `${BOTH}; grep -c " $ROOT/srv/config tmpfs ro" /proc/mounts`).at(-1)).toBe('1');
  });

  it.each(['config ../config', 'config /../config', 'config /a b', 'config /'])('an unusable place in the layout ends the boot: %s', (layout) => {
    put('etc/rackseed/layout', `${layout}\n`);
    expect(ash('', BOTH)[1]).toMatch(/^code=2 the image's layout has no usable place/);
  });

  it("lays its etc over /etc: a file that is there keeps its mode, a link goes, the machine's name stays the daemon's", () => {
    put('etc/shadow', 'root:*\n', 0o640);
    symlinkSync(join(dir, 'zone'), join(root, 'etc/localtime'));
    const files = { 'etc/shadow': 'root:$6$x\n', 'etc/localtime': 'TZ', 'etc/new/dir/file': 'x', 'etc/hostname': 'other', 'etc/machine-id': 'other', 'etc/hosts': '127.0.0.1 localhost\n' };
    ash(rendered(files), BOTH);
    const read = (path: string) => readFileSync(join(root, path), 'utf8');
    expect([read('etc/shadow'), read('etc/localtime'), read('etc/new/dir/file'), read('etc/hostname'), read('etc/machine-id'), read('etc/hosts')]).toEqual(['root:$6$x\n', 'TZ', 'x', 'n1\n', `${'0'.repeat(32)}\n`, '127.0.0.1 localhost\n']);
    expect(statSync(join(root, 'etc/shadow')).mode & 0o777).toBe(0o640);
    expect(existsSync(join(dir, 'zone'))).toBe(false);
    expect(said()).toContain('/config: etc/hostname is left out: the daemon says who this machine is');
  });

  it('goes through no link of the image, and says what is in its way', () => {
    symlinkSync(dir, join(root, 'etc/out'));
    expect(ash(rendered({ 'etc/out/pwned': 'x' }), BOTH)[1]).toMatch(/^code=2 \/config: out\/pwned cannot be put into \/etc: a directory or link is in its way/);
    expect(existsSync(join(dir, 'pwned'))).toBe(false);
    mkdirSync(join(root, 'etc/motd'));
    expect(ash(rendered({ 'etc/motd': 'x' }), BOTH)[1]).toMatch(/motd cannot be put into \/etc/);
  });

  const x = Buffer.from('x').toString('base64');
  it.each([
    ['a path that leaves it', `files 1\nfile 0644 ../../pwned ${x}\n`],
    ['an absolute path', `files 1\nfile 0644 /pwned ${x}\n`],
    ['a path with a quote', `files 1\nfile 0644 a'b ${x}\n`],
    ['an empty path', `files 1\nfile 0644  ${x}\n`],
    ['a mode with more than permissions', `files 1\nfile 4755 a ${x}\n`],
    ['what is not base64', 'files 1\nfile 0644 a !x!\n'],
    ['fewer files than were counted', `files 2\nfile 0644 a ${x}\n`],
    ['more files than were counted', `files 1\nfile 0644 a ${x}\nfile 0644 b ${x}\n`],
    ['files that were not counted', `file 0644 a ${x}\n`],
    ['no number of files', `files 0x1\nfile 0644 a ${x}\n`],
    ['an answer that broke off', `files 2\nfile 0644 a ${x}\nfile 06`],
  ])('%s is a fault of config', (_what, answer) => {
    expect(ash(answer, 'inhabit_config 2>/dev/null; echo "$config_fault"; inhabit_config 2>/dev/null')[0]).toMatch(/^file/);
    expect(existsSync(join(dir, 'pwned'))).toBe(false);
  });

  it('of 64 KiB is taken, and who looks for another key does not read it', () => {
    const big = 'y'.repeat(64 * 1024);
    const lines = ash(rendered({ 'etc/big': big }), 'answered nothing; echo "$key"; answers nothing; echo "$key"; inhabit_config; echo "$config_fault"; stat -c %s "$SEED/config/etc/big"');
    expect(lines).toEqual(['files', 'files', '', String(big.length)]);
  });
});

/** Loop devices are root's, and not in every container. */
const loops = (() => {
  try {
    return process.getuid!() === 0 && execFileSync('losetup', ['-f'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).startsWith('/dev/loop');
  } catch {
    return false;
  }
})();

describe.skipIf(!loops)('a disk labelled RACKSEED-CONFIG', () => {
  let loop: string | undefined;
  afterEach(() => {
    if (loop) execFileSync('losetup', ['-d', loop]);
    loop = undefined;
  });

  /** An ext4 with these files on a loop device. */
  function stick(files: Record<string, string>, label = 'RACKSEED-CONFIG', prepare?: (tree: string) => void): void {
    const [tree, image] = [join(dir, 'tree'), join(dir, 'image')];
    mkdirSync(tree);
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(tree, path)), { recursive: true });
      writeFileSync(join(tree, path), content);
    }
    prepare?.(tree);
    writeFileSync(image, '');
    truncateSync(image, 4 << 20);
    execFileSync('/usr/sbin/mke2fs', ['-q', '-t', 'ext4', '-L', label, '-d', tree, image]);
    loop = execFileSync('losetup', ['-f', '--show', image], { encoding: 'utf8' }).trim();
  }
  const WITH = 'modprobe() { :; }; config_stick; echo "stick=$? $why"';

  it('is mounted read-only before anything is fetched, and its files come before the daemon\'s', () => {
    stick({ 'etc/motd': 'of the disk', authorized_keys: KEY.replace('me@', 'disk@'), 'keys/site.pub': 'RWQ', floor: '7\n' });
    const lines = ash(rendered({ 'etc/motd': 'of the daemon', 'etc/other': 'x' }), `${WITH}; grep -c "$STICK ext4 ro," /proc/mounts; cat "$STICK/keys/site.pub" "$STICK/floor"; ${BOTH}; find config -type f | sort; grep -c "$STICK" /proc/mounts; true`);
    expect(lines).toEqual(['stick=0 ', '1', 'RWQ7', 'fault=', expect.stringMatching(/^code=0/), 'config/authorized_keys', 'config/etc/motd', 'config/etc/other', 'config/floor', 'config/keys/site.pub', '0']);
    expect(readFileSync(join(root, 'etc/motd'), 'utf8')).toBe('of the disk');
    expect(readFileSync(join(root, 'root/.ssh/authorized_keys'), 'utf8')).toBe(`${KEY}\n${KEY.replace('me@', 'disk@')}\n`);
    expect(said()).toContain(`${loop} is the disk RACKSEED-CONFIG: its files are in /config`);
  });

  it('may bring a host key, which then counts and is made private', () => {
    stick({ 'etc/ssh/ssh_host_ed25519_key': 'own' });
    expect(ash(rendered({}), `${WITH}; ${BOTH}; stat -c %a etc/ssh/ssh_host_ed25519_key; cat etc/ssh/ssh_host_ed25519_key`).slice(-2)).toEqual(['600', 'own']);
  });

  it('brings plain files only: links and odd names are left out', () => {
    stick({ 'a name with spaces': 'x', fine: 'y' }, 'RACKSEED-CONFIG', (tree) => symlinkSync('/etc/shadow', join(tree, 'link')));
    expect(ash('', `${WITH}; ${BOTH}; find config ! -type d`).slice(3)).toEqual(['config/fine']);
    expect(said()).toContain('left out a file whose name has other characters');
  });

  it('that cannot be mounted ends the boot: what is on it may be what the machine trusts', () => {
    stick({});
    // A feature that no kernel knows (s_feature_incompat); the label stays readable.
    const fd = openSync(join(dir, 'image'), 'r+');
    writeSync(fd, Buffer.alloc(4, 0xff), 0, 4, 1024 + 96);
    closeSync(fd);
    expect(ash('', `${WITH} 2>/dev/null; echo "[$stick_device]"`)).toEqual([`stick=2 ${loop} is labelled RACKSEED-CONFIG, and could be mounted neither as vfat nor as iso9660 nor as ext4`, '[]']);
  });

  it('with another label is not touched', () => {
    stick({}, 'SOMETHING');
    expect(ash('', `${WITH}; echo "[$stick_device]"`)).toEqual(['stick=0 ', '[]']);
  });
});
