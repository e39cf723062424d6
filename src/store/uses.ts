// What the database names of images and blobs: what a daemon hands out now, or may yet. Read beside a running daemon, of any version, without changing anything.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { BootSet, Generation } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import type { Database } from './db.ts';
import { openReadOnly } from './readonly.ts';

/** A boot set that somebody may still boot or read from, and who that is, in words. */
export interface BootSetUse {
  readonly bootSet: BootSet;
  readonly who: string;
}

export interface StateUses {
  readonly bootSets: readonly BootSetUse[];
  /** Each with its name and version. */
  readonly artifacts: readonly { readonly digest: Digest; readonly who: string }[];
}

/** A boot that failed or was given up may belong to a machine that is only slow: what it was told to fetch stays for so long, in milliseconds. */
const RECENT_MS = 24 * 3_600_000;

/**
 * Of the current generation each profile's boot set; of each node what it runs and what it last ran with success; of each boot that is open or
 * started within the last day its own. Nothing where no daemon has run yet; STORE_UNUSABLE when there is a database that cannot be read.
 */
export function readStateUses(stateDir: string, now: number, file = join(stateDir, 'rackseed.db')): StateUses {
  if (!existsSync(file)) return { bootSets: [], artifacts: [] };
  const database = openReadOnly(file);
  try {
    return { bootSets: [...ofGeneration(database), ...ofNodes(database), ...ofBoots(database, now - RECENT_MS)], artifacts: ofArtifacts(database) };
  } catch (error) {
    throw new AppError('STORE_UNUSABLE', `${file}: ${lineOf(error)}`, 'without it nobody knows what is in use; run this with the version of rackseed that the daemon has', error);
  } finally {
    void database.close();
  }
}

function ofGeneration(db: Database): BootSetUse[] {
  const row = db.read(() => db.prepare<[], { content: string | null }>('SELECT content FROM generations ORDER BY seq DESC LIMIT 1').get());
  if (!row?.content) return [];
  const { profiles, bootSets, nodes } = JSON.parse(row.content) as Generation;
  return Object.values(profiles).flatMap(({ name, bootSet }): BootSetUse[] => {
    const found = bootSet === undefined ? undefined : bootSets[bootSet];
    const assigned = Object.values(nodes).filter((node) => node.profile === name).map((node) => node.name).sort();
    return found ? [{ bootSet: found, who: `profile ${name}${assigned.length > 0 ? `, assigned to ${few(assigned)}` : ''}` }] : [];
  });
}

function ofNodes(db: Database): BootSetUse[] {
  const rows = db.read(() =>
    db.prepare<[], { node: string; what: string; content: string }>(
      `SELECT node, 'runs on' AS what, content FROM node_systems JOIN boot_sets ON boot_sets.digest = running
       UNION ALL SELECT node, 'was last good on' AS what, content FROM node_systems JOIN boot_sets ON boot_sets.digest = last_good ORDER BY node, what`,
    ).all(),
  );
  return rows.map(({ node, what, content }) => ({ bootSet: JSON.parse(content) as BootSet, who: `node ${node}, which ${what} it` }));
}

function ofBoots(db: Database, since: number): BootSetUse[] {
  const rows = db.read(() =>
    db.prepare<[number], { node: string; state: string; content: string }>(
      "SELECT node, state, content FROM boots JOIN boot_sets ON boot_sets.digest = boot_set WHERE state = 'open' OR started_at >= ? ORDER BY node, started_at",
    ).all(since),
  );
  return rows.map(({ node, state, content }) => ({ bootSet: JSON.parse(content) as BootSet, who: state === 'open' ? `an open boot of node ${node}` : `a boot of node ${node} within the last day` }));
}

function ofArtifacts(db: Database): StateUses['artifacts'] {
  const rows = db.read(() => db.prepare<[], { digest: Digest; name: string; version: string }>('SELECT digest, name, version FROM artifacts').all());
  return rows.map(({ digest, name, version }) => ({ digest, who: `artifact ${name} ${version}` }));
}

function few(names: readonly string[]): string {
  return names.length <= 4 ? names.join(', ') : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`;
}
