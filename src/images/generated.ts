// Files that the builder writes into a root from image.yaml: the layout, units that it ships, and its onboot steps.
import { readFileSync } from 'node:fs';
import { AppError } from '../errors.ts';
import { inRoot, placeLink, placeText } from './rootfs.ts';
import { isSystemdUnit } from './spec-schema.ts';
import type { ArchSpec } from './spec.ts';

const UNITS = '/usr/lib/systemd/system';
const STEPS = '/usr/lib/rackseed/onboot';
/** What a step may rely on: mounts, directories in /run, modules, sysctls, devices. */
const EARLY = ['local-fs.target', 'systemd-tmpfiles-setup.service', 'systemd-modules-load.service', 'systemd-sysctl.service', 'systemd-udev-trigger.service'];

/** IMAGE_BUILD_FAILED where a step needs systemd and the root has none. */
export function placeGenerated(spec: ArchSpec, root: string): void {
  placeText(root, '/etc/rackseed/layout', layoutText(spec.layout));
  for (const { name, contents, source } of spec.services.units) {
    const text = source === undefined ? (contents ?? '') : readFileSync(source, 'utf8');
    if (isSystemdUnit(name)) placeText(root, `${UNITS}/${name}`, text);
    else placeText(root, `/etc/init.d/${name}`, text, 0o755);
  }
  if (spec.onboot.length === 0) return;
  if (inRoot(root, '/usr/lib/systemd/systemd') === undefined) throw new AppError('IMAGE_BUILD_FAILED', 'onboot: the image has no systemd, whose units these steps are', 'add the package systemd, or leave onboot out');
  placeText(root, `${UNITS}/rackseed-onboot-failed@.service`, FAILED_UNIT);
  for (const [index, { name, run, source }] of spec.onboot.entries()) {
    const before = spec.onboot[index - 1]?.name;
    placeText(root, `${STEPS}/${name}`, source === undefined ? scriptText(run!) : readFileSync(source), 0o755);
    placeText(root, `${UNITS}/${unitOf(name)}`, unitText(name, before));
    placeLink(root, `${UNITS}/sysinit.target.requires/${unitOf(name)}`, `../${unitOf(name)}`);
  }
}

/** One line a path, for the initrd stage: `readonly /usr`. */
export function layoutText({ readonly, persist, config }: ArchSpec['layout']): string {
  return [...readonly.map((path) => `readonly ${path}`), ...persist.map((path) => `persist ${path}`), `config ${config}`, ''].join('\n');
}

function unitOf(name: string): string {
  return `rackseed-onboot-${name}.service`;
}

function scriptText(run: string): string {
  return run.startsWith('#!') ? run : `#!/bin/sh\nset -eu\n${run}${run.endsWith('\n') ? '' : '\n'}`;
}

/**
 * Before sysinit.target, which every service requires that does not say otherwise; it requires these in its turn, so that after a failed one no service starts. Services come
 * after basic.target too, but they do not require it.
 */
function unitText(name: string, before: string | undefined): string {
  const required = before === undefined ? [] : [unitOf(before)];
  const after = [...EARLY, ...required].join(' ');
  return `[Unit]
Description=onboot ${name}
DefaultDependencies=no
${required.length > 0 ? `Requires=${required.join(' ')}\n` : ''}After=${after}
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
OnFailure=rackseed-onboot-failed@${name}.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${STEPS}/${name}
TimeoutStartSec=600
Environment=HOME=/root
StandardOutput=journal+console
StandardError=journal+console
`;
}

const FAILED_UNIT = `# Tells the daemon that an onboot step failed, and with it this boot.
[Unit]
Description=rackseed: onboot %i failed
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/usr/lib/rackseed/agent onboot %i
Environment=HOME=/root
StandardOutput=journal+console
StandardError=journal+console
`;
