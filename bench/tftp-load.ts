// What the TFTP servers are asked with: our own client (tftp-client.c), a blaster that shows the client's limit, loss by nft, and a relay that delays.
import { join } from 'node:path';
import { dieWithUs, stop } from '../src/lab/child.ts';
import { writePattern } from './pattern.ts';
import { NET, type Site } from './site.ts';

const MIB = 2 ** 20;

/** The files on offer, under names that rackseed hands out too; the same directory for every server. */
export const FILES = { small: 'undionly.kpxe', big: 'snponly.efi' } as const;
export const SMALL_BYTES = MIB;
/** At 512 bytes a block it has more than 65,535 of them. */
export const BIG_BYTES = 32 * MIB;
/** For the blaster, which numbers no block twice. */
const CEILING_FILE = 'ceiling';

export const filesDir = (site: Site): string => join(site.dir, 'files');

export function writeFiles(site: Site): void {
  for (const [name, bytes] of [[FILES.small, SMALL_BYTES], [FILES.big, BIG_BYTES], [CEILING_FILE, BIG_BYTES / 2]] as const) writePattern(join(filesDir(site), name), bytes, name);
}

export interface Download {
  readonly file: 'small' | 'big' | 'ceiling';
  readonly clients: number;
  readonly blksize: number;
  readonly windowsize: number;
  /** Over and over until `seconds` after the warm-up are over; else each client once, for at most so many seconds. */
  readonly again?: boolean;
  readonly seconds: number;
  readonly warmup?: number;
  /** After so many seconds without anything new a client asks again; default 5, as curl, tftp-hpa and atftp. */
  readonly timeout?: number;
  /** How many microseconds a client that waits goes on polling before it sleeps. */
  readonly spin?: number;
  /** The server's process, whose CPU time is taken. */
  readonly watch?: number;
  /** Where the clients send to; default the server. */
  readonly server?: string;
}

/** As tftp-client.c prints it. */
export interface Downloaded {
  readonly clients: number;
  /** As granted: 512 and 1 where the server granted nothing. */
  readonly blksize: number;
  readonly windowsize: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly bytesPerSecond: number;
  readonly finished: number;
  readonly unfinished: number;
  readonly failures: number;
  /** Of all downloads that were begun; -1 when that one did not finish. */
  readonly p50Seconds: number;
  readonly maxSeconds: number;
  readonly resends: number;
  readonly duplicates: number;
  readonly gaps: number;
  readonly strays: number;
  readonly acks: number;
  /** Of the watched server with its threads and children. */
  readonly cpuSeconds: number;
  readonly ownCpuSeconds: number;
  /** The first failure, or empty. */
  readonly error: string;
}

export async function download(site: Site, load: Download): Promise<Downloaded> {
  const { file, clients, again, server, ...words } = load;
  const name = file === 'ceiling' ? CEILING_FILE : FILES[file];
  const argv = [join(site.dir, 'tftp-client'), '--server', server ?? NET.server, '--local', NET.poolFrom, '--file', name, '--expect', join(filesDir(site), name), '--count', String(clients)];
  for (const [word, value] of Object.entries(words)) argv.push(`--${word}`, String(value));
  return JSON.parse(await site.run([...argv, ...(again ? ['--again'] : [])])) as Downloaded;
}

/** Bytes a second that the client takes from a server that does nothing but send; unwatched, so that only the client's work counts. */
export async function ceiling(site: Site, load: Pick<Download, 'clients' | 'blksize' | 'windowsize' | 'seconds' | 'spin'>): Promise<number> {
  const argv = [join(site.dir, 'tftp-blaster'), NET.server, join(filesDir(site), CEILING_FILE), String(load.blksize), String(load.windowsize)];
  const child = site.servers.spawn(dieWithUs(argv), { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    await download(site, { ...load, file: 'ceiling', clients: 1, seconds: 30, timeout: 0.02 });
    return (await download(site, { ...load, file: 'ceiling', again: true, warmup: 0.2 })).bytesPerSecond;
  } finally {
    await stop(child);
  }
}

/**
 * While `use` runs, one packet in `oneIn` is lost each way, at the receiving end; requests to port 69 are spared, for their timer is the client's.
 * Bursts are cut into packets before the cable meanwhile: nft counts what one send handed over (UDP GSO) as one packet, and would lose it whole.
 */
export async function withLoss<T>(site: Site, oneIn: number, use: () => Promise<T>): Promise<T> {
  const namespaces = [site.servers, site.machines];
  return withoutOffload(site, async () => {
    for (const ns of namespaces) {
      await ns.must(['nft', 'add', 'table', 'ip', 'loss']);
      await ns.must(['nft', 'add', 'chain', 'ip', 'loss', 'input', '{ type filter hook input priority 0; }']);
      await ns.must(['nft', 'add', 'rule', 'ip', 'loss', 'input', `udp dport != 69 numgen random mod ${oneIn} < 1 drop`]);
    }
    try {
      return await use();
    } finally {
      for (const ns of namespaces) await ns.must(['nft', 'delete', 'table', 'ip', 'loss']);
    }
  });
}

const GSO_MAX_SEGS = 65535;

/** While `use` runs, the server's card cuts no bursts: its kernel does so first, and sends each packet by itself. */
export async function withoutOffload<T>(site: Site, use: () => Promise<T>): Promise<T> {
  const set = (segments: number) => site.servers.must(['ip', 'link', 'set', 'dev', NET.card, 'gso_max_segs', String(segments)]);
  await set(1);
  try {
    return await use();
  } finally {
    await set(GSO_MAX_SEGS);
  }
}

/** While `use` runs, machines that ask the address it is given reach the server, each packet `oneWayMs` later. */
export async function withDelay<T>(site: Site, oneWayMs: number, use: (server: string) => Promise<T>): Promise<T> {
  const child = site.machines.spawn(dieWithUs([join(site.dir, 'udp-delay'), NET.theirs, NET.server, '69', String(oneWayMs)]), { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    return await use(NET.theirs);
  } finally {
    await stop(child);
  }
}
