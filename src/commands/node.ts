// `rackseed node list|show|discovered`: nodes as the daemon knows them, and machines that are none yet.
import type { DiscoveredMachine } from '../discovered.ts';
import { holdWords, type LastFailure } from '../boot/hold.ts';
import { NEXTS, type Next } from '../boot/node.ts';
import { changeWords } from '../boot-diff.ts';
import { driftWord, type Drift } from '../boot-drift.ts';
import { quirkWords, type AppliedQuirk } from '../boot/quirks.ts';
import { AppError } from '../errors.ts';
import { createClient, type ClientOptions } from './client.ts';
import { duration, render, type Column, type Format } from './output.ts';

interface NodeRow {
  readonly name: string;
  readonly profile: string;
  readonly macs: readonly string[];
  readonly ip?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly updatePending?: boolean;
  readonly drift: Drift;
  readonly next: Next;
  readonly failedInRow: number;
  readonly lastFailure?: LastFailure;
  readonly held: boolean;
  readonly loaders: string;
  readonly lastLoader?: { readonly file?: string; readonly digest?: string; readonly version?: string };
  readonly quirks: readonly (AppliedQuirk & { readonly inForce: boolean })[];
  readonly ssh?: { readonly keys: number; readonly fingerprint: string; readonly knownHosts: string };
  readonly boot?: { readonly id: string; readonly state: string; readonly why?: string; readonly startedAt: number; readonly stage?: string };
}

const COLUMNS: readonly Column<NodeRow>[] = [
  { title: 'NAME', of: (node) => node.name },
  { title: 'PROFILE', of: (node) => node.profile },
  { title: 'IP', of: (node) => node.ip },
  { title: 'BOOT', of: (node) => node.boot?.state },
  { title: 'STAGE', of: (node) => node.boot?.stage },
  { title: 'AGE', of: (node) => node.boot && duration(Date.now() - node.boot.startedAt) },
  { title: 'DRIFT', of: (node) => driftWord(node.drift) },
  { title: 'NEXT', of: (node) => (node.held ? 'held' : node.next) },
  { title: 'WHY', of: (node) => (node.held ? holdWords(node) : node.boot?.why) },
  { title: 'MACS', of: (node) => node.macs.join(','), wide: true },
  { title: 'LABELS', of: (node) => Object.entries(node.labels).map(([name, value]) => `${name}=${value}`).join(','), wide: true },
  { title: 'UPDATE', of: (node) => (node.updatePending ? 'at next boot' : undefined), wide: true },
  { title: 'QUIRKS', of: (node) => node.quirks.map(({ name }) => name).join(','), wide: true },
  { title: 'LOADER SET', of: (node) => node.loaders, wide: true },
  { title: 'LAST LOADER', of: ({ lastLoader }) => lastLoader && [lastLoader.file, lastLoader.version, lastLoader.digest?.slice(0, 'sha256:'.length + 12)].filter(Boolean).join(' '), wide: true },
  { title: 'BOOT ID', of: (node) => node.boot?.id, wide: true },
];

export async function nodeList(options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<{ nodes: NodeRow[] }>('/api/nodes');
  return render(options.output, answer, answer.nodes, COLUMNS);
}

/** By name or by any of its MACs. */
export async function nodeShow(node: string, options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<NodeRow>(`/api/nodes/${encodeURIComponent(node)}`);
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, answer, [answer], COLUMNS);
  const table = render('wide', answer, [answer], COLUMNS.filter(({ title }) => title !== 'QUIRKS'));
  const more = [
    ...(answer.drift.why ? [`drift: unknown: ${answer.drift.why}`] : []),
    ...answer.drift.changes.map((change) => `drift: ${change.needs} pending: ${changeWords(change)}`),
    ...answer.quirks.map((quirk) => `quirks: ${quirkWords(quirk)}${quirk.inForce ? '' : ', from its next boot'}`),
    ...(answer.ssh ? [`ssh: ${answer.ssh.keys} ${answer.ssh.keys === 1 ? 'key' : 'keys'} may log in as root; its host key is ${answer.ssh.fingerprint} (ED25519)`, `known_hosts: ${answer.ssh.knownHosts}`] : []),
  ];
  return more.length === 0 ? table : `${table}\n${more.join('\n')}\n`;
}

/** Lines for a known_hosts file, of the nodes that somebody may log in to: all of them, or one. */
export async function nodeKnownHosts(node: string | undefined, options: ClientOptions): Promise<string> {
  const client = createClient(options);
  const nodes = node === undefined ? (await client.get<{ nodes: NodeRow[] }>('/api/nodes')).nodes : [await client.get<NodeRow>(`/api/nodes/${encodeURIComponent(node)}`)];
  if (node !== undefined && !nodes[0]?.ssh) throw new AppError('USAGE', `nobody may log in to ${node} by ssh, so it has no host key`, 'give it keys: ssh: { keys: [..] } in its profile or its node entry');
  return nodes.flatMap(({ ssh }) => (ssh ? [`${ssh.knownHosts}\n`] : [])).join('');
}

/** What the node does when it starts next; `clear` takes back what was said, so that its YAML counts again. One of both. */
export async function nodeNext(node: string, next: string | undefined, options: ClientOptions & { readonly clear?: boolean; readonly output: Format }): Promise<string> {
  const { clear = false } = options;
  if (clear !== (next === undefined)) throw new AppError('USAGE', clear ? `${next} or --clear, not both` : 'what shall it do next?', `one of ${NEXTS.join(', ')}, or --clear`);
  if (!clear && !NEXTS.some((one) => one === next)) throw new AppError('USAGE', `${next}: a node does one of ${NEXTS.join(', ')}`, 'rackseed node next NODE boot-once');
  const [client, path] = [createClient(options), `/api/nodes/${encodeURIComponent(node)}/next`];
  const answer = await (clear ? client.delete<NodeRow>(path) : client.post<NodeRow>(path, { next }));
  return render(options.output, answer, [answer], COLUMNS);
}

/** Lets a node boot again that was held because it failed too often. */
export async function nodeRelease(node: string, options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).post<NodeRow>(`/api/nodes/${encodeURIComponent(node)}/release`, {});
  return render(options.output, answer, [answer], COLUMNS);
}

const DISCOVERED: readonly Column<DiscoveredMachine>[] = [
  { title: 'MAC', of: (machine) => machine.mac },
  { title: 'ARCH', of: (machine) => machine.arch },
  { title: 'FIRMWARE', of: (machine) => machine.firmware },
  { title: 'LAST SEEN', of: (machine) => `${duration(Date.now() - machine.lastAt)} ago` },
  { title: 'FIRST SEEN', of: (machine) => `${duration(Date.now() - machine.firstAt)} ago` },
  { title: 'COUNT', of: (machine) => machine.count },
  { title: 'UUID', of: (machine) => machine.uuid },
  { title: 'VENDOR CLASS', of: (machine) => machine.vendorClass, wide: true },
];

/** PXE machines that asked and that no profile names. */
export async function nodeDiscovered(options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<{ machines: DiscoveredMachine[] }>('/api/discovered');
  return render(options.output, answer, answer.machines, DISCOVERED);
}
