// The three servers with the same subnet, pool, options and reservations, each on a link of its own.
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createNamespace, cable, type Namespace } from '../../src/lab/network.ts';
import { ended, ip, openLink, startDnsmasq, startKea, startLan, type Lan, type Link } from '../integration/lan.ts';
import { openSegment, type Segment } from '../integration/segment.ts';
import { PLAYS_MOST, reservedIp, reservedMac, reservedName, SITE } from './exchanges.ts';

export type ServerName = 'rackseed' | 'Kea' | 'dnsmasq';
export const SERVERS: readonly ServerName[] = ['rackseed', 'Kea', 'dnsmasq'];

export interface Servers {
  readonly segments: Readonly<Record<ServerName, Segment>>;
  /** Lets the kernel forget who has which address. Its table holds 1,024 for all namespaces together; beyond that (net.ipv4.neigh.default.gc_thresh3) it drops what is sent without an error, broadcasts too. */
  forgetNeighbours(): Promise<void>;
  stop(): Promise<void>;
}

const RESERVATIONS = Array.from({ length: PLAYS_MOST + 1 }, (_, index) => ({ mac: reservedMac(index), ip: reservedIp(index), name: reservedName(index) }));

export async function startServers(): Promise<Servers> {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-differential-'));
  const link: Link = await openLink('lan0', `${SITE.server}/16`);
  const lan: Lan = await startLan({
    level: 'info',
    nodes: Object.fromEntries(RESERVATIONS.map((one) => [one.name, { macs: [one.mac], ip: one.ip }])),
    dhcp: {
      onConflict: 'ignore',
      serve: 'any',
      subnets: [{
        subnet: SITE.subnet, mode: 'full', pool: SITE.pool.join('-'), router: SITE.router, dns: [SITE.dns], domain: SITE.domain, leaseTime: SITE.leaseSeconds,
        options: { 'ntp-servers': [SITE.ntp], 'interface-mtu': SITE.mtu }, conflictCheck: 'off',
      }],
    },
  });
  const apartOnes: (readonly [server: Namespace, clients: Namespace])[] = [];
  const running: ChildProcess[] = [];
  async function apart(start: (ns: Namespace) => Promise<ChildProcess>): Promise<Segment> {
    const [server, clients] = [await createNamespace(), await createNamespace()];
    apartOnes.push([server, clients]);
    await cable({ ns: server, name: 'eth0' }, { ns: clients, name: 'eth0' });
    await server.must(['ip', 'address', 'add', `${SITE.server}/16`, 'dev', 'eth0']);
    running.push(await start(server));
    return openSegment(clients, 'eth0');
  }
  const segments = {
    rackseed: await openSegment(link.ns, 'eth0'),
    Kea: await apart((ns) => startKea(ns, dir, keaConfig())),
    dnsmasq: await apart((ns) => startDnsmasq(ns, dir, ...dnsmasqArgs(dir))),
  };
  return {
    segments,
    async forgetNeighbours() {
      ip('neighbour', 'flush', 'dev', 'lan0');
      for (const [server] of apartOnes) await server.must(['ip', 'neighbour', 'flush', 'dev', 'eth0']);
    },
    async stop() {
      for (const segment of Object.values(segments)) await segment.close();
      for (const child of running) await ended(child);
      await lan.stop();
      for (const ns of apartOnes.flat()) await ns.close();
      await link.close();
      rmSync(dir, { recursive: true });
    },
  };
}

/** Every line that is not Kea's default says what the site is, or takes something off that has nothing to do with answers. */
function keaConfig(): object {
  return {
    'interfaces-config': { interfaces: ['eth0'] },
    'multi-threading': { 'enable-multi-threading': false },
    'valid-lifetime': SITE.leaseSeconds,
    // What rackseed does too: the client gets a shorter lease when it asks for one, and no longer one.
    'min-valid-lifetime': 60,
    'max-valid-lifetime': SITE.leaseSeconds,
    'calculate-tee-times': true,
    subnet4: [{
      id: 1,
      subnet: SITE.subnet,
      pools: [{ pool: SITE.pool.join(' - ') }],
      'option-data': [
        { name: 'routers', data: SITE.router },
        { name: 'domain-name-servers', data: SITE.dns },
        { name: 'domain-name', data: SITE.domain },
        { name: 'ntp-servers', data: SITE.ntp },
        { name: 'interface-mtu', data: String(SITE.mtu) },
        { name: 'broadcast-address', data: '10.77.255.255' },
      ],
      reservations: RESERVATIONS.map(({ mac, ip, name }) => ({ 'hw-address': mac, 'ip-address': ip, hostname: name })),
    }],
    loggers: [{ name: 'kea-dhcp4', severity: 'INFO', output_options: [{ output: 'stdout', flush: true }] }],
  };
}

function dnsmasqArgs(dir: string): string[] {
  const hosts = join(dir, 'hosts');
  writeFileSync(hosts, RESERVATIONS.map(({ mac, ip, name }) => `${mac},${ip},${name}\n`).join(''));
  return [
    '--interface=eth0', `--dhcp-range=${SITE.pool.join(',')},${SITE.mask},12h`, `--dhcp-hostsfile=${hosts}`, '--dhcp-lease-max=20000', `--domain=${SITE.domain}`,
    `--dhcp-option=3,${SITE.router}`, `--dhcp-option=6,${SITE.dns}`, `--dhcp-option=42,${SITE.ntp}`, `--dhcp-option=26,${SITE.mtu}`,
    // The others look for conflicts ahead or not at all; a ping of 3 s is no answer.
    '--no-ping',
  ];
}
