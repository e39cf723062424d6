// `rackseed probe` on a link with the real daemon, dnsmasq as a stranger, and a second card that the default route points to.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { readSettings } from '../../src/config/settings.ts';
import { startDaemon, type Daemon } from '../../src/daemon.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { createImageStore, imageDigest } from '../../src/images/manifest.ts';
import { createNamespace, type Namespace, type Ran } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import type { Card } from '../../src/probe/card.ts';
import { fetchTarget } from '../../src/probe/fetch.ts';
import type { ProbeResult } from '../../src/probe/probe.ts';
import { createBlobStore } from '../../src/store/blobs.ts';

const CLI = new URL('../../dist/cli.js', import.meta.url).pathname;
const OURS = '10.77.0.1';
const PROBE = '10.77.0.50';
const STRANGER = '10.77.0.9';
const NODE = { mac: '52:54:00:00:00:01', ip: '10.77.0.11' };
const SECOND = { mac: '52:54:00:00:00:02', ip: '10.77.0.12' };
const NOBODY = '52:54:00:00:00:99';
const LOADERS = '/usr/lib/ipxe';

const ip = (...args: string[]) => promisify(execFile)('ip', args);
let dir: string;
let daemon: Daemon;
let logged = '';
let machine: Namespace;
let stranger: Namespace;
let wan: Namespace;
let running: ChildProcess[] = [];

beforeAll(async () => {
  if (!existsSync(CLI)) throw new Error(`${CLI} is not there: npm run build`);
  dir = mkdtempSync(join(tmpdir(), 'rackseed-probe-'));
  machine = await createNamespace();
  stranger = await createNamespace();
  wan = await createNamespace();
  await ip('link', 'set', 'lo', 'up');
  await ip('link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
  await ip('address', 'add', `${OURS}/24`, 'dev', 'br0');
  await ip('link', 'set', 'br0', 'up');
  for (const [ns, port, address] of [[machine, 'p0', PROBE], [stranger, 'p1', STRANGER]] as const) {
    await ip('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(ns.pid));
    await ip('link', 'set', port, 'master', 'br0', 'up');
    await ns.must(['ip', 'address', 'add', `${address}/24`, 'dev', 'eth0']);
    await ns.must(['ip', 'link', 'set', 'eth0', 'up']);
  }
  // The card that a broadcast takes when nobody minds.
  await machine.must(['ip', 'link', 'add', 'wan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(wan.pid)]);
  await machine.must(['ip', 'address', 'add', '192.0.2.2/24', 'dev', 'wan0']);
  await machine.must(['ip', 'link', 'set', 'wan0', 'up']);
  await machine.must(['ip', 'route', 'add', 'default', 'via', '192.0.2.1']);
  await machine.must(['ip', 'link', 'add', 'bare0', 'type', 'veth', 'peer', 'name', 'bare1']);
  await machine.must(['ip', 'link', 'set', 'bare0', 'up']);
  await wan.must(['ip', 'address', 'add', '192.0.2.1/24', 'dev', 'eth0']);
  await wan.must(['ip', 'link', 'set', 'eth0', 'up']);
  daemon = await startOurs();
});

afterEach(async () => {
  for (const child of running.splice(0)) await ended(child);
});

afterAll(async () => {
  await daemon?.stop();
  await ip('link', 'del', 'br0').catch(() => {});
  for (const ns of [machine, stranger, wan]) await ns?.close();
  rmSync(dir, { recursive: true, force: true });
});

async function startOurs(): Promise<Daemon> {
  const stateDir = join(dir, 'state');
  mkdirSync(join(dir, 'boot-profiles'), { recursive: true });
  writeFileSync(join(dir, 'boot-profiles', 'plain.yaml'), `image: tiny\nnodes:\n  n1: { macs: ["${NODE.mac}"], ip: ${NODE.ip} }\n  n2: { macs: ["${SECOND.mac}"], ip: ${SECOND.ip} }\n`);
  writeFileSync(join(dir, 'rackseed.yaml'), `stateDir: ./state\nprofiles: ./boot-profiles\ndhcp: { mode: full, subnets: [{ subnet: 10.77.0.0/24, serverIp: ${OURS} }] }\nhttp: { port: 8080 }\napi: { port: 0 }\n`);
  const blobs = createBlobStore(stateDir);
  const images = createImageStore(stateDir);
  const [kernel, initrd, squashfs] = await Promise.all(['kernel', 'initrd', 'squashfs'].map((what) => blobs.add(Readable.from([Buffer.from(`the ${what}`)]))));
  const digest = imageDigest({ arch: 'amd64', kernel: kernel!, initrds: [initrd!], squashfs: squashfs! });
  await images.put({ name: 'tiny', digest, arch: 'amd64', kernel: { ...kernel!, version: '6.12' }, initrds: [initrd!], squashfs: { ...squashfs!, chunkSize: 4 << 20, chunks: [squashfs!.digest.slice(7)] }, packages: [], input: digest, builder: 'test', builtAt: 0 });
  await images.tag('tiny', 'latest', digest);
  return startDaemon(readSettings(join(dir, 'rackseed.yaml')), createLog('debug', { write: (line: string) => void (logged += line) }));
}

async function startDnsmasq(...args: string[]): Promise<void> {
  const child = stranger.spawn(['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--port=0', '--user=', '--group=', '--pid-file=', '--interface=eth0', '--no-ping', `--dhcp-leasefile=${join(dir, 'stranger.leases')}`, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  running.push(child);
  let said = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr!.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (/IP range|proxy/.test(said)) resolve();
    });
    child.on('exit', () => reject(new Error(said)));
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.removeAllListeners('exit');
  const gone = once(child, 'exit');
  child.kill();
  await gone;
}

function run(...args: string[]): Promise<Ran> {
  return machine.run([process.execPath, CLI, 'probe', ...args], { timeoutMs: 30_000 });
}

async function probe(...args: string[]): Promise<{ code: number; stderr: string; result: ProbeResult }> {
  const ran = await run('-i', 'eth0', '--timeout', '1', '-o', 'json', ...args);
  if (!ran.stdout.startsWith('{')) throw new Error(`no JSON: ${ran.stdout}${ran.stderr}`);
  return { code: ran.code, stderr: ran.stderr, result: JSON.parse(ran.stdout) as ProbeResult };
}

const findings = (result: ProbeResult) => result.findings.map(({ level, what }) => `${level}: ${what}`).join('\n');
const addressesOf = async (ns: Namespace) => [...(await ns.must(['ip', '-o', '-4', 'address', 'show', 'dev', 'eth0'])).matchAll(/inet (\S+)/g)].map((match) => match[1]);
const onDisk = (name: string) => readFileSync(join(LOADERS, name));

describe('rackseed alone on the link', () => {
  it('a known machine is offered its address and its loader, and TFTP says why it gives nothing to a machine without a lease', async () => {
    const { code, stderr, result } = await probe('--mac', NODE.mac);
    expect(result.answers).toMatchObject([{ kind: 'offer', server: OURS, from: OURS, address: NODE.ip, siaddr: OURS, file: 'undionly.kpxe', bootFile: 'undionly.kpxe', tftpServer: OURS, vendorClass: 'PXEClient', hostName: 'n1', pxeDiscovery: 'boot the file of this answer' }]);
    expect(result.fetched).toMatchObject([{ from: `tftp://${OURS}/undionly.kpxe`, ok: false, refused: true, why: expect.stringContaining('the server says: ') as string }]);
    expect({ code, ok: result.ok }).toEqual({ code: 1, ok: false });
    expect(stderr).toMatch(/--lease .*\[PROBE_FAILED\]/s);
  });

  it('with --no-fetch the offer alone is the verdict, and no lease is taken', async () => {
    logged = '';
    const { code, result } = await probe('--mac', NODE.mac, '--no-fetch');
    expect({ code, ok: result.ok, findings: result.findings }).toEqual({ code: 0, ok: true, findings: [] });
    expect(logged).toContain('dhcp: offer');
    expect(logged).not.toContain('dhcp: ack');
  });

  it('with --lease the loader comes byte for byte, and neither address nor lease is left behind', async () => {
    logged = '';
    const { code, result } = await probe('--mac', NODE.mac, '--lease');
    const loader = onDisk('undionly.kpxe');
    expect(findings(result)).toBe('');
    expect(result.fetched).toMatchObject([{ ok: true, bytes: loader.length, digest: digestOfBytes(loader), kind: 'program' }]);
    expect(result.lease).toEqual({ state: 'ack', address: NODE.ip, server: OURS, released: true });
    expect(code).toBe(0);
    expect(await addressesOf(machine)).toEqual([`${PROBE}/24`]);
    expect(await machine.must(['ip', 'route', 'show', OURS])).toBe('');
    expect(logged).toContain('dhcp: release');
  });

  it('--lease touches no address that a machine uses, and leaves its lease alone', async () => {
    await stranger.must(['ip', 'address', 'add', `${NODE.ip}/32`, 'dev', 'eth0']);
    logged = '';
    const { result } = await probe('--mac', NODE.mac, '--lease');
    await stranger.must(['ip', 'address', 'del', `${NODE.ip}/32`, 'dev', 'eth0']);
    expect(result.lease).toMatchObject({ state: 'ack', released: false, why: expect.stringMatching(/^10\.77\.0\.11 is in use: ([0-9a-f]{2}:){5}[0-9a-f]{2} answers for it$/) as string });
    expect(logged).not.toContain('dhcp: release');
    expect(result.ok).toBe(false);
  });

  it('as an iPXE it follows the script by HTTP, and asks for the kernel and the initrd that it names', async () => {
    const { code, result } = await probe('--mac', SECOND.mac, '--as', 'ipxe', '--lease');
    expect(findings(result)).toBe('');
    const [script] = result.fetched!;
    expect(script).toMatchObject({ from: `http://${OURS}:8080/script/52-54-00-00-00-02`, ok: true, kind: 'script' });
    expect(script!.script!.slice(0, 2)).toEqual(['#!ipxe', expect.stringContaining('node n2, profile plain, image tiny') as string]);
    expect(script!.files).toMatchObject([{ command: 'kernel', status: 200, size: 10, ok: true }, { command: 'initrd', status: 200, size: 10, ok: true }]);
    expect(code).toBe(0);
  });

  it('a script that says why it boots nothing is a refusal in its own words; with the lease of the boot the same machine gets its own', async () => {
    const without = await probe('--mac', NODE.mac, '--as', 'ipxe');
    expect(without.result.fetched).toMatchObject([{ ok: false, refused: true, why: `the script says: RS-SILENT: ${PROBE} is not the address of n1's boot (${NODE.mac})` }]);
    expect(without.code).toBe(1);
    const leased = await probe('--mac', NODE.mac, '--as', 'ipxe', '--lease');
    expect({ code: leased.code, findings: findings(leased.result) }).toEqual({ code: 0, findings: '' });
  });

  it('a machine that no profile names gets no answer, and the hint says where to look', async () => {
    const { code, stderr, result } = await probe('--mac', NOBODY);
    expect(result).toMatchObject({ ok: false, answers: [], sent: 2 });
    expect(code).toBe(1);
    expect(stderr).toContain('no DHCP server answered within 1 s');
    expect(stderr).toContain(`unknown MAC: rackseed answers only machines that a profile names (is ${NOBODY} in boot-profiles/?`);
  });
});

describe('dnsmasq on the same link', () => {
  const RANGE = '--dhcp-range=10.77.0.200,10.77.0.220,255.255.255.0,1h';

  it('both are shown, and the one that was not expected is the stranger', async () => {
    await startDnsmasq(RANGE);
    const { code, result } = await probe('--mac', NODE.mac, '--no-fetch');
    expect(result.answers.map(({ server }) => server).sort()).toEqual([OURS, STRANGER]);
    expect(findings(result)).toContain(`warning: 2 DHCP servers answer, one of them a stranger: `);
    expect(code).toBe(0);
    const expected = await probe('--mac', NODE.mac, '--no-fetch', '--expect', OURS);
    expect(findings(expected.result)).toContain(`warning: a stranger answers: ${STRANGER}`);
    const table = await run('-i', 'eth0', '--timeout', '1', '--mac', NODE.mac, '--no-fetch');
    expect(table.stdout).toMatch(/^SERVER +KIND +ADDRESS +NEXT SERVER +BOOT FILE +AFTER$/m);
    expect(table.stdout).toMatch(/^10\.77\.0\.9 +offer +10\.77\.0\.2\d\d /m);
    expect(table.stdout).toMatch(/^10\.77\.0\.1 +offer +10\.77\.0\.11 +10\.77\.0\.1 +undionly\.kpxe /m);
  });

  it('its loader is fetched without a lease; a UEFI loader is called wrong for a BIOS machine and right for a UEFI one', async () => {
    await startDnsmasq(RANGE, '--enable-tftp', `--tftp-root=${LOADERS}`, '--dhcp-boot=snponly.efi');
    const bios = await probe('--mac', NOBODY);
    const loader = onDisk('snponly.efi');
    expect(bios.result.fetched).toMatchObject([{ from: `tftp://${STRANGER}/snponly.efi`, ok: true, bytes: loader.length, digest: digestOfBytes(loader), kind: 'efi-amd64' }]);
    expect(findings(bios.result)).toContain('problem: tftp://10.77.0.9/snponly.efi is a UEFI program for amd64, which a bios machine (amd64) cannot run');
    expect(bios.code).toBe(1);
    const uefi = await probe('--mac', NOBODY, '--as', 'uefi');
    expect({ code: uefi.code, findings: findings(uefi.result) }).toEqual({ code: 0, findings: '' });
  });

  it('a missing loader is told in the words of the server', async () => {
    await startDnsmasq(RANGE, '--enable-tftp', `--tftp-root=${LOADERS}`, '--dhcp-boot=not-there.kpxe');
    const { code, result } = await probe('--mac', NOBODY);
    expect(result.fetched).toMatchObject([{ ok: false, refused: true, why: expect.stringContaining('not found') as string }]);
    expect(code).toBe(1);
  });

  it('as a proxyDHCP server it is named as one, and alone it is not enough', async () => {
    await startDnsmasq('--dhcp-range=10.77.0.0,proxy', '--pxe-service=x86PC,"boot",undionly');
    const known = await probe('--mac', NODE.mac, '--no-fetch');
    expect(known.result.answers.map(({ kind }) => kind).sort()).toEqual(['offer', 'proxy']);
    expect(findings(known.result)).toContain(`warning: a proxyDHCP server answers too: ${STRANGER}`);
    expect(known.code).toBe(0);
    const alone = await probe('--mac', NOBODY, '--no-fetch');
    expect(findings(alone.result)).toContain(`problem: only a proxyDHCP server answers (${STRANGER})`);
    expect(alone.code).toBe(1);
  });
});

describe('strangers that mean no good', () => {
  const lo: Card = { name: 'lo', mac: '00:00:00:00:00:00', addresses: [{ address: '127.0.0.1', netmask: '255.0.0.0' }] };
  const word = (n: number) => Buffer.from([n >> 8, n & 255]);
  const refusal = { ok: false, refused: true };

  it.each<[string, Buffer[], object]>([
    ['an empty datagram', [Buffer.alloc(0)], refusal],
    ['an OACK with an option that nobody asked for', [Buffer.concat([word(6), Buffer.from('foo\x001\x00')])], refusal],
    ['an OACK that ends in the middle', [Buffer.concat([word(6), Buffer.from('blksize')])], refusal],
    ['an OACK that names __proto__', [Buffer.concat([word(6), Buffer.from('__proto__\x001\x00')])], refusal],
    ['an ERROR without text', [Buffer.concat([word(5), word(1)])], refusal],
    ['an ERROR that paints the screen', [Buffer.concat([word(5), word(1), Buffer.from('\x1b[2Jgone\x00')])], { ...refusal, why: 'the server says: ?[2Jgone' }],
    ['DATA of three bytes', [Buffer.concat([word(3), Buffer.from([0])])], refusal],
    ['DATA larger than a block', [Buffer.concat([word(3), word(1), Buffer.alloc(1400)])], refusal],
    ['an opcode of its own', [Buffer.concat([word(9), word(0)])], refusal],
    ['two OACKs', [Buffer.concat([word(6), Buffer.from('blksize\x001468\x00')]), Buffer.concat([word(6), Buffer.from('blksize\x001468\x00')])], refusal],
    ['an empty file', [Buffer.concat([word(3), word(1)])], { ok: true, bytes: 0 }],
  ])('a TFTP server that answers with %s ends the fetch, not the probe', async (_name, replies, expected) => {
    const server = createSocket('udp4');
    server.on('message', (_request, peer) => replies.forEach((reply) => server.send(reply, peer.port, peer.address)));
    server.bind(69, '127.0.0.1');
    await once(server, 'listening');
    try {
      expect(await fetchTarget({ via: 'tftp', server: '127.0.0.1', file: 'x' }, lo, '127.0.0.1')).toMatchObject(expected);
    } finally {
      server.close();
    }
  });

  it.each<[string, (response: ServerResponse) => void, object]>([
    ['sends it elsewhere', (response) => response.writeHead(302, { location: 'http://192.0.2.1/' }).end(), { ...refusal, why: 'HTTP 302 to http://192.0.2.1/, and the probe follows no redirects' }],
    ['says no', (response) => response.writeHead(404).end('no \x1b[2J such script\nand more'), { ...refusal, why: 'HTTP 404: no ?[2J such script' }],
    ['hangs up', (response) => response.socket!.destroy(), { ok: false, why: 'socket hang up' }],
    ['hangs up in the middle', (response) => void response.writeHead(200, { 'content-length': '10' }).write('abc', () => response.socket!.destroy()), { ok: false, why: 'aborted' }],
  ])('an HTTP server that %s is told in one line', async (_name, answer, expected) => {
    const server = createServer((_request, response) => answer(response)).listen(8099, '127.0.0.1');
    await once(server, 'listening');
    try {
      expect(await fetchTarget({ via: 'http', url: 'http://127.0.0.1:8099/s' }, lo, '127.0.0.1')).toMatchObject(expected);
    } finally {
      server.close();
    }
  });

  it.each([
    ['another network', { via: 'tftp', server: '192.0.2.7', file: 'x' }, /^192\.0\.2\.7 is not on the link of lo/],
    ['another network, by URL', { via: 'http', url: 'http://192.0.2.7/x' }, /^192\.0\.2\.7 is not on the link of lo/],
    ['a host name', { via: 'http', url: 'http://boot.example/x' }, /asks no name server/],
  ] as const)('an answer that points to %s is not followed', async (_name, target, why) => {
    expect(await fetchTarget(target, lo, '127.0.0.1')).toMatchObject({ ok: false, why: expect.stringMatching(why) as string });
  });

  it('Ctrl-C in the middle of a fetch takes the leased address off the card', async () => {
    await startDnsmasq('--dhcp-range=10.77.0.200,10.77.0.220,255.255.255.0,1h', `--dhcp-boot=http://${STRANGER}:8098/hangs`);
    const hanging = stranger.spawn([process.execPath, '-e', `require('net').createServer(() => {}).listen(8098, () => console.log('up'))`], { stdio: ['ignore', 'pipe', 'inherit'] });
    running.push(hanging);
    await once(hanging.stdout!, 'data');
    const child = machine.spawn([process.execPath, CLI, 'probe', '-i', 'eth0', '--timeout', '1', '--as', 'ipxe', '--mac', NOBODY, '--lease'], { stdio: 'ignore' });
    running.push(child);
    const gone = once(child, 'exit');
    await expect.poll(() => addressesOf(machine), { timeout: 10_000 }).toContainEqual(expect.stringMatching(/^10\.77\.0\.2\d\d\/32$/));
    child.kill('SIGINT');
    expect(await gone).toEqual([null, 'SIGINT']);
    expect(await addressesOf(machine)).toEqual([`${PROBE}/24`]);
  });
});

describe('the card', () => {
  it('nothing leaves by the card of the default route', async () => {
    const listener = spawn(wan.wrap([process.execPath])[0]!, [...wan.wrap([process.execPath]).slice(1), '-e', `require('dgram').createSocket('udp4').on('message', (m, p) => console.log(m.length === 1 ? 'control' : 'dhcp')).bind(67, () => console.log('ready'))`], { stdio: ['ignore', 'pipe', 'inherit'] });
    running.push(listener);
    let heard = '';
    listener.stdout!.on('data', (chunk: Buffer) => (heard += chunk.toString()));
    await expect.poll(() => heard).toBe('ready\n');
    await probe('--mac', NOBODY);
    // The control: a broadcast from a socket without an address does leave there, and comes after all that the probe sent.
    await machine.must([process.execPath, '-e', `const s = require('dgram').createSocket('udp4'); s.bind(0, () => { s.setBroadcast(true); s.send('c', 67, '255.255.255.255', () => s.close()); })`]);
    await expect.poll(() => heard).toBe('ready\ncontrol\n');
  });

  it.each([
    ['without an address', 'bare0', /interface bare0 is down or has no IPv4 address.*ip address add/s],
    ['that is not there', 'eth9', /there is no network interface eth9.*this machine has .*eth0/s],
  ])('one %s is refused with what to do', async (_name, card, words) => {
    const ran = await run('-i', card);
    expect(ran.stderr).toMatch(words);
    expect(ran.code).toBe(1);
  });

  it('port 68 in other hands is told with who may hold it', async () => {
    const holder = machine.spawn([process.execPath, '-e', `require('dgram').createSocket('udp4').bind(68, () => console.log('held'))`], { stdio: ['ignore', 'pipe', 'inherit'] });
    running.push(holder);
    await once(holder.stdout!, 'data');
    const ran = await run('-i', 'eth0');
    expect(ran.stderr).toMatch(/0\.0\.0\.0:68 \(EADDRINUSE\)\n {2}hint: a DHCP client .*\[PORT_UNAVAILABLE\]/);
    expect(ran.code).toBe(69);
  });
});
