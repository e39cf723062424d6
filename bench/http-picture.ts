// Which measures of `http` are drawn, and how they are grouped.
import { panelsOf } from './panels.ts';
import { draw } from './picture.ts';
import type { Measure, Outcome, Target } from './report.ts';

export function drawHttp(outcome: Outcome, targets: readonly Target[]): string {
  const panel = panelsOf(outcome, targets);
  const downloads = ({ id }: Measure) => (/-1$/.test(id) ? '1 download' : `${/\d+$/.exec(id)![0]} downloads`);
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; servers: { name: string; version: string; variant: string }[] }; machine: { cpus: number; cpu: string; kernel: string; node: string } };
  return draw({
    title: 'Downloads by HTTP, side by side',
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `medians of ${how.rounds} rounds; targets under the labels`,
    names: outcome.names,
    rows: [
      [panel('An image of 150 MB', /^wall-\d+$/, downloads), panel('The same, per CPU second', /^cpu-\d+$/, downloads)],
      [panel('600 MB, more than the cache holds', /^wall-big/, downloads), panel('The same, per CPU second', /^cpu-big/, downloads)],
      [panel('150 MB, the client copies it', /^wall-copied/, downloads), panel('The same, per CPU second', /^cpu-copied/, downloads)],
      [panel('Memory', /^memory$/, () => 'at most'), panel('Leases meanwhile', /^dhcp-p99$/, () => 'p99')],
    ],
    footer: [
      `${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}. Client and server share the processors; CPU seconds are the server's.`,
      'The client drops the bytes inside the kernel unless it says that it copies.',
      how.servers.map(({ name, version, variant }) => `${name} ${version}${variant ? `, ${variant}` : ''}`).join(' · '),
    ],
  });
}
