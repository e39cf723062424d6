// The state of the daemon: the database, recovered if it must be, with its stores, snapshots and the removal of old boots.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import type { Log } from '../log.ts';
import { createArtifactStore, type ArtifactStore } from '../store/artifacts.ts';
import { createBootStore, type BootStore } from '../store/boots.ts';
import { openDatabase, type Database } from '../store/db.ts';
import { createEventStore, DATABASE_RECOVERED, type EventStore } from '../store/events.ts';
import { createLeaseStore, type LeaseStore } from '../store/leases.ts';
import { createNodeStore, type NodeStore } from '../store/nodes.ts';
import { RESERVE_BYTES } from '../store/reserve.ts';
import { startSnapshots } from '../store/snapshots.ts';

/** Boots of each node that are kept, with their stages and tails of output. */
const BOOTS_KEPT = 50;
const HOUR_MS = 3600_000;
const SNAPSHOTS_KEPT = 24;

export interface State {
  readonly database: Database;
  readonly nodes: NodeStore;
  readonly leases: LeaseStore;
  readonly boots: BootStore;
  readonly events: EventStore;
  readonly artifacts: ArtifactStore;
}

/** STORE_UNUSABLE when there can be no database in the directory. */
export function openState(stateDir: string, log: Log, now: () => number, stops: (() => unknown)[]): State {
  const snapshots = join(stateDir, 'snapshots');
  const database = openDatabase(join(stateDir, 'rackseed.db'), {
    recoverFrom: snapshots,
    reserveBytes: RESERVE_BYTES,
    // The next start finds it damaged, puts it aside and goes on with the newest snapshot.
    onCorrupt: (error) => {
      log.fatal({ err: error }, 'the database is damaged: rackseed stops, and recovers when it is started again');
      // A supervisor that restarts what failed must see a failure.
      process.exitCode = error.exit;
      process.kill(process.pid, 'SIGTERM');
    },
  });
  stops.push(() => database.close());
  const events = createEventStore(database);
  const { recovered } = database;
  if (recovered) {
    log.error({ ...recovered }, recovered.from ? 'the database was damaged: it was put aside, and the newest good snapshot taken' : 'the database was damaged: it was put aside, and there is no good snapshot: it starts empty');
    void events.add({ at: now(), kind: DATABASE_RECOVERED, detail: { ...recovered } }).catch((error: unknown) => log.error({ err: error }, 'event not recorded'));
  }
  const taking = startSnapshots(database, {
    dir: snapshots,
    everyMs: HOUR_MS,
    keep: SNAPSHOTS_KEPT,
    now,
    onFailure: (error) => log.error({ err: error }, 'no snapshot of the database'),
  });
  stops.push(() => taking.stop());

  const boots = createBootStore(database);
  const prune = (): void => void boots.prune(BOOTS_KEPT).catch((error: unknown) => log.error({ err: error }, 'old boots not removed'));
  const pruning = setInterval(prune, HOUR_MS).unref();
  stops.push(() => clearInterval(pruning));
  prune();
  return { database, nodes: createNodeStore(database), leases: createLeaseStore(database), boots, events, artifacts: createArtifactStore(database) };
}

/** STORE_UNUSABLE when it cannot be. */
export function makeStateDir(stateDir: string): void {
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o750 });
  } catch (error) {
    throw new AppError('STORE_UNUSABLE', `${stateDir}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be made'}`, 'set stateDir in rackseed.yaml to a directory that this user may write', error);
  }
}
