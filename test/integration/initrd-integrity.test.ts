// What the initrd stage believes: the signed manifest by the stock minisign, the serial's floor, the small files it fetches, and the watch over the image's blocks.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sha256Hex } from '../../src/digest.ts';
import type { ImageManifest } from '../../src/images/manifest.ts';
import { newKey, publicKeyText, signatureText, type SecretKey } from '../../src/images/minisign.ts';
import { signedText } from '../../src/images/signed-manifest.ts';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const DIGEST = 'a1'.repeat(32);
const ROOT_HASH = 'b2'.repeat(32);
const ARCH = process.arch === 'arm64' ? 'arm64' : 'amd64';
const KEY = newKey();
const OTHER = newKey();

let server: Server;
let base: string;
let dir: string;
let bin: string;
let asked: string[];
let answer: (request: IncomingMessage, response: ServerResponse) => void;

beforeAll(async () => {
  try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* not ours to set, so it is up */ }
  bin = mkdtempSync(join(tmpdir(), 'rackseed-busybox-'));
  execFileSync('busybox', ['--install', '-s', bin]);
  symlinkSync(execFileSync('sh', ['-c', 'command -v minisign'], { encoding: 'utf8' }).trim(), join(bin, 'minisign'));
  server = createServer((request, response) => {
    asked.push(request.url!);
    request.resume().on('end', () => answer(request, response));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(bin, { recursive: true, force: true });
});
beforeEach(() => {
  asked = [];
  dir = mkdtempSync(join(tmpdir(), 'rackseed-integrity-'));
  for (const name of ['keys', 'stage', 'stick/keys']) mkdirSync(join(dir, name), { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const MANIFEST = {
  name: 'debian-k0s', digest: `sha256:${'c3'.repeat(32)}`, arch: ARCH, serial: 1_700_000_000,
  kernel: { digest: `sha256:${'d4'.repeat(32)}`, size: 11, version: '6.12' }, initrds: [{ digest: `sha256:${'e5'.repeat(32)}`, size: 12 }],
  squashfs: { digest: `sha256:${DIGEST}`, size: 4096 * 11, chunkSize: 4194304, chunks: ['f6'.repeat(32)] },
  verity: { rootHash: ROOT_HASH, blocks: 10 }, cmdline: ['quiet'], packages: [], input: `sha256:${'07'.repeat(32)}`, builder: 'test', builtAt: 1,
} as unknown as ImageManifest;

interface World {
  readonly text: string;
  readonly signature: string;
  /** What config says; default the digests of the two. */
  readonly config?: Record<string, string>;
  readonly keys?: Record<string, SecretKey>;
  readonly floor?: string;
}

/** Lays everything out, serves it, and runs integrity_config, then `script`; answers its lines. */
async function stage({ text, signature, config = {}, keys = { 'new.pub': KEY }, floor }: World, script: string): Promise<string[]> {
  for (const [name, key] of Object.entries(keys)) writeFileSync(join(dir, 'keys', name), publicKeyText(key));
  if (floor !== undefined) writeFileSync(join(dir, 'floor'), `${floor}\n`);
  const said = {
    'squashfs-digest': `sha256:${DIGEST}`, 'squashfs-size': String(4096 * 11), verity: `${'00'.repeat(32)} 9`,
    'manifest-url': '/m', 'manifest-digest': `sha256:${sha256Hex(text)}`, 'signature-url': '/s', 'signature-digest': `sha256:${sha256Hex(signature)}`, ...config,
  };
  answer ??= (request, response) => void response.end(request.url === '/m' ? text : signature);
  const body = Object.entries(said).flatMap(([key, value]) => (value === '' ? [] : [`${key} ${value}\n`])).join('');
  writeFileSync(join(dir, 'answer'), `HTTP/1.1 200 OK\r\n\r\n${body}`);
  return ash(`read_url "${base}"; squashfs_digest=${DIGEST} squashfs_size=${4096 * 11} config_fault=; integrity_config; echo fault $config_fault; ${script}`);
}
beforeEach(() => void (answer = undefined as unknown as typeof answer));

const TRUSTED = 'trusted; code=$?; echo "$code"; [ "$code" = 0 ] || echo "$why"';

function ash(script: string): Promise<string[]> {
  const parts = ['say', 'cmdline', 'request', 'fetch', 'cache', 'integrity'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
  const stall = execFileSync('busybox', { encoding: 'utf8' }).startsWith('BusyBox v1.35') ? { STALL: '' } : {};
  const env = {
    ...stall, PATH: bin, LIB, ANSWER: join(dir, 'answer'), STAGE: join(dir, 'stage'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), WGET_ERR: join(dir, 'wget.err'),
    KEYS: dir, STICK: join(dir, 'stick'), TRUST: join(dir, 'trust'), FIRST: join(dir, 'first'),
  };
  return new Promise((resolve, reject) =>
    execFile(join(bin, 'ash'), ['-c', `${parts}; pause() { :; }; ${script}`], { env, timeout: 40_000 }, (error, stdout, stderr) => (error ? reject(new Error(`${stderr}${stdout}`)) : resolve(stdout.trim().split('\n')))),
  );
}

const signed = (text: string, key: SecretKey = KEY): World => ({ text, signature: signatureText(Buffer.from(text), key, 'test') });
const flipped = (text: string, at: number): string => text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);

describe('an image that one of the keys signed', () => {
  it('is taken, and what was signed counts, not what config says', async () => {
    const lines = await stage(signed(signedText(MANIFEST)), 'trusted; echo "$? $squashfs_size $verity_root $verity_blocks $trust"');
    expect(lines).toEqual(['fault', `0 ${4096 * 11} ${ROOT_HASH} 10 new.pub`]);
    expect(readFileSync(join(dir, 'console'), 'utf8')).toContain('image debian-k0s, serial 1700000000, is signed (new.pub)');
    expect(asked).toEqual(['/m', '/s']);
  });

  it('is taken by either key while keys change', async () => {
    const keys = { 'a-old.pub': OTHER, 'b-new.pub': KEY };
    expect((await stage({ ...signed(signedText(MANIFEST)), keys }, TRUSTED))[1]).toBe('0');
    answer = undefined as unknown as typeof answer;
    expect((await stage({ ...signed(signedText(MANIFEST), OTHER), keys }, TRUSTED))[1]).toBe('0');
  });

  it('of which one line is new to this stage is taken all the same', async () => {
    expect((await stage(signed(signedText(MANIFEST).replace('json ', 'mood good\njson ')), TRUSTED))[1]).toBe('0');
  });

  it('comes from the state disk without a request, as long as the bytes there are right', async () => {
    const world = signed(signedText(MANIFEST));
    const texts = join(dir, 'stage/disk/.rackseed/texts');
    mkdirSync(texts, { recursive: true });
    writeFileSync(join(texts, sha256Hex(world.text)), world.text);
    writeFileSync(join(texts, sha256Hex(world.signature)), `${world.signature}x`);
    expect((await stage(world, TRUSTED))[1]).toBe('0');
    expect(asked).toEqual(['/s']);
  });
});

describe('refused for good, with the file named', () => {
  const text = signedText(MANIFEST);
  const NOT = /^signature: no key has signed this manifest; new\.pub: /;
  const CASES: readonly (readonly [name: string, world: World, why: RegExp])[] = [
    ['one bit of the manifest, its digest in config too', { ...signed(text), text: flipped(text, text.indexOf('squashfs') + 20) }, NOT],
    ['one bit of the signature', { text, signature: flipped(signed(text).signature, signed(text).signature.indexOf('\n') + 40) }, NOT],
    ['one bit of its comment', { text, signature: signed(text).signature.replace('comment: test', 'comment: tesu') }, NOT],
    ['one bit of the signature of the comment', { text, signature: flipped(signed(text).signature, signed(text).signature.length - 20) }, NOT],
    ['another key', signed(text, OTHER), NOT],
    ['an empty signature', { text, signature: '\n' }, NOT],
    ['none at all', { ...signed(text), config: { 'manifest-url': '' } }, /^signature: the image is not signed, and this initrd boots only what its keys have signed$/],
    ['a signed text that is something else', signed('rackseed-image 2\nname x\n'), /^manifest: it is 'rackseed-image 2', this initrd reads 'rackseed-image 1'$/],
    ['a serial below the floor of the initrd', { ...signed(text), floor: '1700000001' }, /^manifest: image debian-k0s has serial 1700000000, older than 1700000001 \(the floor of this initrd\)$/],
    ["a serial below the profile's", { ...signed(text), config: { 'min-serial': '1800000000' } }, /^manifest: .* older than 1800000000 \(the profile's minSerial\)$/],
    ['a floor that cannot be read', { ...signed(text), floor: 'soon' }, /^manifest: .* older than 999999999999999/],
    ['another processor', signed(text.replace(`arch ${ARCH}`, 'arch riscv64')), /^manifest: image debian-k0s is for riscv64, this machine is/],
    ['another squashfs than config wants', signed(text.replace(DIGEST, 'a2'.repeat(32))), /^manifest: it is of the squashfs (a2){32}, config wants (a1){32}$/],
    ['a second squashfs line', signed(text.replace('json ', `squashfs sha256:${DIGEST} 1\njson `)), /^manifest: no usable squashfs in it$/],
    ['a hash tree that has no room in the file', signed(text.replace(`${ROOT_HASH} 10`, `${ROOT_HASH} 11`)), /^manifest: no usable verity in it$/],
    ['shell syntax for a name', signed(text.replace('name debian-k0s', 'name $(touch${IFS}ran)')), /^manifest: no usable name in it$/],
    ['other bytes than config says', { ...signed(text), config: { 'manifest-digest': `sha256:${'99'.repeat(32)}` } }, /^manifest: it has sha256 [0-9a-f]{64}, config says (99){32}$/],
    ['another signature than config says', { ...signed(text), config: { 'signature-digest': `sha256:${'99'.repeat(32)}` } }, /^signature: it has sha256 [0-9a-f]{64}, config says (99){32}$/],
    ['more than 1 MiB', signed(`${text}${'#'.repeat(1_100_000)}\n`), /^manifest: it is larger than 1048576 bytes$/],
  ];

  it.each(CASES)('%s', async (_name, world, why) => {
    const [fault, code, said] = await stage(world, TRUSTED);
    expect([fault, code]).toEqual(['fault', '2']);
    expect(said).toMatch(why);
    expect(existsSync('ran')).toBe(false);
  });

  it('and a file that cannot be had is for another attempt', async () => {
    answer = (_request, response) => void response.writeHead(404).end();
    expect(await stage(signed(text), TRUSTED)).toEqual(['fault', '1', expect.stringMatching(/^manifest: could not be fetched: .*404 Not Found$/)]);
    expect(asked).toHaveLength(3);
  });

  it('and a daemon that is busy with it is waited for', async () => {
    const world = signed(text);
    answer = (request, response) => (asked.length <= 5 ? void response.writeHead(503, 'place 2, again in 3 s').end() : void response.end(request.url === '/m' ? world.text : world.signature));
    expect((await stage(world, `sleep() { echo "sleep $1"; }; ${TRUSTED}`)).slice(1)).toEqual([...Array.from({ length: 5 }, () => 'sleep 3'), '0']);
  });
});

describe('without keys in the initrd', () => {
  it("the digest of config counts, and no manifest is asked for", async () => {
    expect(await stage({ ...signed(signedText(MANIFEST)), keys: {} }, 'trusted; echo "$? $verity_blocks $trust"')).toEqual(['fault', '0 9 none']);
    expect(asked).toEqual([]);
  });

  it('those of a stick count; beside keys of the initrd they do not', async () => {
    writeFileSync(join(dir, 'stick/keys/site.pub'), publicKeyText(OTHER));
    const world = signed(signedText(MANIFEST), OTHER);
    expect((await stage({ ...world, keys: {} }, TRUSTED))[1]).toBe('0');
    rmSync(join(dir, 'trust'), { recursive: true });
    expect((await stage(world, TRUSTED))[1]).toBe('2');
  });

  it('but with keys and no minisign nothing is believed', async () => {
    expect(await stage(signed(signedText(MANIFEST)), `PATH=/nowhere; mkdir() { :; }; ${TRUSTED}`)).toEqual(['fault', '2', expect.stringMatching(/^signature: there are keys in .*, but this initrd has no minisign/)]);
  });
});

describe('config', () => {
  it.each([
    ['verity', `${ROOT_HASH} 11`], ['verity', `${ROOT_HASH} 0`], ['verity', `${ROOT_HASH}`], ['verity', `${ROOT_HASH.toUpperCase()} 3`], ['verity', `x 3; reboot`],
    ['manifest-url', 'ftp://x/y'], ['manifest-digest', 'sha256:1'], ['signature-url', 'x y'], ['signature-digest', 'none'], ['min-serial', '-1'], ['min-serial', '010'],
  ])('with %s %s is refused', async (key, value) => {
    expect((await stage({ ...signed(signedText(MANIFEST)), config: { [key]: value } }, ':'))[0]).toBe(`fault ${key}`);
  });
});

describe('mounting', () => {
  /** dmsetup, losetup and mount are the kernel's business (test/e2e/image-tamper.test.ts); here: what is done about their answers. */
  const OPEN = 'image_place; mkdir -p "$image_dir"; : >"$image_file"; dmesg() { printf "%s\\n" "device-mapper: verity: 7:0: data block 4 is corrupted" "device-mapper: verity: 7:0: data block 17 is corrupted"; }';

  it('an image of which a block does not verify is fetched once more, then given up with the block named', async () => {
    const script = `${OPEN}; squashfs_fallbacks="$url/else"; squashfs_url=$url/x; close_image() { :; }; fetch() { echo "fetch from $squashfs_url"; }; open_image() { why="squashfs: block 17 does not verify"; return 3; }; lower; echo "$? $why"; [ -e "$image_file" ] && echo there`;
    expect(await stage(signed(signedText(MANIFEST)), `${script}; true`)).toEqual(['fault', `fetch from ${base}/else`, '2 squashfs: block 17 does not verify']);
  });

  it('what fails for another reason is not fetched again', async () => {
    expect(await stage(signed(signedText(MANIFEST)), `${OPEN}; close_image() { :; }; fetch() { echo fetch; }; open_image() { why="no loop device"; return 2; }; lower; echo "$? $why"`)).toEqual(['fault', '2 no loop device']);
  });
});

describe('the watch', () => {
  let watch: string;

  /** As the stage lays it out below /run, with a device that is a file. */
  beforeEach(() => {
    for (const name of ['run/initramfs/watch', 'run/rackseed', 'run/initramfs/disk/.rackseed/images']) mkdirSync(join(dir, name), { recursive: true });
    symlinkSync('/proc', join(dir, 'proc'));
    watch = join(dir, 'run/initramfs/watch');
    for (const name of ['say.sh', 'cmdline.sh', 'request.sh', 'talk', 'watch']) cpSync(join(LIB, name), join(watch, name));
    cpSync(execFileSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).trim(), join(watch, 'busybox'));
    for (const applet of ['cat', 'dd', 'mv', 'nc', 'timeout', 'rm', 'sync']) symlinkSync('busybox', join(watch, applet));
  });

  /** Runs it over the device; nothing of the machine is in its environment. What acts on the machine is only said, and the right to reboot it is taken away. */
  function over(device: string, env: Record<string, string>): Promise<string> {
    const child = spawn('sh', ['-c', 'exec setpriv --bounding-set=-sys_boot env -i "$@" ./busybox sh -c \'for name in sleep reboot umount; do eval "$name() { echo $name \\$*; }"; done; . ./watch\' <"$DEVICE" 8>/dev/null', 'sh', ...Object.entries({ device, ...env }).map((pair) => pair.join('='))], { cwd: watch, env: { DEVICE: device, PATH: process.env['PATH'] }, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
    return new Promise((resolve) => child.on('close', () => resolve(text)));
  }

  it('that finds every block good says so, tells the agent, and cleans up', async () => {
    writeFileSync(join(dir, 'device'), Buffer.alloc(4096 * 300));
    const said = await over(join(dir, 'device'), { verity_blocks: '300' });
    expect(said).toContain('all 300 blocks of the squashfs verify');
    expect(said).toContain('umount -l ../watch');
    expect(readFileSync(join(dir, 'run/rackseed/image-check'), 'utf8')).toBe('ok\n');
    expect(asked).toEqual([]);
  });

  it('that cannot read a block names it, reports it, forgets the copy on the disk, and reboots', async () => {
    answer = (_request, response) => void response.writeHead(204).end();
    const copy = join(dir, 'run/initramfs/disk/.rackseed/images/x.squashfs');
    writeFileSync(copy, '');
    const { port } = server.address() as AddressInfo;
    // Reading its first byte is an I/O error, as with a block that does not verify.
    const said = await over(`/proc/${process.pid}/mem`, { verity_blocks: '300', url: base, boot: '01J', token: 't', daemon_ip: '127.0.0.1', daemon_port: String(port), cmd_wait: '7', bad: 'disk/.rackseed/images/x.squashfs' });
    expect(said).toMatch(/failed: squashfs: block 0 does not verify \[[0-9.]+ s\]\nrackseed: rebooting in 7 s \[[0-9.]+ s\]\nsleep 7\nreboot -f\n/);
    expect(readFileSync(join(dir, 'run/rackseed/image-check'), 'utf8')).toBe('failed squashfs: block 0 does not verify\n');
    expect(asked.map((path) => new URL(path, base).searchParams.get('message'))).toEqual(['squashfs: block 0 does not verify']);
    expect(existsSync(copy)).toBe(false);
  });
});
