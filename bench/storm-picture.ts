// Which measures of `storm` are drawn, and how they are grouped.
import { panelsOf } from './panels.ts';
import { draw } from './picture.ts';
import type { Outcome, Target } from './report.ts';

export function drawStorm(outcome: Outcome, targets: readonly Target[]): string {
  const panel = panelsOf(outcome, targets);
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; nodes: number }; machine: { cpus: number; cpu: string; kernel: string; node: string } };
  return draw({
    title: `${how.nodes.toLocaleString('en-US')} machines are switched on within a second`,
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `${how.rounds} rounds: medians, the worst where nothing may be lost; targets under the labels`,
    names: outcome.names,
    rows: [
      [panel('Not ready', /^failures$/, () => 'machines'), panel('Dropped by the kernel', /^drops$/, () => 'all reasons')],
      [panel('DHCP exchange', /^dhcp-/, ({ id }) => (id === 'dhcp-p99' ? 'p99' : 'slowest')), panel('The slowest machine', /^(loader|ready)$/, ({ id }) => (id === 'loader' ? 'has its loader' : 'is ready'))],
      [panel('Memory', /^memory$/, () => 'at most'), panel('Descriptors', /^descriptors$/, () => 'more than before'), panel('All in all', /^rate$/, () => 'bytes a second')],
    ],
    footer: [
      `${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}. Machines and server share the processors.`,
      'Each machine: DHCP twice, its loader by TFTP, then script, kernel of 8 MiB, initrd of 1 MiB, session, and an image of 20 MiB by HTTP.',
    ],
  });
}
