// The loader set: which files of a directory are loaders, whose links are followed, and what `rackseed loader list` tells of them.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loaderList } from '../../src/commands/loader.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { loadLoaders } from '../../src/loaders.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-loaders-'));
  writeFileSync(join(dir, 'undionly.kpxe'), 'undionly');
});
afterEach(() => rmSync(dir, { recursive: true }));

const put = (name: string, content = name): void => writeFileSync(join(dir, name), content);

describe('a directory', () => {
  test("gives the table's files in its order, then the others by name, each with its digest", async () => {
    for (const name of ['zz.efi', 'grubnetx64.efi.signed', 'ipxe-arm64.efi', 'snponly.efi', 'own.pxe', 'README', 'undionly.kkpxe', 'key.pem', '.hidden.efi']) put(name);
    const set = await loadLoaders(dir);
    expect(set.names).toEqual(['undionly.kpxe', 'snponly.efi', 'ipxe-arm64.efi', 'grubnetx64.efi.signed', 'own.pxe', 'zz.efi']);
    expect(set.digests['zz.efi']).toBe(digestOfBytes('zz.efi'));
    expect(set.get('zz.efi')!.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(set.files.map(({ runsOn }) => runsOn)).toEqual(['bios', 'unknown', 'unknown', 'unknown', 'bios', 'unknown']);
  });

  test('no link, directory, FIFO or file over 32 MiB under another name is a loader', async () => {
    symlinkSync('undionly.kpxe', join(dir, 'link.kpxe'));
    mkdirSync(join(dir, 'dir.efi'));
    execFileSync('mkfifo', [join(dir, 'fifo.efi')]);
    put('big.efi', '');
    truncateSync(join(dir, 'big.efi'), (32 << 20) + 1);
    put('just.efi', '');
    truncateSync(join(dir, 'just.efi'), 32 << 20);
    expect((await loadLoaders(dir)).names).toEqual(['undionly.kpxe', 'just.efi']);
  });

  test.each<[string, (file: string) => void, RegExp]>([
    ['a FIFO', (file) => execFileSync('mkfifo', [file]), /not a regular file/],
    ['over 32 MiB', (file) => (writeFileSync(file, ''), truncateSync(file, (32 << 20) + 1)), /33554433 bytes, a loader has at most 33554432/],
  ])('%s under a name of the table is told', async (_what, lay, why) => {
    lay(join(dir, 'snponly.efi'));
    await expect(loadLoaders(dir)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: expect.stringMatching(why) as string });
  });
});

describe('an unpacked package', () => {
  const unpacked = (): string => {
    const loaders = join(dir, 'usr/lib/ipxe');
    mkdirSync(loaders, { recursive: true });
    writeFileSync(join(loaders, 'undionly.kpxe'), 'undionly');
    return loaders;
  };

  test("an absolute link means the package's own file", async () => {
    const loaders = unpacked();
    mkdirSync(join(dir, 'boot'));
    writeFileSync(join(dir, 'boot/ipxe.efi'), 'of the package');
    symlinkSync('/boot/ipxe.efi', join(loaders, 'ipxe.efi'));
    symlinkSync('../ipxe/undionly.kpxe', join(loaders, 'ipxe.pxe'));
    const set = await loadLoaders(loaders);
    expect(Buffer.from(set.get('ipxe.efi')!).toString()).toBe('of the package');
    expect(Buffer.from(set.get('ipxe.pxe')!).toString()).toBe('undionly');
  });

  test("and never the system's, when the package lacks it", async () => {
    const loaders = unpacked();
    // There, and readable: what would be handed out if the link were followed as it is.
    symlinkSync('/etc/hostname', join(loaders, 'ipxe.efi'));
    expect((await loadLoaders(loaders)).names).toEqual(['undionly.kpxe']);
  });

  test('a relative link that leads out is told, and a directory that does', async () => {
    const loaders = unpacked();
    symlinkSync('../../../../../../../../../../etc/hostname', join(loaders, 'ipxe.efi'));
    await expect(loadLoaders(loaders)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: expect.stringContaining(`a link leads out of ${dir}`) as string });
    rmSync(join(loaders, 'ipxe.efi'));
    symlinkSync('/etc', join(dir, 'outside'));
    symlinkSync('/outside/hostname', join(loaders, 'snponly.efi'));
    await expect(loadLoaders(loaders)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: expect.stringContaining(`a link leads out of ${dir}`) as string });
  });

  test('links in a circle are told', async () => {
    const loaders = unpacked();
    symlinkSync('ipxe.efi', join(loaders, 'ipxe.efi'));
    await expect(loadLoaders(loaders)).rejects.toMatchObject({ code: 'LOADER_MISSING', message: expect.stringContaining('too many symbolic links') as string });
  });
});

test("rackseed loader list tells of Debian's own package what it is and who gets it", async () => {
  const { loaders } = JSON.parse(await loaderList({ dir: '/usr/lib/ipxe', output: 'json' })) as { loaders: { name: string; runsOn: string; version: string; gets: string[]; byChoice: string[] }[] };
  expect(loaders.slice(0, 3).map(({ name, runsOn, gets, byChoice }) => [name, runsOn, gets, byChoice])).toEqual([
    ['undionly.kpxe', 'bios', ['BIOS'], []],
    ['ipxe.pxe', 'bios', [], ['BIOS']],
    ['snponly.efi', 'efi-amd64', ['UEFI x64', 'UEFI x64, HTTP Boot'], []],
  ]);
  expect(loaders.find(({ name }) => name === 'snponly.efi')!.version).toMatch(/^\d+\.\d+\.\d+[+\w.-]*$/);
  expect(await loaderList({ dir: '/usr/lib/ipxe', output: 'table' })).toMatch(/^NAME +SIZE +VERSION +SHA256 +RUNS ON +GIVEN TO\nundionly\.kpxe +\S+ KiB +unknown +[0-9a-f]{12} +bios +BIOS\n/);
});
