// Which measures of `dhcp` are drawn, and how they are grouped.
import { draw, type Bars, type Panel } from './picture.ts';
import { figure, rowsOf, type Measure, type Outcome, type Target } from './report.ts';

export function drawDhcp(outcome: Outcome, targets: readonly Target[]): string {
  const { measures, samples, names } = outcome;
  const rows = rowsOf(outcome, targets);
  const bars = (measure: Measure, label: string): Bars => {
    const judged = rows.find((row) => row.what === measure.what && row.unit === measure.unit && row.target !== null);
    const target = targets.find((one) => one.measure === measure.id);
    const bound = target && `${measure.better === 'higher' ? '≥' : '≤'} ${target.bound.toLocaleString('en-US')}${target.against ? ` × ${target.against}` : ''}`;
    return {
      label,
      values: names.map((name) => figure(samples, name, measure)),
      ...(judged && bound ? { note: { text: `${bound}: ${judged.met ? 'met' : 'missed'}`, good: judged.met === true } } : {}),
    };
  };
  const panel = (title: string, ids: RegExp, label: (measure: Measure) => string, log = false): Panel => {
    const of = measures.filter(({ id }) => ids.test(id));
    return { title, unit: of[0]!.unit, better: of[0]!.better, log, groups: of.map((measure) => bars(measure, label(measure))) };
  };
  const rate = ({ id }: Measure) => `${Number(/\d+$/.exec(id.replace('-renewals', ''))![0]).toLocaleString('en-US')} a second`;
  const leases = ({ what }: Measure) => /[\d,]+ leases/.exec(what)![0];
  const flat = ({ id }: Measure) => ({ 'flat-out': 'through a relay', 'flat-broadcast': 'by broadcast', 'flat-renew': 'renewals', cpu: 'four-way', 'cpu-renew': 'renewals' })[id] ?? id;
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; servers: { name: string; version: string; window: number; variant: string }[] }; machine: { cpus: number; cpu: string; kernel: string; node: string; fsyncMs: number } };
  return draw({
    title: 'DHCP servers, side by side',
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `medians of ${how.rounds} rounds; the worst round where something is lost; targets under the labels`,
    names,
    rows: [
      [panel('Flat out', /^flat-(out|broadcast|renew)$/, flat), panel('CPU time of 10,000 exchanges', /^cpu/, flat)],
      [panel('p99, four-way exchanges', /^p99-\d+$/, rate, true), panel('Lost, four-way exchanges', /^lost-\d+$/, rate)],
      [panel('p99, half of them renewals', /^p99-\d+-renewals$/, rate, true), panel('Lost, half of them renewals', /^lost-\d+-renewals$/, rate)],
      [panel('Burst', /^burst$/, () => 'of 5,000 at once'), panel('Memory', /^memory$/, leases), panel('Restart', /^restart$/, leases, true)],
    ],
    footer: [
      `${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}; one fdatasync of 4 KiB: ${machine.fsyncMs} ms. rackseed and dnsmasq fsync each lease before its ACK, Kea never.`,
      how.servers.map(({ name, version, window, variant }) => `${name} ${version}: ${window} exchanges at once${variant ? `, ${variant}` : ''}`).join(' · '),
    ],
  });
}
