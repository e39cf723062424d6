// Whether Debian has the packages of image.yaml, asked of the mirror's own lists before the long part of a build.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nearest } from '../config/faults.ts';
import { digestOfValue, hexOf } from '../digest.ts';
import { FaultsError, type Fault } from '../errors.ts';
import { aptSources, wantedPackages } from './base-debian.ts';
import type { ArchSpec, ImageBase, ImageSource } from './spec.ts';
import type { Workshop } from './workshop.ts';

type DebianBase = Extract<ImageBase, { readonly debian: string }>;

/**
 * IMAGE_SPEC_INVALID (a FaultsError) with every package that the mirror does not have, where it stands. A mirror that cannot be asked says nothing here:
 * mmdebstrap, which needs it too, tells it.
 */
export async function checkPackages(source: ImageSource, spec: ArchSpec, base: DebianBase, stateDir: string, shop: Workshop): Promise<void> {
  const dir = join(stateDir, 'cache', 'lists', hexOf(digestOfValue({ sources: aptSources(base), arch: spec.arch })).slice(0, 16));
  const wanted = [...wantedPackages(spec), ...spec.remove];
  // Names that were there once are mmdebstrap's to find; only unknown ones are worth the fetch of new lists.
  const before = readNames(dir);
  if (before && wanted.every((name) => before.has(name))) return;
  const names = await fetchNames(dir, base, spec.arch, shop);
  if (!names) return;
  const where = `Debian ${base.debian} (${base.components.join(', ')}; ${spec.arch}) at ${base.mirror}`;
  const faults = wanted.flatMap((name): Fault[] => {
    if (names.has(name)) return [];
    const near = nearest(name, names);
    const hint = near ? `did you mean ${near}?` : base.components.includes('non-free-firmware') ? 'apt-cache search on a Debian of that suite finds names' : 'firmware and drivers may need base.components: [main, non-free-firmware]';
    const message = `${where} has no package ${name}`;
    if (name === spec.kernel.package) return [source.faultOfKernel(`kernel.package: ${message}`, hint)];
    return [spec.remove.includes(name) ? source.faultOf('remove', name, message, hint) : source.faultOf('packages', name, message, hint)];
  });
  if (faults.length > 0) throw new FaultsError('IMAGE_SPEC_INVALID', faults);
}

function readNames(dir: string): ReadonlySet<string> | undefined {
  const file = join(dir, 'names');
  return existsSync(file) ? new Set(readFileSync(file, 'utf8').split('\n')) : undefined;
}

/** apt with directories of its own, as an ordinary user too. Two builds at once would wait for each other's lock: each has its own until it is done. */
async function fetchNames(dir: string, base: DebianBase, arch: string, shop: Workshop): Promise<ReadonlySet<string> | undefined> {
  const apt = join(shop.dir, 'apt');
  for (const part of ['lists/partial', 'cache', 'etc']) mkdirSync(join(apt, part), { recursive: true });
  writeFileSync(join(apt, 'sources.list'), aptSources(base));
  writeFileSync(join(apt, 'status'), '');
  const options = [`Dir::State::lists=${apt}/lists`, `Dir::State::status=${apt}/status`, `Dir::Cache=${apt}/cache`, `Dir::Etc::sourcelist=${apt}/sources.list`, `Dir::Etc::sourceparts=/dev/null`, `APT::Architecture=${arch}`, `APT::Architectures=${arch}`, 'APT::Sandbox::User=root', 'Acquire::Languages=none', 'Acquire::GzipIndexes=false', 'Acquire::Retries=3'];
  const code = await shop.asRoot(['apt-get', ...options.flatMap((option) => ['-o', option]), 'update', '--error-on=any']);
  const names = new Set<string>();
  for (const file of code === 0 ? readdirSync(join(apt, 'lists')).filter((name) => name.endsWith('_Packages')) : []) {
    const text = readFileSync(join(apt, 'lists', file), 'utf8');
    for (const match of text.matchAll(/^Package: (.+)$/gm)) names.add(match[1]!);
    // A virtual package is one that apt can install when just one has it.
    for (const match of text.matchAll(/^Provides: (.+)$/gm)) for (const entry of match[1]!.split(',')) names.add(entry.trim().split(/[ :]/)[0]!);
  }
  await shop.asRoot(['rm', '-rf', apt]);
  if (names.size === 0) return undefined;
  mkdirSync(dir, { recursive: true });
  const made = join(dir, `.names.${process.pid}`);
  writeFileSync(made, [...names].join('\n'));
  renameSync(made, join(dir, 'names'));
  return names;
}
