// DHCP leases: taking one is a single operation whose uniqueness the database enforces.
import { ip4FromNumber, ip4ToNumber, type Ip4, type Mac } from '../addr.ts';
import type { Database } from './db.ts';

export interface Lease {
  readonly ip: Ip4;
  /** The card that took it; `00:00:00:00:00:00` while nobody has it (quarantine). */
  readonly mac: Mac;
  /** A node's name, or the MAC of a machine that is no node; it has at most one lease in each subnet. As `mac` while nobody has it. */
  readonly holder: string;
  /** The subnet's text form, `10.77.0.0/24`. */
  readonly subnet: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** Since when this holder has it without a break; absent when that is not known. */
  readonly startedAt?: number;
  /** Set while a machine that was told this address declined it: nobody gets it before then. */
  readonly declinedUntil?: number;
  readonly hostname?: string;
  /** Option 61, lower-case hex. */
  readonly clientId?: string;
}

export interface WantedLease {
  readonly ip: Ip4;
  readonly mac: Mac;
  /** Default: the MAC. */
  readonly holder?: string;
  readonly subnet: string;
  readonly expiresAt: number;
  /** False: only the card that has it may renew a holder's running lease. Default true: another card of the holder takes it over. */
  readonly takeOver?: boolean;
  /** Absent: what the holder said when it took the lease stays. */
  readonly hostname?: string;
  readonly clientId?: string;
}

/** A lease that another server gave; or a quarantine, which has no `mac`. */
export interface ForeignLease extends Omit<WantedLease, 'mac' | 'takeOver'> {
  readonly mac?: Mac;
  readonly startedAt?: number;
}

export interface Skipped {
  readonly ip: Ip4;
  readonly why: string;
}

export interface LeaseStore {
  /**
   * Takes or renews `ip` for the holder: durable when the promise resolves. Answers undefined, and changes nothing, when another one
   * holds it (neither holder nor MAC are the same, and it has not expired) or it is quarantined. An older lease of the same holder in the same subnet ends.
   */
  take(lease: WantedLease, now: number): Promise<Lease | undefined>;
  /** Ends the lease if this card holds it: it counts as expired from now on (`expiresAt` 0), but stays the machine's last address. */
  release(ip: Ip4, mac: Mac): Promise<void>;
  /** Quarantines the address until then, whoever held it; from now on it is nobody's. */
  decline(ip: Ip4, subnet: string, until: number): Promise<void>;
  /** The holder's lease in the subnet, expired or not: it gets the same address again when that is still free. */
  of(holder: string, subnet: string): Promise<Lease | undefined>;
  at(ip: Ip4): Promise<Lease | undefined>;
  /** Every lease and quarantine, of one subnet or all, expired ones too, in the order of their addresses. */
  list(subnet?: string, page?: LeasePage): Promise<readonly Lease[]>;
  /**
   * Puts in leases of another server: those that clash with what is here are answered with the reason, all others are taken. Durable when
   * it resolves; when it rejects some may be in, and doing it again is safe. `dryRun`: only says what would happen.
   */
  put(leases: readonly ForeignLease[], now: number, dryRun?: boolean): Promise<{ readonly taken: readonly Lease[]; readonly skipped: readonly Skipped[] }>;
  /** Forgets the address: lease, last holder, quarantine. False when nothing was known of it. */
  remove(ip: Ip4): Promise<boolean>;
}

export interface LeasePage {
  /** The last address of the page before. */
  readonly after?: Ip4;
  readonly limit: number;
}

/** `mac` and `holder` of a quarantined address: nobody holds it. */
export const NOBODY: Mac = '00:00:00:00:00:00';

/** Rows of a `put` that share a transaction: machines that boot meanwhile wait for so many at most. */
const PUT_TOGETHER = 500;

interface LeaseRow {
  readonly ip: number;
  readonly mac: Mac | null;
  readonly holder: string | null;
  readonly subnet: string;
  readonly expires_at: number;
  readonly declined_until: number | null;
  readonly hostname: string | null;
  readonly client_id: string | null;
  readonly started_at: number | null;
}
type Values = readonly [ip: number, mac: Mac | null, holder: string | null, subnet: string | null, expiresAt: number, declinedUntil: number | null, hostname: string | null, clientId: string | null, startedAt: number | null];
interface ListQuery {
  readonly subnet: string;
  readonly after: number;
  readonly limit: number;
}

export function createLeaseStore(db: Database): LeaseStore {
  const at = db.prepare<[number], LeaseRow>('SELECT * FROM leases WHERE ip = ?');
  const of = db.prepare<[string, string], LeaseRow>('SELECT * FROM leases WHERE holder = ? AND subnet = ?');
  // Read once at start and by people's tools: an index on the subnet would cost each write more than these scans.
  // A text that the reader has already is not read again: making strings is what a long list costs.
  const listed = 'ip, mac, CASE WHEN holder <> mac THEN holder END, CASE WHEN subnet <> @subnet THEN subnet END, expires_at, declined_until, hostname, client_id, started_at';
  const all = db.prepare<ListQuery, Values>(`SELECT ${listed} FROM leases WHERE ip > @after ORDER BY ip LIMIT @limit`).raw();
  const ofSubnet = db.prepare<ListQuery, Values>(`SELECT ${listed} FROM leases WHERE subnet = @subnet AND ip > @after ORDER BY ip LIMIT @limit`).raw();
  const renew = db.prepare<[Mac, number, string | null, string | null, number | null, number]>('UPDATE leases SET mac = ?, expires_at = ?, hostname = ?, client_id = ?, started_at = ? WHERE ip = ?');
  // REPLACE also removes the holder's older lease in the subnet: the table's second rule.
  const replace = db.prepare<[...Values]>('INSERT OR REPLACE INTO leases (ip, mac, holder, subnet, expires_at, declined_until, hostname, client_id, started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
  const dropOf = db.prepare<[string, string]>('DELETE FROM leases WHERE holder = ? AND subnet = ?');
  // RFC 2131 4.3.4: the address stays noted for this machine, to be given again; it only counts as expired.
  const expire = db.prepare<[number, string]>('UPDATE leases SET expires_at = 0 WHERE ip = ? AND mac = ?');
  const remove = db.prepare<[number]>('DELETE FROM leases WHERE ip = ?');

  /** Two cards of a running machine may ask in one batch: what the server saw in memory before it does not settle that. */
  function anotherCardHas(holder: string, subnet: string, mac: Mac, now: number): boolean {
    const row = of.get(holder, subnet);
    return row !== undefined && row.expires_at > now && row.mac !== mac;
  }

  function take({ ip, mac, holder = mac, subnet, expiresAt, takeOver = true, hostname, clientId }: WantedLease, now: number): Lease | undefined {
    const n = ip4ToNumber(ip);
    const row = at.get(n);
    if (row && obstacle(row, holder, mac, now)) return undefined;
    if (!takeOver && holder !== mac && anotherCardHas(holder, subnet, mac, now)) return undefined;
    const own = row && (row.holder === holder || row.mac === mac) ? row : undefined;
    const name = hostname ?? own?.hostname ?? null;
    const id = clientId ?? own?.client_id ?? null;
    const startedAt = own?.started_at != null && own.expires_at > now ? own.started_at : now;
    if (own && own.holder === holder && own.subnet === subnet) renew.run(mac, expiresAt, name, id, startedAt, n);
    else {
      // A machine that became a node holds its older lease under its MAC still.
      if (holder !== mac) dropOf.run(mac, subnet);
      replace.run(n, mac, holder, subnet, expiresAt, null, name, id, startedAt);
    }
    return { ip, mac, holder, subnet, expiresAt, startedAt, ...(name === null ? {} : { hostname: name }), ...(id === null ? {} : { clientId: id }) };
  }

  function putOne(lease: ForeignLease, now: number, dryRun: boolean): Lease | { readonly why: string } {
    const { ip, mac, holder = mac, subnet, expiresAt, startedAt } = lease;
    const n = ip4ToNumber(ip);
    const row = at.get(n);
    if (expiresAt <= now) return { why: 'has ended' };
    if (mac === undefined || holder === undefined) {
      const wrong = row && obstacle(row, NOBODY, NOBODY, now);
      if (wrong) return { why: wrong };
      const values: Values = [n, null, null, subnet, expiresAt, expiresAt, null, null, null];
      if (!dryRun) replace.run(...values);
      return leaseOf(values, subnet);
    }
    const wrong = row && obstacle(row, holder, mac, now);
    if (wrong) return { why: wrong };
    if (row && row.expires_at >= expiresAt && row.holder === holder) return { why: 'is known already' };
    const elsewhere = [holder, mac].map((one) => of.get(one, subnet)).find((other) => other && other.ip !== n && other.expires_at > now);
    if (elsewhere) return { why: `${holder} holds ${ip4FromNumber(elsewhere.ip)} already` };
    const values: Values = [n, mac, holder, subnet, expiresAt, null, lease.hostname ?? null, lease.clientId ?? null, startedAt ?? null];
    if (!dryRun) {
      if (holder !== mac) dropOf.run(mac, subnet);
      replace.run(...values);
    }
    return leaseOf(values, subnet);
  }

  return {
    take: (lease, now) => db.write(() => take(lease, now), { patient: true }),
    release: (ip, mac) => db.write(() => void expire.run(ip4ToNumber(ip), mac)),
    decline: (ip, subnet, until) => db.write(() => void replace.run(ip4ToNumber(ip), null, null, subnet, until, until, null, null, null)),
    of: async (holder, subnet) => {
      const row = db.read(() => of.get(holder, subnet));
      return row && leaseOf(valuesOf(row), row.subnet);
    },
    at: async (ip) => {
      const row = db.read(() => at.get(ip4ToNumber(ip)));
      return row && leaseOf(valuesOf(row), row.subnet);
    },
    list: async (subnet, page) => {
      const query = { subnet: subnet ?? '', after: page?.after === undefined ? -1 : ip4ToNumber(page.after), limit: page?.limit ?? -1 };
      return db.read(() => {
        const leases: Lease[] = [];
        const rows = (subnet === undefined ? all : ofSubnet).iterate(query);
        for (const row of rows) leases.push(leaseOf(row, query.subnet));
        return leases;
      });
    },
    async put(leases, now, dryRun = false) {
      const taken: Lease[] = [];
      const skipped: Skipped[] = [];
      for (let start = 0; start < leases.length; start += PUT_TOGETHER) {
        const some = leases.slice(start, start + PUT_TOGETHER);
        const judge = () => some.map((lease) => putOne(lease, now, dryRun));
        const answers = dryRun ? db.read(judge) : await db.write(judge);
        for (const [i, answer] of answers.entries()) {
          if ('why' in answer) skipped.push({ ip: some[i]!.ip, why: answer.why });
          else taken.push(answer);
        }
      }
      return { taken, skipped };
    },
    remove: (ip) => db.write(() => remove.run(ip4ToNumber(ip)).changes > 0),
  };
}

/** Why somebody else cannot have the address; undefined when it can be taken. */
function obstacle(row: LeaseRow, holder: string, mac: Mac, now: number): string | undefined {
  if (row.declined_until !== null && row.declined_until > now) return 'is in quarantine';
  if (row.expires_at > now && row.holder !== holder && row.mac !== mac) return `is leased to ${row.holder ?? 'nobody'}`;
  return undefined;
}

function valuesOf(row: LeaseRow): Values {
  return [row.ip, row.mac, row.holder, row.subnet, row.expires_at, row.declined_until, row.hostname, row.client_id, row.started_at];
}

/** Without spreads: a daemon that starts makes a hundred thousand of these before it answers anybody. */
function leaseOf(row: Values, subnet: string): Lease {
  const mac = row[1] ?? NOBODY;
  const lease: { -readonly [K in keyof Lease]: Lease[K] } = { ip: ip4FromNumber(row[0]), mac, holder: row[2] ?? mac, subnet: row[3] ?? subnet, expiresAt: row[4] };
  if (row[5] !== null) lease.declinedUntil = row[5];
  if (row[6] !== null) lease.hostname = row[6];
  if (row[7] !== null) lease.clientId = row[7];
  if (row[8] !== null) lease.startedAt = row[8];
  return lease;
}
