// The lookout against real DHCP servers on a real link: dnsmasq and Kea before us and after us, forged REQUESTs, and a port 68 that is taken.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { conflictError, openLookout, type Lookout, type LookoutParts } from '../../src/dhcp/lookout.ts';
import { ipOf, messageOf, OPT } from '../../src/dhcp/options.ts';
import { decode } from '../../src/dhcp/packet.ts';
import { dhcpResume, dhcpStatus } from '../../src/commands/dhcp.ts';
import { dhcpRoutes } from '../../src/http/dhcp.ts';
import { createHttp, listenOn } from '../../src/http/server.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import type { NewEvent } from '../../src/store/events.ts';

const OURS = '10.77.0.1';
const RIVAL = { ip: '10.77.0.9', mac: '52:54:00:00:00:99' };

const ip = (...argv: string[]) => execFileSync('ip', argv, { encoding: 'utf8' });
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

let rival: Namespace;
let machine: Namespace;
let office: Namespace;
let dir: string;
let lookout: Lookout | undefined;
let running: ChildProcess[];
let open: Socket[];
let events: NewEvent[];
/** Added to the clock: five minutes pass at once. */
let later: number;

beforeAll(async () => {
  ip('link', 'set', 'lo', 'up');
  [rival, machine, office] = [await createNamespace(), await createNamespace(), await createNamespace()];
  ip('link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
  ip('address', 'add', `${OURS}/24`, 'dev', 'br0');
  ip('link', 'set', 'br0', 'up');
  for (const [ns, port] of [[rival, 'lk0'], [machine, 'lk1']] as const) {
    ip('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(ns.pid));
    ip('link', 'set', port, 'master', 'br0', 'up');
  }
  await rival.must(['ip', 'link', 'set', 'eth0', 'address', RIVAL.mac]);
  await rival.must(['ip', 'address', 'add', `${RIVAL.ip}/24`, 'dev', 'eth0']);
  await rival.must(['ip', 'link', 'set', 'eth0', 'up']);
  await machine.must(['ip', 'link', 'set', 'eth0', 'up']);
  // The wrong card: everything without a better route leaves here, and it has a DHCP server of its own.
  ip('link', 'add', 'wan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(office.pid));
  ip('address', 'add', '192.168.5.2/24', 'dev', 'wan0');
  ip('link', 'set', 'wan0', 'up');
  await office.must(['ip', 'address', 'add', '192.168.5.1/24', 'dev', 'eth0']);
  await office.must(['ip', 'link', 'set', 'eth0', 'up']);
  ip('route', 'add', 'default', 'via', '192.168.5.1');
});

afterAll(async () => {
  for (const link of ['br0', 'lk0', 'lk1', 'wan0']) execFileSync('sh', ['-c', `ip link del ${link} 2>/dev/null || true`]);
  for (const ns of [rival, machine, office]) await ns?.close();
});

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-lookout-'));
  writeFileSync(join(dir, 'script'), '#!/bin/sh\n[ "$1" = bound ] && echo "bound $ip by $serverid"\nexit 0\n');
  chmodSync(join(dir, 'script'), 0o755);
  [running, open, events, later] = [[], [], [], 0];
});

afterEach(async () => {
  await lookout?.close();
  lookout = undefined;
  for (const child of running) await ended(child);
  for (const socket of open) socket.close();
  rmSync(dir, { recursive: true });
});

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill();
  await gone;
}

async function watch(more: Partial<LookoutParts> = {}): Promise<Lookout> {
  lookout = await openLookout({
    links: [{ name: 'br0', serverIp: OURS }],
    ours: [OURS],
    welcome: [],
    onEvent: (event) => void events.push(event),
    log: createLog('silent'),
    now: () => Date.now() + later,
    ...more,
  });
  return lookout;
}

/** Resolves once it serves. */
async function started(child: ChildProcess, says: RegExp): Promise<ChildProcess> {
  running.push(child);
  let said = '';
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        said += chunk.toString();
        if (says.test(said)) resolve();
      });
    }
    child.once('exit', () => reject(new Error(said)));
  });
  return child;
}

function dnsmasqArgs(...args: string[]): string[] {
  return ['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--port=0', '--user=', '--group=', '--pid-file=', `--dhcp-leasefile=${join(dir, `${running.length}.leases`)}`, ...args];
}

const dnsmasq = (ns: Namespace, ...args: string[]) => started(ns.spawn(dnsmasqArgs('--interface=eth0', ...args), { stdio: ['ignore', 'pipe', 'pipe'] }), /IP range/);
const POOL = ['--dhcp-range=10.77.0.50,10.77.0.80', '--no-ping'];

async function kea(): Promise<ChildProcess> {
  const file = join(dir, 'kea.json');
  const subnet = { subnet: '10.77.0.0/24', pools: [{ pool: '10.77.0.81 - 10.77.0.99' }] };
  const config = { 'interfaces-config': { interfaces: ['eth0'], 're-detect': false }, 'lease-database': { type: 'memfile', persist: false }, subnet4: [subnet], loggers: [{ name: 'kea-dhcp4', severity: 'INFO', output_options: [{ output: 'stdout', flush: true }] }] };
  writeFileSync(file, JSON.stringify({ Dhcp4: config }));
  const child = rival.spawn(['kea-dhcp4', '-c', file], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, KEA_PIDFILE_DIR: dir, KEA_LOCKFILE_DIR: dir } });
  return started(child, /DHCP4_STARTED/);
}

/** What the server's responder does: hands on which server each REQUEST on port 67 names. */
async function listen(on: Lookout): Promise<void> {
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  open.push(socket);
  socket.on('message', (bytes) => {
    const packet = decode(bytes);
    if (packet.op === 2) return on.heard(packet, { from: '0.0.0.0' });
    const server = messageOf(packet.options) === 'request' ? ipOf(packet.options, OPT.serverId) : undefined;
    if (server !== undefined) on.overheard('br0', server);
  });
  socket.bind(67);
  await once(socket, 'listening');
}

async function until(what: string, seconds: number, isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !isSo(); await pause(20)) if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}; ${JSON.stringify(lookout?.status())}`);
}

const stateOf = () => lookout!.status()[0]!.state;
/** A machine on the link that takes a lease of whoever gives one. */
const takeLease = () => machine.run(['udhcpc', '-i', 'eth0', '-f', '-n', '-q', '-t', '3', '-T', '2', '-s', join(dir, 'script')], { timeoutMs: 30_000 });

describe('the preflight', () => {
  it('finds nobody on a link without another server, and a server on another card is none of its business', async () => {
    await dnsmasq(office, '--dhcp-range=192.168.5.50,192.168.5.80', '--no-ping');
    const { preflight, permits, status, reasons } = await watch();
    expect(await preflight()).toEqual([]);
    expect(permits('br0')).toEqual({ reservations: true, dynamic: true });
    expect(status()).toMatchObject([{ link: 'br0', state: 'clear', probes: 1, offers: 0 }]);
    expect(reasons()).toEqual([]);
  });

  it('finds a dnsmasq that pings each address for three seconds before it offers it, with its IP and MAC', async () => {
    await dnsmasq(rival, '--dhcp-range=10.77.0.50,10.77.0.80');
    const found = await (await watch()).preflight();
    expect(found).toEqual([{ link: 'br0', ...RIVAL }]);
    const { code, exit, message, hint } = conflictError(found);
    expect({ code, exit }).toEqual({ code: 'DHCP_CONFLICT', exit: 69 });
    for (const part of ['br0', RIVAL.ip, RIVAL.mac]) expect(message).toContain(part);
    for (const way of ['stop it', 'mode: proxy', 'onConflict: proxy', `otherServers: [${RIVAL.ip}]`]) expect(hint).toContain(way);
  });

  it('finds a Kea with its IP and MAC', async () => {
    await kea();
    expect(await (await watch()).preflight()).toEqual([{ link: 'br0', ...RIVAL }]);
  });

  it('finds a server whose address and pool are of another subnet, as a home router on the wrong cable is', async () => {
    await rival.must(['ip', 'address', 'add', '192.168.1.1/24', 'dev', 'eth0']);
    try {
      await dnsmasq(rival, '--dhcp-range=192.168.1.50,192.168.1.80', '--no-ping');
      expect(await (await watch()).preflight()).toEqual([{ link: 'br0', ip: '192.168.1.1', mac: RIVAL.mac }]);
    } finally {
      await rival.must(['ip', 'address', 'del', '192.168.1.1/24', 'dev', 'eth0']);
    }
  });

  it('finds each of two', async () => {
    await kea();
    await machine.must(['ip', 'address', 'add', '10.77.0.8/24', 'dev', 'eth0']);
    try {
      await dnsmasq(machine, ...POOL);
      const found = await (await watch()).preflight();
      expect(found.map((one) => one.ip).sort()).toEqual(['10.77.0.8', RIVAL.ip]);
    } finally {
      await machine.must(['ip', 'address', 'flush', 'dev', 'eth0']);
    }
  });

  it('a welcome server is no rival, neither in the preflight nor when clients choose it', async () => {
    await dnsmasq(rival, ...POOL);
    const on = await watch({ welcome: [RIVAL.ip] });
    await listen(on);
    expect(await on.preflight()).toEqual([]);
    expect((await takeLease()).stdout).toMatch(new RegExp(`^bound 10.77.0.\\d+ by ${RIVAL.ip}$`, 'm'));
    expect(on.status()).toMatchObject([{ state: 'clear', probes: 1, overheard: 0, offers: 0 }]);
  });

  it('our own offers, which come back to us, are not foreign, and our own DISCOVERs are told apart', async () => {
    const [program, ...args] = dnsmasqArgs('--interface=br0', '--bind-interfaces', ...POOL);
    const child = await started(spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'] }), /IP range/);
    let answered = '';
    child.stderr!.on('data', (chunk: Buffer) => (answered += chunk.toString()));
    const on = await watch();
    const own: boolean[] = [];
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    open.push(socket);
    socket.on('message', (bytes) => void own.push(on.isOwn(decode(bytes))));
    socket.bind(67);
    await once(socket, 'listening');
    expect(await on.preflight()).toEqual([]);
    expect(answered).toMatch(/DHCPOFFER\(br0\)/);
    expect(on.status()).toMatchObject([{ state: 'clear', offers: 0 }]);
    expect(own).toEqual([true, true, true]);
  });

  it('beside a DHCP client that shares port 68, both hear', async () => {
    const client = createSocket({ type: 'udp4', reuseAddr: true });
    open.push(client);
    client.bind(68);
    await once(client, 'listening');
    await dnsmasq(rival, ...POOL);
    const on = await watch();
    expect(on.needsReplies).toBe(false);
    expect(await on.preflight()).toEqual([{ link: 'br0', ...RIVAL }]);
  });

  it('with port 68 in one hand alone it asks as a relay, and the answers come to port 67', async () => {
    const client = createSocket({ type: 'udp4' });
    open.push(client);
    client.bind(68);
    await once(client, 'listening');
    await dnsmasq(rival, ...POOL);
    const on = await watch();
    expect(on.needsReplies).toBe(true);
    await listen(on);
    expect(await on.preflight()).toEqual([{ link: 'br0', ...RIVAL }]);
  });

  it('without the right to port 68, as under socket activation, it does the same', async () => {
    await dnsmasq(rival, ...POOL);
    process.seteuid!(65_534);
    const on = await watch().finally(() => process.seteuid!(0));
    expect(on.needsReplies).toBe(true);
    await listen(on);
    expect(await on.preflight()).toEqual([{ link: 'br0', ...RIVAL }]);
  });

  it('with only what Node itself can do it finds the same, on the same card', async () => {
    await dnsmasq(rival, ...POOL);
    await dnsmasq(office, '--dhcp-range=192.168.5.50,192.168.5.80', '--no-ping');
    process.env.RACKSEED_SOCKETS = 'plain';
    const on = await watch().finally(() => delete process.env.RACKSEED_SOCKETS);
    expect(on.needsReplies).toBe(false);
    expect(await on.preflight()).toEqual([{ link: 'br0', ...RIVAL }]);
  });

  it('a link that cannot be looked at gives out no dynamic addresses until it was', async () => {
    ip('link', 'set', 'br0', 'down');
    const on = await watch();
    expect(await on.preflight()).toEqual([]);
    expect(on.permits('br0')).toMatchObject({ reservations: true, dynamic: false, why: expect.stringContaining('sends nothing') as string });
    ip('link', 'set', 'br0', 'up');
    ip('route', 'replace', 'default', 'via', '192.168.5.1');
    on.start();
    await until('the link is looked at and clear', 25, () => stateOf() === 'clear');
  });
});

describe('a server that appears while we serve', () => {
  it('a client that chose it suspends dynamic offers at once; its offer stops the link, and an operator resumes when it is gone', async () => {
    const on = await watch();
    await listen(on);
    expect(await on.preflight()).toEqual([]);
    on.start();
    later = 61_000;
    const server = await dnsmasq(rival, ...POOL);
    const taking = takeLease();
    await until('suspended or stopped', 20, () => stateOf() !== 'clear');
    expect(on.permits('br0').dynamic).toBe(false);
    expect((await taking).stdout).toContain(`by ${RIVAL.ip}`);
    await until('stopped', 15, () => stateOf() === 'stopped');
    expect(on.permits('br0')).toMatchObject({ reservations: false, dynamic: false });
    expect(on.reasons()).toEqual([expect.stringMatching(/^dhcp: br0: stopped, because another DHCP server answered: 10\.77\.0\.9 \(52:54:00:00:00:99\); .*rackseed dhcp resume/) as string]);
    expect(events).toMatchObject([{ kind: 'dhcp-rival-suspected', detail: { link: 'br0', server: RIVAL.ip } }, { kind: 'dhcp-rival-found', detail: { link: 'br0', server: RIVAL.ip, mac: RIVAL.mac } }]);

    // Still there: it is found again.
    expect(on.resume('br0')).toEqual(['br0']);
    expect(on.permits('br0')).toMatchObject({ reservations: true, dynamic: false });
    await until('stopped again', 15, () => stateOf() === 'stopped');
    await ended(server);
    // Gone, and nobody resumes by himself.
    await pause(6_000);
    expect(stateOf()).toBe('stopped');
    expect(on.resume()).toEqual(['br0']);
    await until('clear', 15, () => stateOf() === 'clear');
    expect(on.reasons()).toEqual([]);
    expect(events.slice(2).map((event) => event.kind)).toEqual(['dhcp-resumed', 'dhcp-rival-found', 'dhcp-resumed']);
  });

  it('a Kea that no client was heard to choose is found by the look of every five minutes', async () => {
    const on = await watch();
    expect(await on.preflight()).toEqual([]);
    on.start();
    await kea();
    await pause(1_500);
    expect(on.status()).toMatchObject([{ state: 'clear', probes: 1 }]);
    later = 300_000;
    await until('stopped', 15, () => stateOf() === 'stopped');
    expect(events).toMatchObject([{ kind: 'dhcp-rival-found', detail: { link: 'br0', server: RIVAL.ip, mac: RIVAL.mac } }]);
  });
});

describe('REQUESTs that somebody made up', () => {
  it('1,000 of them suspend dynamic offers until one look has ended; nodes with an address of their own notice nothing', async () => {
    const on = await watch();
    await listen(on);
    await on.preflight();
    on.start();
    later = 61_000;
    // 1,000 REQUESTs of as many MACs, each naming another server that is not there.
    const forge = `import socket,struct
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1); s.setsockopt(socket.SOL_SOCKET,25,b"eth0")
for i in range(1000):
    s.sendto(struct.pack('>BBBBIHH16x',1,1,6,0,i,0,0)+b'\\x52\\x54\\x00\\x01'+struct.pack('>H',i)+bytes(202)+b'\\x63\\x82\\x53\\x63\\x35\\x01\\x03\\x36\\x04\\x0a\\x4d'+struct.pack('>H',0x0200+i%200)+b'\\xff'+bytes(40),('255.255.255.255',67))
`;
    await machine.must(['ip', 'address', 'add', '10.77.0.7/24', 'dev', 'eth0']);
    try {
      const seen = new Set<string>();
      const looking = setInterval(() => seen.add(JSON.stringify({ state: stateOf(), reservations: on.permits('br0').reservations })), 5);
      await machine.must(['python3', '-c', forge]);
      await until('suspended', 10, () => stateOf() === 'suspended');
      expect(on.permits('br0')).toMatchObject({ reservations: true, dynamic: false });
      await until('clear by itself', 20, () => stateOf() === 'clear');
      clearInterval(looking);
      expect(on.status()).toMatchObject([{ probes: 2, offers: 0 }]);
      expect(on.status()[0]!.overheard).toBeGreaterThan(100);
      expect([...seen].filter((one) => one.includes('false'))).toEqual([]);
      expect(events.map((event) => event.kind)).toEqual(['dhcp-rival-suspected']);
    } finally {
      await machine.must(['ip', 'address', 'flush', 'dev', 'eth0']);
    }
  });
});

describe('rackseed dhcp', () => {
  it('status says what stopped a link and what to do; resume goes on when the other server is gone', async () => {
    const server = await dnsmasq(rival, ...POOL);
    const on = await watch();
    const app = await createHttp('people', createLog('silent'), async (routes) => dhcpRoutes(routes, { status: () => ({ links: on.status().map((link) => ({ mode: 'full' as const, ...link })), counters: { received: 3, offers: 0 } }), resume: on.resume }));
    try {
      await listenOn([{ app, host: '127.0.0.1', port: 8099 }]);
      const options = { url: 'http://127.0.0.1:8099', output: 'table' as const };
      await on.preflight();
      const stopped = await dhcpStatus(options);
      expect(stopped).toMatch(/^br0 +full +stopped +\d+s +\d+s +stopped, because another DHCP server answered: 10\.77\.0\.9 \(52:54:00:00:00:99\); stop it, then `rackseed dhcp resume`$/m);
      expect(stopped).toMatch(/^packets: received 3$/m);
      await expect(dhcpResume('eth7', options)).rejects.toMatchObject({ code: 'REQUEST_INVALID', hint: expect.stringContaining('br0') as string });
      await ended(server);
      expect(await dhcpResume(undefined, options)).toMatch(/^br0: nodes are served again/);
      await until('clear', 15, () => stateOf() === 'clear');
      expect(await dhcpStatus(options)).toMatch(/^br0 +full +clear +- +\d+s +-$/m);
      expect(await dhcpResume('br0', options)).toBe('nothing to resume: br0 is not stopped\n');
    } finally {
      await app.close();
    }
  });
});
