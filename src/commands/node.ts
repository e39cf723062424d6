// `rackseed node list|show|discovered`: nodes as the daemon knows them, and machines that are none yet.
import type { DiscoveredMachine } from '../discovered.ts';
import { holdWords, type LastFailure } from '../boot/hold.ts';
import { NEXTS, type Next } from '../boot/node.ts';
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
  readonly next: Next;
  readonly failedInRow: number;
  readonly lastFailure?: LastFailure;
  readonly held: boolean;
  readonly boot?: { readonly id: string; readonly state: string; readonly why?: string; readonly startedAt: number; readonly stage?: string };
}

const COLUMNS: readonly Column<NodeRow>[] = [
  { title: 'NAME', of: (node) => node.name },
  { title: 'PROFILE', of: (node) => node.profile },
  { title: 'IP', of: (node) => node.ip },
  { title: 'BOOT', of: (node) => node.boot?.state },
  { title: 'STAGE', of: (node) => node.boot?.stage },
  { title: 'AGE', of: (node) => node.boot && duration(Date.now() - node.boot.startedAt) },
  { title: 'NEXT', of: (node) => (node.held ? 'held' : node.next) },
  { title: 'WHY', of: (node) => (node.held ? holdWords(node) : node.boot?.why) },
  { title: 'MACS', of: (node) => node.macs.join(','), wide: true },
  { title: 'LABELS', of: (node) => Object.entries(node.labels).map(([name, value]) => `${name}=${value}`).join(','), wide: true },
  { title: 'UPDATE', of: (node) => (node.updatePending ? 'at next boot' : undefined), wide: true },
  { title: 'BOOT ID', of: (node) => node.boot?.id, wide: true },
];

export async function nodeList(options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<{ nodes: NodeRow[] }>('/api/nodes');
  return render(options.output, answer, answer.nodes, COLUMNS);
}

/** By name or by any of its MACs. */
export async function nodeShow(node: string, options: ClientOptions & { readonly output: Format }): Promise<string> {
  const answer = await createClient(options).get<NodeRow>(`/api/nodes/${encodeURIComponent(node)}`);
  return render(options.output, answer, [answer], options.output === 'table' ? COLUMNS.map((column) => ({ ...column, wide: false })) : COLUMNS);
}

/** What the node does when it starts next. */
export async function nodeNext(node: string, next: string, options: ClientOptions & { readonly output: Format }): Promise<string> {
  if (!NEXTS.some((one) => one === next)) throw new AppError('USAGE', `${next}: a node does one of ${NEXTS.join(', ')}`, 'rackseed node next NODE boot-once');
  const answer = await createClient(options).post<NodeRow>(`/api/nodes/${encodeURIComponent(node)}/next`, { next });
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
