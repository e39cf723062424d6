// The steps of post-boot/k0s-single with the stand-in release, in a mount and process namespace of their own: twice, and the second run changes nothing.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeSystemctl } from './k0s-systemctl.ts';

const POST_BOOT = new URL('../../post-boot', import.meta.url).pathname;
const STANDIN = readFileSync(new URL('../../src/lab/k0s-standin', import.meta.url));
const rootless = process.getuid?.() !== 0;

interface Ran {
  readonly code: number;
  readonly out: string;
}

/** A machine as far as the steps can see: its own /etc, /run, /usr/local, /var/lib, and what of /proc and /sys they look at. */
interface Sandbox {
  readonly dir: string;
  sh(script: string, env?: Record<string, string>): Promise<Ran>;
  /** One run of a step as the agent does it; `result` is what the step wrote. */
  step(name: string, facts: Record<string, string>): Promise<Ran & { readonly result: string }>;
  close(): Promise<void>;
}

async function createSandbox(): Promise<Sandbox> {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-steps-'));
  const put = (path: string, text: string) => {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), text);
  };
  for (const path of ['etc/systemd/system', 'run', 'usr/local/bin', 'var/lib', 'dev']) mkdirSync(join(dir, path), { recursive: true });
  for (const name of ['passwd', 'group', 'hosts', 'nsswitch.conf']) cpSync(join('/etc', name), join(dir, 'etc', name));
  cpSync('/etc/alternatives', join(dir, 'etc/alternatives'), { recursive: true, verbatimSymlinks: true });
  for (const module of ['overlay', 'br_netfilter', 'nf_conntrack', 'ip_tables', 'vxlan']) put(`sys/module/${module}/refcnt`, '0\n');
  put('sys/fs/cgroup/cgroup.controllers', 'cpuset cpu io memory hugetlb pids\n');
  for (const name of ['net/ipv4/ip_forward', 'net/bridge/bridge-nf-call-iptables', 'net/bridge/bridge-nf-call-ip6tables', 'fs/inotify/max_user_instances', 'fs/inotify/max_user_watches']) put(`proc/sys/${name}`, '0\n');
  writeSystemctl(join(dir, 'bin'));
  // This machine's kernel is not the test's to change: a module that is not there cannot be loaded.
  writeFileSync(join(dir, 'bin', 'modprobe'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
  const setup = ['etc', 'run', 'usr/local', 'var/lib', 'sys/module', 'sys/fs/cgroup', 'proc/sys'].map((path) => `mount --bind ${dir}/${path} /${path}`);
  // A /dev of its own for the label; an ordinary user can neither make one that works nor mount a disk.
  const devices = rootless ? '' : `mount -t tmpfs dev ${dir}/dev; for n in null zero urandom loop-control $(cd /dev; ls -d loop[0-9]*); do [ -e /dev/$n ] || continue; : >${dir}/dev/$n; mount --bind /dev/$n ${dir}/dev/$n; done; mount --rbind ${dir}/dev /dev; mkdir -p /dev/disk/by-label`;
  const holder = spawn('unshare', [...(rootless ? ['--user', '--map-root-user'] : []), '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--', 'sh', '-ec', `${setup.join('\n')}\n${devices}\necho held\ncat`], { stdio: ['pipe', 'pipe', 'pipe'] });
  let complaint = '';
  holder.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
  const held = await Promise.race([once(holder.stdout, 'data').then(() => true), once(holder, 'exit').then(() => false)]);
  if (!held) throw new Error(`no namespace for the steps: ${complaint}`);
  const inside = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8').trim();
  const sh: Sandbox['sh'] = (script, env = {}) =>
    new Promise((resolve) => {
      const argv = ['--target', inside, ...(rootless ? ['--user', '--preserve-credentials'] : []), '--mount', '--pid', '--', 'sh', '-c', script];
      execFile('nsenter', argv, { env: { PATH: `${dir}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`, LC_ALL: 'C', ...env }, timeout: 60_000 }, (error, stdout, stderr) => {
        resolve({ code: error ? Number(error.code ?? 255) : 0, out: `${stdout}${stderr}` });
      });
    });
  return {
    dir,
    sh,
    async step(name, facts) {
      const result = join(dir, 'run', 'result');
      rmSync(result, { force: true });
      const ran = await sh(`cd ${POST_BOOT} && exec ./k0s-single/${name} 2>&1`, { RACKSEED_RESULT: '/run/result', ...facts });
      return { ...ran, result: existsSync(result) ? readFileSync(result, 'utf8').trim() : '' };
    },
    close: () => close(holder, dir),
  };
}

async function close(holder: ChildProcess, dir: string): Promise<void> {
  const gone = once(holder, 'exit');
  holder.stdin?.end();
  await gone;
  rmSync(dir, { recursive: true, force: true });
}

/** Files that a second run must not touch, by content and time, and the service's process with its start time. */
async function fingerprint(box: Sandbox): Promise<string> {
  const ran = await box.sh(`find /etc /usr/local /var/lib -xdev -type f -printf '%p %T@ %m ' -exec sha256sum {} \\;
    find /var/lib/k0s -type f -exec sha256sum {} +
    read -r pid </run/test-systemd/k0scontroller.pid && echo "service $pid $(cut -d ' ' -f 22 /proc/$pid/stat)"`);
  if (!/^service \d+ \d+$/m.test(ran.out)) throw new Error(`no service runs: ${ran.out}`);
  return ran.out;
}

/** Artifacts as the daemon serves them: by sha256, with Range. */
async function serveArtifacts(files: Map<string, Buffer>, asked: string[]): Promise<Server> {
  const server = createServer((request, response) => {
    const body = files.get(request.url ?? '');
    asked.push(`${request.url} ${request.headers.range ?? ''}`.trim());
    if (!body) return response.writeHead(404).end('no such blob\n');
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const head = from > 0 ? { 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` } : {};
    return response.writeHead(from > 0 ? 206 : 200, { 'content-length': body.length - from, ...head }).end(body.subarray(from));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex');

describe('10-storage', () => {
  let box: Sandbox;
  beforeAll(async () => {
    box = await createSandbox();
  });
  afterAll(() => box.close());

  test('root.state none: a tmpfs of the asked size, and the second run finds it there', async () => {
    const first = await box.step('10-storage', { RACKSEED_ROOT_STATE: 'none', RACKSEED_VAR_K0S_TMPFS: '64m' });
    expect(first).toMatchObject({ code: 0, result: 'changed' });
    expect((await box.sh('findmnt -no FSTYPE,SIZE /var/lib/k0s')).out.trim().split(/\s+/)).toEqual(['tmpfs', '64M']);
    expect(await box.step('10-storage', { RACKSEED_ROOT_STATE: 'none' })).toMatchObject({ code: 0, result: 'unchanged' });
    expect((await box.sh('grep -c " /var/lib/k0s " /proc/self/mountinfo')).out.trim()).toBe('1');
    await box.sh('umount /var/lib/k0s');
  });

  test.each([
    ['a disk that is not there yet: later, with the command that makes one', { RACKSEED_ROOT_STATE: 'LABEL=state', RACKSEED_VAR_K0S_DISK_WAIT: '0' }, 75, /no file system with label state; make one once.*mkfs\.ext4 -L state/],
    ['a label with a path in it', { RACKSEED_ROOT_STATE: 'LABEL=../../etc' }, 1, /names the label/],
    ['an unknown kind of state', { RACKSEED_ROOT_STATE: 'UUID=1' }, 1, /known are none and LABEL=/],
    ['a size that is more than a size', { RACKSEED_ROOT_STATE: 'none', RACKSEED_VAR_K0S_TMPFS: '1g,exec' }, 1, /write 60%, 2g or 1500m/],
    ['no fact at all', {}, 1, /fact RACKSEED_ROOT_STATE is missing/],
  ])('%s', async (_name, facts, code, why) => {
    const ran = await box.step('10-storage', facts as Record<string, string>);
    expect(ran).toMatchObject({ code, result: '' });
    expect(ran.out.trim().split('\n').at(-1)).toMatch(why);
    expect((await box.sh('mountpoint -q /var/lib/k0s')).code).not.toBe(0);
  });

  test('a /var that the initrd stage has mounted for real is taken as it is, but for a tmpfs of its own where one is asked for', async () => {
    await box.sh('mkdir -p /run/all && mount -t tmpfs state /run/all && mkdir -p /run/all/persist/var/lib && mount --bind /run/all/persist/var/lib /var/lib');
    for (const [state, result] of [['LABEL=state', 'changed'], ['LABEL=state', 'unchanged'], ['none', 'unchanged']] as const) {
      expect(await box.step('10-storage', { RACKSEED_ROOT_STATE: state })).toMatchObject({ code: 0, result, out: '/var/lib/k0s is on the tmpfs of /var\n' });
    }
    expect((await box.sh('mountpoint -q /var/lib/k0s')).code).not.toBe(0);
    expect(await box.step('10-storage', { RACKSEED_ROOT_STATE: 'none', RACKSEED_VAR_K0S_TMPFS: '64m' })).toMatchObject({ code: 0, result: 'changed' });
    expect((await box.sh('findmnt -no SIZE /var/lib/k0s; umount /var/lib/k0s /var/lib /run/all')).out.trim()).toBe('64M');
  });

  test('a file system that is not fit for containers is refused', async () => {
    await box.sh('mkdir -p /run/rackseed-state && mount -t tmpfs state /run/rackseed-state');
    const ran = await box.step('10-storage', { RACKSEED_ROOT_STATE: 'LABEL=state' });
    expect(ran).toMatchObject({ code: 1 });
    expect(ran.out).toMatch(/file system state is tmpfs; containerd needs ext4 or xfs/);
    await box.sh('umount /run/rackseed-state');
  });

  test('root.state LABEL=x: what was on the disk is there again after a boot', async (context) => {
    if (rootless) return context.skip('only root can mount a disk');
    const made = await box.sh('truncate -s 32M /run/disk && mkfs.ext4 -q -L state /run/disk && ln -s /run/disk /dev/disk/by-label/state && mkdir -p /run/try && mount -o loop /run/disk /run/try && umount /run/try');
    if (made.code !== 0) return context.skip(`no loop device can be used here: ${made.out.trim()}`);
    const facts = { RACKSEED_ROOT_STATE: 'LABEL=state' };
    expect(await box.step('10-storage', facts)).toMatchObject({ code: 0, result: 'changed' });
    await box.sh('echo kept >/var/lib/k0s/file');
    expect(await box.step('10-storage', facts)).toMatchObject({ code: 0, result: 'unchanged' });
    await box.sh('umount /var/lib/k0s && umount /run/rackseed-state');
    expect(await box.step('10-storage', facts)).toMatchObject({ code: 0, result: 'changed' });
    expect((await box.sh('cat /var/lib/k0s/file; findmnt -no FSTYPE /var/lib/k0s')).out).toBe('kept\next4\n');
    await box.sh('umount /var/lib/k0s && umount /run/rackseed-state');
  });
});

describe('20-kernel', () => {
  let box: Sandbox;
  beforeAll(async () => {
    box = await createSandbox();
  });
  afterAll(() => box.close());

  test('sets what differs, writes it down for the next start, and finds nothing to do the second time', async () => {
    const first = await box.step('20-kernel', {});
    expect(first).toMatchObject({ code: 0, result: 'changed' });
    expect(readFileSync(join(box.dir, 'proc/sys/net/ipv4/ip_forward'), 'utf8')).toBe('1\n');
    expect(readFileSync(join(box.dir, 'etc/sysctl.d/90-k0s.conf'), 'utf8')).toContain('net.ipv4.ip_forward = 1\n');
    expect(await box.step('20-kernel', {})).toMatchObject({ code: 0, result: 'unchanged', out: '' });
    writeFileSync(join(box.dir, 'proc/sys/net/ipv4/ip_forward'), '0\n');
    expect(await box.step('20-kernel', {})).toMatchObject({ code: 0, result: 'changed', out: 'set net.ipv4.ip_forward to 1, was 0\n' });
  });

  test('a module that only some networks need may be missing, one that k0s needs may not', async () => {
    rmSync(join(box.dir, 'sys/module/vxlan'), { recursive: true });
    expect((await box.step('20-kernel', {})).out).toMatch(/kernel module vxlan is not there/);
    rmSync(join(box.dir, 'sys/module/br_netfilter'), { recursive: true });
    expect(await box.step('20-kernel', {})).toMatchObject({ code: 1, result: '', out: "kernel module br_netfilter cannot be loaded: the image's kernel must have it\n" });
  });

  test('cgroup v1, or v2 without memory, is a named failure', async () => {
    writeFileSync(join(box.dir, 'sys/fs/cgroup/cgroup.controllers'), 'cpu pids\n');
    expect((await box.step('20-kernel', {})).out).toMatch(/^cgroup controller memory is missing/);
    rmSync(join(box.dir, 'sys/fs/cgroup/cgroup.controllers'));
    expect((await box.step('20-kernel', {})).out).toMatch(/^no cgroup v2/);
  });
});

describe('30-k0s and 40-ready, in the order of a boot', () => {
  let box: Sandbox;
  let server: Server;
  let facts: Record<string, string>;
  const files = new Map<string, Buffer>();
  const asked: string[] = [];
  /** The stand-in under another content, as a newer release would be. */
  const newer = Buffer.concat([STANDIN, Buffer.from('# newer\n')]);

  const artifact = (data: Buffer, path = `/blobs/sha256/${sha256(data)}`) => {
    files.set(path, data);
    return { RACKSEED_ARTIFACT_K0S_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`, RACKSEED_ARTIFACT_K0S_SHA256: sha256(data) };
  };

  beforeAll(async () => {
    box = await createSandbox();
    server = await serveArtifacts(files, asked);
    facts = { RACKSEED_IP: '10.77.0.11', RACKSEED_HOSTNAME: 'n1', RACKSEED_URL: 'http://10.77.0.1:8080', ...artifact(STANDIN) };
    await box.step('10-storage', { RACKSEED_ROOT_STATE: 'none', RACKSEED_VAR_K0S_TMPFS: '16m' });
  });
  afterAll(async () => {
    await box.close();
    server.closeAllConnections();
    server.close();
  });

  test('an artifact that the daemon does not have is a named failure, a daemon that is away is "later"', async () => {
    const missing = await box.step('30-k0s', { ...facts, RACKSEED_ARTIFACT_K0S_URL: `${facts['RACKSEED_ARTIFACT_K0S_URL']}0` });
    expect(missing).toMatchObject({ code: 1, result: '' });
    expect(missing.out.trim().split('\n').at(-1)).toMatch(/^the daemon has nothing at http:/);
    const away = await box.step('30-k0s', { ...facts, RACKSEED_ARTIFACT_K0S_URL: 'file:///nonexistent' });
    expect(away).toMatchObject({ code: 75, result: '' });
    expect(existsSync(join(box.dir, 'usr/local/bin/k0s'))).toBe(false);
  });

  test('bytes that do not have the sha256 of the boot set are thrown away, and both sums are named', async () => {
    const wrong = artifact(Buffer.from('#!/bin/sh\nexit 0\n'), '/blobs/wrong');
    const ran = await box.step('30-k0s', { ...facts, RACKSEED_ARTIFACT_K0S_URL: wrong.RACKSEED_ARTIFACT_K0S_URL });
    expect(ran).toMatchObject({ code: 1, result: '' });
    expect(ran.out).toContain(`is ${wrong.RACKSEED_ARTIFACT_K0S_SHA256}, but the boot set names ${facts['RACKSEED_ARTIFACT_K0S_SHA256']}`);
    expect((await box.sh('ls -A /usr/local/bin')).out).toBe('');
  });

  test('a download that broke off is resumed where it ended', async () => {
    const part = `.k0s.${sha256(STANDIN).slice(0, 12)}.part`;
    writeFileSync(join(box.dir, 'usr/local/bin', part), STANDIN.subarray(0, 5000));
    asked.length = 0;
    const ran = await box.step('30-k0s', facts);
    expect(ran).toMatchObject({ code: 0, result: 'changed' });
    expect(asked).toEqual([`/blobs/sha256/${sha256(STANDIN)} bytes=5000-`]);
    expect(readFileSync(join(box.dir, 'usr/local/bin/k0s')).equals(STANDIN)).toBe(true);
    expect(readFileSync(join(box.dir, 'etc/systemd/system/k0scontroller.service'), 'utf8')).toMatch(/^ExecStart=\/usr\/local\/bin\/k0s controller --config=\/etc\/k0s\/k0s\.yaml --disable-components=autopilot --single=true$/m);
    expect(readFileSync(join(box.dir, 'etc/k0s/k0s.yaml'), 'utf8')).toMatch(/^ {4}address: 10\.77\.0\.11$/m);
  });

  test('40-ready waits for it, names the version and changes nothing', async () => {
    const ran = await box.step('40-ready', facts);
    expect(ran).toMatchObject({ code: 0, result: 'unchanged', out: 'k0s v0.0.0-standin+k0s.0 is ready\n' });
  });

  test('a second run of both changes no file and does not start the service again', async () => {
    const before = await fingerprint(box);
    asked.length = 0;
    expect(await box.step('30-k0s', facts)).toMatchObject({ code: 0, result: 'unchanged' });
    expect(await box.step('40-ready', facts)).toMatchObject({ code: 0, result: 'unchanged' });
    expect(await fingerprint(box)).toBe(before);
    expect(asked).toEqual([]);
  });

  test('a new address or a new binary restarts the service once', async () => {
    const before = await fingerprint(box);
    const moved = { ...facts, RACKSEED_IP: '10.77.0.12' };
    expect(await box.step('30-k0s', moved)).toMatchObject({ code: 0, result: 'changed', out: expect.stringContaining('restarted k0scontroller') as string });
    const between = await fingerprint(box);
    const service = (text: string) => /^service .*$/m.exec(text)![0];
    expect(service(between)).not.toBe(service(before));
    const updated = { ...moved, ...artifact(newer) };
    expect(await box.step('30-k0s', updated)).toMatchObject({ code: 0, result: 'changed' });
    const after = await fingerprint(box);
    expect(service(after)).not.toBe(service(between));
    expect(await box.step('30-k0s', updated)).toMatchObject({ code: 0, result: 'unchanged' });
    expect(await fingerprint(box)).toBe(after);
  });

  test('a service that died is started again, and 40-ready says why when it is dead or not ready', async () => {
    const same = { ...facts, RACKSEED_IP: '10.77.0.12', ...artifact(newer) };
    await box.sh('kill -9 "$(cat /run/test-systemd/k0scontroller.pid)"; while k0s status >/dev/null 2>&1; do :; done');
    const dead = await box.step('40-ready', same);
    expect(dead).toMatchObject({ code: 1, result: '' });
    expect(dead.out.trim().split('\n').at(-1)).toMatch(/^k0scontroller is not running: The connection to the server .* was refused/);
    expect(await box.step('30-k0s', same)).toMatchObject({ code: 0, result: 'changed', out: expect.stringContaining('started k0scontroller') as string });
    expect(await box.step('40-ready', same)).toMatchObject({ code: 0, result: 'unchanged' });
    await box.sh('mv /var/lib/k0s/pki/admin.conf /var/lib/k0s/pki/away');
    const early = await box.step('40-ready', { ...same, RACKSEED_VAR_K0S_READY_WAIT: '0' });
    expect(early).toMatchObject({ code: 1 });
    expect(early.out.trim().split('\n').at(-1)).toMatch(/^k0s is not ready after 0 s: Error: cannot stat k0s kubeconfig/);
  });
});
