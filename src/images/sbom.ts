// What an image is made of, as an SPDX 2.3 document: its packages with their sources, checksums, licences and dependencies.
import { readFileSync } from 'node:fs';
import type { BlobRef } from '../boot/profile.ts';
import { hexOf, type Digest } from '../digest.ts';
import { readStatus, type InstalledPackage } from './dpkg.ts';
import type { LockedPackages } from './lock.ts';
import { inRoot, installedPackages } from './rootfs.ts';
import { EPOCH } from './workshop.ts';

export interface SbomParts {
  readonly name: string;
  readonly digest: Digest;
  readonly arch: string;
  /** What the packages are of: `debian`, `trixie`; absent for an image whose packages nobody knows. */
  readonly distribution?: { readonly name: string; readonly suite: string };
  readonly builder: string;
  /** The image's own files, by what they are. */
  readonly files: Readonly<Record<string, BlobRef>>;
  readonly installed: readonly InstalledPackage[];
  readonly checksums: LockedPackages;
  /** SPDX expression of a package's licence; undefined where it is not known. */
  licenceOf(name: string): string | undefined;
}

/** SPDX 2.3, JSON. Equal images give equal bytes: the document has the time that their files have. */
export function sbomText(parts: SbomParts): string {
  const { name, digest, arch, builder, files, installed } = parts;
  const image = 'SPDXRef-Image';
  const own = Object.entries(files).map(([what, blob]) => ({
    ...unknownLicence,
    SPDXID: `SPDXRef-File-${what}`,
    name: what,
    versionInfo: blob.digest,
    primaryPackagePurpose: 'FILE',
    checksums: [{ algorithm: 'SHA256', checksumValue: hexOf(blob.digest) }],
  }));
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${name} ${digest}`,
    documentNamespace: `https://spdx.org/spdxdocs/rackseed-${name}-${hexOf(digest)}`,
    creationInfo: { created: new Date(EPOCH * 1000).toISOString().replace('.000', ''), creators: [`Tool: ${builder.replace('/', '-')}`] },
    documentDescribes: [image],
    packages: [
      { ...unknownLicence, SPDXID: image, name, versionInfo: digest, primaryPackagePurpose: 'OPERATING_SYSTEM', checksums: [{ algorithm: 'SHA256', checksumValue: hexOf(digest) }], comment: `for ${arch}; the checksum is the image's digest` },
      ...own,
      ...installed.map((one) => describe(one, parts)),
    ],
    relationships: [
      relation('SPDXRef-DOCUMENT', 'DESCRIBES', image),
      ...own.map(({ SPDXID }) => relation(image, 'CONTAINS', SPDXID)),
      ...installed.map((one) => relation(image, 'CONTAINS', idOf(one))),
      ...dependencies(installed).map(([from, to]) => relation(idOf(from), 'DEPENDS_ON', idOf(to))),
    ],
  };
  return `${JSON.stringify(document, null, 1)}\n`;
}

const unknownLicence = { supplier: 'NOASSERTION', downloadLocation: 'NOASSERTION', filesAnalyzed: false, licenseConcluded: 'NOASSERTION', licenseDeclared: 'NOASSERTION', copyrightText: 'NOASSERTION' } as const;

function describe(one: InstalledPackage, { checksums, distribution, licenceOf }: SbomParts): object {
  const { name, version, arch, maintainer, homepage, source } = one;
  const checksum = checksums[name]?.version === version ? checksums[name].sha256 : undefined;
  const purl = distribution && `pkg:deb/${distribution.name}/${encodeURIComponent(name)}@${encodeURIComponent(version)}?arch=${arch}&distro=${distribution.suite}`;
  return {
    ...unknownLicence,
    SPDXID: idOf(one),
    name,
    versionInfo: version,
    ...(maintainer === undefined ? {} : { supplier: supplierOf(maintainer) }),
    ...(homepage !== undefined && /^https?:\/\/\S+$/.test(homepage) ? { homepage } : {}),
    ...(source === undefined ? {} : { sourceInfo: `built from the source package ${source}` }),
    licenseDeclared: licenceOf(name) ?? 'NOASSERTION',
    ...(checksum === undefined ? {} : { checksums: [{ algorithm: 'SHA256', checksumValue: checksum }] }),
    ...(purl === undefined ? {} : { externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl }] }),
  };
}

/** `Debian GCC Maintainers <debian-gcc@lists.debian.org>` in SPDX's words: a list's address is no person's. */
function supplierOf(maintainer: string): string {
  const match = /^"?(.*?)"?\s*<([^<>]*)>$/.exec(maintainer);
  const [who, address] = match ? [match[1]!, match[2]!] : [maintainer, ''];
  const kind = /team|maintainers|group|developers|project|task force|lists\.|packages@|team\+|@tracker\./i.test(maintainer) ? 'Organization' : 'Person';
  return `${kind}: ${who}${address ? ` (${address})` : ''}`;
}

/** SPDX identifiers have letters, digits, dots and dashes only; + stands in some names of packages. */
function idOf({ name, arch }: InstalledPackage): string {
  return `SPDXRef-Package-${name.replaceAll('+', '-plus').replace(/[^A-Za-z0-9.-]/g, '-')}-${arch}`;
}

function relation(spdxElementId: string, relationshipType: string, relatedSpdxElement: string): object {
  return { spdxElementId, relationshipType, relatedSpdxElement };
}

/** Each dependency on the first of its alternatives that is installed, by its own name or as what provides it. */
function dependencies(installed: readonly InstalledPackage[]): [InstalledPackage, InstalledPackage][] {
  const byName = new Map<string, InstalledPackage>();
  for (const one of installed) for (const name of one.provides) if (!byName.has(name)) byName.set(name, one);
  for (const one of installed) byName.set(one.name, one);
  return installed.flatMap((one) => {
    const needed = one.depends.map((text) => text.split('|').map((each) => byName.get(each.trim().split(/[\s(:]/)[0]!)).find((each) => each !== undefined));
    return [...new Set(needed.filter((each): each is InstalledPackage => each !== undefined && each !== one))].map((each): [InstalledPackage, InstalledPackage] => [one, each]);
  });
}

/** The installed packages of a root, and their licences as far as machine-readable copyright files tell (DEP 5). */
export function rootContents(root: string, arch: string): Pick<SbomParts, 'installed' | 'licenceOf'> {
  const known = readStatus(root);
  // Another distribution's list has names and versions for us, no more.
  const others = known.length > 0 ? [] : installedPackages(root).map((line) => line.split(' '));
  const installed = [...known, ...others.map(([name = '', version = '']): InstalledPackage => ({ name, version, arch, depends: [], provides: [] }))];
  const licences = new Map(installed.map(({ name }) => [name, licenceIn(root, name)] as const));
  return { installed, licenceOf: (name) => licences.get(name) };
}

function licenceIn(root: string, name: string): string | undefined {
  try {
    const path = inRoot(root, `/usr/share/doc/${name}/copyright`);
    return path === undefined ? undefined : licenceExpression(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Debian's short names that mean one of SPDX's. What is in the public domain has no licence, so no name. */
const SPDX_NAMES: Readonly<Record<string, string>> = {
  'apache-2.0': 'Apache-2.0', 'artistic-2.0': 'Artistic-2.0', 'bsd-2-clause': 'BSD-2-Clause', 'bsd-3-clause': 'BSD-3-Clause', 'bsd-4-clause': 'BSD-4-Clause', 'bsl-1.0': 'BSL-1.0', 'cc0-1.0': 'CC0-1.0', expat: 'MIT', mit: 'MIT',
  'gpl-1': 'GPL-1.0-only', 'gpl-1+': 'GPL-1.0-or-later', 'gpl-2': 'GPL-2.0-only', 'gpl-2+': 'GPL-2.0-or-later', 'gpl-2.0+': 'GPL-2.0-or-later', 'gpl-3': 'GPL-3.0-only', 'gpl-3+': 'GPL-3.0-or-later', isc: 'ISC',
  'lgpl-2': 'LGPL-2.0-only', 'lgpl-2+': 'LGPL-2.0-or-later', 'lgpl-2.1': 'LGPL-2.1-only', 'lgpl-2.1+': 'LGPL-2.1-or-later', 'lgpl-3': 'LGPL-3.0-only', 'lgpl-3+': 'LGPL-3.0-or-later', 'mpl-2.0': 'MPL-2.0', zlib: 'Zlib',
};

/** All licences of a copyright file in DEP 5's form, joined by AND; undefined when it has another form or one of them has no name in SPDX. */
export function licenceExpression(copyright: string): string | undefined {
  if (!/^Format:\s*https?:\/\/\S*copyright-format\/1\.0/m.test(copyright)) return undefined;
  const names = [...copyright.matchAll(/^License:[ \t]*(\S.*)$/gm)].map((match) => match[1]!.trim());
  const spdx = names.map((text) => (/\s/.test(text) ? undefined : SPDX_NAMES[text.toLowerCase()]));
  if (spdx.length === 0 || spdx.includes(undefined)) return undefined;
  return [...new Set(spdx)].sort().join(' AND ');
}
