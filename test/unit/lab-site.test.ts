// The lab's copy of the shipped profiles: only the nodes and the version of k0s differ, and a release is what its file name and its sha256 say.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { createSite, profileText, releaseFrom, STANDIN, STANDIN_VERSION } from '../../src/lab/site.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { createArtifactStore } from '../../src/store/artifacts.ts';
import { openDatabase } from '../../src/store/db.ts';
import { openDir, removeDir } from '../lab-process.ts';

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

  test('has the loader that the firmware needs, and none of its own', () => {
    const loaders = [undefined, 'uki'].map((loader) => (parse(profileText(shipped('k0s-single.yaml'), NODES, STANDIN_VERSION, loader)) as Record<string, unknown>)['loader']);
    expect(loaders).toEqual([undefined, 'uki']);
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

describe('a real release', () => {
  const BYTES = Buffer.alloc(3 * 1024 * 1024, 'k0s');
  const SHA = createHash('sha256').update(BYTES).digest('hex');
  const FILE = 'k0s-v1.36.1%2Bk0s.0-amd64';
  let server: Server;
  let base: string;
  let state: string;

  beforeAll(async () => {
    server = createServer((request, response) => {
      if (request.url === `/${FILE}`) response.writeHead(200, { 'content-length': BYTES.length }).end(BYTES);
      else if (request.url === `/chunked/${FILE}`) response.write(BYTES, () => response.end());
      else if (request.url === `/broken/${FILE}`) response.writeHead(200, { 'content-length': BYTES.length }).write(BYTES.subarray(0, 1000), () => response.destroy());
      else if (request.url === `/slow/${FILE}`) response.write(BYTES);
      else response.writeHead(404).end('no such release');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => (state = openDir()));
  afterEach(() => removeDir(state));

  test.each([
    ['from a URL', () => `${base}/${FILE}`, BYTES.length],
    ['from a URL of a server that does not tell the length', () => `${base}/chunked/${FILE}`, undefined],
    ['from a file', () => join(state, 'k0s-v1.36.1+k0s.0-amd64'), undefined],
  ])('%s becomes the artifact k0s of the version in its file name', async (_what, source, length) => {
    writeFileSync(join(state, 'k0s-v1.36.1+k0s.0-amd64'), BYTES);
    const seen: [number, number | undefined][] = [];
    const site = await createSite(state, NODES, releaseFrom(source(), SHA), { onProgress: (done, total) => seen.push([done, total]) });
    const database = openDatabase(join(site.stateDir, 'rackseed.db'));
    try {
      expect(await createArtifactStore(database).list()).toEqual([{ name: 'k0s', version: 'v1.36.1+k0s.0', digest: `sha256:${SHA}`, size: BYTES.length, addedAt: expect.any(Number) }]);
    } finally {
      await database.close();
    }
    expect(readFileSync(join(state, 'blobs/sha256', SHA)).equals(BYTES)).toBe(true);
    expect((parse(readFileSync(join(site.profilesDir, 'k0s-single.yaml'), 'utf8')) as Record<string, unknown>)['artifacts']).toEqual({ k0s: 'v1.36.1+k0s.0' });
    expect(seen.at(-1)).toEqual([BYTES.length, length]);
    await site.remove();
  });

  test('can be given up while it comes', async () => {
    const stop = new AbortController();
    const site = createSite(state, NODES, releaseFrom(`${base}/slow/${FILE}`, SHA), { onProgress: () => stop.abort(), signal: stop.signal });
    await expect(site).rejects.toMatchObject({ code: 'ARTIFACT_INVALID', message: expect.stringContaining('interrupted') });
    expect([readdirSync(join(state, 'run')), readdirSync(join(state, 'blobs/incoming'))]).toEqual([[], []]);
  });

  test('that is there already is not fetched again', async () => {
    await (await createSite(state, NODES, releaseFrom(`${base}/${FILE}`, SHA))).remove();
    const site = await createSite(state, NODES, releaseFrom(`${base}/gone/${FILE}`, SHA));
    expect(existsSync(site.settingsFile)).toBe(true);
  });

  test.each([
    ['another sha256', () => `${base}/${FILE}`, 'b'.repeat(64), /digest sha256:.* expected was sha256:bbb/],
    ['a server that has no such file', () => `${base}/gone/${FILE}`, SHA, /HTTP 404/],
    ['a download that breaks off', () => `${base}/broken/${FILE}`, SHA, /broke off/],
    ['a server that is not there', () => `http://127.0.0.1:1/${FILE}`, SHA, /127\.0\.0\.1:1/],
  ])('%s is ARTIFACT_INVALID and leaves nothing', async (_what, source, sha, message) => {
    await expect(createSite(state, NODES, releaseFrom(source(), sha))).rejects.toMatchObject({ code: 'ARTIFACT_INVALID', message: expect.stringMatching(message) });
    expect([readdirSync(join(state, 'run')), readdirSync(join(state, 'blobs/sha256')), readdirSync(join(state, 'blobs/incoming'))]).toEqual([[], [], []]);
  });
});
