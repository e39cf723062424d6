// DHCP leases: taking one is a single operation whose uniqueness the database enforces.
import { ip4ToNumber, type Ip4, type Mac } from '../addr.ts';
import type { Database } from './db.ts';

export interface Lease {
  readonly ip: Ip4;
  readonly mac: Mac;
  /** The subnet's text form, `10.77.0.0/24`: a machine has at most one lease in each. */
  readonly subnet: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** Set while a machine that was told this address declined it: nobody gets it before then. */
  readonly declinedUntil?: number;
}

export interface LeaseStore {
  /**
   * Takes or renews `ip` for `mac`: durable when the promise resolves. Answers undefined, and changes nothing, when another machine
   * holds it or it is quarantined. An older lease of the same machine in the same subnet ends.
   */
  take(lease: { readonly ip: Ip4; readonly mac: Mac; readonly subnet: string; readonly expiresAt: number }, now: number): Promise<Lease | undefined>;
  /** Ends the lease if this machine holds it: it counts as expired from now on (`expiresAt` 0), but stays the machine's last address. */
  release(ip: Ip4, mac: Mac): Promise<void>;
  /** Quarantines the address until then, whoever held it; from now on it is nobody's, its `mac` reads 00:00:00:00:00:00. */
  decline(ip: Ip4, subnet: string, until: number): Promise<void>;
  /** The machine's lease in the subnet, expired or not: it gets the same address again when that is still free. */
  of(mac: Mac, subnet: string): Promise<Lease | undefined>;
  at(ip: Ip4): Promise<Lease | undefined>;
  /** Every lease and quarantine of a subnet, expired ones too. */
  list(subnet?: string): Promise<readonly Lease[]>;
}

/** `mac` of a quarantined address: nobody holds it. */
const NOBODY: Mac = '00:00:00:00:00:00';

interface LeaseRow {
  readonly ip: Ip4;
  readonly mac: Mac | null;
  readonly subnet: string;
  readonly expires_at: number;
  readonly declined_until: number | null;
}

export function createLeaseStore(db: Database): LeaseStore {
  const at = db.prepare<[string], LeaseRow>('SELECT * FROM leases WHERE ip = ?');
  const of = db.prepare<[string, string], LeaseRow>('SELECT * FROM leases WHERE mac = ? AND subnet = ?');
  const all = db.prepare<[], LeaseRow>('SELECT * FROM leases');
  const ofSubnet = db.prepare<[string], LeaseRow>('SELECT * FROM leases WHERE subnet = ?');
  const taken = db.prepare<{ ip: Ip4; mac: Mac; now: number }, unknown>(
    'SELECT 1 FROM leases WHERE ip = @ip AND ((mac IS NOT @mac AND expires_at > @now) OR declined_until > @now)',
  );
  const dropOthers = db.prepare<{ ip: Ip4; mac: Mac; subnet: string }>('DELETE FROM leases WHERE mac = @mac AND subnet = @subnet AND ip <> @ip');
  const put = db.prepare<{ ip: Ip4; mac: Mac; subnet: string; expiresAt: number }>(
    `INSERT INTO leases (ip, mac, subnet, expires_at) VALUES (@ip, @mac, @subnet, @expiresAt)
     ON CONFLICT (ip) DO UPDATE SET mac = excluded.mac, subnet = excluded.subnet, expires_at = excluded.expires_at, declined_until = NULL`,
  );
  // RFC 2131 4.3.4: the address stays noted for this machine, to be given again; it only counts as expired.
  const expire = db.prepare<[string, string]>('UPDATE leases SET expires_at = 0 WHERE ip = ? AND mac = ?');
  const quarantine = db.prepare<{ ip: Ip4; subnet: string; until: number }>(
    `INSERT INTO leases (ip, mac, subnet, expires_at, declined_until) VALUES (@ip, NULL, @subnet, @until, @until)
     ON CONFLICT (ip) DO UPDATE SET mac = NULL, subnet = excluded.subnet, expires_at = excluded.expires_at, declined_until = excluded.declined_until`,
  );
  return {
    take: ({ ip, mac, subnet, expiresAt }, now) =>
      db.write(() => {
        if (taken.get({ ip, mac, now })) return undefined;
        dropOthers.run({ ip, mac, subnet });
        put.run({ ip, mac, subnet, expiresAt });
        return { ip, mac, subnet, expiresAt };
      }),
    release: (ip, mac) => db.write(() => void expire.run(ip, mac)),
    decline: (ip, subnet, until) => db.write(() => void quarantine.run({ ip, subnet, until })),
    of: async (mac, subnet) => db.read(() => leaseOf(of.get(mac, subnet))),
    at: async (ip) => db.read(() => leaseOf(at.get(ip))),
    list: async (subnet) =>
      db
        .read(() => (subnet === undefined ? all.all() : ofSubnet.all(subnet)))
        .map((row) => leaseOf(row)!)
        .sort((a, b) => ip4ToNumber(a.ip) - ip4ToNumber(b.ip)),
  };
}

function leaseOf(row: LeaseRow | undefined): Lease | undefined {
  return (
    row && {
      ip: row.ip,
      mac: row.mac ?? NOBODY,
      subnet: row.subnet,
      expiresAt: row.expires_at,
      ...(row.declined_until === null ? {} : { declinedUntil: row.declined_until }),
    }
  );
}
