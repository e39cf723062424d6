// The SBOM: what SPDX 2.3 asks of a document, and what is in it of each package.
import { describe, expect, test } from 'vitest';
import { licenceExpression, sbomText, type SbomParts } from '../../src/images/sbom.ts';
import type { InstalledPackage } from '../../src/images/dpkg.ts';

const one = (name: string, more: Partial<InstalledPackage> = {}): InstalledPackage => ({ name, version: '1.0-1', arch: 'amd64', depends: [], provides: [], ...more });
const blob = (digit: string) => ({ digest: `sha256:${digit.repeat(64)}`, size: 1 });

const PARTS: SbomParts = {
  name: 'debian-k0s',
  digest: `sha256:${'d'.repeat(64)}`,
  arch: 'amd64',
  distribution: { name: 'debian', suite: 'trixie' },
  builder: 'rackseed-image/2',
  files: { kernel: blob('1'), initrd: blob('2'), squashfs: blob('3') },
  installed: [
    one('git', { version: '1:2.47+x', maintainer: 'Jonathan Nieder <jrnieder@gmail.com>', homepage: 'https://git-scm.com/', depends: ['libc6 (>= 2.38)', 'mta | perl:any'], source: 'git (1:2.47)' }),
    one('libc6', { maintainer: 'GNU Libc Maintainers <debian-glibc@lists.debian.org>', depends: ['libgcc-s1'] }),
    one('libstdc++6'),
    one('perl-base', { provides: ['perl'] }),
  ],
  checksums: { git: { version: '1:2.47+x', arch: 'amd64', sha256: 'a'.repeat(64) }, libc6: { version: '0.9', arch: 'amd64', sha256: 'b'.repeat(64) } },
  licenceOf: (name) => (name === 'libc6' ? 'GPL-2.0-only AND LGPL-2.1-or-later' : undefined),
};

interface Spdx {
  readonly [key: string]: unknown;
  readonly creationInfo: { readonly created: string; readonly creators: string[] };
  readonly packages: Record<string, unknown>[];
  readonly relationships: { readonly spdxElementId: string; readonly relationshipType: string; readonly relatedSpdxElement: string }[];
}
const document = JSON.parse(sbomText(PARTS)) as Spdx;
const byName = new Map(document.packages.map((entry) => [entry['name'], entry]));

describe('as SPDX 2.3 asks for it', () => {
  test('the document has its fields, and the time of its files', () => {
    expect(document).toMatchObject({ spdxVersion: 'SPDX-2.3', dataLicense: 'CC0-1.0', SPDXID: 'SPDXRef-DOCUMENT', documentNamespace: expect.stringMatching(/^https:\/\/[^#\s]+$/) });
    expect(document.creationInfo).toEqual({ created: '2025-01-01T00:00:00Z', creators: ['Tool: rackseed-image-2'] });
    expect(sbomText(PARTS)).toBe(sbomText(PARTS));
  });

  test('every identifier is well formed and stands once; every relationship is between two that are there', () => {
    const ids = ['SPDXRef-DOCUMENT', ...document.packages.map((entry) => entry['SPDXID'] as string)];
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.filter((id) => !/^SPDXRef-[A-Za-z0-9.-]+$/.test(id))).toEqual([]);
    expect(document.relationships.filter(({ spdxElementId, relatedSpdxElement }) => !ids.includes(spdxElementId) || !ids.includes(relatedSpdxElement))).toEqual([]);
    expect(document.relationships.filter(({ relationshipType }) => !['DESCRIBES', 'CONTAINS', 'DEPENDS_ON'].includes(relationshipType))).toEqual([]);
  });

  test('every package has the fields that one must have, in their forms', () => {
    for (const entry of document.packages) {
      expect(entry).toMatchObject({ name: expect.any(String), downloadLocation: 'NOASSERTION', filesAnalyzed: false, licenseConcluded: 'NOASSERTION', copyrightText: 'NOASSERTION' });
      // The JSON schema of 2.3 has an underscore where its prose has a dash.
      expect([undefined, 'OPERATING_SYSTEM', 'FILE']).toContain(entry['primaryPackagePurpose']);
      expect(entry['supplier']).toMatch(/^(NOASSERTION|(Person|Organization): [^()]+( \([^()\s]+\))?)$/);
      for (const sum of (entry['checksums'] ?? []) as { algorithm: string; checksumValue: string }[]) expect(sum).toEqual({ algorithm: 'SHA256', checksumValue: expect.stringMatching(/^[0-9a-f]{64}$/) });
    }
  });
});

describe('of a package', () => {
  test('version, supplier, home page, source, checksum and purl, as far as they are known', () => {
    expect(byName.get('git')).toMatchObject({
      versionInfo: '1:2.47+x',
      supplier: 'Person: Jonathan Nieder (jrnieder@gmail.com)',
      homepage: 'https://git-scm.com/',
      sourceInfo: 'built from the source package git (1:2.47)',
      licenseDeclared: 'NOASSERTION',
      checksums: [{ algorithm: 'SHA256', checksumValue: 'a'.repeat(64) }],
      externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: 'pkg:deb/debian/git@1%3A2.47%2Bx?arch=amd64&distro=trixie' }],
    });
    expect(byName.get('libc6')).toMatchObject({ supplier: 'Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)', licenseDeclared: 'GPL-2.0-only AND LGPL-2.1-or-later' });
    // The archive of another version says nothing of this one.
    expect(byName.get('libc6')).not.toHaveProperty('checksums');
    expect(byName.get('libstdc++6')).toMatchObject({ SPDXID: 'SPDXRef-Package-libstdc-plus-plus6-amd64', supplier: 'NOASSERTION' });
  });

  test('what it depends on, by name or by what provides it, where that is installed', () => {
    const needs = document.relationships.filter(({ relationshipType }) => relationshipType === 'DEPENDS_ON').map(({ spdxElementId, relatedSpdxElement }) => [spdxElementId, relatedSpdxElement].map((id) => id.replace('SPDXRef-Package-', '')));
    expect(needs).toEqual([['git-amd64', 'libc6-amd64'], ['git-amd64', 'perl-base-amd64']]);
  });
});

test("the image contains every package and its own files, by their sha256", () => {
  const contained = document.relationships.filter(({ relationshipType }) => relationshipType === 'CONTAINS');
  expect(contained).toHaveLength(3 + PARTS.installed.length);
  expect(byName.get('squashfs')).toMatchObject({ primaryPackagePurpose: 'FILE', checksums: [{ algorithm: 'SHA256', checksumValue: '3'.repeat(64) }] });
});

describe('licences of a copyright file', () => {
  const FORMAT = 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n';
  test.each([
    ['all that it names, once and in order', `${FORMAT}Files: *\nLicense: GPL-2+\n text\n\nFiles: a\nLicense: Expat\n\nFiles: b\nLicense: GPL-2+\n`, 'GPL-2.0-or-later AND MIT'],
    ['unknown, where one of them has no name in SPDX', `${FORMAT}Files: *\nLicense: GPL-2+\n\nFiles: a\nLicense: public-domain\n`, undefined],
    ['unknown, where it is a choice of two', `${FORMAT}Files: *\nLicense: GPL-2+ or Artistic\n`, undefined],
    ['unknown, in a text that only people read', 'This is free software.\nLicense: GPL-2+\n', undefined],
  ])('%s', (_what, text, expected) => {
    expect(licenceExpression(text)).toBe(expected);
  });
});
