// From the measures of an outcome to the panels of its picture: bars by name, targets under the labels.
import type { Bars, Panel } from './picture.ts';
import { figure, rivalOf, rowsOf, type Measure, type Outcome, type Target } from './report.ts';

export type MakePanel = (title: string, ids: RegExp, label: (measure: Measure) => string, log?: boolean) => Panel;

/** The panel of those measures whose id matches; all of one unit. */
export function panelsOf(outcome: Outcome, targets: readonly Target[]): MakePanel {
  const { measures, samples, names } = outcome;
  const rows = rowsOf(outcome, targets);
  const bars = (measure: Measure, label: string): Bars => {
    const target = targets.find((one) => one.measure === measure.id);
    const judged = rows.find((row) => row.what === measure.what && target && row.peerName === rivalOf(target, measure, outcome) && row.target !== null);
    const bound = target && `${measure.better === 'higher' ? '≥' : '≤'} ${target.bound.toLocaleString('en-US')}${target.against ? ` × ${target.against}` : ''}`;
    return {
      label,
      values: names.map((name) => figure(samples, name, measure)),
      ...(judged && bound ? { note: { text: `${bound}: ${judged.met ? 'met' : 'missed'}`, good: judged.met === true } } : {}),
    };
  };
  return (title, ids, label, log = false) => {
    const of = measures.filter(({ id }) => ids.test(id));
    return { title, unit: of[0]!.unit, better: of[0]!.better, log, groups: of.map((measure) => bars(measure, label(measure))) };
  };
}
