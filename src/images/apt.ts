// apt with nothing of this machine's own: what a mirror has today, and what it would install into an empty root. Downloads lists, never packages.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { parseControl } from './dpkg.ts';
import type { LockedPackage, LockedPackages } from './lock.ts';
import type { Workshop } from './workshop.ts';

export interface Apt {
  /** Every version of these names that the mirror has, the newest first; nothing for a name that it has not. */
  available(names: readonly string[]): Promise<ReadonlyMap<string, readonly LockedPackage[]>>;
  /** What mmdebstrap (minbase) would install today for these names. */
  resolve(suite: string, names: readonly string[]): Promise<LockedPackages>;
}

/** Fetches the lists. `sources` is the text of a sources.list. IMAGE_BUILD_FAILED with apt's reason when the mirror cannot be read. */
export async function openApt(shop: Workshop, { sources, arch }: { readonly sources: string; readonly arch: string }): Promise<Apt> {
  const dir = join(shop.dir, 'apt-private');
  for (const path of ['state/lists/partial', 'cache/archives/partial']) mkdirSync(join(dir, path), { recursive: true });
  const config = join(dir, 'apt.conf');
  const out = join(dir, 'out');
  writeFileSync(join(dir, 'status'), '');
  writeFileSync(join(dir, 'sources.list'), sources);
  writeFileSync(config, configuration(dir, arch));
  const apt = async (...argv: readonly string[]): Promise<string> => {
    // Into a file: what hundreds of packages say would only fill the log.
    const code = await shop.asRoot(['env', `APT_CONFIG=${config}`, 'sh', '-c', 'to=$1; shift; exec "$@" >"$to"', 'sh', out, ...argv]);
    if (code !== 0) throw new AppError('IMAGE_BUILD_FAILED', `${argv[0]}: ${aptReason(shop.said(), code)}`, `the whole log is ${shop.log}`);
    return readFileSync(out, 'utf8');
  };
  await apt('apt-get', 'update', '--error-on=any', '-qq');

  const available: Apt['available'] = async (names) => {
    // The name alone would also be a pattern's; apt-cache ends with 100 when one of several is not there, and shows the others.
    const text = await apt('sh', '-c', 'apt-cache show --all-versions "$@" || [ $? = 100 ]', 'sh', ...names);
    const found = new Map<string, LockedPackage[]>();
    for (const fields of parseControl(text)) {
      const [name, version, arch, sha256] = ['Package', 'Version', 'Architecture', 'SHA256'].map((key) => fields.get(key));
      if (name && version && arch && sha256) found.set(name, [...(found.get(name) ?? []), { version, arch, sha256 }]);
    }
    return found;
  };

  return {
    available,
    async resolve(suite, names) {
      // As mmdebstrap words it for minbase.
      const from = `?narrow(?or(?archive(^${suite}$),?codename(^${suite}$)),?architecture(${arch}),`;
      const text = await apt('apt-get', 'install', '-qq', '--yes', '--simulate', `${from}?essential)`, `${from}?priority(required))`, ...names);
      const chosen = new Map([...text.matchAll(/^Inst (\S+) \((\S+) /gm)].map((match) => [match[1]!, match[2]!] as const));
      const versions = await available([...chosen].map(([name, version]) => `${name}=${version}`));
      return Object.fromEntries(
        [...chosen].map(([name, version]) => {
          const one = versions.get(name)?.find((each) => each.version === version);
          if (!one) throw new AppError('IMAGE_BUILD_FAILED', `apt-get: would install ${name} ${version}, of which the mirror's lists know no sha256`, `the whole log is ${shop.log}`);
          return [name, one];
        }),
      );
    },
  };
}

/** Proxies and keys of this machine count, as they do for mmdebstrap; its sources, pins, hooks and other architectures do not. */
function configuration(dir: string, arch: string): string {
  const set: readonly (readonly [string, string])[] = [
    ['Dir::State', join(dir, 'state')],
    ['Dir::State::status', join(dir, 'status')],
    ['Dir::Cache', join(dir, 'cache')],
    ['Dir::Etc::sourcelist', join(dir, 'sources.list')],
    ['Dir::Etc::sourceparts', '/dev/null'],
    ['Dir::Etc::preferences', '/dev/null'],
    ['Dir::Etc::preferencesparts', '/dev/null'],
    ['APT::Architecture', arch],
    ['APT::Install-Recommends', 'false'],
    // Its own user could not look into the workshop.
    ['APT::Sandbox::User', 'root'],
    ['Acquire::Languages', 'none'],
    ['Acquire::Retries', '3'],
  ];
  const clear = ['APT::Architectures', 'APT::Default-Release', 'APT::Update::Pre-Invoke', 'APT::Update::Post-Invoke', 'APT::Update::Post-Invoke-Success', 'DPkg::Pre-Install-Pkgs'];
  return [...clear.map((name) => `#clear ${name};`), ...set.map(([name, value]) => `${name} "${value}";`), `APT::Architectures { "${arch}"; };`, ''].join('\n');
}

/** The first error is the cause; those that follow from it come behind. */
function aptReason(said: string, code: number): string {
  const lines = said.split('\n').map((line) => line.trim()).filter(Boolean);
  return lines.find((line) => line.startsWith('E: '))?.slice(3) ?? lines.at(-1) ?? `ended with ${code}`;
}
