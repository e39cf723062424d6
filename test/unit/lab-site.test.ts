// The lab's copy of the shipped profiles: only the nodes and the version of k0s differ, and a release is what its file name says.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { profileText, releaseFrom, STANDIN, STANDIN_VERSION } from '../../src/lab/site.ts';
import { SHIPPED } from '../../src/shipped.ts';

const NODES = [
  { name: 'n1', mac: '52:54:00:4c:42:01', ip: '10.77.0.11' },
  { name: 'n2', mac: '52:54:00:4c:42:02', ip: '10.77.0.12' },
];
const shipped = (file: string) => readFileSync(join(SHIPPED.bootProfiles, file), 'utf8');

describe('profileText', () => {
  test('puts the nodes in and names the stand-in; every other key is as shipped', () => {
    const before = parse(shipped('k0s-single.yaml')) as Record<string, unknown>;
    const after = parse(profileText(shipped('k0s-single.yaml'), NODES, STANDIN_VERSION)) as Record<string, unknown>;
    expect(after['nodes']).toEqual({
      n1: { macs: ['52:54:00:4c:42:01'], ip: '10.77.0.11', labels: { rack: 'lab' } },
      n2: { macs: ['52:54:00:4c:42:02'], ip: '10.77.0.12', labels: { rack: 'lab' } },
    });
    expect(after['artifacts']).toEqual({ k0s: STANDIN_VERSION });
    for (const key of Object.keys(before)) if (key !== 'nodes' && key !== 'artifacts') expect(after[key], key).toEqual(before[key]);
  });

  test('keeps each node on one line, so that a person can move it to another file', () => {
    expect(profileText(shipped('k0s-single.yaml'), NODES, STANDIN_VERSION)).toMatch(/^ {2}n2: \{ macs: \[ ?52:54:00:4c:42:02 ?\], ip: 10\.77\.0\.12, labels: \{ rack: lab \} \}$/m);
  });

  test('keeps the comments', () => {
    const text = profileText(shipped('k0s-single.yaml'), NODES, STANDIN_VERSION);
    expect(text.split('\n')[0]).toBe(shipped('k0s-single.yaml').split('\n')[0]);
  });

  test.each(readdirSync(SHIPPED.bootProfiles))('%s without lab nodes has none, and no artifact that it had not', (file) => {
    const before = parse(shipped(file)) as Record<string, unknown>;
    const after = parse(profileText(shipped(file), [], STANDIN_VERSION)) as Record<string, unknown>;
    expect(after['nodes']).toBeUndefined();
    expect('artifacts' in after).toBe('artifacts' in before);
  });
});

describe('releaseFrom', () => {
  const SHA = 'a'.repeat(64);

  test.each([
    ['/tmp/k0s-v1.36.1+k0s.0-amd64', 'v1.36.1+k0s.0'],
    ['https://example.org/download/v1.36.1%2Bk0s.0/k0s-v1.36.1%2Bk0s.0-amd64', 'v1.36.1+k0s.0'],
    ['k0s-v1.37.0-rc.1+k0s.0-arm64', 'v1.37.0-rc.1+k0s.0'],
  ])('reads the version from %s', (source, version) => {
    expect(releaseFrom(source, SHA)).toEqual({ version, source, digest: `sha256:${SHA}`, standin: false });
  });

  test.each([
    ['without a sha256', '/tmp/k0s-v1.36.1+k0s.0-amd64', undefined],
    ['with half a sha256', '/tmp/k0s-v1.36.1+k0s.0-amd64', 'abcd'],
    ['with a file name that has no version', '/tmp/k0s', SHA],
  ])('refuses a release %s', (_what, source, sha256) => {
    expect(() => releaseFrom(source, sha256)).toThrow(expect.objectContaining({ code: 'USAGE' }));
  });
});

test('the stand-in says in its version what it is', () => {
  expect(STANDIN).toMatchObject({ version: 'v0.0.0-standin+k0s.0', standin: true });
});
