// Events: what an operator may want to know later and no boot's stages tell, such as a second enrolment or a refused report.
import type { Database } from './db.ts';

export interface NewEvent {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** A fixed word, such as `enrol-refused`; what varies stands in `detail`. */
  readonly kind: string;
  readonly node?: string;
  readonly boot?: string;
  readonly detail?: Readonly<Record<string, unknown>>;
}

export interface Event extends NewEvent {
  readonly id: number;
  readonly detail: Readonly<Record<string, unknown>>;
}

export interface EventStore {
  /** Adds an event; the oldest ones beyond `EVENTS_KEPT` go, because what machines do can fill a disk. */
  add(event: NewEvent): Promise<void>;
  /** Newest first. */
  list(filter: { readonly kind?: string; readonly node?: string; readonly boot?: string; readonly limit: number }): Promise<readonly Event[]>;
}

/** The kind of the event that a snapshot took the database's place. */
export const DATABASE_RECOVERED = 'database-recovered';
/** A node is held because it failed too often; an operator released it; said what it does next; its boot-once is used up. */
export const NODE_HELD = 'node-held';
export const NODE_RELEASED = 'node-released';
export const NODE_NEXT = 'node-next';
export const BOOT_ONCE_USED = 'boot-once-used';
/** A file of a loader set is not what was added, so nobody gets it. */
export const LOADER_LEFT_OUT = 'loader-left-out';

/** An edit or reload with faults: the generation before it stays. */
export const RELOAD_REFUSED = 'reload-refused';

export const EVENTS_KEPT = 10_000;

interface EventRow {
  readonly id: number;
  readonly at: number;
  readonly kind: string;
  readonly node: string | null;
  readonly boot: string | null;
  readonly detail: string;
}

export function createEventStore(db: Database): EventStore {
  const insert = db.prepare<{ at: number; kind: string; node: string | null; boot: string | null; detail: string }>(
    'INSERT INTO events (at, kind, node, boot, detail) VALUES (@at, @kind, @node, @boot, @detail)',
  );
  const dropOld = db.prepare<[number | bigint]>('DELETE FROM events WHERE id <= ?');
  const newest = db.prepare<{ kind: string | null; node: string | null; boot: string | null; limit: number }, EventRow>(
    'SELECT * FROM events WHERE (@kind IS NULL OR kind = @kind) AND (@node IS NULL OR node = @node) AND (@boot IS NULL OR boot = @boot) ORDER BY id DESC LIMIT @limit',
  );
  return {
    add: ({ at, kind, node, boot, detail }) =>
      db.write(() => {
        const { lastInsertRowid } = insert.run({ at, kind, node: node ?? null, boot: boot ?? null, detail: JSON.stringify(detail ?? {}) });
        dropOld.run(Number(lastInsertRowid) - EVENTS_KEPT);
      }),
    list: async ({ kind, node, boot, limit }) =>
      db.read(() => newest.all({ kind: kind ?? null, node: node ?? null, boot: boot ?? null, limit })).map((row) => ({
        id: row.id,
        at: row.at,
        kind: row.kind,
        ...(row.node === null ? {} : { node: row.node }),
        ...(row.boot === null ? {} : { boot: row.boot }),
        detail: JSON.parse(row.detail) as Record<string, unknown>,
      })),
  };
}
