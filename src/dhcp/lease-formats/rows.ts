// Leases as files of DHCP servers tell them: what is read from any of them, and the words that readers share.
import type { Ip4, Mac } from '../../addr.ts';
import type { Fault } from '../../errors.ts';
import { hostLabel } from '../names.ts';

export interface LeaseRow {
  readonly ip: Ip4;
  /** Absent: the address is out of use until `expiresAt`, because a machine found it taken. */
  readonly mac?: Mac;
  /** Milliseconds since 1970; `FOREVER` for a lease without an end. */
  readonly expiresAt: number;
  /** Since when, where the file tells it. */
  readonly startedAt?: number;
  /** One harmless label. */
  readonly hostname?: string;
  /** Option 61, lower-case hex. */
  readonly clientId?: string;
}

export interface ParsedLeases {
  /** At most one an address: the last entry wins. Ended ones too. */
  readonly rows: readonly LeaseRow[];
  /** Entries that say an address is free, are of IPv6, or of a card that is no Ethernet. */
  readonly ignored: number;
  readonly faults: readonly Fault[];
}

/** The last second that four digits of a year can name. */
export const FOREVER = Date.UTC(9999, 11, 31, 23, 59, 59);

/** What a reader of one file fills; faults are in the order in which they were found. */
export interface RowSink {
  put(row: LeaseRow): void;
  /** The address has no lease; what was said of it before counts no more. */
  free(ip: Ip4): void;
  ignore(): void;
  fault(line: number, column: number, message: string, hint?: string): void;
  done(): ParsedLeases;
}

/** Faults that are kept: a file of another kind has one in each line. */
const MOST_FAULTS = 20;

export function rowSink(file: string): RowSink {
  const rows = new Map<Ip4, LeaseRow | undefined>();
  const faults: Fault[] = [];
  let ignored = 0;
  return {
    put: (row) => void rows.set(row.ip, row),
    free: (ip) => void rows.set(ip, undefined),
    ignore: () => void ignored++,
    fault(line, column, message, hint) {
      if (faults.length < MOST_FAULTS) faults.push({ file, line, column, message, ...(hint ? { hint } : {}) });
    },
    done() {
      const live = [...rows.values()].filter((row) => row !== undefined);
      return { rows: live, ignored: ignored + rows.size - live.length, faults };
    },
  };
}

export function leaseRow(ip: Ip4, mac: Mac | undefined, expiresAt: number, more: { readonly hostname?: string | undefined; readonly clientId?: string | undefined; readonly startedAt?: number | undefined } = {}): LeaseRow {
  const hostname = more.hostname ? hostLabel(more.hostname) : undefined;
  return {
    ip,
    ...(mac === undefined ? {} : { mac }),
    expiresAt: Math.min(expiresAt, FOREVER),
    ...(more.startedAt === undefined ? {} : { startedAt: more.startedAt }),
    ...(hostname === undefined ? {} : { hostname }),
    ...(more.clientId ? { clientId: more.clientId } : {}),
  };
}

/** `01:52:54:…` as `015254…`; undefined for what is no such list. */
export function hexOfColons(text: string): string | undefined {
  return /^[0-9a-f]{1,2}(:[0-9a-f]{1,2})*$/i.test(text) ? text.split(':').map((pair) => pair.padStart(2, '0')).join('').toLowerCase() : undefined;
}

export function colonsOfHex(hex: string): string {
  return hex.match(/../g)?.join(':') ?? '';
}

