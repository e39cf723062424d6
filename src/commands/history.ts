// `rackseed history [NODE]`: the generations of the daemon with what each changed; or one node's assignments and boots.
import { changeWords } from '../boot-diff.ts';
import { changesWords, type NodeEntry, type SiteEntry } from '../history.ts';
import { createClient, type ClientOptions } from './client.ts';
import { duration, render, type Column, type Format } from './output.ts';

export interface HistoryOptions extends ClientOptions {
  readonly limit?: string;
  readonly output: Format;
}

const SITE: readonly Column<SiteEntry>[] = [
  { title: 'WHEN', of: ({ at }) => when(at) },
  { title: 'GENERATION', of: (entry) => (entry.outcome === 'swapped' ? short(entry.generation) : undefined) },
  { title: 'BY', of: ({ who }) => who },
  { title: 'OUTCOME', of: (entry) => (entry.outcome === 'swapped' ? 'swapped' : `refused: ${entry.count} ${entry.count === 1 ? 'fault' : 'faults'}`) },
  { title: 'WHAT', of: (entry) => (entry.outcome === 'refused' ? entry.faults[0] : entry.changes ? changesWords(entry.changes) : 'not recorded') },
];

const NODE: readonly Column<NodeEntry>[] = [
  { title: 'WHEN', of: ({ at }) => when(at) },
  { title: 'WHAT', of: (entry) => (entry.kind === 'boot' ? `boot ${entry.state}` : assignedWord(entry)) },
  { title: 'PROFILE', of: (entry) => (entry.kind === 'boot' ? entry.profile : (entry.to ?? entry.from)) },
  { title: 'TOOK', of: (entry) => (entry.kind === 'boot' && entry.endedAt !== undefined ? duration(entry.endedAt - entry.at) : undefined) },
  { title: 'IMAGE', of: (entry) => (entry.kind === 'boot' && entry.image ? `${entry.image.name}@${short(entry.image.digest)}` : undefined) },
  { title: 'COMMIT', of: (entry) => (entry.kind === 'boot' ? entry.commit?.slice(0, 12) : undefined) },
  { title: 'DETAIL', of: detail },
  { title: 'BY', of: (entry) => (entry.kind === 'assigned' ? entry.who : undefined), wide: true },
  { title: 'GENERATION', of: ({ generation }) => short(generation), wide: true },
  { title: 'BOOT ID', of: (entry) => (entry.kind === 'boot' ? entry.boot : undefined), wide: true },
];

/** Newest first. NODE: by name or by any of its MACs, also one that no profile names any more. */
export async function history(node: string | undefined, options: HistoryOptions): Promise<string> {
  const limit = options.limit === undefined ? '' : `limit=${encodeURIComponent(options.limit)}`;
  const client = createClient(options);
  if (node === undefined) {
    const answer = await client.get<{ generations: SiteEntry[] }>(`/api/history?${limit}`);
    return render(options.output, answer, answer.generations, SITE);
  }
  const answer = await client.get<{ entries: NodeEntry[] }>(`/api/history?node=${encodeURIComponent(node)}&${limit}`);
  return render(options.output, answer, answer.entries, NODE);
}

function assignedWord({ from, to, changes }: NodeEntry & { kind: 'assigned' }): string {
  if (from === undefined) return 'assigned';
  if (to === undefined) return 'removed';
  return from !== to ? `moved from ${from}` : changes.length > 0 ? 'profile changed' : 'node edited';
}

function detail(entry: NodeEntry): string | undefined {
  if (entry.kind === 'boot') return entry.why;
  return [...entry.changes.map(changeWords), ...entry.edited].join(', ');
}

/** UTC, to the second. */
function when(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
}

function short(digest: string): string {
  return digest.slice(0, 'sha256:'.length + 12);
}
