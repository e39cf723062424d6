// "Your server names the boot file" of docs/OPERATING.md: its blocks in dnsmasq, Kea and ISC dhcpd, asked as each kind of machine asks.
import type { ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ips, message, OPT, subOptions, text, textOf, uint16s, uint8 } from '../../src/dhcp/options.ts';
import { decode, encode, NO_IP, type Packet } from '../../src/dhcp/packet.ts';
import { blocksOf, iscConfig, keaConfig } from '../operating-blocks.ts';
import { ended, eventually, openLink, said, startDnsmasq, startKea, startLan, type Lan, type Link } from './lan.ts';
import { machineOn, openSegment, type Option, type Segment } from './segment.ts';

const SERVER = '192.168.1.1';
/** We ask as a relay does: the answer then comes to a socket of ours. */
const RELAY = '192.168.1.2';
const RACKSEED = '192.168.1.20';

interface Kind {
  readonly what: string;
  readonly arch: number;
  readonly vendorClass: string;
  readonly ipxe?: boolean;
  readonly file: string;
  readonly answeredAs?: string;
}

const KINDS: readonly Kind[] = [
  { what: 'BIOS', arch: 0, vendorClass: 'PXEClient:Arch:00000:UNDI:002001', file: 'undionly.kpxe' },
  { what: 'x64 UEFI, type 7', arch: 7, vendorClass: 'PXEClient:Arch:00007:UNDI:003016', file: 'snponly.efi' },
  { what: 'x64 UEFI, type 9', arch: 9, vendorClass: 'PXEClient:Arch:00009:UNDI:003016', file: 'snponly.efi' },
  { what: 'x64 UEFI HTTP Boot', arch: 16, vendorClass: 'HTTPClient:Arch:00016:UNDI:003001', file: 'http://192.168.1.20:8080/loaders/snponly.efi', answeredAs: 'HTTPClient' },
  { what: 'an iPXE of a BIOS', arch: 0, vendorClass: 'PXEClient:Arch:00000:UNDI:002001', ipxe: true, file: 'boot.ipxe' },
  { what: 'an iPXE of UEFI', arch: 7, vendorClass: 'PXEClient:Arch:00007:UNDI:003010', ipxe: true, file: 'boot.ipxe' },
];

let link: Link;
let socket: Socket;
let dir: string;
let server: ChildProcess | undefined;

/** Asks until it is answered: a server that has just started may not listen yet. */
async function offerTo({ arch, vendorClass, ipxe }: Kind, n: number): Promise<Packet> {
  const packet: Packet = {
    op: 1, htype: 1, hlen: 6, hops: 1, xid: 0x5eed00 + n, secs: 0, flags: 0, ciaddr: NO_IP, yiaddr: NO_IP, siaddr: NO_IP, giaddr: RELAY,
    chaddr: Uint8Array.of(0x52, 0x54, 0, 0, 0x5e, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), sname: '', file: '',
    options: new Map([
      [OPT.messageType, message('discover')],
      [OPT.parameterList, Uint8Array.of(OPT.subnetMask, OPT.router, OPT.vendorClass, OPT.tftpServer, OPT.bootFile)],
      [OPT.vendorClass, text(vendorClass)],
      [OPT.clientArch, uint16s(arch)],
      ...(ipxe ? [[OPT.userClass, text('iPXE')] as const] : []),
    ]),
  };
  return new Promise((resolve, reject) => {
    const ask = (): void => socket.send(encode(packet) as Uint8Array, 67, SERVER);
    const asking = setInterval(ask, 1_000);
    const timer = setTimeout(() => done(), 30_000);
    const hear = (bytes: Buffer): void => {
      const reply = decode(bytes);
      if (reply.xid === packet.xid) done(reply);
    };
    function done(reply?: Packet): void {
      clearInterval(asking);
      clearTimeout(timer);
      socket.off('message', hear);
      if (reply) resolve(reply);
      else reject(new Error('no answer in 30 s'));
    }
    socket.on('message', hear);
    ask();
  });
}

const SERVERS: readonly (readonly [name: string, start: () => Promise<ChildProcess>])[] = [
  [
    'dnsmasq',
    async () => {
      const file = join(dir, 'block.conf');
      writeFileSync(file, blocksOf('dnsmasq')[0]!);
      return startDnsmasq(link.ns, dir, '--no-ping', '--dhcp-range=192.168.1.100,192.168.1.199', `--conf-file=${file}`);
    },
  ],
  ['Kea', () => startKea(link.ns, dir, (JSON.parse(keaConfig(blocksOf('kea')[0]!, 'eth0')) as { Dhcp4: object }).Dhcp4)],
  [
    'ISC dhcpd',
    async () => {
      const [config, leases] = [join(dir, 'dhcpd.conf'), join(dir, 'dhcpd.leases')];
      writeFileSync(config, iscConfig(blocksOf('isc')[0]!));
      writeFileSync(leases, '');
      // Not by its name alone: npm puts a program of the same name, of the package `dhcp`, before it.
      const child = link.ns.spawn(['/usr/sbin/dhcpd', '-4', '-f', '-d', '-cf', config, '-lf', leases, '-pf', join(dir, 'dhcpd.pid'), 'eth0'], { stdio: ['ignore', 'pipe', 'pipe'] });
      await said(child, /Server starting service|Listening on/);
      return child;
    },
  ],
];

describe('the blocks', () => {
  beforeAll(async () => {
    link = await openLink('lan0', `${RELAY}/24`);
    await link.ns.must(['ip', 'address', 'add', `${SERVER}/24`, 'dev', 'eth0']);
    socket = createSocket('udp4');
    socket.bind(67, RELAY);
    await once(socket, 'listening');
  });
  afterAll(async () => {
    socket?.close();
    await link?.close();
  });
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-snippets-'));
  });
  afterEach(async () => {
    if (server) await ended(server);
    server = undefined;
    rmSync(dir, { recursive: true, force: true });
  });

  it.each(SERVERS)('%s names to each machine the file that rackseed would, and rackseed as where it is', { timeout: 120_000 }, async (_name, start) => {
    server = await start();
    for (const [n, kind] of KINDS.entries()) {
      const offer = await offerTo(kind, n + 1);
      // dnsmasq leaves the field empty for a client that asked for option 67.
      expect(offer.file || textOf(offer.options, OPT.bootFile), kind.what).toBe(kind.file);
      expect(offer.siaddr, kind.what).toBe(RACKSEED);
      if (kind.answeredAs) expect(textOf(offer.options, OPT.vendorClass), kind.what).toBe(kind.answeredAs);
    }
  });
});

describe('rackseed in proxy mode beside it', () => {
  const NODE = '52:54:00:00:5e:55';
  const ADDRESS = '192.168.1.55';
  const ROM: readonly Option[] = [[OPT.vendorClass, text('PXEClient:Arch:00000:UNDI:002001')], [OPT.clientArch, uint16s(0)]];
  const IPXE: readonly Option[] = [...ROM, [OPT.userClass, text('iPXE')], [OPT.ipxe, subOptions([[19, uint8(1)], [24, uint8(1)]])]];
  let lab: Link;
  let segment: Segment;
  let lan: Lan;

  beforeAll(async () => {
    lab = await openLink('lan1', `${RACKSEED}/24`);
    await lab.ns.must(['ip', 'address', 'add', `${ADDRESS}/24`, 'dev', 'eth0']);
    segment = await openSegment(lab.ns, 'eth0');
    lan = await startLan({ dhcp: { interfaces: ['lan1'] }, nodes: { n1: { macs: [NODE] } } });
  });
  afterAll(async () => {
    await lan?.stop();
    await segment?.close();
    await lab?.close();
  });

  const fetched = async (url: string) => (await lab.ns.run(['curl', '-s', '--max-time', '20', url])).stdout;
  /** What the other server is asked, we hear. */
  async function getsItsAddressElsewhere(own: readonly Option[]): Promise<void> {
    const machine = machineOn(segment, NODE, own);
    await machine.discover();
    const before = await lan.heard();
    segment.send(NODE, encode(machine.packet('request', [[OPT.serverId, ips(SERVER)], [OPT.requestedIp, ips(ADDRESS)]])) as Uint8Array);
    await eventually(() => lan.heard()).toBeGreaterThan(before);
  }

  it('gives a machine whose DISCOVER it did not hear a script that says so', async () => {
    expect(await fetched(`http://${RACKSEED}:8080/script/${NODE.replaceAll(':', '-')}`)).toMatch(/RS-HOLD: .*its DHCP DISCOVER was not seen here/);
  });

  it('has the files that the other server names, for a machine that it heard', async () => {
    await getsItsAddressElsewhere(ROM);
    expect((await lab.ns.run(['sh', '-c', `curl -s --max-time 20 tftp://${RACKSEED}/undionly.kpxe | cmp - /usr/lib/ipxe/undionly.kpxe`])).code).toBe(0);
    expect((await lab.ns.run(['sh', '-c', `curl -s --max-time 20 http://${RACKSEED}:8080/loaders/snponly.efi | cmp - /usr/lib/ipxe/snponly.efi`])).code).toBe(0);
    await getsItsAddressElsewhere(IPXE);
    const script = await fetched(`tftp://${RACKSEED}/boot.ipxe`);
    expect(script).toMatch(/^#!ipxe\n[^]*\nkernel /);
    expect(await fetched(`http://${RACKSEED}:8080/script/${NODE.replaceAll(':', '-')}`)).toBe(script);
  });
});
