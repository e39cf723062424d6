// The DHCP responder whole, with a real database and a real Booter, and no sockets: a datagram goes in, what was sent comes out.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Ip4, Mac } from '../../src/addr.ts';
import type { Node } from '../../src/boot/node.ts';
import { createBooter, type Booter } from '../../src/booter.ts';
import { createLedger, type Ledger, type LedgerParts } from '../../src/dhcp/ledger.ts';
import { decode, encode, type Packet } from '../../src/dhcp/packet.ts';
import type { Counters } from '../../src/dhcp/counters.ts';
import { createResponder, type LinkWatch } from '../../src/dhcp/responder.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import type { Destination, DhcpPort, Ingress } from '../../src/dhcp/transport.ts';
import { createDiscovered, type Discovered } from '../../src/discovered.ts';
import { createLog } from '../../src/log.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore } from '../../src/store/events.ts';
import { createLeaseStore, type LeaseStore } from '../../src/store/leases.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { generationOf, NOW } from './boot-world.ts';

export interface Sent {
  readonly packet: Packet;
  /** Bytes on the wire. */
  readonly length: number;
  readonly link: string;
  readonly port: DhcpPort;
  readonly to: Destination;
}

export interface Harness {
  /** One datagram in; what was sent because of it. From 0.0.0.0:68 on `lan0`, port 67, unless said otherwise. */
  hear(packet: Packet | Uint8Array, from?: Partial<Ingress>): Promise<readonly Sent[]>;
  readonly counters: Readonly<Counters>;
  readonly ledger: Ledger;
  readonly leases: LeaseStore;
  readonly boots: BootStore;
  readonly booter: Booter;
  readonly discovered: Discovered;
  readonly database: Database;
  log(): string;
  /** Time stands still but for this, in milliseconds. */
  pass(ms: number): void;
  now(): number;
  close(): Promise<void>;
}

export interface HarnessOptions {
  readonly subnets: readonly ServedSubnet[];
  readonly nodes?: readonly Node[];
  readonly watch?: LinkWatch;
  readonly ledger?: Partial<Pick<LedgerParts, 'noNew' | 'cautiousUntil' | 'reserveFor'>>;
  /** Keep only errors of the log: for those who send a million packets. Default debug. */
  readonly logLevel?: 'error';
}

export async function startHarness(options: HarnessOptions): Promise<Harness> {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-responder-'));
  const generation = generationOf(...(options.nodes ?? []));
  let at = NOW;
  const now = () => at;
  let logged = '';
  const log = createLog(options.logLevel ?? 'debug', { write: (line: string) => void (logged += line) });
  const database = openDatabase(join(dir, 'db'));
  const leases = createLeaseStore(database);
  const boots = createBootStore(database);
  const discovered = createDiscovered();
  const booter = createBooter({ generation: () => generation, nodes: createNodeStore(database), leases, boots, events: createEventStore(database), discovered, log, now });
  const ledger = createLedger({ subnets: options.subnets, leases, reserved: (ip: Ip4) => generation.nodeByIp[ip], now, ...options.ledger });
  await ledger.load();
  let sent: Sent[] = [];
  const responder = createResponder({
    subnets: options.subnets,
    httpPort: 8080,
    booter,
    ledger,
    nodeOf: (mac: Mac) => generation.nodes[generation.nodeByMac[mac] ?? ''],
    ...(options.watch ? { watch: options.watch } : {}),
    send: async (link, port, bytes, to) => sent.push({ packet: decode(bytes), length: bytes.length, link, port, to }) > 0,
    log,
    now,
  });
  return {
    async hear(packet, from) {
      const bytes = packet instanceof Uint8Array ? packet : encode(packet);
      if (!(bytes instanceof Uint8Array)) throw new Error(bytes.why);
      sent = [];
      await responder.receive(bytes, { link: 'lan0', port: 67, from: '0.0.0.0', fromPort: 68, ...from });
      return sent;
    },
    counters: responder.counters,
    ledger,
    leases,
    boots,
    booter,
    discovered,
    database,
    log: () => logged,
    pass: (ms) => void (at += ms),
    now,
    async close() {
      await database.close();
      rmSync(dir, { recursive: true });
    },
  };
}
