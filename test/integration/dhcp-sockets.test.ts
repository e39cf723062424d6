// The DHCP sockets on real cards: two LANs with the default route on the wrong one, bursts, flaps, sockets from systemd, and without koffi.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { openTransport } from '../../src/dhcp/sockets.ts';
import type { Destination, Ingress, Transport } from '../../src/dhcp/transport.ts';
import { createNamespace, type Namespace } from '../../src/lab/network.ts';
import { createLog } from '../../src/log.ts';
import { buildTree, type BuiltTree } from '../built-tree.ts';

const SYSTEMD = new URL('systemd.py', import.meta.url).pathname;

const LAN = { name: 'lan0', serverIps: ['10.77.0.1'] };
const WAN = { name: 'wan0', serverIps: ['192.168.5.2'] };
const BROADCAST = '255.255.255.255';

/** Sends argv[3] to argv[1]:argv[2] from port 68 of its card and prints all that comes back, until nothing more has come for half a second. */
const ASK = `
import json, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.bind(('', 68))
s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
heard = []
s.settimeout(10)
try:
    while True:
        bytes, (ip, port) = s.recvfrom(2048)
        heard.append([bytes.decode(), ip, port])
        s.settimeout(0.5)
except socket.timeout:
    print(json.dumps(heard))
`;

const ip = (...argv: string[]) => execFileSync('ip', argv, { encoding: 'utf8' });

let lan: Namespace;
let office: Namespace;
let transport: Transport | undefined;
let logged: string[];

const logger = () => createLog('debug', { write: (line: string) => void logged.push(line) });
const logs = (text: string) => logged.filter((line) => line.includes(text));

async function open(...links: (typeof LAN)[]): Promise<Transport> {
  transport = await openTransport({ links, log: logger() });
  return transport;
}

/** Answers each datagram with the card and port that it came in by: by broadcast, or to the sender. */
function answer(ours: Transport, to: (from: Ingress) => Destination): void {
  ours.hear((bytes, from) => void ours.send(from.link, from.port, Buffer.from(`${from.link}:${from.port} heard ${Buffer.from(bytes)}`), to(from)));
}
const byBroadcast = ({ fromPort }: Ingress): Destination => ({ address: BROADCAST, port: fromPort });
const toSender = ({ from, fromPort }: Ingress): Destination => ({ address: from, port: fromPort });

/** What a machine hears after it has asked, as [text, address, port]. */
async function ask(ns: Namespace, to: string, port: number, text: string): Promise<[string, string, number][]> {
  const ran = await ns.run(['python3', '-c', ASK, to, String(port), text]);
  if (ran.code !== 0) throw new Error(ran.stderr);
  return JSON.parse(ran.stdout) as [string, string, number][];
}

async function plug(name: string, peer: Namespace, address: string): Promise<void> {
  ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(peer.pid));
  ip('address', 'add', address, 'dev', name);
  ip('link', 'set', name, 'up');
  await peer.must(['ip', 'link', 'set', 'eth0', 'up']);
}

beforeAll(async () => {
  ip('link', 'set', 'lo', 'up');
  [lan, office] = [await createNamespace(), await createNamespace()];
  await plug('lan0', lan, '10.77.0.1/24');
  await plug('wan0', office, '192.168.5.2/24');
  ip('route', 'add', 'default', 'via', '192.168.5.1');
  await lan.must(['ip', 'address', 'add', '10.77.0.50/24', 'dev', 'eth0']);
  await office.must(['ip', 'address', 'add', '192.168.5.50/24', 'dev', 'eth0']);
});

beforeEach(() => {
  logged = [];
});

afterEach(async () => {
  await transport?.close();
  transport = undefined;
  vi.unstubAllEnvs();
});

afterAll(async () => {
  ip('link', 'delete', 'lan0');
  ip('link', 'delete', 'wan0');
  await lan.close();
  await office.close();
});

describe('two cards, the default route on the wrong one', () => {
  test.each<[number, string, (from: Ingress) => Destination]>([
    [67, 'broadcast', byBroadcast],
    [4011, 'broadcast', byBroadcast],
    [67, 'unicast', toSender],
    [4011, 'unicast', toSender],
  ])('an answer from port %i by %s leaves by the card where the request came in, on both at once', async (port, _how, to) => {
    answer(await open(LAN, WAN), to);
    const heard = await Promise.all([ask(lan, BROADCAST, port, 'a'), ask(office, BROADCAST, port, 'b')]);
    expect(heard).toEqual([[[`lan0:${port} heard a`, '10.77.0.1', port]], [[`wan0:${port} heard b`, '192.168.5.2', port]]]);
    expect(logs('"way":"device"')).toHaveLength(1);
  });

  test('a machine that asks our address by unicast is heard on its card', async () => {
    answer(await open(LAN, WAN), toSender);
    expect(await ask(lan, '10.77.0.1', 67, 'renew')).toEqual([['lan0:67 heard renew', '10.77.0.1', 67]]);
  });

  test('a machine without an address is heard and answered', async () => {
    answer(await open(LAN, WAN), byBroadcast);
    await lan.must(['ip', 'address', 'flush', 'dev', 'eth0']);
    try {
      expect(await ask(lan, BROADCAST, 67, 'discover')).toEqual([['lan0:67 heard discover', '10.77.0.1', 67]]);
    } finally {
      await lan.must(['ip', 'address', 'add', '10.77.0.50/24', 'dev', 'eth0']);
    }
  });

  test('what comes in on a card that is not served is not heard', async () => {
    const ours = await open(LAN);
    const heard: string[] = [];
    ours.hear((bytes, from) => void heard.push(`${from.link} ${Buffer.from(bytes)}`));
    await office.must(['python3', '-c', ASK.replace('settimeout(10)', 'settimeout(0.1)'), BROADCAST, '67', 'stranger']);
    await lan.must(['python3', '-c', ASK.replace('settimeout(10)', 'settimeout(0.1)'), BROADCAST, '67', 'ours']);
    await expect.poll(() => heard).toEqual(['lan0 ours']);
  });
});

describe('loopback', () => {
  test('a relay at 127.0.0.2 is heard and answered', async () => {
    answer(await open({ name: 'lo', serverIps: ['127.0.0.1'] }), toSender);
    const relay = createSocket({ type: 'udp4', reuseAddr: true });
    relay.bind(67, '127.0.0.2');
    await once(relay, 'listening');
    relay.send('relayed', 67, '127.0.0.1');
    const [bytes, from] = (await once(relay, 'message')) as [Buffer, { address: string; port: number }];
    relay.close();
    expect([bytes.toString(), from.address, from.port]).toEqual(['lo:67 heard relayed', '127.0.0.1', 67]);
  });
});

describe('bursts', () => {
  test('of 5,000 datagrams that come while we are deaf none is lost, and they come in order', async () => {
    const ours = await open(LAN);
    const heard: number[] = [];
    ours.hear((bytes, from) => {
      if (from.from === '10.77.0.50' && bytes.length === 300) heard.push(Number(Buffer.from(bytes).toString('latin1', 0, 6)));
    });
    const burst = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(5000):
    s.sendto(b'%06d' % i + bytes(294), ('10.77.0.1', 67))`;
    const [program, ...argv] = lan.wrap(['python3', '-c', burst]);
    // Nothing of ours runs until the last one is sent.
    execFileSync(program!, argv);
    expect(heard).toEqual([]);
    await expect.poll(() => heard.length, { timeout: 30_000 }).toBe(5000);
    expect(heard).toEqual(Array.from({ length: 5000 }, (_, i) => i));
  });

  test('what comes before anybody hears is kept', async () => {
    const ours = await open(LAN);
    const asked = ask(lan, BROADCAST, 67, 'early');
    await new Promise((resolve) => setTimeout(resolve, 500));
    answer(ours, toSender);
    expect(await asked).toEqual([['lan0:67 heard early', '10.77.0.1', 67]]);
  });

  test('deaf is deaf, but not dumb', async () => {
    const ours = await open(LAN);
    const heard: string[] = [];
    ours.hear((bytes) => void heard.push(Buffer.from(bytes).toString()));
    ours.deafen();
    await lan.must(['python3', '-c', ASK.replace('settimeout(10)', 'settimeout(0.2)'), BROADCAST, '67', 'late']);
    expect(heard).toEqual([]);
    expect(await ours.send('lan0', 67, Buffer.from('x'), { address: '10.77.0.50', port: 68 })).toBe(true);
  });
});

describe('a card that comes and goes', () => {
  test('down: a datagram that cannot leave resolves false and is logged once; up again: all is as before', async () => {
    const ours = await open(LAN, WAN);
    answer(ours, toSender);
    ip('link', 'set', 'lan0', 'down');
    const sent = [];
    for (const to of ['10.77.0.50', BROADCAST, '10.77.0.50']) sent.push(await ours.send('lan0', 67, Buffer.from('x'), { address: to, port: 68 }));
    expect(sent).toEqual([false, false, false]);
    expect(logs('a datagram was not sent')).toHaveLength(1);
    ip('link', 'set', 'lan0', 'up');
    expect(await ask(lan, BROADCAST, 67, 'again')).toEqual([['lan0:67 heard again', '10.77.0.1', 67]]);
  });

  test('a change of address needs nothing', async () => {
    answer(await open(LAN, WAN), byBroadcast);
    ip('address', 'flush', 'dev', 'lan0');
    ip('address', 'add', '10.77.0.9/24', 'dev', 'lan0');
    try {
      expect(await ask(lan, BROADCAST, 67, 'moved')).toEqual([['lan0:67 heard moved', '10.77.0.9', 67]]);
    } finally {
      ip('address', 'flush', 'dev', 'lan0');
      ip('address', 'add', '10.77.0.1/24', 'dev', 'lan0');
    }
    expect(await ask(lan, BROADCAST, 67, 'back')).toEqual([['lan0:67 heard back', '10.77.0.1', 67]]);
  });

  test('deleted and made anew under its name: its sockets are opened again', async () => {
    answer(await open(LAN, WAN), byBroadcast);
    ip('link', 'delete', 'lan0');
    await plug('lan0', lan, '10.77.0.1/24');
    await lan.must(['ip', 'address', 'add', '10.77.0.50/24', 'dev', 'eth0']);
    await expect.poll(() => logs('its sockets are open again').length, { timeout: 30_000 }).toBe(1);
    expect(await ask(lan, BROADCAST, 67, 'new card')).toEqual([['lan0:67 heard new card', '10.77.0.1', 67]]);
    expect(await ask(lan, BROADCAST, 4011, 'new card')).toEqual([['lan0:4011 heard new card', '10.77.0.1', 4011]]);
  });

  test('a destination that is no place is an answer too, not an exception', async () => {
    const ours = await open(LAN);
    expect(await ours.send('lan0', 67, Buffer.from('x'), { address: '10.77.0.50', port: 0 })).toBe(false);
    expect(await ours.send('eth9', 67, Buffer.from('x'), { address: '10.77.0.50', port: 68 })).toBe(false);
  });
});

describe('what cannot be had', () => {
  test('a card that is not there is named', async () => {
    await expect(openTransport({ links: [LAN, { name: 'eth9', serverIps: [] }], log: logger() })).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: 'dhcp: cannot listen on port 67 of eth9 (ENODEV)', hint: expect.stringContaining('ip link') });
  });

  test('a port that another program keeps to itself is an error, and nothing stays open', async () => {
    const other = createSocket('udp4');
    other.bind(4011);
    await once(other, 'listening');
    await expect(openTransport({ links: [LAN], log: logger() })).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: 'dhcp: cannot listen on port 4011 of lan0 (EADDRINUSE)', hint: expect.stringContaining('ss -ulpn') });
    other.close();
    const alone = createSocket('udp4');
    alone.bind(67);
    await once(alone, 'listening');
    alone.close();
  });

  test('a server that shares the port is a warning', async () => {
    const other = createSocket({ type: 'udp4', reuseAddr: true });
    other.bind(67);
    await once(other, 'listening');
    await open(LAN);
    other.close();
    expect(logs('another server listens on port 67')).toHaveLength(1);
  });
});

describe('without koffi', () => {
  beforeEach(() => void vi.stubEnv('RACKSEED_SOCKETS', 'plain'));

  test.each<[number, string, (from: Ingress) => Destination]>([
    [67, 'broadcast', byBroadcast],
    [4011, 'broadcast', byBroadcast],
    [67, 'unicast', toSender],
  ])('one card is served, from port %i by %s, whatever the default route is', async (port, _how, to) => {
    answer(await open(LAN), to);
    expect(await ask(lan, BROADCAST, port, 'plain')).toEqual([[`lan0:${port} heard plain`, '10.77.0.1', port]]);
    expect(await ask(lan, '10.77.0.1', port, 'unicast')).toEqual([[`lan0:${port} heard unicast`, '10.77.0.1', port]]);
    expect(logs('"way":"plain"')).toHaveLength(1);
  });

  test('a second card is refused, with what to do', async () => {
    await expect(openTransport({ links: [LAN, WAN], log: logger() })).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: expect.stringContaining('2 cards (lan0, wan0)'), hint: expect.stringContaining('npm install koffi') });
  });
});

describe('sockets from systemd', () => {
  /** Does what systemd does: opens sockets on their cards, then runs argv[2:] as nobody, without any capability. argv[1]: name=card=port,... */
  const PROGRAM = `
import { readFileSync } from 'node:fs';
import { openTransport } from './src/dhcp/sockets.js';
const say = (what) => process.stdout.write(JSON.stringify(what) + '\\n');
const log = Object.fromEntries(['debug', 'info', 'warn', 'error'].map((level) => [level, (fields, text) => say({ level, text, ...fields })]));
const links = process.argv.slice(2).map((name) => ({ name, serverIps: [] }));
try {
  const transport = await openTransport({ links, log });
  transport.hear((bytes, from) => transport.send(from.link, from.port, Buffer.from(from.link + ':' + from.port + ' heard ' + bytes), { address: '255.255.255.255', port: from.fromPort }));
  const status = readFileSync('/proc/self/status', 'utf8');
  say({ ready: true, uid: process.getuid(), capabilities: /CapEff:\\s*(\\S+)/.exec(status)[1] });
} catch (error) {
  say({ code: error.code, message: error.message, hint: error.hint });
}
process.stdin.resume().on('end', () => process.exit());
`;
  const TFTP = `
import { createTftpServer } from './src/tftp/server.js';
import { bindTftp } from './src/tftp/sockets.js';
const log = Object.fromEntries(['debug', 'info', 'warn', 'error'].map((level) => [level, () => {}]));
const booter = { ask: async () => ({ decision: { kind: 'loader' } }), seen: async () => {} };
const files = { open: async (file, { local }) => ({ file: { bytes: Buffer.from(file + ' from ' + local) }, answer: await booter.ask() }) };
const server = createTftpServer({ sockets: await bindTftp({ listen: ['10.77.0.1', '10.99.0.1'], links: [{ name: 'lan0', serverIps: ['10.99.0.1', '10.77.0.1'] }] }), files, booter, log });
server.start();
process.stdout.write(JSON.stringify({ ready: true, uid: process.getuid() }) + '\\n');
process.stdin.resume().on('end', () => process.exit());
`;
  let tree: BuiltTree;
  let child: ChildProcess | undefined;

  beforeAll(() => {
    tree = buildTree();
    tree.program('echo.js', PROGRAM);
    tree.program('tftp.js', TFTP);
  });
  afterEach(async () => {
    if (!child || child.exitCode !== null) return;
    const gone = once(child, 'exit');
    child.stdin?.end();
    await gone;
  });
  afterAll(() => tree.remove());

  /** What the child says, line by line. */
  async function start(sockets: string, links: readonly string[], program = 'echo.js'): Promise<{ said: Record<string, unknown>[]; until(key: string): Promise<Record<string, unknown>> }> {
    child = spawn('python3', [SYSTEMD, sockets, '65534', '65534', process.execPath, `${tree.dir}/${program}`, ...links], { stdio: ['pipe', 'pipe', 'inherit'] });
    const said: Record<string, unknown>[] = [];
    createInterface({ input: child.stdout! }).on('line', (line) => said.push(JSON.parse(line) as Record<string, unknown>));
    const until = async (key: string) => {
      await expect.poll(() => said.some((one) => key in one), { timeout: 30_000 }).toBe(true);
      return said.find((one) => key in one)!;
    };
    return { said, until };
  }
  const BOTH = 'dhcp-lan0=lan0=67,pxe-lan0=lan0=4011,dhcp-wan0=wan0=67,pxe-wan0=wan0=4011';

  test('nobody, without a capability, hears on both cards and answers out of each', async () => {
    const { said, until } = await start(BOTH, ['lan0', 'wan0']);
    expect(await until('ready')).toMatchObject({ uid: 65534, capabilities: '0000000000000000' });
    expect(said.filter(({ level }) => level === 'warn')).toEqual([]);
    expect(said).toContainEqual(expect.objectContaining({ way: 'inherited', links: ['lan0', 'wan0'] }));
    const heard = await Promise.all([ask(lan, BROADCAST, 67, 'a'), ask(office, BROADCAST, 4011, 'b')]);
    expect(heard).toEqual([[['lan0:67 heard a', '10.77.0.1', 67]], [['wan0:4011 heard b', '192.168.5.2', 4011]]]);
  });

  test('a card without its socket is named, with the unit that is missing', async () => {
    const { until } = await start('dhcp-lan0=lan0=67,pxe-lan0=lan0=4011', ['lan0', 'wan0']);
    expect(await until('code')).toMatchObject({ code: 'PORT_UNAVAILABLE', message: expect.stringContaining('none for port 67 of wan0'), hint: expect.stringContaining('add-card wan0') });
  });

  test('TFTP is served from a card that has several addresses: the one in the subnet of the machine answers', async () => {
    const { until } = await start('tftp-lan0=lan0=69', [], 'tftp.js');
    expect(await until('ready')).toMatchObject({ uid: 65534 });
    const ran = await lan.run(['curl', '--silent', '--max-time', '20', 'tftp://10.77.0.1/loader']);
    expect(ran).toMatchObject({ code: 0, stdout: 'loader from 10.77.0.1' });
  });

  test('a card that is made anew cannot be opened by nobody: that is said, once', async () => {
    const { said, until } = await start(BOTH, ['lan0', 'wan0']);
    await until('ready');
    ip('link', 'delete', 'lan0');
    await plug('lan0', lan, '10.77.0.1/24');
    await lan.must(['ip', 'address', 'add', '10.77.0.50/24', 'dev', 'eth0']);
    await expect.poll(() => said.filter(({ level }) => level === 'error'), { timeout: 30_000 }).toMatchObject([{ link: 'lan0', text: expect.stringContaining('until a restart'), hint: expect.stringContaining('systemctl') }]);
    expect(await ask(office, BROADCAST, 67, 'other card')).toEqual([['wan0:67 heard other card', '192.168.5.2', 67]]);
  });
});
