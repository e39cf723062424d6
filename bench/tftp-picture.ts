// Which measures of `tftp` are drawn, and how they are grouped.
import { panelsOf } from './panels.ts';
import { draw } from './picture.ts';
import type { Measure, Outcome, Target } from './report.ts';

export function drawTftp(outcome: Outcome, targets: readonly Target[]): string {
  const panel = panelsOf(outcome, targets);
  const options = ({ id }: Measure) => {
    const [, blksize, window = '1', plain] = /-(\d+)(?:-w(\d+))?(-plain)?$/.exec(id)!;
    return `${blksize}, ${window === '1' ? 'lock-step' : `window ${window}`}${plain ? ' *' : ''}`;
  };
  const window = ({ id }: Measure) => (/-w16$/.test(id) ? 'windowsize 16' : 'lock-step');
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; servers: { name: string; version: string }[] }; machine: { cpus: number; cpu: string; kernel: string; node: string } };
  return draw({
    title: 'Downloads by TFTP, side by side',
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `medians of ${how.rounds} rounds; targets under the labels`,
    names: outcome.names,
    rows: [
      [panel('1 client', /^one-/, options), panel('the same, CPU time of the server', /^cpu-one-/, options)],
      [panel('50 clients', /^many-/, options), panel('the same, CPU time of the server', /^cpu-many-/, options)],
      [panel('1 MiB, 1 % loss each way', /^loss/, window, true), panel('1 MiB, 50 ms there and back', /^delay(-w16)?$/, window, true)],
      [panel('1 MiB for each of 50, until the last', /^rack$/, () => '1428, lock-step'), panel('50 ms: what a window gains', /^delay-gain$/, () => 'windowsize 16')],
    ],
    footer: [
      `${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}. Client and server share the processors. "not measured": the server grants no windows.`,
      `* a card that cuts no bursts into packets by itself. ${how.servers.map(({ name, version }) => `${name} ${version}`).join(' · ')}`,
    ],
  });
}
