// `rackseed lease list|export|import|remove`: leases of the running daemon, and those of another server for who moves over.
import { readFileSync } from 'node:fs';
import { readLeases, writeLeases, type LeaseFormat } from '../dhcp/lease-formats/formats.ts';
import { FOREVER, type LeaseRow } from '../dhcp/lease-formats/rows.ts';
import { AppError, FaultsError, lineOf } from '../errors.ts';
import type { Lease, Skipped } from '../store/leases.ts';
import { createClient, type Client, type ClientOptions } from './client.ts';
import { duration, render, type Column, type Format } from './output.ts';

/** What one request asks for or brings: the daemon answers machines in between. */
const PAGE = 1000;
/** Longest quarantine that is believed, in milliseconds: some servers give up an address for ever. */
const QUARANTINE_MS = 24 * 3600_000;


function stateOf(lease: Lease, now: number): string {
  if (lease.declinedUntil !== undefined) return lease.declinedUntil > now ? 'quarantine' : 'free';
  if (lease.expiresAt > now) return 'active';
  return lease.expiresAt === 0 ? 'released' : 'expired';
}

const columns = (now: number): readonly Column<Lease>[] => [
  { title: 'IP', of: (lease) => lease.ip },
  { title: 'STATE', of: (lease) => stateOf(lease, now) },
  { title: 'HOLDER', of: (lease) => (lease.declinedUntil === undefined ? lease.holder : undefined) },
  { title: 'MAC', of: (lease) => (lease.declinedUntil === undefined ? lease.mac : undefined) },
  { title: 'HOSTNAME', of: (lease) => lease.hostname },
  { title: 'ENDS IN', of: (lease) => (lease.expiresAt >= FOREVER ? 'never' : lease.expiresAt > now ? duration(lease.expiresAt - now) : undefined) },
  { title: 'SUBNET', of: (lease) => lease.subnet, wide: true },
  { title: 'SINCE', of: (lease) => lease.startedAt && new Date(lease.startedAt).toISOString().slice(0, 19), wide: true },
  { title: 'CLIENT ID', of: (lease) => lease.clientId, wide: true },
];

export async function leaseList(options: ClientOptions & { readonly subnet?: string; readonly output: Format }): Promise<string> {
  const leases = await allLeases(createClient(options), options.subnet);
  return render(options.output, { leases }, leases, columns(Date.now()));
}

/** What holds now: active leases and quarantines. */
export async function leaseExport(options: ClientOptions & { readonly subnet?: string; readonly format: LeaseFormat }): Promise<string> {
  const now = Date.now();
  const leases = (await allLeases(createClient(options), options.subnet)).filter((lease) => lease.expiresAt > now);
  // Kea numbers its subnets; in the order of their addresses is as good as any, and is what the file's new owner must know.
  const subnets = [...new Set(leases.map((lease) => lease.subnet))];
  const subnetOf = new Map(leases.map((lease) => [lease.ip, subnets.indexOf(lease.subnet) + 1]));
  return writeLeases(options.format, leases.map(rowOf), now, (row) => subnetOf.get(row.ip) ?? 1);
}

export async function leaseImport(file: string, options: ClientOptions & { readonly format: LeaseFormat | 'auto'; readonly dryRun?: boolean }): Promise<string> {
  const { rows, ignored, faults } = readLeases(readText(file), file, options.format);
  if (faults.length > 0) throw new FaultsError('LEASES_INVALID', faults, 'nothing was imported');
  const now = Date.now();
  // A card's newest lease first: it is the one that a second lease in the same subnet loses to.
  const live = rows
    .filter((row) => row.expiresAt > now)
    .map((row) => (row.mac === undefined ? { ...row, expiresAt: Math.min(row.expiresAt, now + QUARANTINE_MS) } : row))
    .sort((a, b) => b.expiresAt - a.expiresAt);
  const client = createClient(options);
  const total = { taken: 0, skipped: [] as Skipped[] };
  for (let start = 0; start < live.length; start += PAGE) {
    const answer = await client.post<{ taken: number; skipped: Skipped[] }>('/api/leases/import', { leases: live.slice(start, start + PAGE), dryRun: options.dryRun ?? false });
    total.taken += answer.taken;
    total.skipped.push(...answer.skipped);
  }
  const verb = options.dryRun ? 'would be imported' : 'imported';
  const counts = [`${total.taken} ${verb}`, `${total.skipped.length} skipped`, `${rows.length - live.length} ended already`, `${ignored} free or of no use`];
  return `${total.skipped.map(({ ip, why }) => `skipped ${ip}: ${why}\n`).join('')}${counts.join(', ')}\n`;
}

export async function leaseRemove(ip: string, options: ClientOptions): Promise<string> {
  await createClient(options).delete(`/api/leases/${encodeURIComponent(ip)}`);
  return `${ip} is forgotten\n`;
}

async function allLeases(client: Client, subnet: string | undefined): Promise<Lease[]> {
  const leases: Lease[] = [];
  for (;;) {
    const after = leases.at(-1)?.ip;
    const query = new URLSearchParams({ limit: String(PAGE), ...(subnet === undefined ? {} : { subnet }), ...(after === undefined ? {} : { after }) });
    const page = (await client.get<{ leases: Lease[] }>(`/api/leases?${query.toString()}`)).leases;
    leases.push(...page);
    if (page.length < PAGE) return leases;
  }
}

function rowOf({ ip, mac, expiresAt, startedAt, declinedUntil, hostname, clientId }: Lease): LeaseRow {
  return declinedUntil !== undefined
    ? { ip, expiresAt: declinedUntil }
    : { ip, mac, expiresAt, ...(startedAt === undefined ? {} : { startedAt }), ...(hostname === undefined ? {} : { hostname }), ...(clientId === undefined ? {} : { clientId }) };
}

function readText(file: string): string {
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new AppError('LEASES_INVALID', `${file}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, 'check the path', error);
  }
}
