// The API's routes of DHCP leases: pages of them, what to take over from another server, one to forget.
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { formatSubnet, parseIp4, parseMac, parseSubnet, type Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import type { ForeignLease, Lease, LeasePage, Skipped } from '../store/leases.ts';

/** Leases as people handle them, and whoever keeps them in memory learns of it. */
export interface LeaseAdmin {
  /** Every lease and quarantine, ended ones too, in the order of their addresses. */
  list(subnet?: string, page?: LeasePage): Promise<readonly Lease[]>;
  /** Takes over what lies in a subnet that is served and clashes with nothing; says why not of each other. `dryRun` changes nothing. */
  import(rows: readonly Omit<ForeignLease, 'subnet'>[], dryRun?: boolean): Promise<{ readonly taken: number; readonly skipped: readonly Skipped[] }>;
  /** Forgets the address; false when nothing was known of it. */
  remove(ip: Ip4): Promise<boolean>;
}

/** Leases in one answer or request: the daemon answers machines in between. */
const MOST = 1000;

const ip4 = z.string().refine((text) => parseIp4(text) === text, 'not an IPv4 address');
const time = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const listQuery = z.object({
  subnet: z.string().refine((text) => parseSubnet(text) !== undefined, 'not a subnet, such as 10.77.0.0/24').optional(),
  after: ip4.optional(),
  limit: z.coerce.number().int().min(1).max(MOST).default(MOST),
});
const importBody = z.strictObject({
  leases: z
    .array(
      z.strictObject({
        ip: ip4,
        mac: z.string().refine((text) => parseMac(text) === text, 'not a MAC address of the form 52:54:00:12:34:56').exactOptional(),
        expiresAt: time,
        startedAt: time.exactOptional(),
        hostname: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'not a host name').exactOptional(),
        clientId: z.string().regex(/^([0-9a-f]{2}){1,255}$/, 'not pairs of hex digits').exactOptional(),
      }),
    )
    .max(MOST),
  dryRun: z.boolean().default(false),
});

export function leaseRoutes(app: FastifyInstance, leases: LeaseAdmin): void {
  app.get('/api/leases', async (request) => {
    const { subnet, after, limit } = understood(listQuery, request.query);
    const asked = subnet === undefined ? undefined : formatSubnet(parseSubnet(subnet)!);
    return { leases: await leases.list(asked, { limit, ...(after === undefined ? {} : { after }) }) };
  });

  app.post('/api/leases/import', { bodyLimit: 4 * 1024 * 1024 }, async (request) => {
    const { leases: rows, dryRun } = understood(importBody, request.body);
    return leases.import(rows, dryRun);
  });

  app.delete<{ Params: { ip: string } }>('/api/leases/:ip', async (request) => {
    const ip = parseIp4(request.params.ip);
    if (!ip || !(await leases.remove(ip))) throw new AppError('LEASE_UNKNOWN', `nothing is known of ${request.params.ip.slice(0, 40)}`, 'list them: rackseed lease list');
    return { removed: ip };
  });
}

function understood<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  throw new AppError('REQUEST_INVALID', `${path.map(String).join('.') || 'the request'}: ${message}`);
}
