// Which measures of `image` are drawn, and how they are grouped.
import { panelsOf } from './panels.ts';
import { draw } from './picture.ts';
import type { Measure, Outcome, Target } from './report.ts';

const LABELS: Readonly<Record<string, string>> = { total: 'all of it', kernel: 'kernel', initrd: 'initrd', squashfs: 'squashfs', build: 'build', locked: 'bound to its lock', unchanged: 'nothing to do', first: 'packages fetched' };

export function drawImage(outcome: Outcome, targets: readonly Target[]): string {
  const panel = panelsOf(outcome, targets);
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; image: string }; machine: { cpus: number; cpu: string; kernel: string; node: string } };
  const label = ({ id }: Measure): string => LABELS[id] ?? id.replace('phase-', '');
  return draw({
    title: `The image ${how.image}: its size, and how long its builds take`,
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `medians of ${how.rounds} rounds; targets under the labels`,
    names: outcome.names,
    rows: [
      [panel('What each node fetches', /^(total|kernel|initrd|squashfs)$/, label), panel('A build, packages at hand: its phases', /^phase-/, label)],
      [panel('Builds', /^(build|locked|unchanged|first)$/, label, true)],
    ],
    footer: [`${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}. MB are 10^6 bytes.`],
  });
}
