// What dpkg says is installed in a root, and the archives that it came from.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sha256Hex } from '../digest.ts';
import { inRoot } from './rootfs.ts';

export interface InstalledPackage {
  readonly name: string;
  readonly version: string;
  /** `all` for what runs on any. */
  readonly arch: string;
  readonly maintainer?: string;
  readonly homepage?: string;
  /** The source package, `name` or `name (version)`, where it has another name or version. */
  readonly source?: string;
  /** As in the control file: Pre-Depends and Depends. */
  readonly depends: readonly string[];
  /** Names that it can stand for. */
  readonly provides: readonly string[];
}

/** Every installed package of a root, by name; none where there is no dpkg. */
export function readStatus(root: string): InstalledPackage[] {
  const path = inRoot(root, '/var/lib/dpkg/status');
  if (path === undefined) return [];
  return parseControl(readFileSync(path, 'utf8'))
    .filter((fields) => fields.get('Status') === 'install ok installed')
    .map((fields): InstalledPackage => {
      const list = (...keys: string[]) => keys.flatMap((key) => (fields.get(key) ?? '').split(',')).map((text) => text.trim()).filter(Boolean);
      const optional = (key: string, as: string) => (fields.has(key) ? { [as]: fields.get(key) } : {});
      return {
        name: fields.get('Package')!,
        version: fields.get('Version')!,
        arch: fields.get('Architecture')!,
        ...optional('Maintainer', 'maintainer'),
        ...optional('Homepage', 'homepage'),
        ...optional('Source', 'source'),
        depends: list('Pre-Depends', 'Depends'),
        provides: list('Provides').map((text) => text.split(/[\s(]/)[0]!),
      };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The stanzas of a control file (dpkg's status, apt's lists): each a map of its fields, of those that continue only the first line. */
export function parseControl(text: string): ReadonlyMap<string, string>[] {
  return text
    .split(/\n{2,}/)
    .map((stanza) => new Map([...stanza.matchAll(/^([A-Za-z0-9-]+):[ \t]*(.*)$/gm)].map((match) => [match[1]!, match[2]!.trim()] as const)))
    .filter((fields) => fields.has('Package'));
}

/** As apt names the file in its archives: the colon of an epoch is written %3a. */
export function debName({ name, version, arch }: { readonly name: string; readonly version: string; readonly arch: string }): string {
  return `${name}_${version.replaceAll(':', '%3a')}_${arch}.deb`;
}

/** sha256 (hex) of the package's archive in `debs`; undefined when it is not there. */
export function debSha256(debs: string, one: { readonly name: string; readonly version: string; readonly arch: string }): string | undefined {
  const path = join(debs, debName(one));
  return existsSync(path) ? sha256Hex(readFileSync(path)) : undefined;
}
