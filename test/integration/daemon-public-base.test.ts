// `http.publicBase` in the whole daemon: what machines are told points at Debian's nginx over `rackseed blob export`, and the initrd stage believes only the digest.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { blobPath } from '../../src/boot/urls.ts';
import { exportBlobs } from '../../src/commands/blob.ts';
import { hexOf } from '../../src/digest.ts';
import { bootFileOf, createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { accessLog, NGINX, NGINX_PORT, NO_NGINX, startNginx, type Nginx } from './nginx.ts';
import { startWorld, type World } from './world.ts';

const INITRD = new URL('../../images/common/initrd/', import.meta.url).pathname;
const PUBLIC = `http://127.0.0.1:${NGINX_PORT}`;
/** n1's own, and one of the server's: the kernel asks a server at one of its own addresses from that address. */
const N1 = '127.0.0.11';

let world: World;
let relay: Relay;
let n1: Machine;
let home: string;
let bin: string;
let nginx: Nginx | undefined;

beforeAll(async () => {
  if (!NGINX) return;
  home = mkdtempSync(join(tmpdir(), 'rackseed-public-'));
  bin = join(home, 'bin');
  mkdirSync(bin);
  execFileSync('busybox', ['--install', '-s', bin]);
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  execFileSync('ip', ['address', 'add', `${N1}/32`, 'dev', 'lo']);
  world = await startWorld({ http: `publicBase: "${PUBLIC}/", listen: [127.0.0.1, ${N1}]` });
  nginx = await startNginx(home, join(home, 'files'));
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
});
afterAll(async () => {
  if (!NGINX) return;
  await relay?.close();
  await nginx?.stop();
  await world?.stop();
  execFileSync('ip', ['address', 'del', `${N1}/32`, 'dev', 'lo']);
  rmSync(home, { recursive: true, force: true });
});
beforeEach(async () => {
  if (!NGINX) return;
  rmSync(join(home, 'files'), { recursive: true, force: true });
  await exportBlobs({ stateDir: join(world.dir, 'state'), dir: join(home, 'files') });
  writeFileSync(accessLog(home), '');
});

/** What nginx was asked for, as `<status> <path>`. */
const asked = () => readFileSync(accessLog(home), 'utf8').trim().split('\n').filter(Boolean).map((line) => line.split(' ').slice(1).join(' '));

/** n1 has its lease and its script; the script, and the boot's id in it. */
async function script(): Promise<{ readonly text: string; readonly boot: string }> {
  await world.endOpenBoot('n1');
  const ack = await n1.dora('ipxe');
  const { text } = await n1.http('GET', bootFileOf(ack));
  return { text, boot: /rackseed\.boot=(\w+)/.exec(text)![1]! };
}

/** The stage's own enrolment, config and download by busybox, on a /run of its own: exit code, and what it fetched and showed. */
async function stage(boot: string): Promise<{ readonly code: string; readonly root: string; readonly console: string }> {
  const dir = mkdtempSync(join(home, 'stage-'));
  mkdirSync(join(dir, 'stage', 'image'), { recursive: true });
  const names = /^for part in (.*); do$/m.exec(readFileSync(join(INITRD, 'init'), 'utf8'))![1]!.split(' ');
  const parts = names.map((part) => `. "$LIB/${part}.sh"\n`).join('');
  writeFileSync(join(dir, 'run'), `${parts}pause() { :; }; token=; mac=$1 cmd_boot=$2; read_url "$3"; enrol && config && cached && fetch; echo "$?"\n`);
  const stall = execFileSync('busybox', { encoding: 'utf8' }).startsWith('BusyBox v1.35') ? { STALL: '' } : {};
  const env = { ...stall, PATH: bin, LIB: join(INITRD, 'lib/rackseed'), ANSWER: join(dir, 'answer'), STAGE: join(dir, 'stage'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), WGET_ERR: join(dir, 'wget.err'), SEED: join(dir, 'seed'), KEPT: join(dir, 'kept') };
  const inside = ['--mount', '--propagation', 'private', '--', join(bin, 'sh'), '-c', 'mount -t tmpfs run /run && exec ash "$@"', 'sh', join(dir, 'run'), n1.mac, boot, `http://${N1}:${world.httpPort}`];
  const [code = ''] = await new Promise<string[]>((resolve, reject) =>
    execFile('/usr/bin/unshare', inside, { env, timeout: 50_000 }, (error, stdout, stderr) => (error ? reject(new Error(stderr)) : resolve(stdout.split('\n')))),
  );
  return { code, root: readFileSync(join(dir, `stage/image/${hexOf(world.image.squashfs.digest)}.squashfs`), 'utf8'), console: readFileSync(join(dir, 'console'), 'utf8') };
}

describe.skipIf(!NGINX)(`with a public base${NGINX ? '' : `: ${NO_NGINX}`}`, () => {
  it('the script asks there first and us second, for kernel and initrd, and each of its URLs brings the bytes', async () => {
    const { text, boot } = await script();
    const { kernel, initrds } = world.image;
    for (const { digest } of [kernel, initrds[0]!]) {
      const line = text.split('\n').find((one) => one.includes(hexOf(digest)))!;
      const urls = [...line.matchAll(/http:\/\/[^ ]+\/blobs\/[^ ]+/g)].map(([url]) => url);
      expect(urls).toEqual([`${PUBLIC}${blobPath(digest)}`, `http://127.0.0.1:${world.httpPort}${blobPath(digest, boot)}`]);
      const [there, here] = await Promise.all(urls.map((url) => n1.http('GET', url)));
      expect([there!.status, there!.text, here!.text]).toEqual([200, expect.stringMatching(/^(kernel|initrd) of the first build$/), there!.text]);
    }
    expect(asked().sort()).toEqual([kernel, initrds[0]!].map(({ digest }) => `200 ${blobPath(digest)}`).sort());
  });

  it('the initrd stage fetches the squashfs there, and not a byte of it from us', async () => {
    const { boot } = await script();
    const { code, root, console } = await stage(boot);
    expect([code, root]).toEqual(['0', 'squashfs of the first build']);
    expect(console).toContain('is here and verified');
    expect(console).not.toContain('asking the daemon itself');
    expect(asked()).toEqual([`200 ${blobPath(world.image.squashfs.digest)}`]);
  });

  it('wrong bytes of that server are found out by their digest, and ours are taken', async () => {
    const { digest } = world.image.squashfs;
    writeFileSync(join(home, 'files', blobPath(digest)), 'squashfs of somebody else!!');
    const { boot } = await script();
    const { code, root, console } = await stage(boot);
    expect([code, root]).toEqual(['0', 'squashfs of the first build']);
    expect(console).toContain(`expected ${hexOf(digest)} (first download)`);
    expect(asked()).toEqual([`200 ${blobPath(digest)}`]);
  });

  it('what that server does not have comes from us', async () => {
    const { digest } = world.image.squashfs;
    rmSync(join(home, 'files', blobPath(digest)));
    const { boot } = await script();
    const { code, root, console } = await stage(boot);
    expect([code, root]).toEqual(['0', 'squashfs of the first build']);
    expect(console).toMatch(/nothing comes from .*404.*asking the daemon itself/);
    expect(asked()).toEqual([`404 ${blobPath(digest)}`]);
  });

  it('artifacts stay with us', async () => {
    const { boot } = await script();
    const token = /^token (\w+)$/m.exec((await n1.http('POST', '/enrol', { body: `boot ${boot}\nmac ${n1.mac}\n` })).text)![1]!;
    const facts = JSON.parse((await n1.http('GET', `/boots/${boot}/facts`, { headers: { authorization: `Bearer ${token}` } })).text) as { artifacts: { k0s: { url: string } } };
    expect(facts.artifacts.k0s.url.startsWith(`http://127.0.0.1:${world.httpPort}/`)).toBe(true);
  });
});
