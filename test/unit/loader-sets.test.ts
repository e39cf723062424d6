// Loader sets: what `rackseed loader add` takes and under which names, what stands of a set afterwards, and which sets a daemon reads.
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isLoaderSet, namesFor, servedName } from '../../src/boot/loader-set.ts';
import { readTftpName } from '../../src/boot/urls.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { addLoaders } from '../../src/loader-files.ts';
import { chosenSet, loaderNames, MOST_LOADER_BYTES, readLoaderSets, servedBy, troubleLine, type LoaderSets } from '../../src/loader-sets.ts';
import { createShelf, findLoader, servedOf } from '../../src/loaders.ts';
import { blobFile } from '../../src/store/blobs.ts';
import { efiProgram } from '../efi-program.ts';

let dir: string;
let stateDir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-sets-'));
  stateDir = join(dir, 'state');
  mkdirSync(join(dir, 'ipxe'));
  put('ipxe/undionly.kpxe');
  put('ipxe/snponly.efi', efiProgram('built in'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function put(name: string, content: string | Buffer = name): string {
  mkdirSync(join(dir, name, '..'), { recursive: true });
  writeFileSync(join(dir, name), content);
  return join(dir, name);
}
const add = (paths: readonly string[], { name = 'own', replace = false } = {}) => addLoaders({ stateDir, name, paths, replace, now: 1_000 });
const read = (more: { sets?: Record<string, string>; default?: string } = {}): Promise<LoaderSets> => readLoaderSets({ dir: join(dir, 'ipxe'), sets: {}, default: 'default', stateDir, ...more });
const namesOf = ({ sets }: LoaderSets) => sets.map(({ name, names }) => [name, names]);
const troubles = (sets: LoaderSets) => sets.troubles.map(troubleLine);

describe('names', () => {
  test.each(['ipxe-2.0', 'default', 'a', 'debian-13_x', 'a'.repeat(32)])('%s can be a set', (name) => expect(isLoaderSet(name)).toBe(true));
  test.each(['', '.', '..', '-x', 'A', 'a/b', 'a b', 'a'.repeat(33), '52-54-00-12-34-56', '525400123456', '01-52-54-00-12-34-56', '5254.0012.3456'])('%s cannot', (name) => expect(isLoaderSet(name)).toBe(false));

  test('a file stands below its set, and plain in the built-in one', () => {
    expect([servedName('ipxe-2.0', 'snponly.efi'), servedName('default', 'snponly.efi'), servedName(undefined, 'snponly.efi')]).toEqual(['ipxe-2.0/snponly.efi', 'snponly.efi', 'snponly.efi']);
  });

  test("a plain name means the node's own set, then the default, then the built-in one", () => {
    expect(namesFor('a.efi', { loaders: 'own' }, 'other')).toEqual(['own/a.efi', 'a.efi']);
    expect(namesFor('a.efi', {}, 'other')).toEqual(['other/a.efi', 'a.efi']);
    expect(namesFor('a.efi', { loaders: 'default' }, 'other')).toEqual(['a.efi']);
    expect(namesFor('a.efi', undefined, undefined)).toEqual(['a.efi']);
  });

  test('a TFTP name may have a MAC before the set', () => {
    expect(readTftpName('/52-54-00-12-34-56/ipxe-2.0/snponly.efi')).toEqual({ mac: '52:54:00:12:34:56', file: 'ipxe-2.0/snponly.efi' });
    expect(readTftpName('ipxe-2.0/snponly.efi')).toEqual({ file: 'ipxe-2.0/snponly.efi' });
  });
});

describe('what is added', () => {
  test('of a directory each loader, without .signed, and the GRUB for networks as what shim asks for', async () => {
    for (const name of ['shimx64.efi.signed', 'grubx64.efi.signed', 'grubnetx64.efi.signed', 'grubnetia32.efi', 'gcdx64.efi.signed', 'README']) put(`sb/${name}`);
    const { set } = await add([join(dir, 'sb')]);
    expect(set.files.map(({ name, from }) => [name, from.slice(dir.length)])).toEqual(expect.arrayContaining([['shimx64.efi', '/sb/shimx64.efi.signed'], ['grubx64.efi', '/sb/grubnetx64.efi.signed'], ['grubnetia32.efi', '/sb/grubnetia32.efi'], ['gcdx64.efi', '/sb/gcdx64.efi.signed']]));
    expect(set.files).toHaveLength(4);
  });

  test('a file under its own name or another, with what is known of it', async () => {
    const bytes = efiProgram('\0iPXE\0\0\x002.0.0+dfsg-5\0');
    await add([put('x/snponly.efi', bytes), `${put('x/y.bin', 'bios')}=other.kpxe`]);
    const sets = await read();
    expect(sets.sets[1]!.files).toEqual([
      { name: 'snponly.efi', runsOn: 'efi-amd64', size: bytes.length, version: '2.0.0+dfsg-5', digest: digestOfBytes(bytes) },
      { name: 'other.kpxe', runsOn: 'bios', size: 4, version: 'unknown', digest: digestOfBytes('bios') },
    ]);
    expect(sets.sets[1]).toMatchObject({ name: 'own', addedAt: 1_000 });
    expect(statSync(join(stateDir, 'loaders/own.json')).mode & 0o777).toBe(0o644);
  });

  test.each<[string, () => string[], RegExp]>([
    ['nothing', () => [join(dir, 'none.efi')], /none\.efi: no such file$/],
    ['nothing without a loader\'s ending', () => [join(dir, 'none')], /none: no such file$/],
    ['a directory without a loader', () => [join(put('empty/README'), '..')], /has no loader$/],
    ['an empty file', () => [put('e.efi', '')], /e\.efi: the file is empty$/],
    ['a file with another ending', () => [put('key.pem')], /^key\.pem cannot be the name of a loader$/],
    ["the name of each node's own UKI", () => [`${put('a.efi')}=uki.efi`], /^uki\.efi cannot be/],
    ['two of one name', () => [put('1/a.efi'), put('2/a.efi')], /^two files would be a\.efi: .*\/1\/a\.efi and .*\/2\/a\.efi$/],
    ['a character device', () => ['/dev/zero=zero.efi'], /not a regular file$/],
    ['more than 32 MiB', () => (truncateSync(put('big.efi'), (32 << 20) + 1), [join(dir, 'big.efi')]), /33554433 bytes/],
  ])('%s is refused, and no set is there', async (_what, paths, why) => {
    await expect(add(paths())).rejects.toMatchObject({ code: 'LOADER_INVALID', message: expect.stringMatching(why) as string });
    expect(existsSync(join(stateDir, 'loaders'))).toBe(false);
  });

  test.each(['default', '../x', '525400123456', 'A'])('the name %s is refused', async (name) => {
    await expect(add([put('a.efi')], { name })).rejects.toMatchObject({ code: 'LOADER_INVALID' });
  });

  test('a name that is taken is refused unless the set is to be replaced; of two at once one wins', async () => {
    const outcomes = await Promise.allSettled([add([put('1/a.efi', 'one')]), add([put('2/a.efi', 'two')])]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await expect(add([put('a.efi')])).rejects.toMatchObject({ code: 'LOADER_INVALID', message: 'there is a loader set own already' });
    await add([put('b.efi')], { replace: true });
    expect(namesOf(await read())[1]).toEqual(['own', ['b.efi']]);
    expect(readdirSync(join(stateDir, 'loaders'))).toEqual(['own.json']);
  });
});

describe('what is read', () => {
  test('the built-in set first, then the others by name, each served below its own', async () => {
    await add([put('a.efi')], { name: 'zz' });
    const sets = await read({ sets: { site: join(put('site/b.efi'), '..') }, default: 'zz' });
    expect(namesOf(sets)).toEqual([['default', ['undionly.kpxe', 'snponly.efi']], ['site', ['b.efi']], ['zz', ['a.efi']]]);
    expect(servedBy(sets).files.map(({ name }) => name)).toEqual(['undionly.kpxe', 'snponly.efi', 'site/b.efi', 'zz/a.efi']);
    expect(chosenSet(sets)).toMatchObject({ loaderSet: 'zz', loaders: [{ name: 'a.efi' }] });
    expect(Object.keys(chosenSet(sets, 'default'))).toEqual(['loaders']);
    expect(chosenSet(sets, 'gone')).toEqual({ loaderSet: 'gone', loaders: [] });
    expect(loaderNames(sets).sets.get('site')).toEqual(['b.efi']);
  });

  test('a file that is not what was added is left out, and the rest is not', async () => {
    await add([put('a.efi'), put('b.efi'), put('c.efi')]);
    const [a, c] = [blobFile(stateDir, digestOfBytes('a.efi')), blobFile(stateDir, digestOfBytes('c.efi'))];
    chmodSync(a, 0o644);
    writeFileSync(a, 'A.efi');
    rmSync(c);
    const sets = await read();
    expect(namesOf(sets)[1]).toEqual(['own', ['b.efi']]);
    expect(sets.troubles.map(({ set, file, rotten }) => [set, file, rotten])).toEqual([['own', 'a.efi', true], ['own', 'c.efi', true]]);
    expect(troubles(sets)[0]).toBe(`loader set own: a.efi: its bytes are not those that were added (${digestOfBytes('a.efi')})`);
  });

  test('what is no record of a set is told, and names of the record lead nowhere', async () => {
    put('state/loaders/broken.json', '{');
    put('state/loaders/escape.json', JSON.stringify({ format: 1, addedAt: 0, files: [{ name: '../x.efi', size: 1, digest: digestOfBytes(''), version: '', runsOn: '', from: '' }] }));
    put('state/loaders/UPPER.json', '{');
    const sets = await read({ sets: { gone: join(dir, 'none') } });
    expect(sets.sets.map(({ name }) => name)).toEqual(['default']);
    expect(sets.troubles.map(({ set }) => set)).toEqual(['broken', 'escape', 'gone']);
  });

  test('a directory of the settings counts before one that was added under its name, and that is told', async () => {
    await add([put('a.efi')]);
    const sets = await read({ sets: { own: join(put('site/b.efi'), '..') } });
    expect(namesOf(sets)[1]).toEqual(['own', ['b.efi']]);
    expect(troubles(sets)).toEqual(['loader set own: one of that name was added, and loaders.sets names another: that one counts']);
  });

  test('what does not fit into memory beside the others is left out', async () => {
    for (let n = 0; n < MOST_LOADER_BYTES / (32 << 20); n++) truncateSync(put(`big/${n}.efi`, ''), 32 << 20);
    const sets = await read({ sets: { big: join(dir, 'big'), site: join(put('site/b.efi'), '..') } });
    expect(sets.sets.map(({ name }) => name)).toEqual(['default', 'site']);
    expect(troubles(sets)).toEqual([`loader set big: ${MOST_LOADER_BYTES} bytes, and all loader sets together may have ${MOST_LOADER_BYTES}`]);
  });

  test('a default that is no set is an error with the nearest one', async () => {
    await add([put('a.efi')], { name: 'ipxe-2.0' });
    await expect(read({ default: 'ipxe-20' })).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: 'loaders.default is ipxe-20, and there is no such loader set', hint: 'did you mean ipxe-2.0?' });
  });
});

test('a shelf is found by served names, crosses to a thread as it is, and changes as a whole', async () => {
  await add([put('a.efi', 'first')]);
  const shelf = createShelf(structuredClone(servedBy(await read())));
  const before = findLoader(shelf, 'a.efi', { loaders: 'own' });
  expect(before).toMatchObject({ name: 'own/a.efi', digest: digestOfBytes('first'), version: 'unknown' });
  expect(findLoader(shelf, 'a.efi', undefined)).toBeUndefined();
  await add([put('a.efi', 'second')], { replace: true });
  shelf.put(servedBy(await read({ default: 'own' })));
  expect(Buffer.from(findLoader(shelf, 'a.efi', undefined)!.bytes).toString()).toBe('second');
  expect(Buffer.from(before!.bytes).toString()).toBe('first');
  expect(servedOf(shelf)).toMatchObject({ defaultSet: 'own', files: [{ name: 'undionly.kpxe' }, { name: 'snponly.efi' }, { name: 'own/a.efi', digest: digestOfBytes('second') }] });
});
