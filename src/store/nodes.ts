// Nodes as the database knows them: the mapping MAC -> profile with its history, and what was seen of each machine.
import type { Mac } from '../addr.ts';
import type { Generation } from '../boot/profile.ts';
import type { Arch } from '../boot/request.ts';
import { canonicalJson, type Digest } from '../digest.ts';
import { diffGenerations, type GenerationChanges } from '../generation-diff.ts';
import type { Database } from './db.ts';

export interface Assignment {
  readonly node: string;
  readonly mac: Mac;
  /** null: the mapping ended. */
  readonly profile: string | null;
  /** `yaml`, or who asked through the API. */
  readonly who: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly generation: Digest;
}

/** A generation as it became current. */
export interface PastGeneration {
  readonly id: Digest;
  readonly who: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Against the one before it; absent when an older rackseed wrote it. */
  readonly changes?: GenerationChanges;
}

/** Generations that are kept by what they changed. */
export const GENERATIONS_KEPT = 10_000;

export interface Seen {
  readonly uuid?: string;
  readonly serial?: string;
  /** Of its DISCOVER as it started. */
  readonly vendorClass?: string;
  readonly arch?: Arch;
  /** SMBIOS. */
  readonly manufacturer?: string;
  readonly product?: string;
  readonly at: number;
}

export interface NodeStore {
  /**
   * Writes the mapping of a generation in one transaction: what changed against the mapping before becomes history rows.
   * Answers the rows that it wrote. `source` is the digest of the YAML that the generation was compiled from.
   */
  assign(generation: Generation, who: string, at: number, source?: Digest): Promise<readonly Assignment[]>;
  /** Newest first. */
  history(node: string): Promise<readonly Assignment[]>;
  /** What was seen once stays known when a later sighting lacks it. */
  see(node: string, seen: Seen): Promise<void>;
  /** `at` is the last time. */
  seen(node: string): Promise<(Seen & { readonly firstAt: number }) | undefined>;
  /** The generation that was assigned last, and since when: assigning the same one again does not move `at`. */
  generation(): Promise<{ readonly id: Digest; readonly at: number } | undefined>;
  /** Newest first; all that are kept without a limit. */
  generations(limit?: number): Promise<readonly PastGeneration[]>;
  /** Its content and source: what a daemon goes on with when it starts and finds the YAML broken or unchanged. */
  lastGeneration(): Promise<{ readonly generation: Generation; readonly source?: Digest } | undefined>;
}

interface SightingRow {
  readonly uuid: string | null;
  readonly serial: string | null;
  readonly vendor_class: string | null;
  readonly arch: Arch | null;
  readonly manufacturer: string | null;
  readonly product: string | null;
  readonly first_at: number;
  readonly last_at: number;
}

/** Columns of what machines said of themselves. */
const SIGHTED = ['uuid', 'serial', 'vendor_class', 'arch', 'manufacturer', 'product'] as const;

export function createNodeStore(db: Database): NodeStore {
  const current = db.prepare<[], { mac: Mac; node: string; profile: string }>('SELECT mac, node, profile FROM node_macs JOIN nodes ON nodes.name = node_macs.node');
  const clear = db.prepare<[]>('DELETE FROM nodes');
  const putNode = db.prepare<[string, string, string]>('INSERT INTO nodes (name, profile, source) VALUES (?, ?, ?)');
  const putMac = db.prepare<[string, string]>('INSERT INTO node_macs (mac, node) VALUES (?, ?)');
  const putAssignment = db.prepare<Assignment>('INSERT INTO assignments (node, mac, profile, who, at, generation) VALUES (@node, @mac, @profile, @who, @at, @generation)');
  const assignmentsOf = db.prepare<[string], Assignment>('SELECT node, mac, profile, who, at, generation FROM assignments WHERE node = ? ORDER BY seq DESC');
  const lastGeneration = db.prepare<[], { id: Digest; at: number }>('SELECT id, at FROM generations ORDER BY seq DESC LIMIT 1');
  const lastContent = db.prepare<[], { content: string | null; source: Digest | null }>('SELECT content, source FROM generations ORDER BY seq DESC LIMIT 1');
  const moveSource = db.prepare<[string | null]>('UPDATE generations SET source = ? WHERE seq = (SELECT MAX(seq) FROM generations)');
  const dropContents = db.prepare<[]>('UPDATE generations SET content = NULL WHERE content IS NOT NULL');
  const putGeneration = db.prepare<[string, string, number, string, string | null, string]>('INSERT INTO generations (id, who, at, content, source, changes) VALUES (?, ?, ?, ?, ?, ?)');
  const dropOld = db.prepare<[number]>('DELETE FROM generations WHERE seq <= ?');
  const newest = db.prepare<[number], { id: Digest; who: string; at: number; changes: string | null }>('SELECT id, who, at, changes FROM generations ORDER BY seq DESC LIMIT ?');
  const sight = db.prepare<{ node: string; at: number } & Record<(typeof SIGHTED)[number], string | null>>(
    `INSERT INTO node_sightings (node, ${SIGHTED.join(', ')}, first_at, last_at) VALUES (@node, ${SIGHTED.map((column) => `@${column}`).join(', ')}, @at, @at)
     ON CONFLICT (node) DO UPDATE SET ${SIGHTED.map((column) => `${column} = COALESCE(excluded.${column}, ${column})`).join(', ')}, last_at = MAX(last_at, excluded.last_at)`,
  );
  const sighting = db.prepare<[string], SightingRow>(`SELECT ${SIGHTED.join(', ')}, first_at, last_at FROM node_sightings WHERE node = ?`);
  return {
    assign: (generation, who, at, source) =>
      db.write(() => {
        const rows = changes(current.all(), generation).map((change): Assignment => ({ ...change, who, at, generation: generation.id }));
        clear.run();
        for (const node of Object.values(generation.nodes)) {
          putNode.run(node.name, node.profile, node.source);
          for (const mac of node.macs) putMac.run(mac, node.name);
        }
        for (const row of rows) putAssignment.run(row);
        if (lastGeneration.get()?.id !== generation.id) {
          const content = lastContent.get()?.content;
          dropContents.run();
          const changed = diffGenerations(content ? (JSON.parse(content) as Generation) : undefined, generation);
          const { lastInsertRowid } = putGeneration.run(generation.id, who, at, canonicalJson(generation), source ?? null, JSON.stringify(changed));
          dropOld.run(Number(lastInsertRowid) - GENERATIONS_KEPT);
        } else moveSource.run(source ?? null);
        return rows;
      }),
    history: async (node) => db.read(() => assignmentsOf.all(node)),
    see: (node, { uuid = null, serial = null, vendorClass = null, arch = null, manufacturer = null, product = null, at }) =>
      db.write(() => void sight.run({ node, uuid, serial, vendor_class: vendorClass, arch, manufacturer, product, at })),
    seen: async (node) => {
      const row = db.read(() => sighting.get(node));
      if (!row) return undefined;
      const { uuid, serial, vendor_class: vendorClass, arch, manufacturer, product } = row;
      const said = Object.fromEntries(Object.entries({ uuid, serial, vendorClass, arch, manufacturer, product }).filter(([, value]) => value !== null));
      return { at: row.last_at, firstAt: row.first_at, ...(said as Omit<Seen, 'at'>) };
    },
    generation: async () => db.read(() => lastGeneration.get()),
    generations: async (limit = GENERATIONS_KEPT) =>
      db.read(() => newest.all(limit)).map(({ changes, ...row }) => ({ ...row, ...(changes === null ? {} : { changes: JSON.parse(changes) as GenerationChanges }) })),
    lastGeneration: async () => {
      const row = db.read(() => lastContent.get());
      return row?.content ? { generation: JSON.parse(row.content) as Generation, ...(row.source ? { source: row.source } : {}) } : undefined;
    },
  };
}

type Mapping = Pick<Assignment, 'node' | 'mac' | 'profile'>;

/** What a generation changes of the mapping: ends first, so that a MAC that moves between nodes reads in order. */
function changes(before: readonly Mapping[], generation: Generation): Mapping[] {
  const after = Object.values(generation.nodes).flatMap((node) => node.macs.map((mac): Mapping => ({ node: node.name, mac, profile: node.profile })));
  const wasByMac = new Map(before.map((row) => [row.mac, row]));
  const isByMac = new Map(after.map((row) => [row.mac, row]));
  const ended = before.filter((row) => isByMac.get(row.mac)?.node !== row.node).map((row): Mapping => ({ node: row.node, mac: row.mac, profile: null }));
  const begun = after.filter((row) => {
    const was = wasByMac.get(row.mac);
    return was?.node !== row.node || was.profile !== row.profile;
  });
  return [...ended.sort(byMac), ...begun.sort(byMac)];
}

function byMac(a: Mapping, b: Mapping): number {
  return a.mac < b.mac ? -1 : a.mac > b.mac ? 1 : 0;
}
