// `rackseed image update`: moves an image's lock to what its mirror has today, and says what is different. Builds nothing.
import { resolve } from 'node:path';
import { readSettings } from '../config/settings.ts';
import type { LockChange } from '../images/lock.ts';
import { updateLock } from '../images/update.ts';
import { trustFor } from './image-sign.ts';
import { imagesDirs } from './images-dirs.ts';
import { render, type Column, type Format } from './output.ts';

interface Change extends LockChange {
  readonly arch: string;
}

const COLUMNS: readonly Column<Change>[] = [
  { title: 'PACKAGE', of: (change) => change.name },
  { title: 'CHANGE', of: ({ from, to }) => (from === undefined ? 'added' : to === undefined ? 'removed' : from === to ? 'another file' : 'changed') },
  { title: 'OLD', of: (change) => change.from },
  { title: 'NEW', of: (change) => change.to },
  { title: 'ARCH', of: (change) => change.arch, wide: true },
];

export async function imageUpdate(name: string, options: { readonly config?: string; readonly state?: string; readonly output: Format }): Promise<string> {
  const stateDir = options.state === undefined ? readSettings(options.config).stateDir : resolve(options.state);
  const { file, changes, packages } = await updateLock({ name, imagesDir: imagesDirs(options), stateDir, trust: await trustFor({ ...options, isSigned: false }) });
  const rows = Object.entries(changes).flatMap(([arch, list]) => list.map((change): Change => ({ ...change, arch })));
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, { image: name, lock: file, packages, changes: rows }, [], []);
  if (rows.length === 0) return `image ${name}: its lock is up to date, ${packages} packages (${file})\n`;
  return `image ${name}: ${rows.length} of ${packages} packages are different now (${file}); rackseed image build ${name} --locked takes them\n${render(options.output, undefined, rows, COLUMNS)}`;
}
