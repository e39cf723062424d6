// `rackseed plan`: what the edited profiles would change, before they go live; its exit code is a gate for CI.
import { changeWords } from '../boot-diff.ts';
import { planned, type PlanAnswer } from '../config/planned.ts';
import { readProfiles, type ProfileFile } from '../config/profiles.ts';
import { readSettings } from '../config/settings.ts';
import { AppError, FaultsError } from '../errors.ts';
import type { Effect, Plan, PlannedNode } from '../plan.ts';
import { createClient, type ClientOptions } from './client.ts';
import { render, type Format } from './output.ts';
import { openStateDir } from './state-dir.ts';

export interface PlanOptions extends ClientOptions {
  /** This directory in place of the daemon's own. */
  readonly profiles?: string;
  readonly output: Format;
}

/** What the plan was made against, when no daemon answered. */
export interface PlanSource {
  readonly note?: string;
}

/** The plan as text, and whether a reload would change anything. Faults of the edit are a FaultsError (PROFILES_INVALID), as `check` tells them. */
export async function planCommand(options: PlanOptions): Promise<{ readonly text: string; readonly changes: boolean }> {
  const given = options.profiles === undefined ? undefined : await readProfiles(options.profiles);
  const { faults, plan, note } = await askDaemon(options, given).catch((error: unknown) => askStateDir(error, options, given));
  if (!plan) throw new FaultsError('PROFILES_INVALID', faults, 'with these faults the daemon stays with the generation that it has');
  const value = { ...plan, ...(note === undefined ? {} : { note }) };
  const text = options.output === 'json' || options.output === 'yaml' ? render(options.output, value, [], []) : `${note === undefined ? '' : `${note}\n`}${planWords(plan)}`;
  return { text, changes: plan.changes };
}

function askDaemon(options: PlanOptions, given: readonly ProfileFile[] | undefined): Promise<PlanAnswer & PlanSource> {
  const client = createClient(options);
  return given ? client.post('/api/plan', { files: given }) : client.get('/api/plan');
}

/** Only where nobody said which daemon: beside the settings' own lies its state. */
async function askStateDir(error: unknown, options: PlanOptions, given: readonly ProfileFile[] | undefined): Promise<PlanAnswer & PlanSource> {
  if (!(error instanceof AppError) || error.code !== 'DAEMON_UNREACHABLE' || options.url !== undefined || process.env['RACKSEED_URL']) throw error;
  const settings = readSettings(options.config);
  const state = await openStateDir(settings);
  if (!state) throw error;
  try {
    const last = await state.last();
    if (!last) throw error;
    const files = given ?? (await readProfiles(settings.profilesDir));
    const answer = await planned({ from: last.generation, compiled: await state.compile(files), files, boots: state.boots });
    return { ...answer, note: `no daemon answers at ${settings.api.socket}: compared with the generation that ${settings.stateDir} holds, of ${new Date(last.at).toISOString()}; repositories as they were mirrored last` };
  } finally {
    await state.close();
  }
}

const EFFECTS: Readonly<Record<Effect, string>> = {
  reboot: 'needs a reboot',
  steps: 'needs its steps run again',
  'next boot': 'at its next boot',
  none: 'runs this already',
  gone: 'goes on until it stops, then gets no answer',
};

/** For people: nodes that the same happens to are told in one paragraph. */
export function planWords(plan: Plan): string {
  const { nodes, updates, withoutNodes, quirks } = plan;
  if (!plan.changes) return `nothing changes: generation ${short(plan.from)}\n`;
  const groups = new Map<string, { readonly first: PlannedNode; readonly names: string[]; readonly lines: readonly string[] }>();
  for (const node of nodes) {
    const lines = linesOf(node);
    const key = JSON.stringify([node.was, node.profile, node.effect, node.controller ?? false, lines]);
    const group = groups.get(key) ?? { first: node, names: [], lines };
    group.names.push(node.name);
    groups.set(key, group);
  }
  const paragraphs = [...groups.values()].map(({ first, names, lines }) => [`${headOf(first, names)}\n`, ...lines.map((line) => `  ${line}\n`)].join(''));
  const rest = [
    ...updates.map(({ profile, what, from, to, moved }) => `update available: ${what} (profile ${profile}) ${moved ? 'has moved' : 'has moved, or was another one'}: ${short(from)} -> ${short(to)}\n`),
    ...withoutNodes.map((name) => `profile ${name} changes, and no node has it\n`),
    ...(quirks ? ['boot-profiles/quirks.yaml changes: rackseed node show tells which fit a node\n'] : []),
  ];
  return [`generation ${short(plan.from)} -> ${short(plan.to)}: ${summary(nodes)}\n`, ...paragraphs, ...(rest.length > 0 ? [rest.join('')] : [])].join('\n');
}

function headOf({ was, profile, effect, controller }: PlannedNode, names: readonly string[]): string {
  const sort = names.length === 1 ? 'controller' : 'controllers';
  return `${names.join(', ')}${controller ? ` (${sort})` : ''}: ${was === 'added' ? 'new, ' : was === 'removed' ? 'removed, ' : ''}profile ${profile}; ${EFFECTS[effect]}`;
}

function linesOf({ changes, noRoom }: PlannedNode): string[] {
  return [...changes.map(changeWords), ...(noRoom === undefined ? [] : [`does not fit in memory: ${noRoom}`])];
}

function summary(nodes: readonly PlannedNode[]): string {
  const count = (what: string, is: (node: PlannedNode) => boolean): string[] => {
    const number = nodes.filter(is).length;
    return number === 0 ? [] : [`${number} ${what}`];
  };
  const parts = [
    ...count('changed', ({ was }) => was === 'changed'),
    ...count('new', ({ was }) => was === 'added'),
    ...count('removed', ({ was }) => was === 'removed'),
    ...count('to reboot', ({ effect }) => effect === 'reboot'),
    ...count('too small for it', ({ noRoom }) => noRoom !== undefined),
    ...count('of them controllers', ({ controller }) => controller === true),
  ];
  return parts.length === 0 ? 'no node changes' : `nodes: ${parts.join(', ')}`;
}

function short(digest: string): string {
  return digest.startsWith('sha256:') ? digest.slice(0, 'sha256:'.length + 12) : digest.slice(0, 12);
}
