// Which measures of `boot` are drawn, and how they are grouped.
import { panelsOf } from './panels.ts';
import { draw } from './picture.ts';
import type { Outcome, Target } from './report.ts';

const LABELS: Readonly<Record<string, string>> = { kernel: 'kernel starts', mounted: "image's init", 'multi-user': 'multi-user', login: 'login prompt', ready: 'ready' };

export function drawBoot(outcome: Outcome, targets: readonly Target[]): string {
  const panel = panelsOf(outcome, targets);
  const { how, machine } = outcome as { how: { quick: boolean; rounds: number; dracut: { version: string } }; machine: { cpus: number; cpu: string; kernel: string; node: string; accel: string; qemu: string } };
  return draw({
    title: 'One machine boots one squashfs: from power-on',
    subtitle: how.quick ? 'a quick run: its figures are worth nothing' : `${how.rounds} rounds, medians; dracut ${how.dracut.version} with livenet behind dnsmasq and nginx: as the seeds do it, and the best that it can be made to do`,
    names: outcome.names,
    rows: [
      [panel('From power-on', /^(kernel|mounted|multi-user|login|ready)$/, ({ id }) => LABELS[id]!)],
      [panel('Kernel to init', /^kernel-mounted$/, () => ''), panel('Memory over squashfs', /^memory$/, () => ''), panel('Initrd', /^initrd$/, () => '')],
    ],
    footer: [`${machine.cpus} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}; QEMU ${machine.qemu} (${machine.accel}), one processor.`, 'The same kernel, squashfs, link and router advertisement for all.'],
  });
}
