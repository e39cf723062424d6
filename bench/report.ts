// What a benchmark hands back: its measures, one row for each comparison and target, a table for people and the JSON file.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export type Better = 'higher' | 'lower';

/** One thing that is measured of every server. */
export interface Measure {
  readonly id: string;
  /** The heading it stands under, in the table and in the picture. */
  readonly group: string;
  readonly what: string;
  readonly unit: string;
  readonly better: Better;
  /** Which of the rounds counts: the median, or the worst where "none lost" means none in any round. */
  readonly rounds: 'median' | 'worst';
}

/** As in bench/targets.json: a bound for our own figure, or with `against` for the ratio to that peer's; `best`: to whichever peer is the best. */
export interface Target {
  readonly measure: string;
  readonly issue: number;
  readonly text: string;
  readonly against?: string;
  readonly bound: number;
}

export interface Row {
  readonly what: string;
  readonly unit: string;
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  /** ours / peer; ours itself in a row without a peer; null when the peer's figure is 0. */
  readonly ratio: number | null;
  readonly target: number | null;
  readonly better: Better;
  readonly met: boolean | null;
  /** What a reader must know of it, such as that the generator was the limit. */
  readonly note?: string;
}

/** The figures of all rounds, by server and measure. */
export type Samples = ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>;

export interface Outcome {
  readonly subject: string;
  readonly measures: readonly Measure[];
  readonly samples: Samples;
  /** Our own name among the samples, then the peers. */
  readonly names: readonly [ours: string, ...peers: string[]];
  /** Of a measure, by its id. */
  readonly notes: ReadonlyMap<string, string>;
  readonly machine: object;
  /** What could not be measured, and why; each begins with the server's name. */
  readonly failures: readonly string[];
  /** Versions, windows, calibration, ...: how the figures came about. */
  readonly how: object;
}

export function readTargets(root: string, subject: string): readonly Target[] {
  return (JSON.parse(readFileSync(join(root, 'bench/targets.json'), 'utf8')) as Record<string, Target[]>)[subject] ?? [];
}

/** The one figure that stands for all rounds; undefined when it was never measured. */
export function figure(samples: Samples, name: string, measure: Measure): number | undefined {
  const rounds = [...(samples.get(name)?.get(measure.id) ?? [])].sort((a, b) => a - b);
  if (rounds.length === 0) return undefined;
  if (measure.rounds === 'worst') return measure.better === 'higher' ? rounds[0] : rounds.at(-1);
  const middle = rounds.length / 2;
  return rounds.length % 2 ? rounds[Math.floor(middle)]! : (rounds[middle - 1]! + rounds[middle]!) / 2;
}

/** Whose figure a target's ratio is to: null for our own figure alone, undefined when no such peer was measured. */
export function rivalOf({ against }: Target, measure: Measure, { samples, names }: Pick<Outcome, 'samples' | 'names'>): string | null | undefined {
  if (against === undefined) return null;
  const measured = names.slice(1).flatMap((name) => {
    const value = figure(samples, name, measure);
    return value === undefined ? [] : [{ name, value }];
  });
  if (against !== 'best') return measured.find(({ name }) => name === against)?.name;
  return measured.sort((a, b) => (measure.better === 'higher' ? b.value - a.value : a.value - b.value))[0]?.name;
}

export function rowsOf({ measures, samples, names, notes }: Outcome, targets: readonly Target[]): Row[] {
  const [us, ...peers] = names;
  return measures.flatMap((measure) => {
    const ours = figure(samples, us, measure);
    if (ours === undefined) return [];
    const row = (peerName: string | null, peer: number | null): Row => {
      const ratio = peerName === null ? ours : peer ? round(ours / peer) : null;
      const target = targets.find((one) => one.measure === measure.id && rivalOf(one, measure, { samples, names }) === peerName)?.bound ?? null;
      const met = target === null || ratio === null ? null : measure.better === 'higher' ? ratio >= target : ratio <= target;
      const note = notes.get(measure.id);
      return { what: measure.what, unit: measure.unit, ours: round(ours), peer: peer === null ? null : round(peer), peerName, ratio, target, better: measure.better, met, ...(note ? { note } : {}) };
    };
    const own = targets.some((one) => one.measure === measure.id && one.against === undefined) ? [row(null, null)] : [];
    const compared = peers.flatMap((peer) => {
      const theirs = figure(samples, peer, measure);
      return theirs === undefined ? [] : [row(peer, theirs)];
    });
    return [...own, ...compared];
  });
}

export function jsonOf(outcome: Outcome, targets: readonly Target[], when: Date): string {
  const { subject, machine, how, failures, measures, names, samples } = outcome;
  const rounds = Object.fromEntries(names.map((name) => [name, Object.fromEntries(measures.map(({ id }) => [id, (samples.get(name)?.get(id) ?? []).map(round)]))]));
  return `${JSON.stringify({ subject, machine, when: when.toISOString(), how, failures, rows: rowsOf(outcome, targets), rounds }, undefined, 2)}\n`;
}

/** One line a measure, with all servers side by side. */
export function tableOf(outcome: Outcome, targets: readonly Target[]): string {
  const { measures, samples, names, notes } = outcome;
  const [us, first] = names;
  const lines: string[][] = [['', 'unit', ...names, ...(first ? [`x ${first}`] : []), 'target', '']];
  const headings = new Map<number, string>();
  measures.forEach((measure, index) => {
    const figures = names.map((name) => figure(samples, name, measure));
    if (figures.every((one) => one === undefined)) return;
    if (measure.group !== measures[index - 1]?.group) headings.set(lines.length, measure.group);
    const target = targets.find((one) => one.measure === measure.id);
    const [ours, theirs] = figures;
    const sign = measure.better === 'higher' ? '>=' : '<=';
    const name = target && rivalOf(target, measure, outcome);
    const of = target && (target.against ? `${sign} ${target.bound} x ${target.against === 'best' && name ? `the best, ${name}` : target.against}` : `${sign} ${target.bound}`);
    const rival = name === null ? 1 : name && figure(samples, name, measure);
    const ratio = ours !== undefined && rival ? ours / rival : undefined;
    const met = target && ratio !== undefined ? ((measure.better === 'higher' ? ratio >= target.bound : ratio <= target.bound) ? 'met' : 'MISSED') : '';
    lines.push([
      `  ${measure.what}`, measure.unit, ...figures.map((one) => (one === undefined ? '-' : people(one))),
      ...(first ? [ours !== undefined && theirs ? (ours / theirs).toFixed(2) : ''] : []),
      of ?? '', [met, notes.get(measure.id)].filter(Boolean).join('; '),
    ]);
  });
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const text = lines.map((line, index) => {
    const cells = line.map((cell, column) => (column < 2 || column >= line.length - 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)));
    return `${headings.has(index) ? `${headings.get(index)}\n` : ''}${cells.join('  ').trimEnd()}`;
  });
  return `${us} against ${names.slice(1).join(' and ') || 'nobody'}\n${text.join('\n')}\n`;
}

/** Three digits that mean something. */
export function people(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en-US');
  return value === 0 ? '0' : String(Number(value.toPrecision(3)));
}

function round(value: number): number {
  return Number(value.toPrecision(6));
}
